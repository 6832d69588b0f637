package runs

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runner"
	"arkonis.dev/ark/pkg/task"
)

// earlier is the run that another one goes on from, as the API server has it.
type earlier struct {
	run  *v1alpha1.ArkRun
	spec *v1alpha1.ArkRunSpec // with its snapshot; nil when it never had one, or lost it
}

// earlierOf finds the run that a run goes on from, as long as that is not decided. A child run, which ark itself asked for,
// begins from the start when there is none; any other one is refused.
func (c *Controller) earlierOf(ctx context.Context, run *v1alpha1.ArkRun) (*earlier, *refusal, error) {
	retry := run.Spec.RetryOf
	if retry == nil || run.Status.Reused != nil {
		return nil, nil, nil
	}
	old, err := c.cfg.Clients.Runs(run.Namespace).Get(ctx, retry.Name, metav1.GetOptions{}) // the cache keeps no outputs
	if apierrors.IsNotFound(err) {
		old, err = nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read run %s: %w", retry.Name, err)
	}
	if wrong := notRetryable(run, old); wrong != nil {
		if run.Spec.Parent != nil {
			return nil, nil, nil
		}
		return nil, wrong, nil
	}
	e := &earlier{run: old}
	switch {
	case hasSnapshot(&old.Spec):
		e.spec = &old.Spec
	case old.Status.Resolved != nil:
		if e.spec, err = c.readSnapshot(ctx, old.Status.Resolved); err != nil {
			return nil, nil, err
		}
	}
	return e, nil, nil
}

// notRetryable says why a run cannot go on from another one, as far as that shows in the two; old is nil when there is none.
func notRetryable(run, old *v1alpha1.ArkRun) *refusal {
	retry := run.Spec.RetryOf
	refuse := func(format string, args ...any) *refusal {
		return &refusal{v1alpha1.ReasonNotRetryable, fmt.Sprintf(format, args...)}
	}
	switch {
	case old == nil:
		return refuse("there is no run %s (any more) to go on from: trigger the team anew", retry.Name)
	case retry.UID != "" && retry.UID != string(old.UID):
		return refuse("the run %s is not the one that was meant: its uid is %s, and not %s", retry.Name, old.UID, retry.UID)
	case ownerOf(run) != ownerOf(old):
		return refuse("the run %s is one of %s, and this one is of %s", retry.Name, ownerOf(old), ownerOf(run))
	case !old.Status.Phase.Terminal():
		return refuse("the run %s has not ended: cancel it, or wait for its end", retry.Name)
	case old.Spec.RetryOf != nil && old.Status.Reused == nil:
		return refuse("the run %s never began to go on from the run %s: retry that one", retry.Name, old.Spec.RetryOf.Name)
	case old.Status.Phase == v1alpha1.RunSucceeded && retry.Step == "" && run.Spec.Parent == nil:
		return refuse("the run %s succeeded, so that there is nothing to go on with: name the step from which on it shall run again", retry.Name)
	default:
		return nil
	}
}

// ownerOf names whose run it is.
func ownerOf(run *v1alpha1.ArkRun) string {
	if ref := run.Spec.AgentRef; ref != nil {
		return "the agent " + ref.Name
	}
	return "the team " + run.Spec.TeamRef.Name
}

// takeOver copies what a run can use of an earlier one into its own records, and returns what is to be committed before
// anything is worked on.
func (c *Controller) takeOver(ctx context.Context, run *v1alpha1.ArkRun, spec *v1alpha1.ArkRunSpec, old *earlier, now time.Time) (*v1alpha1.ReusedResults, *refusal, error) {
	if run.Spec.RetryOf == nil || run.Status.Reused != nil {
		return nil, nil, nil
	}
	if old == nil {
		return &v1alpha1.ReusedResults{}, nil, nil
	}
	reused := &v1alpha1.ReusedResults{Run: old.run.Name, UID: string(old.run.UID)}
	results, err := c.reusable(ctx, run, spec, old, now)
	wrong, refused := errors.AsType[*notReusable](err)
	switch {
	case refused && run.Spec.Parent != nil:
		c.log.InfoContext(ctx, "a child run begins from the start", "run", controller.KeyOf(run).String(), "earlier", old.run.Name, "reason", wrong.Error())
		return reused, nil, nil
	case refused:
		return nil, &refusal{v1alpha1.ReasonNotRetryable, wrong.Error()}, nil
	case err != nil || len(results) == 0:
		return reused, nil, err
	}
	ref, err := runner.StoreReused(ctx, c.cfg.Queue, string(run.UID), results)
	if lost(err) {
		return nil, recordsGone(old.run), nil
	}
	if err != nil {
		return nil, nil, err
	}
	reused.Steps, reused.Ref = int32(len(results)), refOf(ref) //nolint:gosec // bounded by the API
	return reused, nil, nil
}

