package remote

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/runner"
)

// Retry makes a run that goes on from one that has ended, and returns it when the operator has taken it up. step is the one
// from which on everything runs again; it may be empty. Sent again with the same id, it is the same run. patience bounds
// the wait for the operator.
func (c *Cluster) Retry(ctx context.Context, old *v1alpha1.ArkRun, step, id string, patience time.Duration) (*v1alpha1.ArkRun, error) {
	if err := c.retryable(ctx, old, step); err != nil {
		return nil, err
	}
	run := &v1alpha1.ArkRun{
		ObjectMeta: metav1.ObjectMeta{Namespace: old.Namespace},
		Spec: v1alpha1.ArkRunSpec{
			TeamRef: old.Spec.TeamRef, AgentRef: old.Spec.AgentRef, Input: old.Spec.Input, Prompt: old.Spec.Prompt,
			Trigger: &v1alpha1.Trigger{Kind: v1alpha1.TriggerRetry, Name: old.Name, ID: "retry/" + string(old.UID) + "/" + id},
			RetryOf: &v1alpha1.RetryOf{Name: old.Name, UID: string(old.UID), Step: step},
		},
	}
	if t := old.Spec.Trigger; t != nil {
		run.Spec.Trigger.Hops = t.Hops
	}
	run, err := c.startRun(ctx, run, "retry", old.Name, patience)
	if err != nil {
		return nil, err
	}
	if s := &run.Status; neverStarted(s) {
		return nil, fmt.Errorf("retry %s: refused (%s): %s", old.Name, cmp.Or(runner.EndReason(s), "no reason"), s.Message)
	}
	return run, nil
}

// retryable says why a run cannot be retried, as far as that is known here.
func (c *Cluster) retryable(ctx context.Context, old *v1alpha1.ArkRun, step string) error {
	phase := cmp.Or(old.Status.Phase, v1alpha1.RunPending)
	switch {
	case !phase.Terminal():
		return fmt.Errorf("run %s has not ended (%s): cancel it first with 'ark cancel %s', or wait", old.Name, phase, old.Name)
	case neverBegan(old):
		return fmt.Errorf("run %s never began to go on from run %s (%s): retry that one, 'ark retry %s', or trigger anew",
			old.Name, old.Spec.RetryOf.Name, old.Status.Message, old.Spec.RetryOf.Name)
	case old.Spec.AgentRef != nil && step != "":
		return fmt.Errorf("--step %s: run %s is one of an agent, which has no steps to choose from", step, old.Name)
	case phase == v1alpha1.RunSucceeded && step == "" && old.Spec.AgentRef == nil:
		return fmt.Errorf("run %s succeeded, so that there is nothing to go on with: say with --step from which step on it shall run again, or start anew with 'ark trigger %s'", old.Name, old.Spec.TeamRef.Name)
	case phase == v1alpha1.RunSucceeded && old.Spec.AgentRef != nil:
		return fmt.Errorf("run %s succeeded, so that there is nothing to go on with: start anew with 'ark trigger --agent %s'", old.Name, old.Spec.AgentRef.Name)
	case step == "":
		return nil
	}
	steps := c.StepNames(ctx, old)
	if len(steps) > 0 && !slices.Contains(steps, step) {
		return fmt.Errorf("--step: team %s has no step %q: it has %s", old.Spec.TeamRef.Name, step, strings.Join(steps, ", "))
	}
	return nil
}

// neverBegan says that a run was to go on from another one and was refused: it has taken over nothing.
func neverBegan(run *v1alpha1.ArkRun) bool {
	return run.Spec.RetryOf != nil && run.Status.Reused == nil
}

// StepNames lists the steps of the team of a run, those of the team as it is now; those that the run shows when that cannot
// be read.
func (c *Cluster) StepNames(ctx context.Context, run *v1alpha1.ArkRun) []string {
	var names []string
	if ref := run.Spec.TeamRef; ref != nil {
		if team, err := c.Clients.Teams(run.Namespace).Get(ctx, ref.Name, metav1.GetOptions{}); err == nil {
			for i := range team.Spec.Pipeline {
				names = append(names, team.Spec.Pipeline[i].ID())
			}
		}
	}
	if len(names) > 0 {
		return names
	}
	for i := range run.Status.Steps {
		if run.Status.Steps[i].Parent == "" {
			names = append(names, run.Status.Steps[i].Name)
		}
	}
	return names
}

// FailedRun is the newest run of a team that failed or was cancelled, and that somebody asked for: not one that is a step of
// another run, or that never began to go on from another one.
func (c *Cluster) FailedRun(ctx context.Context, team string) (*v1alpha1.ArkRun, error) {
	runs, err := c.Runs(ctx, RunFilter{Team: team})
	if err != nil {
		return nil, err
	}
	for i := range runs {
		s := &runs[i].Status
		if (s.Phase == v1alpha1.RunFailed || s.Phase == v1alpha1.RunCancelled) && runs[i].Spec.Parent == nil && !neverBegan(&runs[i]) {
			return &runs[i], nil
		}
	}
	if len(runs) == 0 {
		return nil, fmt.Errorf("there is no run of team %s %s: start one with 'ark trigger %s'", team, c.In(), team)
	}
	return nil, fmt.Errorf("team %s has no failed run %s to go on from: its newest one, %s, is %s; start one with 'ark trigger %s'",
		team, c.In(), runs[0].Name, cmp.Or(runs[0].Status.Phase, v1alpha1.RunPending), team)
}
