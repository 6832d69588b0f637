package teams

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
)

// budget is a team's daily budget, in tokens.
type budget struct {
	limit, spent int64
	resetsAt     time.Time // when another call is possible again; zero while one is
}

// usagePause is how often a team that has used tokens is looked at: they leave the window, a slot of it at a time.
const usagePause = 30 * time.Minute

// gatherBudget reads the daily budget of a team; it is nil when the team has none.
func (t *Teams) gatherBudget(ctx context.Context, w *world) error {
	limits := w.team.Spec.Limits
	if limits == nil || limits.MaxDailyTokens == 0 {
		return nil
	}
	state, err := t.cfg.Budget(ctx, w.team.Namespace, w.team.Name, leastCall(w.team, w.lookup))
	if err != nil {
		return fmt.Errorf("daily budget of ArkTeam %s: %w", w.key, err)
	}
	w.budget = &budget{limit: limits.MaxDailyTokens, spent: state.Spent, resetsAt: state.ResetsAt}
	return nil
}

// leastCall is less than what any call of a team reserves: what it may write.
func leastCall(team *v1alpha1.ArkTeam, l pipeline.Lookup) int64 {
	least := int64(0)
	for _, r := range roleStatuses(team, l) {
		a := l.Agents[r.Agent]
		if a == nil {
			continue
		}
		a = a.DeepCopy()
		a.SetDefaults()
		if n := a.Spec.Limits.MaxTokensPerCall; least == 0 || n < least {
			least = n
		}
	}
	return max(least, 1)
}

// usedUp says whether the budget lets no role call its model: that is known of the budget itself, or of the agents, which
// know what their calls need.
func (b *budget) usedUp(team *v1alpha1.ArkTeam, l pipeline.Lookup) (message string, is bool) {
	for _, r := range roleStatuses(team, l) {
		a := l.Agents[r.Agent]
		if a == nil || !controlled(a, team) {
			continue
		}
		c := meta.FindStatusCondition(a.Status.Conditions, v1alpha1.ConditionBudgetExceeded)
		if c != nil && c.Status == metav1.ConditionTrue && c.Reason == v1alpha1.ReasonTeamDailyLimitReached {
			return c.Message, true
		}
	}
	if b.resetsAt.IsZero() {
		return "", false
	}
	return fmt.Sprintf("the team %s's daily budget is used up: %d of %d tokens, and a call needs more than what is left; the next one is possible at %s",
		team.Name, b.spent, b.limit, b.resetsAt.UTC().Format(time.RFC3339)), true
}

// budgetCondition is the team's BudgetExceeded.
func budgetCondition(w *world) metav1.Condition {
	c := metav1.Condition{
		Type: v1alpha1.ConditionBudgetExceeded, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonWithinLimit, ObservedGeneration: w.team.Generation,
		Message: fmt.Sprintf("%d of %d tokens are used within 24 hours", w.budget.spent, w.budget.limit),
	}
	if message, is := w.budget.usedUp(w.team, w.lookup); is {
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonDailyLimitReached, clip(message)
	}
	return c
}

// again is when the budget has to be looked at although nothing has happened; 0 for never.
func (b *budget) again(now time.Time) time.Duration {
	switch {
	case b == nil || b.spent == 0:
		return 0
	case b.resetsAt.IsZero():
		return usagePause
	default:
		return min(max(b.resetsAt.Sub(now), time.Second), usagePause)
	}
}
