package runner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// Live is one run while it goes on. It is not safe for concurrent use.
type Live struct {
	config Config
	plan   *pipeline.Plan
	state  *pipeline.State
	spans  *spans

	closing *v1alpha1.ArkRunStatus // the end that is to be committed
	end     *v1alpha1.ArkRunStatus // as it was committed
}

// New makes a Live of a run as it was when it began. A run whose snapshot does not compile is an error that lists
// what is wrong. The trace that the run's annotation names goes on in the run, else that of ctx. Whoever makes a Live
// calls Close.
func New(ctx context.Context, c Config) (*Live, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	plan, err := pipeline.Compile(pipeline.Run{
		UID: string(c.Run.UID), Name: c.Run.Name, Namespace: c.Run.Namespace, Spec: c.Run.Spec, Started: c.Started,
		Deadline: c.Deadline, Budgets: c.Budgets,
	}, c.Pipeline)
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", c.Run.Name, err)
	}
	l := &Live{config: c, plan: plan, state: plan.Start(c.Reused...), spans: startSpans(ctx, &c)}
	for _, s := range c.Run.Status.Steps {
		if s.Agent != "" {
			plan.Apply(l.state, pipeline.Chosen{Step: s.Name, Agent: s.Agent})
		}
	}
	return l, nil
}

// Fold takes in one record of the run. Of a large answer it reads from the payload store as much as the engine wants to hold;
// after an error the record was not taken in, and Fold is called again with it.
func (l *Live) Fold(ctx context.Context, r queue.Record) error {
	ev, err := l.event(ctx, r)
	if err != nil {
		return fmt.Errorf("run %s: %w", l.config.Run.Name, err)
	}
	l.plan.Apply(l.state, ev)
	return nil
}

func (l *Live) event(ctx context.Context, r queue.Record) (pipeline.Event, error) {
	if d := r.Delegated; d != nil {
		return pipeline.Delegated{Parent: d.Parent, Child: d.Child, Role: d.Role, Agent: d.Agent, At: r.At}, nil
	}
	res := r.Result
	ev := pipeline.TaskEnded{
		TaskID: res.TaskID, Status: res.Status, OutputRef: res.Output.Ref, Usage: res.Usage, ToolCalls: res.ToolCalls,
		Notes: res.Notes,
		Pod:   res.Pod, Started: res.Started, At: r.At,
	}
	if res.Error != nil {
		ev.Code, ev.Message, ev.Scope = res.Error.Code, res.Error.Message, res.Error.Scope
	}
	var err error
	ev.Output, err = l.answer(ctx, res.Output, l.plan.Reads(l.state, ev))
	switch {
	case errors.Is(err, queue.ErrNoPayload), errors.Is(err, queue.ErrCorrupt):
		// It will not get better: the run has to know.
		ev.Status, ev.Code, ev.OutputRef = task.Failed, task.CodeInternal, nil
		ev.Message = fmt.Sprintf("the answer cannot be read from the payload store: %v", err)
	case err != nil:
		return nil, fmt.Errorf("read the answer of task %s: %w", res.TaskID, err)
	}
	return ev, nil
}

// answer reads the first n bytes of an answer. Agents say where theirs are stored: it must be with the run.
func (l *Live) answer(ctx context.Context, t task.Text, n int64) (string, error) {
	if t.Ref != nil && !strings.HasPrefix(t.Ref.Key, string(l.config.Run.UID)+"/") {
		return "", fmt.Errorf("payload %s: %w: it is not one of the run", t.Ref.Key, queue.ErrNoPayload)
	}
	return readText(ctx, l.config.Queue, t, n)
}

// Started takes in the news that a task is worked on. It is shown and decides nothing.
func (l *Live) Started(taskID, pod string, at time.Time) {
	l.plan.Apply(l.state, pipeline.TaskStarted{TaskID: taskID, Pod: pod, At: at})
}

// Ready takes in what is known of an agent: it is shown, and decides which of several agents gets a task.
func (l *Live) Ready(r pipeline.AgentReadiness) { l.plan.Apply(l.state, r) }

// Agents lists every agent that may be given a task of the run, sorted.
func (l *Live) Agents() []string { return l.plan.Agents() }

// Open lists the tasks that have no result yet.
func (l *Live) Open() []OpenTask {
	out := make([]OpenTask, 0, len(l.state.Open))
	for _, i := range l.state.Open {
		t := &l.state.Tasks[i]
		out = append(out, OpenTask{Key: l.key(t.Agent, t.ID), Step: l.plan.StepName(t.Step), Team: t.Team, Issued: t.Issued, Delegated: t.Child != nil})
	}
	return out
}

