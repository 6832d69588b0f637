package local

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runner"
	"arkonis.dev/ark/pkg/task"
)

// maxHops bounds how deep teams may stand below each other.
const maxHops = 8

// StartChild implements runner.Store: it makes the record of a child run, or finds it, and drives the run.
func (d *driver) StartChild(ctx context.Context, c runner.Child) error {
	d.mu.Lock()
	known := d.children[c.Key.TaskID] != nil
	d.mu.Unlock()
	if known {
		return nil
	}
	r, refused := d.childRecord(c)
	if refused != nil {
		return d.host.publishEnd(ctx, c.Key, refused)
	}
	found := false
	err := d.host.runs.create(ctx, r)
	if errors.Is(err, jetstream.ErrKeyExists) {
		found = true
		r, err = d.host.runs.get(ctx, c.Name)
	}
	if err != nil {
		return err
	}
	if r.Parent == nil || r.Parent.TaskID != c.Key.TaskID {
		return d.host.publishEnd(ctx, c.Key, failed(c.Key, v1alpha1.ReasonNameConflict, fmt.Sprintf("another run has the name %s", c.Name)))
	}
	d.adopt(ctx, r, found, c.Key)
	return nil
}

// childRecord is the record of a child run, or the result that says why there can be none.
func (d *driver) childRecord(c runner.Child) (*record, *task.Result) {
	team := d.host.catalog.teams[c.Team]
	if team == nil {
		return nil, failed(c.Key, v1alpha1.ReasonTeamNotFound, fmt.Sprintf("ArkTeam %q is not among the manifests; there are: %s", c.Team, names(d.host.catalog.teams)))
	}
	if c.Hops > maxHops {
		return nil, failed(c.Key, v1alpha1.ReasonInvalidSpec, fmt.Sprintf("team %s stands more than %d teams deep", c.Team, maxHops))
	}
	created := metav1.NewMicroTime(c.Created)
	spec, problems := d.host.catalog.snapshot(team, c.Input, v1alpha1.Trigger{
		Kind: v1alpha1.TriggerStep, Name: c.Parent.Name, ID: c.Key.TaskID, FiredAt: &created, Hops: c.Hops,
	})
	if len(problems) > 0 {
		return nil, failed(c.Key, v1alpha1.ReasonInvalidInput, fmt.Sprintf("team %s: %v", c.Team, &ConfigError{Problems: problems}))
	}
	if c.TimeoutSeconds > 0 && (spec.TimeoutSeconds == 0 || c.TimeoutSeconds < spec.TimeoutSeconds) {
		spec.TimeoutSeconds = c.TimeoutSeconds
	}
	return &record{
		Run: v1alpha1.ArkRun{
			TypeMeta: runType(),
			ObjectMeta: metav1.ObjectMeta{
				Name: c.Name, Namespace: c.Parent.Namespace, UID: types.UID("run-" + c.Key.TaskID), CreationTimestamp: metav1.NewTime(c.Created),
				Labels: map[string]string{v1alpha1.LabelTeam: c.Team},
			},
			Spec: spec,
		},
		Parent:  &parentTask{Namespace: c.Key.Namespace, RunUID: c.Key.RunUID, TaskID: c.Key.TaskID},
		Budgets: c.Budgets, Deadline: c.Deadline,
	}, nil
}

// runChild drives a child run and publishes its end. When the host goes down, the child stays as it is.
func (d *driver) runChild(ctx context.Context, child *driver, key queue.Key) {
	output, err := child.run(ctx)
	if ctx.Err() != nil {
		return
	}
	var end *task.Result
	if err != nil {
		end = failed(key, string(task.CodeInternal), err.Error())
	} else {
		end, err = child.result(ctx, key, output)
	}
	if err == nil {
		err = persist(ctx, func() error { return d.host.publishEnd(ctx, key, end) })
	}
	if err != nil {
		d.host.log.ErrorContext(ctx, "end of a child run was not stored", "run", child.record.Run.Name, "error", err)
	}
}

// result is the end of a child run as the result of the task that it carried out.
func (d *driver) result(ctx context.Context, key queue.Key, output string) (*task.Result, error) {
	s := &d.record.Run.Status
	u := tokens(s.TotalTokenUsage)
	r := &task.Result{
		Version: task.Version, TaskID: key.TaskID, Status: task.Succeeded, Pod: d.record.Run.Name,
		Usage:   task.Usage{InputTokens: u.Input, OutputTokens: u.Output, CachedTokens: u.Cached, UnknownCalls: u.UnknownCalls},
		Started: at(s.StartTime), Completed: at(s.CompletionTime),
	}
	for _, step := range s.Steps {
		r.ToolCalls += int(step.ToolCalls)
	}
	switch s.Phase {
	case v1alpha1.RunSucceeded:
		text, err := d.host.queue.PutText(ctx, key.RunUID, output)
		r.Output = text
		return r, err
	case v1alpha1.RunCancelled:
		r.Status, r.Error = task.Cancelled, task.Errorf(task.CodeCancelled, "run %s was cancelled: %s", d.record.Run.Name, s.Message)
	default:
		r.Status, r.Error = task.Failed, task.Errorf(task.Code(completeReason(s)), "run %s failed: %s", d.record.Run.Name, s.Message)
	}
	return r, nil
}

func failed(key queue.Key, code, message string) *task.Result {
	return &task.Result{
		Version: task.Version, TaskID: key.TaskID, Status: task.Failed, Error: &task.Error{Code: task.Code(code), Message: message},
		Completed: time.Now(),
	}
}

// publishEnd stores the result of the task that a child run carries out. A withdrawal that came first holds.
func (h *host) publishEnd(ctx context.Context, key queue.Key, r *task.Result) error {
	_, err := h.queue.PublishResult(ctx, key, r)
	return err
}

// CancelChild implements runner.Store.
func (d *driver) CancelChild(ctx context.Context, name string, key queue.Key, reason string) error {
	d.mu.Lock()
	child := d.children[key.TaskID]
	d.mu.Unlock()
	if child == nil {
		r, err := d.host.runs.get(ctx, name)
		if errors.Is(err, errNoRun) {
			end := failed(key, string(task.CodeCancelled), reason)
			end.Status = task.Cancelled
			return d.host.publishEnd(ctx, key, end)
		}
		if err != nil {
			return err
		}
		child = d.adopt(ctx, r, true, key) // an earlier process made it
	}
	child.cancel(reason)
	return nil
}

// adopt drives a child run.
func (d *driver) adopt(ctx context.Context, r *record, recovered bool, key queue.Key) *driver {
	child := d.host.newDriver(r, recovered)
	d.mu.Lock()
	d.children[key.TaskID] = child
	d.mu.Unlock()
	d.running.Go(func() { d.runChild(ctx, child, key) })
	return child
}
