package teams

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/pipeline"
)

var now = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func team(change ...func(*v1alpha1.ArkTeam)) *v1alpha1.ArkTeam {
	t := &v1alpha1.ArkTeam{
		ObjectMeta: metav1.ObjectMeta{Name: "t", Namespace: "n", UID: "team", Generation: 3},
		Spec: v1alpha1.ArkTeamSpec{
			Roles:    []v1alpha1.Role{{Name: "a", Model: "m"}, {Name: "b", ArkAgent: "other"}},
			Pipeline: []v1alpha1.Step{{Role: "a"}, {Role: "b", DependsOn: []string{"a"}}},
		},
	}
	for _, c := range change {
		c(t)
	}
	return t
}

func agent(name string, ready int32, owner *v1alpha1.ArkTeam) *v1alpha1.ArkAgent {
	a := &v1alpha1.ArkAgent{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "n", Labels: map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy}}}
	a.Status.ReadyReplicas, a.Status.DesiredReplicas = ready, 1
	if owner != nil {
		a.OwnerReferences = kube.Controlled("ArkTeam", owner)
	}
	return a
}

func lookup(agents ...*v1alpha1.ArkAgent) pipeline.Lookup {
	l := pipeline.Lookup{Agents: map[string]*v1alpha1.ArkAgent{}}
	for _, a := range agents {
		l.Agents[a.Name] = a
	}
	return l
}

