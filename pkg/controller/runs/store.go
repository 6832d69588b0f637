package runs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"go.opentelemetry.io/otel/propagation"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runner"
	"arkonis.dev/ark/pkg/task"
)

// writeAttempts bounds how often a status is written again because something else of the object has changed.
const writeAttempts = 8

// writeStatus stores a status under the resource version of a run as it is known, and returns the run as it then is: with
// another status when the run has ended meanwhile, or when the API server refuses this one and it is an end. A run that is
// not there any more is errGone; a refused status that is no end is a refusedError.
func (c *Controller) writeStatus(ctx context.Context, run *v1alpha1.ArkRun, status v1alpha1.ArkRunStatus) (*v1alpha1.ArkRun, error) {
	now, err := c.putStatus(ctx, run, status)
	if !refused(err) {
		return now, err
	}
	c.log.ErrorContext(ctx, "the API server refuses the status of a run", "run", controller.KeyOf(run).String(), "phase", status.Phase, "error", err)
	if !status.Phase.Terminal() {
		return nil, refusedError{err}
	}
	for _, less := range reduced(run, &status, err) {
		if now, err = c.putStatus(ctx, run, less); !refused(err) {
			return now, err
		}
	}
	return nil, err
}

func (c *Controller) putStatus(ctx context.Context, run *v1alpha1.ArkRun, status v1alpha1.ArkRunStatus) (*v1alpha1.ArkRun, error) {
	object := *run
	for range writeAttempts {
		object.Status = status
		now, err := kube.UpdateStatus(ctx, c.cfg.Clients.Runs(object.Namespace), kind, &object)
		switch {
		case err == nil:
			return now, nil
		case apierrors.IsNotFound(err):
			return nil, errGone
		case !apierrors.IsConflict(err):
			return nil, err
		}
		live, err := c.live(ctx, controller.KeyOf(run), string(run.UID))
		if err != nil {
			return nil, err
		}
		if live.Status.Phase.Terminal() {
			return live, nil
		}
		object = *live
	}
	return nil, fmt.Errorf("write the status of %s: it was changed %d times meanwhile", kube.Describe(kind, run.Namespace, run.Name), writeAttempts)
}

// store is what the runner keeps runs in: the API server.
type store struct{ d *drive }

// answerTime is how long a process that is asked to stop waits to hear whether the end of a run is stored.
const answerTime = 10 * time.Second

// Commit implements runner.Store. The answer about an end that is on its way when ctx ends is still waited for: only who knows
// that it is stored sends the run's span, and the next process finds a run that needs nothing any more.
func (s store) Commit(ctx context.Context, _ *v1alpha1.ArkRun, status v1alpha1.ArkRunStatus) (v1alpha1.ArkRunStatus, error) {
	if ctx.Err() == nil && status.Phase.Terminal() {
		asked, cancel := context.WithCancel(context.WithoutCancel(ctx))
		defer cancel()
		defer context.AfterFunc(ctx, func() { time.AfterFunc(answerTime, cancel) })()
		ctx = asked
	}
	return s.d.write(ctx, s.d.fill(status))
}

// StartChild implements runner.Store: it makes the ArkRun of a team below this run.
func (s store) StartChild(ctx context.Context, child runner.Child) error {
	c, now := s.d.c, time.Now()
	if child.Hops > runner.MaxHops {
		return s.refuse(ctx, child.Key, v1alpha1.ReasonInvalidSpec, fmt.Sprintf("team %s stands more than %d teams deep", child.Team, runner.MaxHops), now)
	}
	begun, err := c.cfg.Queue.Begun(ctx, child.Key)
	if err != nil {
		return err
	}
	if begun {
		return s.found(ctx, child, begun, now)
	}
	created := metav1.NewMicroTime(child.Created)
	trigger := v1alpha1.Trigger{Kind: v1alpha1.TriggerStep, Name: child.Parent.Name, ID: child.Key.TaskID, FiredAt: &created, Hops: child.Hops}
	spec, wrong, err := c.snapshot(ctx, child.Key.Namespace, child.Team, child.Input, trigger)
	if err != nil {
		return err
	}
	if wrong != nil {
		return s.refuse(ctx, child.Key, wrong.reason, fmt.Sprintf("team %s: %s", child.Team, wrong.message), now)
	}
	if t := child.TimeoutSeconds; t > 0 && (spec.TimeoutSeconds == 0 || t < spec.TimeoutSeconds) {
		spec.TimeoutSeconds = t
	}
	spec.Parent, spec.RetryOf = parentOf(child), s.earlierChild(&child)
	run := &v1alpha1.ArkRun{
		ObjectMeta: metav1.ObjectMeta{
			Name: child.Name, Namespace: child.Key.Namespace,
			Labels: map[string]string{
				v1alpha1.LabelManagedBy: v1alpha1.ManagedBy, v1alpha1.LabelTeam: child.Team, v1alpha1.LabelRun: s.d.object.TopRun(),
			},
			OwnerReferences: kube.Controlled(kind, s.d.object),
			Annotations:     annotationsOf(ctx, c.cfg.Queue.StoreID()),
		},
		Spec: *spec,
	}
	_, err = c.cfg.Clients.Runs(run.Namespace).Create(ctx, run, metav1.CreateOptions{FieldManager: kube.FieldManager})
	if apierrors.IsAlreadyExists(err) {
		return s.found(ctx, child, begun, now)
	}
	if err != nil {
		return fmt.Errorf("create run %s: %w", run.Name, err)
	}
	return nil
}

