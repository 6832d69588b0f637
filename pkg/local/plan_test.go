package local

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/prompt"
	"arkonis.dev/ark/pkg/template"
)

func planOf(t *testing.T, c *catalog, spec string) (*PlanReport, string) {
	s := read[v1alpha1.ArkRunSpec](t, spec)
	agents := map[string]*agent{}
	for name := range c.agents {
		a, problems := c.agent(name, override{}, process(nil))
		require.Empty(t, problems)
		a.resolved.Prompt = "" // its length is no matter of these tests
		agents[name] = a
	}
	p := c.planRun(s, agents)
	var out bytes.Buffer
	require.NoError(t, p.WriteText(&out))
	return p, out.String()
}

func plannedAgents(t *testing.T) *catalog {
	return &catalog{agents: map[string]*v1alpha1.ArkAgent{
		"small":  {ObjectMeta: named("small"), Spec: *read[v1alpha1.ArkAgentSpec](t, "{model: mock, limits: {maxTokensPerCall: 1000}}")},
		"tooled": {ObjectMeta: named("tooled"), Spec: *read[v1alpha1.ArkAgentSpec](t, "{model: gpt-x, tools: [{name: weather, url: http://x}]}")},
	}}
}

func TestPlanOfAPipeline(t *testing.T) {
	t.Parallel()
	_, got := planOf(t, plannedAgents(t), `
teamRef: {name: news}
input: {topic: tides}
roles: [{name: writer, agent: small}, {name: helper, agent: tooled, canDelegate: [writer]}]
pipeline:
- {name: edit, role: helper, dependsOn: [write], inputs: {prompt: "{{ .steps.write.output }}"}, validate: {contains: ok, semantic: "Is it true?"}, maxTokens: 5000}
- {name: write, role: writer, inputs: {prompt: "About {{ .input.topic }}."}, if: "{{ .input.topic }}", retry: {maxAttempts: 2}}
output: "{{ .steps.edit.output }}"
`)
	write := 2 * (framing + len(prompt.Note) + 1000 + judgeWords + perSection + len("prompt") + len("About {{ .input.topic }}.") + len(`"tides"`) + 1000)
	require.Empty(t, cmp.Diff(fmt.Sprintf(`Team news (pipeline)

1. write - small (model mock, provider mock)
   runs: only if {{ .input.topic }}, up to 2 attempts
   input prompt: About {{ .input.topic }}.
   bound: 2 model calls, %d tokens

2. edit - tooled (model gpt-x, provider openai)
   after: write
   input prompt: {{ .steps.write.output }}
   checked: contains "ok", judged: Is it true?
   tools: weather
   may hand work to: writer
   bound: 26 model calls, 5000 tokens
Output: {{ .steps.edit.output }}

Token bound: %d in at most 28 model calls.
`, write, write+5000), got))
}

// What nothing bounds has no bound, whatever its parts come to; a limit of the run is the bound then.
func TestPlanWithoutABound(t *testing.T) {
	t.Parallel()
	p, got := planOf(t, plannedAgents(t), "{agentRef: {name: tooled}, prompt: hello}")
	require.Equal(t, "agent", p.Mode)
	require.Contains(t, got, "Token bound: none, because step tooled may call tools. Set maxTokens on the team or use --max-tokens.")
	p, got = planOf(t, plannedAgents(t), "{agentRef: {name: tooled}, prompt: hello, maxTokens: 700}")
	require.EqualValues(t, 700, p.Bound.Tokens)
	require.Contains(t, got, "Token bound: 700, the limit of the run; no call is made that could pass it.")
}

// A template that repeats a text is bounded by the evaluator's limit alone.
func TestPlanOfARepeatingTemplate(t *testing.T) {
	t.Parallel()
	p, _ := planOf(t, plannedAgents(t), `
teamRef: {name: news}
roles: [{name: a, agent: small}]
pipeline: [{role: a, inputs: {prompt: "{{ range .input.items }}{{ . }}{{ end }}"}}]
`)
	require.Greater(t, p.Bound.Tokens, int64(template.MaxOutput))
	p, _ = planOf(t, plannedAgents(t), `
teamRef: {name: news}
roles: [{name: a, agent: small}]
pipeline: [{role: a, inputs: {prompt: "{{ if .input.x }}{{ .input.x }}{{ else }}none{{ end }}{{/* why */}}"}}]
`)
	require.Less(t, p.Bound.Tokens, int64(3000))
}