func runs(owner *v1alpha1.ArkTeam, phase v1alpha1.RunPhase, n int) []*v1alpha1.ArkRun {
	var out []*v1alpha1.ArkRun
	for i := range n {
		at := metav1.NewMicroTime(now.Add(time.Duration(i-n) * time.Hour))
		r := &v1alpha1.ArkRun{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%02d", phase, i), Namespace: "n", OwnerReferences: kube.Controlled("ArkTeam", owner)}}
		r.Spec.Trigger = &v1alpha1.Trigger{FiredAt: &at}
		r.Status.Phase = phase
		if phase.Terminal() {
			r.Status.CompletionTime = &at
		}
		out = append(out, r)
	}
	return out
}

func TestStatusOfATeam(t *testing.T) {
	t.Parallel()
	mine := team()
	all := func(ready int32) pipeline.Lookup {
		return lookup(agent("t-a", ready, mine), agent("other", ready, nil))
	}
	for name, c := range map[string]struct {
		team   *v1alpha1.ArkTeam
		lookup pipeline.Lookup
		runs   []*v1alpha1.ArkRun
		phase  v1alpha1.TeamPhase
		reason string
	}{
		"no agent is ready":   {team(), all(0), nil, v1alpha1.TeamPending, v1alpha1.ReasonRolesNotReady},
		"ready, never run":    {team(), all(1), nil, v1alpha1.TeamReady, v1alpha1.ReasonReconciled},
		"a run is live":       {team(), all(1), append(runs(mine, v1alpha1.RunSucceeded, 1), runs(mine, v1alpha1.RunRunning, 2)...), v1alpha1.TeamRunning, v1alpha1.ReasonReconciled},
		"the last succeeded":  {team(), all(1), runs(mine, v1alpha1.RunSucceeded, 2), v1alpha1.TeamSucceeded, v1alpha1.ReasonReconciled},
		"the last failed":     {team(), all(1), runs(mine, v1alpha1.RunFailed, 2), v1alpha1.TeamFailed, v1alpha1.ReasonReconciled},
		"an agent is missing": {team(), lookup(agent("t-a", 1, mine)), nil, v1alpha1.TeamFailed, v1alpha1.ReasonReferenceNotFound},
		"suspended":           {team(func(t *v1alpha1.ArkTeam) { t.Spec.Suspend = true }), all(1), nil, v1alpha1.TeamReady, v1alpha1.ReasonSuspended},
		"a circle": {
			team(func(t *v1alpha1.ArkTeam) { t.Spec.Pipeline[0].DependsOn = []string{"b"} }), all(1), nil, v1alpha1.TeamFailed, v1alpha1.ReasonInvalidDAG,
		},
		"two modes": {
			team(func(t *v1alpha1.ArkTeam) { t.Spec.Entry = "nobody" }), all(1), nil, v1alpha1.TeamFailed, v1alpha1.ReasonInvalidTopology,
		},
	} {
		d := decide(world{key: controller.KeyOf(c.team), team: c.team, lookup: c.lookup, runs: c.runs}, now)
		s := d.statusNow()
		require.Equal(t, c.phase, s.Phase, name)
		require.Equal(t, c.reason, s.Conditions[0].Reason, "%s: %s", name, s.Conditions[0].Message)
		require.Equal(t, int64(3), s.ObservedGeneration, name)
	}
}

// Only replicas that the user wrote are applied, and what the user left out stays out.
func TestAgentsOfATeam(t *testing.T) {
	t.Parallel()
	three := int32(3)
	mine := team(func(t *v1alpha1.ArkTeam) {
		t.Spec.NotifyRef = &v1alpha1.Reference{Name: "people"}
		r := v1alpha1.Role{Name: "c", Model: "m"}
		r.Replicas = &three
		t.Spec.Roles = append(t.Spec.Roles, r)
	})
	old := agent("t-gone", 1, mine)
	foreign := agent("t-foreign", 1, nil)
	d := decide(world{key: controller.KeyOf(mine), team: mine, lookup: lookup(old, foreign, agent("t-a", 1, mine))}, now)
	require.Len(t, d.agents, 2)
	require.Equal(t, []any{"t-a", "t-c"}, []any{d.agents[0].Name, d.agents[1].Name})
	require.Nil(t, d.agents[0].Spec.Replicas)
	require.Equal(t, &three, d.agents[1].Spec.Replicas)
	require.Equal(t, "people", d.agents[0].Spec.NotifyRef.Name)
	require.Equal(t, mine.UID, d.agents[0].OwnerReferences[0].UID)
	require.Equal(t, []*v1alpha1.ArkAgent{old}, d.surplus)
	require.Nil(t, d.service)
	entry := team(func(t *v1alpha1.ArkTeam) { t.Spec.Entry, t.Spec.Pipeline = "a", nil })
	d = decide(world{key: controller.KeyOf(entry), team: entry, lookup: lookup()}, now)
	require.Equal(t, "t", d.service.Name)
	require.Equal(t, "t", d.service.Spec.Selector.ArkTeam)
}

// The newest runs are kept, as many as the team says and as long; live ones always, and those below other runs too.
func TestHistoryOfATeam(t *testing.T) {
	t.Parallel()
	two := int32(2)
	mine := team(func(t *v1alpha1.ArkTeam) { t.Spec.SuccessfulRunsHistoryLimit = &two })
	all := append(runs(mine, v1alpha1.RunSucceeded, 5), runs(mine, v1alpha1.RunFailed, 5)...)
	all = append(all, runs(mine, v1alpha1.RunRunning, 20)...)
	below := runs(mine, v1alpha1.RunSucceeded, 1)[0]
	below.Name, below.OwnerReferences[0].Kind, below.OwnerReferences[0].UID = "below", "ArkRun", "other"
	removed, again := surplusRuns(mine, append(all, below), now)
	require.Equal(t, []string{"Succeeded-02", "Succeeded-01", "Succeeded-00", "Failed-01", "Failed-00"}, names(removed))
	require.Zero(t, again)

	mine.Spec.RunRetainFor = "90m"
	removed, again = surplusRuns(mine, all, now)
	require.Len(t, removed, 8)
	require.Equal(t, 30*time.Minute, again)
}

// The runs of a team that is gone go; those of another team with its name stay.
func TestATeamThatIsGone(t *testing.T) {
	t.Parallel()
	old, fresh := team(), team(func(t *v1alpha1.ArkTeam) { t.UID = "fresh" })
	live := runs(old, v1alpha1.RunRunning, 2)
	require.Len(t, decide(world{key: controller.KeyOf(old), runs: live}, now).remove, 2)
	require.Empty(t, decide(world{key: controller.KeyOf(old), team: fresh, lookup: lookup(), runs: live}, now).remove)
	going := team(func(t *v1alpha1.ArkTeam) { t.DeletionTimestamp = &metav1.Time{Time: now} })
	d := decide(world{key: controller.KeyOf(old), team: going, lookup: lookup(agent("t-a", 1, going)), runs: live}, now)
	require.Len(t, d.remove, 2)
	require.Empty(t, d.agents)
}

func names(runs []*v1alpha1.ArkRun) (out []string) {
	for _, r := range runs {
		out = append(out, r.Name)
	}
	return out
}

// A team says how far its daily budget is used up; that it is so is known of the ledger, or of its agents.
func TestBudgetOfATeam(t *testing.T) {
	t.Parallel()
	mine := team()
	spent := agent("t-a", 0, mine)
	spent.Status.Conditions = []metav1.Condition{{
		Type: v1alpha1.ConditionBudgetExceeded, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonTeamDailyLimitReached, Message: "no call fits",
	}}
	own := spent.DeepCopy()
	own.Status.Conditions[0].Reason = v1alpha1.ReasonDailyLimitReached
	for name, c := range map[string]struct {
		agent  *v1alpha1.ArkAgent
		budget *budget
		want   string // status, reason and message of the condition
		again  time.Duration
	}{
		"no limit":              {spent, nil, "", 0},
		"nothing used":          {agent("t-a", 1, mine), &budget{limit: 500}, "False WithinLimit 0 of 500 tokens are used within 24 hours", 0},
		"some is used":          {agent("t-a", 1, mine), &budget{limit: 500, spent: 60}, "False WithinLimit 60 of 500 tokens are used within 24 hours", usagePause},
		"the agent's own is up": {own, &budget{limit: 500, spent: 60}, "False WithinLimit 60 of 500 tokens are used within 24 hours", usagePause},
		"an agent says so":      {spent, &budget{limit: 500, spent: 60}, "True DailyLimitReached no call fits", usagePause},
		"used up": {
			agent("t-a", 1, mine), &budget{limit: 500, spent: 490, resetsAt: now.Add(time.Minute)},
			"True DailyLimitReached the team t's daily budget is used up: 490 of 500 tokens, and a call needs more than what is left; the next one is possible at 2030-01-02T03:05:05Z",
			time.Minute,
		},
	} {
		before := team(func(t *v1alpha1.ArkTeam) {
			t.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionBudgetExceeded, Status: metav1.ConditionTrue}}
		})
		d := decide(world{key: controller.KeyOf(before), team: before, lookup: lookup(c.agent, agent("other", 1, nil)), budget: c.budget}, now)
		got := ""
		for _, x := range d.statusNow().Conditions {
			if x.Type == v1alpha1.ConditionBudgetExceeded {
				got += string(x.Status) + " " + x.Reason + " " + x.Message
			}
		}
		require.Equal(t, c.want, got, name)
		require.Equal(t, c.again, d.again, name)
	}
}