// found is for a child run that was made already, by an earlier process, and for another run of the same name. One that has
// begun and is not there any more was deleted: making it anew would pay a second time for what it has done.
func (s store) found(ctx context.Context, child runner.Child, begun bool, now time.Time) error {
	run, err := s.d.c.cfg.Clients.Runs(child.Key.Namespace).Get(ctx, child.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) && begun {
		_, err := s.d.c.cfg.Queue.PublishResult(ctx, child.Key, runner.ChildDeleted(child.Key, child.Name, &v1alpha1.ArkRunStatus{}, now))
		return err
	}
	if err != nil {
		return fmt.Errorf("read run %s: %w", child.Name, err)
	}
	if p := run.Spec.Parent; p == nil || p.TaskID != child.Key.TaskID || p.RunUID != child.Key.RunUID {
		return s.refuse(ctx, child.Key, v1alpha1.ReasonNameConflict, fmt.Sprintf("another run has the name %s: remove it and start anew", child.Name), now)
	}
	if run.Status.Phase.Terminal() {
		return s.d.c.tellParent(ctx, run)
	}
	return nil
}

func (s store) refuse(ctx context.Context, key queue.Key, reason, message string, now time.Time) error {
	_, err := s.d.c.cfg.Queue.PublishResult(ctx, key, runner.ChildRefused(key, reason, message, now))
	return err
}

func parentOf(child runner.Child) *v1alpha1.ParentTask {
	p := &v1alpha1.ParentTask{RunUID: child.Key.RunUID, TaskID: child.Key.TaskID, Step: child.Step}
	if child.Each {
		item := int32(child.Item) //nolint:gosec // bounded by the API
		p.Item = &item
	}
	if !child.Deadline.IsZero() {
		t := metav1.NewMicroTime(child.Deadline)
		p.Deadline = &t
	}
	for _, b := range child.Budgets {
		p.Budgets = append(p.Budgets, v1alpha1.RunBudget{Scope: b.Scope, Limit: b.Limit, WindowSeconds: b.Window})
	}
	return p
}

// annotationsOf are those of a run that ark makes: the store that will hold its results, and the trace that goes on in it.
func annotationsOf(ctx context.Context, store string) map[string]string {
	annotations := map[string]string{v1alpha1.AnnotationStore: store}
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	if parent := carrier.Get("traceparent"); parent != "" {
		annotations[v1alpha1.AnnotationTrace] = parent
	}
	return annotations
}

// CancelChild implements runner.Store.
func (s store) CancelChild(ctx context.Context, name string, key queue.Key, reason string) error {
	c := s.d.c
	runs := c.cfg.Clients.Runs(key.Namespace)
	run, err := runs.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && (run.Spec.Parent == nil || run.Spec.Parent.TaskID != key.TaskID):
		_, err := c.cfg.Queue.PublishResult(ctx, key, runner.ChildCancelled(key, reason, time.Now()))
		return err
	case err != nil:
		return fmt.Errorf("read run %s: %w", name, err)
	case run.Status.Phase.Terminal():
		return c.tellParent(ctx, run)
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":         run.UID,
		"annotations": map[string]string{v1alpha1.AnnotationCancel: "true", v1alpha1.AnnotationCancelReason: reason},
	}})
	if err != nil {
		return err
	}
	_, err = runs.Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: kube.FieldManager})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		_, err = c.cfg.Queue.PublishResult(ctx, key, runner.ChildCancelled(key, reason, time.Now()))
	}
	return err
}

var errCaughtUp = errors.New("everything that is there was read")

func isCaughtUp(err error) bool { return errors.Is(err, errCaughtUp) }

var _ runner.Store = store{}

// refOf is a reference to a payload as it stands in a status.
func refOf(r task.Ref) *v1alpha1.PayloadRef {
	return &v1alpha1.PayloadRef{Key: r.Key, Size: r.Size, SHA256: r.SHA256}
}
