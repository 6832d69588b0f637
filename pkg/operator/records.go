package operator

import (
	"maps"
	"slices"
	"time"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller/agents"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// records is what Kubernetes holds of what agents and teams have used: the steps of runs, with their times, and how much of
// its daily budget an agent had used when its status was written last, which knows of runs that were removed, and of
// probes. Where the two differ more counts; where nothing says when it was, or whose it was, it was just now, and
// everybody's that it may have been. It is pure; the zero records are empty.
type records struct {
	agents map[objectName]*agentRecord
	teams  map[objectName]*teamRecord
}

type objectName struct{ namespace, name string }

type agentRecord struct {
	agent   *v1alpha1.ArkAgent // with defaults
	charges []work.Charge      // of steps of runs
	unknown int64              // tokens of calls whose outcome nobody knows any more
}

type teamRecord struct {
	team    *v1alpha1.ArkTeam
	charges []work.Charge
}

func (r *records) any() bool { return len(r.agents) > 0 }

// addAgent adds an agent, before all runs.
func (r *records) addAgent(a *v1alpha1.ArkAgent) {
	if r.agents == nil {
		r.agents = map[objectName]*agentRecord{}
	}
	a = a.DeepCopy()
	a.SetDefaults()
	r.agents[objectName{a.Namespace, a.Name}] = &agentRecord{agent: a}
}

// addTeam adds a team, if it has a daily budget, before all runs.
func (r *records) addTeam(t *v1alpha1.ArkTeam) {
	if t.Spec.Limits == nil || t.Spec.Limits.MaxDailyTokens == 0 {
		return
	}
	if r.teams == nil {
		r.teams = map[objectName]*teamRecord{}
	}
	r.teams[objectName{t.Namespace, t.Name}] = &teamRecord{team: t}
}

// addRun adds what a run has used.
func (r *records) addRun(run *v1alpha1.ArkRun, now time.Time) {
	s := &run.Status
	ended := now
	if s.Phase.Terminal() && s.CompletionTime != nil {
		ended = s.CompletionTime.Time
	}
	if now.Sub(ended) >= dailyWindow*time.Second {
		return
	}
	spec := &run.Spec
	if s.Resolved != nil && s.Resolved.Spec != nil {
		spec = s.Resolved.Spec
	}
	rest := chargeOf(s.TotalTokenUsage, ended)
	for i := range s.Steps {
		step := &s.Steps[i]
		if step.Reason == pipeline.ReasonReused {
			continue // the run before has paid for it
		}
		at := ended
		if step.CompletionTime != nil {
			at = step.CompletionTime.Time
		}
		c := chargeOf(step.TokenUsage, at)
		rest.Tokens, rest.Output = max(rest.Tokens-c.Tokens, 0), max(rest.Output-c.Output, 0)
		if step.Agent == "" {
			continue // a run of its own says whose it is
		}
		r.chargeAgent(run.Namespace, step.Agent, c)
		if spec.Routing != nil {
			r.chargeAgent(run.Namespace, spec.Routing.Agent, c) // the step says not who of both it was
		}
		if !s.Phase.Terminal() && !step.Phase.Terminal() {
			c = work.Charge{At: now, Tokens: c.Tokens + r.interrupted(run.Namespace, step.Agent), Output: c.Output}
		}
		r.chargeTeam(run, spec, c)
	}
	for _, agent := range agentsOf(spec, s) { // steps that the status has no room for
		r.chargeAgent(run.Namespace, agent, rest)
	}
	r.chargeTeam(run, spec, rest)
}

func chargeOf(u *v1alpha1.TokenUsage, at time.Time) work.Charge {
	if u == nil {
		return work.Charge{At: at}
	}
	return work.Charge{At: at, Tokens: max(u.TotalTokens, u.InputTokens+u.OutputTokens), Output: u.OutputTokens}
}

// interrupted counts a call that an agent may have been making when the store was lost, and returns its tokens.
func (r *records) interrupted(namespace, agent string) int64 {
	a := r.agents[objectName{namespace, agent}]
	if a == nil {
		return 0
	}
	tokens := a.agent.Spec.Limits.MaxTokensPerCall
	a.unknown += tokens
	return tokens
}

func (r *records) chargeAgent(namespace, agent string, c work.Charge) {
	if a := r.agents[objectName{namespace, agent}]; a != nil && c.Tokens > 0 {
		a.charges = append(a.charges, c)
	}
}

func (r *records) chargeTeam(run *v1alpha1.ArkRun, spec *v1alpha1.ArkRunSpec, c work.Charge) {
	if spec.TeamRef == nil || c.Tokens == 0 {
		return
	}
	if t := r.teams[objectName{run.Namespace, spec.TeamRef.Name}]; t != nil {
		t.charges = append(t.charges, c)
	}
}

// agentsOf are all agents that may have worked for a run.
func agentsOf(spec *v1alpha1.ArkRunSpec, s *v1alpha1.ArkRunStatus) []string {
	names := map[string]struct{}{}
	for _, role := range spec.Roles {
		names[role.Agent] = struct{}{}
	}
	for i := range s.Steps {
		names[s.Steps[i].Agent] = struct{}{}
	}
	if spec.AgentRef != nil {
		names[spec.AgentRef.Name] = struct{}{}
	}
	if spec.Routing != nil {
		names[spec.Routing.Agent] = struct{}{}
	}
	return slices.Sorted(maps.Keys(names))
}

// openings are the budgets of which something is used.
func (r *records) openings(now time.Time) []work.Opening {
	var all []work.Opening
	add := func(namespace string, b task.Budget, charges []work.Charge) {
		charges = slices.DeleteFunc(charges, func(c work.Charge) bool { return c.Tokens == 0 })
		if len(charges) > 0 {
			all = append(all, work.Opening{Namespace: namespace, Budget: b, Charges: charges})
		}
	}
	unseen := map[objectName]work.Charge{}
	for name, a := range r.agents {
		c := a.unseen(now)
		unseen[name] = c
		limit := a.agent.Spec.Limits.MaxDailyTokens
		if limit == 0 {
			limit = agents.NoLimit
		}
		add(name.namespace, task.Budget{Scope: agents.BudgetOfAgent + name.name, Limit: limit, Window: dailyWindow},
			append(slices.Clone(a.charges), c, work.Charge{At: now, Tokens: a.unknown}))
	}
	for name, t := range r.teams {
		charges := slices.Clone(t.charges)
		for of, c := range unseen {
			if of.namespace == name.namespace && plays(r.agents[of].agent, t.team) {
				charges = append(charges, c)
			}
		}
		add(name.namespace, budgetOfTeam(t.team), charges)
	}
	return all
}

// unseen is what an agent has used beyond what runs tell.
func (a *agentRecord) unseen(now time.Time) work.Charge {
	rest := work.Charge{At: now}
	if u := a.agent.Status.DailyTokenUsage; u != nil {
		rest.Tokens, rest.Output = u.TotalTokens, u.OutputTokens
	}
	for _, c := range a.charges {
		rest.Tokens, rest.Output = rest.Tokens-c.Tokens, rest.Output-c.Output
	}
	rest.Tokens = max(rest.Tokens, 0)
	rest.Output = min(max(rest.Output, 0), rest.Tokens)
	return rest
}

// plays says whether an agent may have worked for a team.
func plays(a *v1alpha1.ArkAgent, t *v1alpha1.ArkTeam) bool {
	return a.Labels[v1alpha1.LabelTeam] == t.Name || t.Spec.Routing != nil ||
		slices.ContainsFunc(t.Spec.Roles, func(r v1alpha1.Role) bool { return r.ArkAgent == a.Name })
}
