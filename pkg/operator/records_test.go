package operator

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/work"
)

// recorded reads objects of a namespace, and says what their budgets begin with: the sum, and the tokens that count from
// less than an hour ago.
func recorded(t *testing.T, now time.Time, agents, teams, runs string) map[string][2]int64 {
	t.Helper()
	var r records
	for _, a := range read[v1alpha1.ArkAgent](t, agents) {
		r.addAgent(&a)
	}
	for _, team := range read[v1alpha1.ArkTeam](t, teams) {
		r.addTeam(&team)
	}
	for _, run := range read[v1alpha1.ArkRun](t, runs) {
		r.addRun(&run, now)
	}
	out := map[string][2]int64{}
	for _, o := range r.openings(now) {
		var all, fresh int64
		for _, c := range o.Charges {
			all += c.Tokens
			if now.Sub(c.At) < time.Hour {
				fresh += c.Tokens
			}
		}
		require.True(t, slices.IndexFunc(o.Charges, func(c work.Charge) bool { return c.Output > c.Tokens || c.Tokens < 0 }) < 0)
		out[o.Budget.Scope] = [2]int64{all, fresh}
	}
	return out
}

func read[T any](t *testing.T, text string) []T {
	t.Helper()
	var all []T
	for part := range strings.SplitSeq(text, "---\n") {
		if strings.TrimSpace(part) == "" {
			continue
		}
		var o T
		require.NoError(t, yaml.UnmarshalStrict([]byte(part), &o))
		all = append(all, o)
	}
	return all
}

func TestWhatBudgetsBeginWith(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)
	const ant, bee = "metadata: {name: ant}\nspec: {model: m}\n", "metadata: {name: bee}\nspec: {model: m, limits: {maxTokensPerCall: 300}}\n"
	const crew = "metadata: {name: crew}\nspec: {limits: {maxDailyTokens: 5000}, roles: [{name: a, arkAgent: ant}]}\n"
	const run = `
metadata: {name: r}
spec: {teamRef: {name: crew}, roles: [{name: a, agent: ant}, {name: b, agent: bee}]}
status:
  phase: Succeeded
  completionTime: "2026-03-02T09:00:00.000000Z"
  totalTokenUsage: {inputTokens: 130, outputTokens: 20, totalTokens: 150}
  steps:
  - {name: one, agent: ant, phase: Succeeded, completionTime: "2026-03-02T08:00:00.000000Z", tokenUsage: {inputTokens: 90, outputTokens: 10, totalTokens: 100}}
  - {name: two, agent: bee, phase: Succeeded, completionTime: "2026-03-02T09:00:00.000000Z", tokenUsage: {inputTokens: 40, outputTokens: 10, totalTokens: 50}}
`
	change := func(old, now string) string {
		require.Contains(t, run, old)
		return strings.Replace(run, old, now, 1)
	}
	for name, c := range map[string]struct {
		agents, teams, runs string
		want                map[string][2]int64
	}{
		"nothing": {ant + "---\n" + bee, crew, "", map[string][2]int64{}},
		"a run": {
			ant + "---\n" + bee, crew, run,
			map[string][2]int64{"agent.ant": {100, 0}, "agent.bee": {50, 0}, "team.crew": {150, 0}},
		},
		"a run of long ago": {ant, crew, change(`completionTime: "2026-03-02T09`, `completionTime: "2026-03-01T09`), map[string][2]int64{}},
		"a team without a budget": {
			ant, strings.Replace(crew, "limits: {maxDailyTokens: 5000}, ", "", 1), run, map[string][2]int64{"agent.ant": {100, 0}},
		},
		"an agent that has used more than runs tell": {
			ant + "status: {dailyTokenUsage: {totalTokens: 900, outputTokens: 70}}\n", crew, run,
			map[string][2]int64{"agent.ant": {900, 800}, "team.crew": {950, 800}},
		},
		"an agent that has used less": {
			ant + "status: {dailyTokenUsage: {totalTokens: 20}}\n", crew, run, map[string][2]int64{"agent.ant": {100, 0}, "team.crew": {150, 0}},
		},
		"steps that the status has no room for": {
			ant + "---\n" + bee, crew, change("totalTokens: 150", "totalTokens: 1150"),
			map[string][2]int64{"agent.ant": {1100, 0}, "agent.bee": {1050, 0}, "team.crew": {1150, 0}},
		},
		"a step that another run has paid for": {
			bee, crew, change("name: one, ", "name: one, reason: Reused, "), map[string][2]int64{"agent.bee": {150, 0}, "team.crew": {150, 0}},
		},
		"a step that another team did": {
			ant, crew, change("name: two, agent: bee", "name: two"), map[string][2]int64{"agent.ant": {100, 0}, "team.crew": {100, 0}},
		},
		"a run that was interrupted": {
			ant + "---\n" + bee, crew,
			strings.Replace(strings.Replace(change("two, agent: bee, phase: Succeeded, completionTime: \"2026-03-02T09:00:00.000000Z\"", "two, agent: bee, phase: Running"),
				"phase: Succeeded", "phase: Running", 1), `  completionTime: "2026-03-02T09:00:00.000000Z"`+"\n", "", 1),
			map[string][2]int64{"agent.ant": {100, 0}, "agent.bee": {350, 350}, "team.crew": {450, 350}},
		},
		"an agent by itself": {
			ant, "", strings.Replace(change("teamRef: {name: crew}", "agentRef: {name: ant}"), ", roles: [{name: a, agent: ant}, {name: b, agent: bee}]", "", 1),
			map[string][2]int64{"agent.ant": {100, 0}},
		},
		"a routed team": {
			ant + "---\n" + strings.Replace(ant, "ant", "crew-router", 1), strings.Replace(crew, "roles: [{name: a, arkAgent: ant}]", "routing: {registryRef: {name: r}, model: m}", 1),
			strings.Replace(change("roles: [{name: a, agent: ant}, {name: b, agent: bee}]", "routing: {agent: crew-router}"), "agent: bee", "agent: ant", 1),
			map[string][2]int64{"agent.ant": {150, 0}, "agent.crew-router": {150, 0}, "team.crew": {150, 0}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, recorded(t, now, c.agents, c.teams, c.runs))
		})
	}
}

func TestRecordsOfNothing(t *testing.T) {
	t.Parallel()
	var r records
	require.False(t, r.any())
	r.addRun(&v1alpha1.ArkRun{ObjectMeta: metav1.ObjectMeta{Name: "r"}}, time.Now())
	require.Empty(t, r.openings(time.Now()))
}
