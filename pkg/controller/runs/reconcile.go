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

const kind = "ArkRun"

// errGone says that the run is not there any more. What was about to happen does not.
var errGone = errors.New("the run was removed")

// reconcile brings a run as far as it can go now.
func (c *Controller) reconcile(ctx context.Context, key controller.Key) (controller.Result, error) {
	run, _ := c.cfg.Cache.Runs.Get(key.Namespace, key.Name)
	d := c.find(key)
	f := facts{run: run}
	if d != nil {
		f.drive = d.uid()
	}
	do := decide(f)
	if do.forget != "" {
		if err := c.forget(ctx, key, d, f.run, do.forget); err != nil {
			return controller.Result{}, err
		}
		d = nil
	}
	var result controller.Result
	var err error
	switch {
	case do.settle:
		err = c.settle(ctx, d, run)
	case do.drive:
		result, err = c.drive(ctx, key, d, run)
	}
	switch {
	case errors.Is(err, errGone):
		return controller.Result{}, nil // the cache will say so too
	case runner.Transient(err):
		c.log.WarnContext(ctx, "the queue cannot be reached, the run is tried again", "run", key.String(), "error", err)
		return controller.Result{After: retryQueue}, nil
	default:
		return result, err
	}
}

// retryQueue is the pause before a run whose queue cannot be reached is tried again.
const retryQueue = 250 * time.Millisecond

// forget gives up what there is of a run that is gone: its drive, the runs below it, and what the stores hold. The run above
// it hears of it.
func (c *Controller) forget(ctx context.Context, key controller.Key, d *drive, run *v1alpha1.ArkRun, uid string) error {
	if err := c.tellDeleted(ctx, d, run, uid); err != nil {
		return err
	}
	if d != nil && d.uid() == uid {
		c.drop(d)
	}
	c.post.Close(uid)
	c.purge.add(uid)
	for _, child := range c.cfg.Cache.Runs.By(byParent, uid) {
		if err := c.remove(ctx, child); err != nil {
			return fmt.Errorf("run %s was removed: %w", key, err)
		}
	}
	return nil
}

// tellDeleted publishes that a run is gone as the result of the task that it carried out, if it had begun and not ended. A
// run above it that is gone as well, or going, needs no result.
func (c *Controller) tellDeleted(ctx context.Context, d *drive, run *v1alpha1.ArkRun, uid string) error {
	var status *v1alpha1.ArkRunStatus
	switch {
	case d != nil && d.uid() == uid && d.settling():
		run, status = d.object, &d.told
	case d != nil && d.uid() == uid:
		s := d.live.Status(time.Now())
		run, status = d.object, &s
	case run != nil && string(run.UID) == uid:
		status = &run.Status
	default:
		return nil // the run above it finds out when it looks for what it waits for
	}
	if run.Spec.Parent == nil || status.Phase.Terminal() {
		return nil
	}
	above := c.cfg.Cache.Runs.By(byUID, run.Spec.Parent.RunUID)
	if len(above) == 0 || above[0].DeletionTimestamp != nil || above[0].Status.Phase.Terminal() {
		return nil
	}
	key := parentKey(run)
	if begun, err := c.cfg.Queue.Begun(ctx, key); !begun || err != nil {
		return err
	}
	if _, err := c.cfg.Queue.PublishResult(ctx, key, runner.ChildDeleted(key, run.Name, status, time.Now())); err != nil {
		return fmt.Errorf("tell the end of run %s: %w", run.Name, err)
	}
	return nil
}

// remove deletes a run if it is still the one that is meant.
func (c *Controller) remove(ctx context.Context, run *v1alpha1.ArkRun) error {
	uid := run.UID
	err := c.cfg.Clients.Runs(run.Namespace).Delete(ctx, run.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove run %s: %w", run.Name, err)
	}
	return nil
}

// settle is for a run that has ended: its drive is not needed any more, and the run above it hears of the end.
func (c *Controller) settle(ctx context.Context, d *drive, run *v1alpha1.ArkRun) error {
	switch {
	case d == nil:
	case d.settling():
		return nil // it has just committed the end; when it is done, it enqueues the key again
	case d.live.Ended():
		return c.ended(ctx, d) // the cache knew of the end before the worker did
	default:
		c.drop(d)
	}
	c.post.Close(string(run.UID))
	p := run.Spec.Parent
	if p == nil {
		return nil
	}
	above := c.cfg.Cache.Runs.By(byUID, p.RunUID)
	if len(above) == 0 || above[0].Status.Phase.Terminal() {
		return nil
	}
	whole, err := c.live(ctx, controller.KeyOf(run), string(run.UID)) // the cache keeps no outputs
	if err != nil {
		return err
	}
	return c.tellParent(ctx, whole)
}

// tellParent publishes the end of a run as the result of the task that it carried out. A withdrawal that came first holds.
func (c *Controller) tellParent(ctx context.Context, run *v1alpha1.ArkRun) error {
	key := parentKey(run)
	end, err := runner.ChildEnd(ctx, c.cfg.Queue, key, run.Name, &run.Status)
	switch {
	case errors.Is(err, queue.ErrNoPayload), errors.Is(err, queue.ErrCorrupt):
		end = runner.ChildRefused(key, string(task.CodeInternal), err.Error(), time.Now())
	case err != nil:
		return fmt.Errorf("tell the end of run %s: %w", run.Name, err)
	}
	if _, err := c.cfg.Queue.PublishResult(ctx, key, end); err != nil {
		return fmt.Errorf("tell the end of run %s: %w", run.Name, err)
	}
	return nil
}

