package why

import (
	"cmp"
	"fmt"
	"regexp"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// dailyBudget: the agent waits until tokens leave the window of a daily budget, its own or its team's.
func dailyBudget(f *Facts, a *v1alpha1.ArkAgent, c *metav1.Condition) *Answer {
	if team := a.Labels[v1alpha1.LabelTeam]; team != "" && c.Reason == v1alpha1.ReasonTeamDailyLimitReached {
		return &Answer{
			Cause: BudgetUsedUp, Message: fmt.Sprintf("team %s has used up the daily budget that its agents share", team), Evidence: said(c.Message),
			Next: []string{command(f, "kubectl edit arkteam %s", team)},
		}
	}
	out := &Answer{
		Cause: BudgetUsedUp, Message: fmt.Sprintf("agent %s has used up its daily budget", a.Name), Evidence: said(c.Message),
		Next: []string{command(f, "kubectl edit arkagent %s", a.Name)},
	}
	if u := a.Status.DailyTokenUsage; u != nil && u.ResetsAt != nil {
		out.Message += ": it goes on at " + u.ResetsAt.UTC().Format("2006-01-02 15:04:05 UTC")
	}
	return out
}

// dailyRefused finds in a refusal which daily budget refused.
var dailyRefused = regexp.MustCompile(`maxDailyTokens of (agent|team) "([^"]+)"`)

// neverFits stands in the refusal of a call that does not fit a budget of which nothing is used either, or that never
// frees.
const neverFits = "; raise it, or lower what a call may use"

// budgetFailed says which budget the run failed by. That stands in what the step says: how budgets are now says nothing of
// how they were then.
func budgetFailed(f *Facts, step *v1alpha1.StepStatus) *Answer {
	a := &Answer{Cause: BudgetUsedUp, Message: "the run's budget was used up"}
	text := f.Run.Status.Message
	if step != nil {
		a.Evidence = append(a.Evidence, fmt.Sprintf("step %s failed (%s)", step.Name, step.Reason))
		text = cmp.Or(step.Message, text)
	}
	a.Evidence = append(a.Evidence, said(text)...)
	if daily := dailyRefused.FindStringSubmatch(text); daily != nil {
		kind, name := daily[1], daily[2]
		a.Message = fmt.Sprintf("%s %s had used up its daily budget", kind, name)
		if strings.Contains(text, neverFits) {
			a.Cause, a.Message = CallTooLarge, fmt.Sprintf("a call may use more tokens than the daily budget of %s %s has", kind, name)
		}
		a.Next = append(a.Next, command(f, "kubectl edit ark%s %s", kind, name))
	} else {
		limit := SpecOf(f.Run).MaxTokens
		if u := f.Run.Status.TotalTokenUsage; limit > 0 && u != nil {
			a.Evidence = append(a.Evidence, fmt.Sprintf("the run used %d of its %d tokens (maxTokens)", u.TotalTokens, limit))
		}
		if f.Run.Spec.TeamRef != nil {
			a.Next = append(a.Next, command(f, "kubectl edit arkteam %s", f.Run.Spec.TeamRef.Name))
		}
	}
	a.Next = append(a.Next, command(f, "ark retry %s", f.Run.Name))
	return a
}

// defaultSecret is the Secret of a namespace in which agents look for the keys of model servers, unless they say otherwise.
const defaultSecret = "ark-api-keys"

// keyOf is where the key of an agent's model server stands: its own variable, the Secret that it names, or the default one.
func keyOf(a *v1alpha1.ArkAgent) (secret, key string) {
	key = "OPENAI_API_KEY"
	if a == nil {
		return defaultSecret, key
	}
	if a.Spec.Provider == v1alpha1.ProviderAnthropic || strings.HasPrefix(a.Spec.Model, "claude") {
		key = "ANTHROPIC_API_KEY"
	}
	for i := range a.Spec.Env {
		if v := &a.Spec.Env[i]; v.Name == key && v.ValueFrom != nil && v.ValueFrom.SecretKeyRef != nil {
			return v.ValueFrom.SecretKeyRef.Name, v.ValueFrom.SecretKeyRef.Key
		}
	}
	for i := range a.Spec.EnvFrom {
		if r := a.Spec.EnvFrom[i].SecretRef; r != nil {
			return r.Name, key
		}
	}
	return defaultSecret, key
}
