package runner

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/telemetry"
)

// do carries out one action.
func (l *Live) do(ctx context.Context, a pipeline.Action, now time.Time) error {
	switch a := a.(type) {
	case *pipeline.Submit:
		return l.submit(ctx, a)
	case *pipeline.StartRun:
		return l.startRun(ctx, a)
	case *pipeline.Withdraw:
		return l.withdraw(ctx, a, now)
	default:
		return fmt.Errorf("action %T is unknown", a)
	}
}

// submit queues a task; a large prompt, and what it shows the beginning of, go to the payload store first.
func (l *Live) submit(ctx context.Context, a *pipeline.Submit) (err error) {
	run := l.config.Run
	// Whoever works on the task goes on from the step's span, which is sent even if this process is killed at once.
	ofStep := ctx
	ctx, span := l.config.Telemetry.Start(ctx, "task publish", trace.SpanKindProducer,
		telemetry.KeyTask.String(a.TaskID), telemetry.KeyKind.String(string(a.Kind)), telemetry.KeyStep.String(a.Step),
		telemetry.KeyAgent.String(a.Agent))
	defer func() { endSpan(span, err) }()
	prompt, err := l.config.Queue.PutText(ctx, string(run.UID), a.Prompt)
	if err != nil {
		return fmt.Errorf("step %s: store the prompt: %w", a.Step, err)
	}
	attached, err := l.attach(ctx, a.Attached)
	if err != nil {
		return fmt.Errorf("step %s: store what its prompt shows the beginning of: %w", a.Step, err)
	}
	t := &task.Task{
		Version: task.Version, ID: a.TaskID, Kind: a.Kind, Namespace: run.Namespace, Agent: a.Agent, Run: l.wireRun(),
		Step: a.Step, Role: a.Role, Iteration: a.Iteration, Attempt: a.Attempt, Item: a.Item,
		Prompt: prompt, Attached: attached, PromptHash: a.PromptHash, OutputSchema: a.OutputSchema, Model: a.Model, Capabilities: a.Capabilities,
		TimeoutSeconds: a.TimeoutSeconds, Deadline: a.Deadline, Created: a.Created, Budgets: a.Budgets,
		CanDelegate: a.CanDelegate,
	}
	if len(a.CanDelegate) > 0 {
		t.Roles = l.plan.Roles()
	}
	if err := l.config.Queue.Submit(trace.ContextWithSpan(ctx, trace.SpanFromContext(ofStep)), t); err != nil {
		return fmt.Errorf("step %s: %w", a.Step, err)
	}
	return nil
}

// attach stores what is in no store yet. Many tasks may show the beginning of the same.
func (l *Live) attach(ctx context.Context, attached []pipeline.Attachment) ([]task.Ref, error) {
	var refs []task.Ref
	for _, a := range attached {
		refs = append(refs, a.Ref)
		if a.Text == "" {
			continue
		}
		_, err := l.config.Queue.ReadPayload(ctx, a.Ref, 0, 0)
		if errors.Is(err, queue.ErrNoPayload) {
			_, err = l.config.Queue.PutPayload(ctx, string(l.config.Run.UID), strings.NewReader(a.Text))
		}
		if err != nil {
			return nil, err
		}
	}
	return refs, nil
}

func (l *Live) wireRun() task.Run {
	run := l.config.Run
	r := task.Run{UID: string(run.UID), Name: run.Name}
	if run.Spec.TeamRef != nil {
		r.Team = run.Spec.TeamRef.Name
	}
	return r
}

func (l *Live) startRun(ctx context.Context, a *pipeline.StartRun) error {
	err := l.config.Store.StartChild(ctx, Child{
		Parent: l.config.Run, Key: l.key("", a.TaskID), Name: a.ChildName, Team: a.Team, Input: a.Input, Hops: a.Hops,
		TimeoutSeconds: a.TimeoutSeconds, Created: a.Created, Budgets: a.Budgets, Deadline: a.Deadline,
		Step: a.Step, Item: a.Item, Iteration: a.Iteration, Each: a.Each, Anew: l.plan.AskedAgain(a.Step),
	})
	if err != nil {
		return fmt.Errorf("step %s: start a run of team %s: %w", a.Step, a.Team, err)
	}
	return nil
}