// notReusable is why the results of a run cannot be used.
type notReusable struct{ why string }

func (e *notReusable) Error() string { return e.why }

// reusable lists the results of an earlier run that a run can use. The error is a *notReusable when they fit nothing, or are
// lost.
func (c *Controller) reusable(ctx context.Context, run *v1alpha1.ArkRun, spec *v1alpha1.ArkRunSpec, old *earlier, now time.Time) ([]pipeline.StepResult, error) {
	next, err := pipeline.Compile(pipeline.Run{UID: string(run.UID), Name: run.Name, Namespace: run.Namespace, Spec: *spec, Started: now}, runner.Engine())
	if err != nil {
		return nil, nil //nolint:nilerr // whoever drives the run finds the same, which is its end
	}
	done := old.run.Status.StepCounts
	if old.spec == nil && done != nil && done.Succeeded > 0 {
		return nil, &notReusable{recordsGone(old.run).message}
	}
	if old.spec == nil { // it never started
		return nil, nil
	}
	whole := *old.run
	whole.Spec = *old.spec
	past, err := runner.ReadPast(ctx, c.cfg.Queue, &whole, startOf(old.run))
	if _, invalid := errors.AsType[*pipeline.InvalidError](err); invalid {
		return nil, nil // it never got further than this
	}
	if err != nil {
		return nil, err
	}
	if !past.Whole(&old.run.Status) {
		return nil, &notReusable{recordsGone(old.run).message}
	}
	results, err := past.Reusable(next, run.Spec.RetryOf.Step)
	if err != nil {
		return nil, &notReusable{"the run cannot go on from " + old.run.Name + ": " + err.Error()}
	}
	return results, nil
}

func lost(err error) bool {
	return errors.Is(err, queue.ErrNoPayload) || errors.Is(err, queue.ErrCorrupt)
}

func recordsGone(old *v1alpha1.ArkRun) *refusal {
	return &refusal{
		v1alpha1.ReasonNotRetryable,
		fmt.Sprintf("the results of the run %s are gone from the queue's store, so that there is nothing to go on from: trigger the team anew", old.Name),
	}
}

// inputOf is the input of a run: its own, or that of the run that it goes on from.
func inputOf(run *v1alpha1.ArkRun, old *earlier) (map[string]any, error) {
	switch {
	case len(run.Spec.Input) > 0 || old == nil:
		return run.Spec.Input.Decode()
	case old.spec != nil:
		return old.spec.Input.Decode()
	default:
		return old.run.Spec.Input.Decode()
	}
}

// earlierChild is the child run that carried out the same in the run that this one's parent goes on from: the newest try.
// It is nil when there was none.
func (s store) earlierChild(child *runner.Child) *v1alpha1.RetryOf {
	reused := s.d.object.Status.Reused
	if child.Anew || reused == nil || reused.UID == "" {
		return nil
	}
	byTask := map[string]*v1alpha1.ArkRun{}
	for _, run := range s.d.c.cfg.Cache.Runs.By(byParent, reused.UID) {
		byTask[run.Spec.Parent.TaskID] = run
	}
	var found *v1alpha1.RetryOf
	for attempt := range len(byTask) {
		old := byTask[task.ID(task.KindStep, reused.UID, child.Step, child.Item, child.Iteration, attempt)]
		if old == nil {
			break
		}
		found = &v1alpha1.RetryOf{Name: old.Name, UID: string(old.UID)}
	}
	return found
}
