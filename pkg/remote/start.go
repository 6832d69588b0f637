package remote

import (
	"cmp"
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/runner"
	"arkonis.dev/ark/pkg/trigger"
)

// Bounds of what is asked for, in bytes: an event and the record of its trigger hold eventInput, a run holds runInput.
const (
	eventInput = 64 << 10
	runInput   = 1 << 20
)

// triggerLarge makes the run of a request whose input is too large for an event.
func (c *Cluster) triggerLarge(ctx context.Context, r trigger.Request, size int, patience time.Duration) (*v1alpha1.ArkRun, error) {
	target := r.Team + r.Agent
	if size > runInput {
		return nil, fmt.Errorf("trigger %s: the input has %d bytes, and a run takes at most %d: give it a part, or a place where its tools can read it", target, size, runInput)
	}
	run := &v1alpha1.ArkRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: r.Namespace},
		Spec:       v1alpha1.ArkRunSpec{Trigger: &v1alpha1.Trigger{Kind: v1alpha1.TriggerManual, ID: "manual/" + r.ID}},
	}
	if r.Traceparent != "" {
		run.Annotations = map[string]string{v1alpha1.AnnotationTrace: r.Traceparent}
	}
	if r.Agent != "" {
		run.Spec.AgentRef, run.Spec.Prompt = &v1alpha1.Reference{Name: r.Agent}, r.Prompt
	} else {
		values, err := v1alpha1.NewValues(r.Input)
		if err != nil {
			return nil, fmt.Errorf("trigger %s: %w", target, err)
		}
		run.Spec.TeamRef, run.Spec.Input = &v1alpha1.Reference{Name: r.Team}, values
	}
	run, err := c.startRun(ctx, run, "trigger", target, patience)
	if err != nil {
		return nil, err
	}
	if s := &run.Status; neverStarted(s) {
		return nil, &RefusedError{target, cmp.Or(runner.EndReason(s), "no reason"), s.Message}
	}
	return run, nil
}

// neverStarted says that a run was refused: it ended before it had steps.
func neverStarted(s *v1alpha1.ArkRunStatus) bool {
	return s.Phase == v1alpha1.RunFailed && s.StepCounts == nil
}

// startRun makes a run, or finds it when its trigger was sent before, and returns it when the operator has taken it up. Its
// name comes from the id of its trigger. verb and what say in errors what was asked for.
func (c *Cluster) startRun(ctx context.Context, run *v1alpha1.ArkRun, verb, what string, patience time.Duration) (*v1alpha1.ArkRun, error) {
	run, err := c.createRun(ctx, run, verb, what)
	if err != nil {
		return nil, err
	}
	waiting, cancel := context.WithTimeoutCause(ctx, patience, &UndecidedError{kindRun, run.Name, patience})
	defer cancel()
	started, err := kube.Follow(waiting, c.Clients.Runs(run.Namespace), run, func(r *v1alpha1.ArkRun) bool { return r.Status.StartTime != nil })
	if err != nil {
		return nil, c.undecided(ctx, waiting, err, verb, what)
	}
	return started, nil
}

// maxSalt bounds how many names are tried for a run.
const maxSalt = 8

func (c *Cluster) createRun(ctx context.Context, run *v1alpha1.ArkRun, verb, what string) (*v1alpha1.ArkRun, error) {
	target := ""
	if ref := cmp.Or(run.Spec.TeamRef, run.Spec.AgentRef); ref != nil {
		target = ref.Name
	}
	runs := c.Clients.Runs(run.Namespace)
	for salt := range maxSalt {
		run.Name = trigger.RunName(target, run.Spec.Trigger.ID, salt)
		made, err := runs.Create(ctx, run, metav1.CreateOptions{FieldManager: fieldManager})
		if apierrors.IsAlreadyExists(err) {
			made, err = runs.Get(ctx, run.Name, metav1.GetOptions{})
			if err == nil && (made.Spec.Trigger == nil || made.Spec.Trigger.ID != run.Spec.Trigger.ID) {
				continue
			}
		}
		if err != nil {
			return nil, c.explain(err, verb, what+" "+c.In())
		}
		return made, nil
	}
	return nil, fmt.Errorf("%s %s: no name for the run is free", verb, what)
}