// withdraw ends a task that is not wanted any more: its result is stored unless it has one, then its agent is told.
func (l *Live) withdraw(ctx context.Context, a *pipeline.Withdraw, now time.Time) error {
	key := l.key(a.Agent, a.TaskID)
	if a.Child != "" {
		if err := l.config.Store.CancelChild(ctx, a.Child, key, a.Message); err != nil {
			return fmt.Errorf("cancel child run %s: %w", a.Child, err)
		}
		return nil
	}
	status := task.Failed
	if a.Code == task.CodeCancelled {
		status = task.Cancelled
	}
	_, err := l.config.Queue.PublishResult(ctx, key, &task.Result{
		Version: task.Version, TaskID: a.TaskID, Status: status, Error: &task.Error{Code: a.Code, Message: a.Message}, Completed: now,
	})
	if err != nil {
		return err
	}
	// Only a hint: without it the agent learns of the result when it publishes its own.
	if err := l.config.Queue.HintCancel(key, a.Message); err != nil && !errors.Is(err, queue.ErrUnavailable) {
		return err
	}
	return nil
}

// account finds out what the tasks have cost that did not succeed, so that the run's end says all that was charged. It
// waits for agents that are stopping, for a bounded time.
func (l *Live) account(ctx context.Context) error {
	if l.config.Account == nil {
		return nil
	}
	tasks := l.plan.Unaccounted(l.state)
	usages := make([]*task.Usage, len(tasks))
	var g errgroup.Group
	g.SetLimit(maxParallel)
	for i := range tasks {
		g.Go(func() error {
			usage, err := l.config.Account(ctx, l.key(tasks[i].Agent, tasks[i].ID))
			if _, unreadable := errors.AsType[*task.Error](err); unreadable {
				return nil // it will not get better: what the result said holds
			}
			usages[i] = &usage
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for i, usage := range usages {
		if usage != nil {
			l.plan.Apply(l.state, pipeline.Accounted{TaskID: tasks[i].ID, Usage: *usage})
		}
	}
	return nil
}

// finish makes the end of the run certain for this process, then commits it.
func (l *Live) finish(ctx context.Context, a *pipeline.Finish, now time.Time) error {
	if err := l.account(ctx); err != nil {
		return err
	}
	l.plan.Apply(l.state, pipeline.Ended{
		Phase: a.Phase, Reason: a.Reason, Message: a.Message, FailedStep: a.FailedStep, Output: a.Output, OutputRef: a.OutputRef, At: now,
	})
	status := l.plan.Status(l.state, now)
	status.TraceID = l.spans.traceID
	l.closing = &status
	return l.commit(ctx)
}

// commit stores the end of the run. An end that somebody else committed before is the one that holds.
func (l *Live) commit(ctx context.Context) error {
	if output := l.state.Output(); l.closing.OutputRef == nil && output != l.closing.Output { // it is whole, and stored nowhere
		ref, err := l.config.Queue.PutPayload(ctx, string(l.config.Run.UID), strings.NewReader(output))
		if err != nil {
			return fmt.Errorf("store the output: %w", err)
		}
		l.closing.OutputRef = &v1alpha1.PayloadRef{Key: ref.Key, Size: ref.Size, SHA256: ref.SHA256}
	}
	held, err := l.config.Store.Commit(ctx, l.config.Run, *l.closing)
	if err != nil {
		return fmt.Errorf("commit the end: %w", err)
	}
	l.end = &held
	return nil
}

func (l *Live) key(agent, taskID string) queue.Key {
	return queue.Key{Namespace: l.config.Run.Namespace, Agent: agent, RunUID: string(l.config.Run.UID), TaskID: taskID}
}
