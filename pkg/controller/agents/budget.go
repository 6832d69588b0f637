package agents

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller"
	"arkonis.dev/ark/pkg/settings"
)

// Beginnings of the scopes of daily budgets; the name follows.
const (
	BudgetOfAgent = "agent."
	BudgetOfTeam  = "team."
)

// NoLimit is the limit of a daily budget that only counts.
const NoLimit = math.MaxInt64

// budget is a daily budget that holds for an agent.
type budget struct {
	scope        string
	limit, spent int64
	output       int64     // of spent
	least        int64     // that a call needs
	resetsAt     time.Time // when another call is possible again; zero while one is
}

// gatherBudgets reads the agent's daily budgets: its own, and that of the team whose inline role it is.
func (a *Agents) gatherBudgets(ctx context.Context, in *input) error {
	owner, least := metav1.GetControllerOf(in.agent), leastCall(in)
	for _, b := range a.cfg.Budgets(in.agent.Namespace, in.agent.Name, "") {
		team, ofTeam := strings.CutPrefix(b.Scope, BudgetOfTeam)
		if ofTeam && (owner == nil || owner.Kind != "ArkTeam" || owner.Name != team) {
			continue
		}
		state, err := a.cfg.Budget(ctx, in.agent.Namespace, b, least)
		if err != nil {
			return fmt.Errorf("budget %s of %s: %w", b.Scope, describe(in.agent), err)
		}
		in.budgets = append(in.budgets, budget{scope: b.Scope, limit: b.Limit, spent: state.Spent, output: state.Output, least: least, resetsAt: state.ResetsAt})
	}
	return nil
}

// callFraming is what the messages of any call count as beside their texts: the request, the system prompt, the task.
const callFraming = 128

// leastCall is what the smallest call of an agent reserves: what it may write, and its system prompt, a token a byte.
func leastCall(in *input) int64 {
	base, _ := basePrompt(in)
	r, _ := settings.Resolve(&in.agent.Spec.AgentTemplate, base, in.settings)
	return in.agent.Spec.Limits.MaxTokensPerCall + callFraming + int64(len(r.Prompt))
}

// usedUp is the budget that lets the agent call its model last again; nil when it can.
func usedUp(all []budget) *budget {
	var last *budget
	for i := range all {
		if b := &all[i]; !b.resetsAt.IsZero() && (last == nil || b.resetsAt.After(last.resetsAt)) {
			last = b
		}
	}
	return last
}

func (b *budget) String() string {
	whose := "the agent's"
	if team, ok := strings.CutPrefix(b.scope, BudgetOfTeam); ok {
		whose = "the team " + team + "'s"
	}
	return fmt.Sprintf("%s daily budget is used up: %d of %d tokens, and a call needs more than what is left; the next one is possible at %s",
		whose, b.spent, b.limit, b.resetsAt.UTC().Format(time.RFC3339))
}

// budgetStatus is dailyTokenUsage and the condition BudgetExceeded.
func budgetStatus(in *input, s *v1alpha1.ArkAgentStatus, set setter) {
	s.DailyTokenUsage = nil
	for _, b := range in.budgets {
		if strings.HasPrefix(b.scope, BudgetOfAgent) {
			s.DailyTokenUsage = &v1alpha1.DailyTokenUsage{InputTokens: b.spent - b.output, OutputTokens: b.output, TotalTokens: b.spent}
			if b.limit != NoLimit {
				s.DailyTokenUsage.Limit = b.limit
			}
			if !b.resetsAt.IsZero() {
				at := metav1.NewTime(b.resetsAt.Truncate(time.Second))
				s.DailyTokenUsage.ResetsAt = &at
			}
		}
	}
	if !slices.ContainsFunc(in.budgets, func(b budget) bool { return b.limit != NoLimit }) {
		meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionBudgetExceeded)
		return
	}
	if b := usedUp(in.budgets); b != nil {
		reason := v1alpha1.ReasonDailyLimitReached
		if strings.HasPrefix(b.scope, BudgetOfTeam) {
			reason = v1alpha1.ReasonTeamDailyLimitReached
		}
		set(v1alpha1.ConditionBudgetExceeded, metav1.ConditionTrue, reason, b.String())
		return
	}
	set(v1alpha1.ConditionBudgetExceeded, metav1.ConditionFalse, v1alpha1.ReasonWithinLimit, "the daily budget has room for another call")
}

// tellTeam has the other roles of a team looked at when its budget is used up: they need not notice by themselves.
func (a *Agents) tellTeam(in *input) {
	b := usedUp(in.budgets)
	if b == nil || !strings.HasPrefix(b.scope, BudgetOfTeam) || meta.IsStatusConditionTrue(in.agent.Status.Conditions, v1alpha1.ConditionBudgetExceeded) {
		return
	}
	a.rolesOf(in.agent.Namespace, strings.TrimPrefix(b.scope, BudgetOfTeam), in.agent.Name)
}

// rolesOf has the inline roles of a team looked at, but for one.
func (a *Agents) rolesOf(namespace, team, but string) {
	for _, other := range a.cfg.Cache.Agents.By(byTeam, namespace+"/"+team) {
		if other.Name != but {
			a.loop.Add(controller.KeyOf(other))
		}
	}
}

// teamChanged has the roles of a team looked at when its daily budget is another one.
func (a *Agents) teamChanged(old, now *v1alpha1.ArkTeam) {
	if old != nil && now != nil && dailyLimit(old) == dailyLimit(now) {
		return
	}
	o := either(old, now)
	a.rolesOf(o.Namespace, o.Name, "")
}

func dailyLimit(t *v1alpha1.ArkTeam) int64 {
	if t.Spec.Limits == nil {
		return 0
	}
	return t.Spec.Limits.MaxDailyTokens
}