func parentKey(run *v1alpha1.ArkRun) queue.Key {
	return queue.Key{Namespace: run.Namespace, RunUID: run.Spec.Parent.RunUID, TaskID: run.Spec.Parent.TaskID}
}

// live reads a run from the API server. A run of the same name that is another one is errGone.
func (c *Controller) live(ctx context.Context, key controller.Key, uid string) (*v1alpha1.ArkRun, error) {
	run, err := c.cfg.Clients.Runs(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	switch {
	case c.cfg.Cache.Missing(ctx, key.Namespace, err), err == nil && string(run.UID) != uid:
		return nil, errGone
	case err != nil:
		return nil, fmt.Errorf("read run %s: %w", key, err)
	}
	run.ManagedFields = nil
	return run, nil
}

// drive takes in what has happened to a run and carries out what is due.
func (c *Controller) drive(ctx context.Context, key controller.Key, d *drive, run *v1alpha1.ArkRun) (controller.Result, error) {
	now := time.Now()
	if d == nil {
		var err error
		if d, err = c.open(ctx, key, run, now); d == nil || err != nil {
			return controller.Result{}, err
		}
	}
	if d.settling() {
		return controller.Result{}, nil // its end enqueues the key again
	}
	if err := d.fold(ctx); err != nil {
		return controller.Result{}, err
	}
	anew, err := c.check(ctx, d, now)
	if err != nil {
		return controller.Result{}, err
	}
	if anew {
		return controller.Result{}, c.renew(ctx, key, d, run)
	}
	d.see(c.readiness(d, now))
	if err := c.cancel(ctx, d, run, now); err != nil {
		return controller.Result{}, err
	}
	gone, err := d.failAbandoned(ctx, now)
	if err != nil {
		return controller.Result{}, err
	}
	if d.live.Settling() {
		d.settle(ctx)
		return controller.Result{}, nil
	}
	wake, err := d.live.Advance(ctx, time.Now())
	if refusal, ok := errors.AsType[refusedError](err); ok { // without it another process might decide otherwise
		d.cancelling, d.changed = true, true
		d.live.Cancel("the run cannot go on: "+cut(refusal.Error(), maxRefusal), now)
		return controller.Result{After: time.Millisecond}, nil
	}
	if err != nil {
		return controller.Result{}, err
	}
	if d.live.Settling() {
		wake = time.Now()
	}
	if d.live.Ended() {
		return controller.Result{}, c.ended(ctx, d)
	}
	again, err := d.report(ctx, time.Now())
	if err != nil {
		return controller.Result{}, err
	}
	next := earliest(wake, gone, again)
	if next.IsZero() {
		return controller.Result{}, nil
	}
	return controller.Result{After: max(time.Until(next), time.Millisecond)}, nil
}

// renew drops a drive and makes one from the run's records, which is advanced next.
func (c *Controller) renew(ctx context.Context, key controller.Key, d *drive, run *v1alpha1.ArkRun) error {
	c.drop(d)
	d, err := c.open(ctx, key, run, time.Now())
	if d == nil || err != nil {
		return err
	}
	if err := c.replay(ctx, d); err != nil {
		c.drop(d) // without its records it would begin from the start
		return err
	}
	c.loop.Add(key)
	return nil
}

// ended is for a drive whose run's end was committed.
func (c *Controller) ended(ctx context.Context, d *drive) error {
	status := d.live.Status(time.Now())
	if d.object.Spec.Parent != nil {
		done := *d.object
		done.Status = status
		if err := c.tellParent(ctx, &done); err != nil {
			return err
		}
	}
	c.voice.tell(d.object, &d.told, &status)
	c.log.InfoContext(ctx, "run has ended", "run", d.key.String(), "phase", status.Phase, "trace_id", status.TraceID)
	c.drop(d)
	return nil
}

// readiness is what the cache says of the agents of a run, and notes since when some are missing.
func (c *Controller) readiness(d *drive, now time.Time) []pipeline.AgentReadiness {
	out := make([]pipeline.AgentReadiness, 0, len(d.agents))
	for _, name := range d.agents {
		agent, there := c.cfg.Cache.Agents.Get(d.key.Namespace, name)
		switch {
		case there:
			delete(d.missing, name)
		case d.missing[name].IsZero():
			d.missing[name] = now
		}
		out = append(out, readinessOf(name, agent))
	}
	return out
}

// readinessOf says whether an agent takes tasks; nil is one that does not exist.
func readinessOf(name string, a *v1alpha1.ArkAgent) pipeline.AgentReadiness {
	r := pipeline.AgentReadiness{Agent: name}
	if a == nil {
		r.Message = "there is no ArkAgent " + name
		return r
	}
	r.Ready, r.Pending = a.Status.ReadyReplicas > 0, int(a.Status.PendingTasks)
	for i := range a.Status.Conditions {
		if cond := &a.Status.Conditions[i]; cond.Type == v1alpha1.ConditionReady && cond.Status != metav1.ConditionTrue && !r.Ready {
			r.Message = cond.Reason
			if cond.Message != "" {
				r.Message = cond.Message
			}
		}
	}
	return r
}
