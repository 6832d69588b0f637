package runs

import (
	"context"
	"errors"
	"time"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller"
	"arkonis.dev/ark/pkg/controller/history"
)

// Runs of agents are kept this long and up to this number for each agent.
const (
	agentRunsKept = 24 * time.Hour
	agentRunsMost = 10
)

// sweepHistory removes runs of agents that are not kept any longer. Runs of teams are their team's.
func (c *Controller) sweepHistory(ctx context.Context) error {
	byAgent := map[controller.Key][]*v1alpha1.ArkRun{}
	for _, run := range c.cfg.Cache.Runs.All() {
		if run.Spec.AgentRef != nil && run.Status.Phase.Terminal() {
			key := controller.Key{Namespace: run.Namespace, Name: run.Spec.AgentRef.Name}
			byAgent[key] = append(byAgent[key], run)
		}
	}
	var errs []error
	for _, runs := range byAgent {
		surplus, _ := history.Surplus(runs, agentRunsMost, agentRunsKept, time.Now())
		for _, run := range surplus {
			errs = append(errs, c.remove(ctx, run))
		}
	}
	return errors.Join(errs...)
}
