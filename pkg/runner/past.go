package runner

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// Past is a run as its records tell it, for those who look on: it starts and changes nothing. It is not safe for
// concurrent use.
type Past struct {
	plan  *pipeline.Plan
	state *pipeline.State
	live  *Live // for what it knows of records; it never advances
}

// PastTask is one task of a run.
type PastTask struct {
	Key  queue.Key
	Kind task.Kind
	Step string // or the name of the delegated work
	Team string // of a child run; the key has no agent then
	Done bool   // it has a result

	Created time.Time // when it became due
}

// ReadPast folds all records that there are of a run, whose spec has the snapshot in it.
func ReadPast(ctx context.Context, q *queue.Queue, run *v1alpha1.ArkRun, started time.Time) (*Past, error) {
	plan, err := pipeline.Compile(pipeline.Run{
		UID: string(run.UID), Name: run.Name, Namespace: run.Namespace, Spec: run.Spec, Started: started,
	}, Engine())
	if err != nil {
		return nil, fmt.Errorf("run %s: %w", run.Name, err)
	}
	reused, _, err := ReadReused(ctx, q, run)
	if err != nil {
		return nil, err
	}
	p := &Past{plan: plan, state: plan.Start(reused...), live: &Live{config: Config{Run: run, Queue: q}, plan: plan}}
	p.live.state = p.state
	for i := range run.Status.Steps {
		if s := &run.Status.Steps[i]; s.Agent != "" {
			plan.Apply(p.state, pipeline.Chosen{Step: s.Name, Agent: s.Agent})
		}
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	err = q.Results(ctx, string(run.UID), func(r queue.Record) error { return p.Fold(ctx, r) }, func() error { return errAll })
	if err != nil && !errors.Is(err, errAll) {
		return nil, fmt.Errorf("run %s: %w", run.Name, err)
	}
	p.End(&run.Status)
	return p, nil
}

// errAll ends the reading of records.
var errAll = errors.New("all records were read")

// Fold takes in one more record.
func (p *Past) Fold(ctx context.Context, r queue.Record) error { return p.live.Fold(ctx, r) }

// End takes in the end of the run, if it has one.
func (p *Past) End(s *v1alpha1.ArkRunStatus) {
	if !s.Phase.Terminal() {
		return
	}
	e := pipeline.Ended{Phase: s.Phase, Message: s.Message, FailedStep: s.FailedStep, Output: s.Output}
	if s.OutputRef != nil {
		e.OutputRef = StoredText(s.OutputRef).Ref
	}
	if s.CompletionTime != nil {
		e.At = s.CompletionTime.Time
	}
	i := slices.IndexFunc(s.Conditions, func(c metav1.Condition) bool { return c.Type == v1alpha1.ConditionComplete })
	if i >= 0 {
		e.Reason = s.Conditions[i].Reason
	}
	p.plan.Apply(p.state, e)
}

// Steps lists every step, with texts cut to n bytes.
func (p *Past) Steps(now time.Time, n int) []v1alpha1.StepStatus {
	return p.plan.Steps(p.state, now, n)
}

// Output is the whole output of a step that succeeded, wherever it is.
func (p *Past) Output(step string) (task.Text, bool) {
	r, ok := p.plan.Result(p.state, step)
	return r.Text(), ok
}

// Tasks lists the tasks of the run in the order in which they became due.
func (p *Past) Tasks() []PastTask {
	out := make([]PastTask, len(p.state.Tasks))
	for i := range p.state.Tasks {
		t := &p.state.Tasks[i]
		out[i] = PastTask{Key: p.live.key(t.Agent, t.ID), Kind: t.Kind, Step: p.plan.StepOfTask(t), Team: t.Team, Done: t.Done, Created: t.Created}
	}
	return out
}