// OpenTask is a task without a result.
type OpenTask struct {
	Key       queue.Key
	Step      string
	Team      string // of a child run; the key has no agent then
	Issued    bool   // by this process
	Delegated bool   // queued by the work service for another task
}

// Settling says that all that is left is the end, and that the next Advance may wait some seconds for agents to tell what
// the last calls of the run have cost.
func (l *Live) Settling() bool {
	return l.end == nil && l.closing == nil && l.config.Account != nil && l.state.Ending != nil && len(l.state.Open) == 0 &&
		len(l.plan.Unaccounted(l.state)) > 0
}

// Deadline is when the run ends at the latest.
func (l *Live) Deadline() time.Time { return l.plan.Deadline() }

// Cancel asks for the run's end. The next Advance carries it out.
func (l *Live) Cancel(reason string, at time.Time) {
	l.plan.Apply(l.state, pipeline.Cancelled{Reason: reason, At: at})
}

// Advance carries out all that is due and returns when it must be called again at the latest, if nothing happens
// before; the zero time means never. After an error some of it may be carried out: call it again.
func (l *Live) Advance(ctx context.Context, now time.Time) (wake time.Time, err error) {
	for l.end == nil {
		if l.closing != nil {
			return time.Time{}, l.commit(ctx)
		}
		d := l.plan.Decide(l.state, now)
		if len(d.Actions) == 0 {
			if l.spans.recording() {
				l.spans.follow(l.Status(now))
			}
			return d.Wake, nil
		}
		if err := l.commitChoices(ctx, d.Actions, now); err != nil {
			return time.Time{}, fmt.Errorf("run %s: %w", l.config.Run.Name, err)
		}
		if err := l.carryOut(ctx, d.Actions, now); err != nil {
			return time.Time{}, fmt.Errorf("run %s: %w", l.config.Run.Name, err)
		}
	}
	return time.Time{}, nil
}

// commitChoices stores which of several agents get the tasks, so that another process chooses the same.
func (l *Live) commitChoices(ctx context.Context, actions []pipeline.Action, now time.Time) error {
	var choices []pipeline.Chosen
	for _, a := range actions {
		if s, ok := a.(*pipeline.Submit); ok && s.Chosen {
			choices = append(choices, pipeline.Chosen{Step: s.Step, Agent: s.Agent})
		}
	}
	if len(choices) == 0 {
		return nil
	}
	if _, err := l.config.Store.Commit(ctx, l.config.Run, l.Status(now)); err != nil {
		return fmt.Errorf("commit the choice of an agent: %w", err)
	}
	for _, c := range choices {
		l.plan.Apply(l.state, c)
	}
	return nil
}

// carryOut does what was decided, several things at once. What was done is told to the engine, also after an error.
func (l *Live) carryOut(ctx context.Context, actions []pipeline.Action, now time.Time) error {
	done := make([]bool, len(actions))
	var g errgroup.Group
	g.SetLimit(maxParallel)
	for i, a := range actions {
		ctx := l.spans.context(ctx, a)
		if f, ok := a.(*pipeline.Finish); ok { // it stands alone: nothing else is left when a run ends
			return l.finish(ctx, f, now)
		}
		g.Go(func() error {
			err := l.do(ctx, a, now)
			done[i] = err == nil
			return err
		})
	}
	err := g.Wait()
	for i, a := range actions {
		if done[i] {
			l.plan.Apply(l.state, pipeline.Issued{ID: a.ActionID()})
		}
	}
	return err
}

// Status is how far the run is, for its record and for people.
func (l *Live) Status(now time.Time) v1alpha1.ArkRunStatus {
	if l.end != nil {
		return *l.end.DeepCopy()
	}
	status := l.plan.Status(l.state, now)
	status.TraceID = l.spans.traceID
	return status
}

// Ended says that the run's end is committed. Nothing is left to do then.
func (l *Live) Ended() bool { return l.end != nil }

// StepOutput is the output of a step that succeeded.
func (l *Live) StepOutput(step string) (task.Text, bool) {
	r, ok := l.plan.Result(l.state, step)
	return r.Text(), ok
}

// Close ends the run's spans. It changes nothing of the run.
func (l *Live) Close() { l.spans.close(l.end) }
