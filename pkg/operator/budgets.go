package operator

import (
	"context"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller/agents"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// dailyWindow is the length of a daily budget's window, in seconds.
const dailyWindow = 24 * 60 * 60

func (o *Operator) workConfig() work.Config {
	return work.Config{
		Daily: o.daily, Retries: o.retries, Logger: o.log, Telemetry: o.cfg.Telemetry,
		Reported: func(namespace, agent string) { o.agents.Reported(namespace, agent) },
	}
}

// daily are the rolling budgets of an agent and of the team that it works for: that of the run, or for what belongs to
// no run its own.
func (o *Operator) daily(namespace, agent, team string) []task.Budget {
	var budgets []task.Budget
	if a, ok := o.cache.Agents.Get(namespace, agent); ok {
		// What an agent without a limit uses is counted too, for its status.
		limit := int64(agents.NoLimit)
		if l := a.Spec.Limits; l != nil && l.MaxDailyTokens > 0 {
			limit = l.MaxDailyTokens
		}
		budgets = append(budgets, task.Budget{Scope: agents.BudgetOfAgent + agent, Limit: limit, Window: dailyWindow})
		if team == "" {
			team = a.Labels[v1alpha1.LabelTeam]
		}
	}
	if t, ok := o.cache.Teams.Get(namespace, team); ok && team != "" {
		if l := t.Spec.Limits; l != nil && l.MaxDailyTokens > 0 {
			budgets = append(budgets, budgetOfTeam(t))
		}
	}
	return budgets
}

func budgetOfTeam(t *v1alpha1.ArkTeam) task.Budget {
	return task.Budget{Scope: agents.BudgetOfTeam + t.Name, Limit: t.Spec.Limits.MaxDailyTokens, Window: dailyWindow}
}

// teamBudget is how far the daily budget of a team is used up; one without a limit is not used at all.
func (o *Operator) teamBudget(ctx context.Context, namespace, team string, tokens int64) (work.BudgetState, error) {
	t, ok := o.cache.Teams.Get(namespace, team)
	if !ok || t.Spec.Limits == nil || t.Spec.Limits.MaxDailyTokens == 0 {
		return work.BudgetState{}, nil
	}
	return o.service.Budget(ctx, namespace, budgetOfTeam(t), tokens)
}

// retries is how often a task of an agent is taken over after a crash.
func (o *Operator) retries(namespace, agent string) int {
	a, ok := o.cache.Agents.Get(namespace, agent)
	if !ok || a.Spec.Limits == nil || a.Spec.Limits.Retries == nil {
		return work.DefaultRetries
	}
	return int(*a.Spec.Limits.Retries)
}
