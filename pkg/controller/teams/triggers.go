package teams

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller/teamspec"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/trigger"
)

// triggersRetry is the pause before triggers that cannot be read are read again.
const triggersRetry = time.Second

// followTriggers makes a run of each accepted trigger.
func (t *Teams) followTriggers(ctx context.Context) {
	for ctx.Err() == nil {
		err := t.cfg.Queue.FollowTriggers(ctx, t.fire)
		if ctx.Err() != nil {
			return
		}
		t.log.WarnContext(ctx, "triggers cannot be read, it is tried again", "error", err)
		select {
		case <-time.After(triggersRetry):
		case <-ctx.Done():
		}
	}
}

// fire makes the run of a firing. A firing that comes again finds its run.
func (t *Teams) fire(ctx context.Context, body []byte) error {
	f := &trigger.Firing{}
	if err := json.Unmarshal(body, f); err != nil || f.Version > trigger.Version || f.Run == "" {
		t.log.ErrorContext(ctx, "an accepted trigger cannot be read, it makes no run", "error", err, "version", f.Version)
		return nil
	}
	run, err := t.runOf(ctx, f)
	if err == nil {
		err = t.create(ctx, f, run)
	}
	if err != nil && ctx.Err() == nil {
		t.log.WarnContext(ctx, "the run of a trigger is not made yet, it is tried again", "namespace", f.Namespace, "run", f.Run, "error", err)
	}
	return err
}

// maxSnapshot is the size in bytes above which a run is made without its snapshot: an object in Kubernetes has its bound,
// and the run's controller keeps the snapshot elsewhere.
const maxSnapshot = 512 << 10

// runOf is the run of a firing. A team that is not fit to run meanwhile gets its run all the same: it was accepted, and
// its end says why it failed.
func (t *Teams) runOf(ctx context.Context, f *trigger.Firing) (*v1alpha1.ArkRun, error) {
	fired := f.Trigger()
	run := &v1alpha1.ArkRun{ObjectMeta: metav1.ObjectMeta{
		Name: f.Run, Namespace: f.Namespace, Annotations: map[string]string{
			v1alpha1.AnnotationTrace: f.Traceparent, v1alpha1.AnnotationStore: t.cfg.Queue.StoreID(),
		},
		Labels: map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy, v1alpha1.LabelEvent: f.Event},
	}}
	if f.Agent != "" {
		run.Labels[v1alpha1.LabelAgent] = f.Agent
		run.Spec = v1alpha1.ArkRunSpec{AgentRef: &v1alpha1.Reference{Name: f.Agent}, Prompt: f.Prompt, Trigger: &fired}
		if agent, ok := t.cfg.Cache.Agents.Get(f.Namespace, f.Agent); ok {
			run.OwnerReferences = kube.Controlled("ArkAgent", agent)
		}
		return run, nil
	}
	run.Labels[v1alpha1.LabelTeam] = f.Team
	if team, ok := t.cfg.Cache.Teams.Get(f.Namespace, f.Team); ok {
		run.OwnerReferences = kube.Controlled("ArkTeam", team)
	}
	run.Spec = v1alpha1.ArkRunSpec{TeamRef: &v1alpha1.Reference{Name: f.Team}, Input: f.Input, Trigger: &fired}
	input, err := f.Input.Decode()
	if err != nil {
		return run, nil // the run says it
	}
	spec, wrong, err := teamspec.Snapshot(ctx, t.cfg.Cache, t.cfg.Clients, f.Namespace, f.Team, input, fired)
	if err != nil {
		return nil, err
	}
	if wrong == nil {
		if text, err := json.Marshal(spec); err == nil && len(text) <= maxSnapshot {
			run.Spec = *spec
		}
	}
	return run, nil
}

// maxSalt bounds how many names are tried for a run.
const maxSalt = 8

func (t *Teams) create(ctx context.Context, f *trigger.Firing, run *v1alpha1.ArkRun) error {
	runs := t.cfg.Clients.Runs(f.Namespace)
	for salt := range maxSalt {
		_, err := runs.Create(ctx, run, metav1.CreateOptions{FieldManager: kube.FieldManager})
		switch {
		case err == nil, terminating(err):
			return nil
		case apierrors.IsNotFound(err): // the namespace is gone
			return nil
		case apierrors.IsInvalid(err), apierrors.IsRequestEntityTooLargeError(err):
			t.log.ErrorContext(ctx, "an accepted trigger makes no run", "namespace", f.Namespace, "run", run.Name, "error", err)
			return nil
		case !apierrors.IsAlreadyExists(err):
			return fmt.Errorf("create run %s: %w", run.Name, err)
		}
		there, err := runs.Get(ctx, run.Name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("read run %s: %w", run.Name, err)
		}
		if there.Spec.Trigger != nil && there.Spec.Trigger.ID == f.ID {
			return nil
		}
		run.Name = trigger.RunName(f.Target(), f.ID, salt+1)
	}
	return fmt.Errorf("create run %s: no name is free", f.Run)
}
