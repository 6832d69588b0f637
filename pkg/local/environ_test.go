package local

import (
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/prompt"
)

func process(vars map[string]string) func(string) string {
	return func(name string) string { return vars[name] }
}

func named(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Name: name} }

func read[T any](t *testing.T, text string) *T {
	var v T
	require.NoError(t, yaml.UnmarshalStrict([]byte(text), &v))
	return &v
}

func TestEnvironment(t *testing.T) {
	t.Parallel()
	c := &catalog{
		namespace: "default",
		secrets: map[string]*corev1.Secret{"keys": {
			ObjectMeta: named("keys"), Data: map[string][]byte{"OPENAI_API_KEY": []byte("from-data"), "B": []byte("b")},
			StringData: map[string]string{"B": "string data wins"},
		}},
		configMaps: map[string]*corev1.ConfigMap{"settings": {ObjectMeta: named("settings"), Data: map[string]string{"REGION": "eu"}}},
	}
	pod := read[v1alpha1.AgentPod](t, `
envFrom:
- secretRef: {name: keys}
- prefix: CFG_
  configMapRef: {name: settings}
- secretRef: {name: absent}
- secretRef: {name: absent-too, optional: true}
env:
- {name: HOST, value: "$(CFG_REGION).example.org"}
- {name: LITERAL, value: "$$(HOST) $(NOBODY) $"}
- {name: OPENAI_API_KEY, valueFrom: {secretKeyRef: {name: keys, key: B}}}
- {name: MISSING, valueFrom: {secretKeyRef: {name: keys, key: nope}}}
- {name: GIVEN, valueFrom: {secretKeyRef: {name: nobody, key: nope}}}
- {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
- {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
`)
	e, warnings := c.environment("writer", pod, process(map[string]string{"GIVEN": "by the process", "AGENT_OPENAI_BASE_URL": "http://x"}))
	require.Equal(t, map[string]string{
		"OPENAI_API_KEY": "string data wins", "B": "string data wins", "CFG_REGION": "eu",
		"HOST": "eu.example.org", "LITERAL": "$(HOST) $(NOBODY) $", "POD": "writer-local",
	}, e.set)
	require.Equal(t, []string{
		`ArkAgent writer: envFrom[2]: Secret "absent" is not among the manifests; its variables are taken from the environment of ark instead`,
		`ArkAgent writer: env MISSING: Secret "keys" has no key "nope", only B, OPENAI_API_KEY; set MISSING in the environment or add what is missing`,
		`ArkAgent writer: env CPU: only a pod of a cluster has the field that it refers to; set CPU in the environment or add what is missing`,
	}, warnings)
	require.Equal(t, "string data wins", e.get("OPENAI_API_KEY"), "the manifest wins over the process")
	require.Equal(t, "http://x", e.get("OPENAI_BASE_URL"), "a prefixed variable answers too")
	require.Equal(t, "by the process", e.get("GIVEN"))
}

func TestAgentPromptAndSettings(t *testing.T) {
	t.Parallel()
	c := &catalog{
		agents: map[string]*v1alpha1.ArkAgent{"writer": {ObjectMeta: named("writer"), Spec: *read[v1alpha1.ArkAgentSpec](t, `
model: gpt-x
systemPromptRef: {configMapKeyRef: {name: prompts, key: writer}}
configRef: {name: base}
settingsRefs: [{name: house}]
mcpServers: [{name: search, url: "http://s", guidance: "Search first."}]
`)}},
		configMaps: map[string]*corev1.ConfigMap{"prompts": {ObjectMeta: named("prompts"), Data: map[string]string{"writer": "You write."}}},
		settings: map[string]*v1alpha1.ArkSettings{
			"base": {ObjectMeta: named("base"), Spec: *read[v1alpha1.ArkSettingsSpec](t, `
temperature: "0.2"
topP: "0.9"
outputFormat: plain
promptFragments: {persona: "Base persona.", outputRules: "Base rules.", tone: "Be kind."}
`)},
			"house": {ObjectMeta: named("house"), Spec: *read[v1alpha1.ArkSettingsSpec](t, `
temperature: "0.7"
outputFormat: markdown
promptFragments: {outputRules: "House rules.", audience: "Readers are children."}
fragments: [{name: a, text: "First.", position: prepend}, {name: b, text: "Last."}]
`)},
		},
	}
	a, problems := c.agent("writer", override{}, process(nil))
	require.Empty(t, problems)
	require.Equal(t, "Base persona.\n\nFirst.\n\nYou write.\n\nBe kind.\n\nLast.\n\nReaders are children.\n\nHouse rules.\n\n"+
		"Answer in Markdown.\n\nSearch first.\n\n"+prompt.Note, a.resolved.Prompt)
	require.Len(t, a.resolved.PromptHash, 64)
	require.InDelta(t, 0.7, *a.resolved.Temperature, 0)
	require.InDelta(t, 0.9, *a.resolved.TopP, 0)
	require.Equal(t, "openai", a.provider)

	a, problems = c.agent("writer", override{Model: "mock-big"}, process(nil))
	require.Empty(t, problems)
	require.Equal(t, []string{"mock-big", "mock"}, []string{a.model, a.provider})
}

func TestAgentProblems(t *testing.T) {
	t.Parallel()
	teams := map[string]*v1alpha1.ArkTeam{"news": {ObjectMeta: named("news"), Spec: *read[v1alpha1.ArkTeamSpec](t, `
roles:
- name: editor
  model: mock
  systemPromptRef: {secretKeyRef: {name: prompts, key: editor}}
  settingsRefs: [{name: odd}, {name: nobody}]
`)}}
	c := &catalog{
		agents:   withInlineAgents(map[string]*v1alpha1.ArkAgent{}, teams),
		settings: map[string]*v1alpha1.ArkSettings{"odd": {ObjectMeta: named("odd"), Spec: v1alpha1.ArkSettingsSpec{Temperature: "NaN", TopP: "1.5"}}},
	}
	a, problems := c.agent("news-editor", override{}, process(nil))
	require.Equal(t, "news", a.team)
	require.Equal(t, []string{
		`ArkAgent news-editor: systemPromptRef: Secret "prompts" is not among the manifests; add it to the files`,
		`ArkSettings odd: spec.temperature is "NaN": it must be a number from 0 to 2`,
		`ArkSettings odd: spec.topP is "1.5": it must be a number from 0 to 1`,
		`ArkAgent news-editor: ArkSettings "nobody" is not among the manifests; there are: odd`,
	}, problems)
	_, problems = c.agent("ghost", override{}, process(nil))
	require.Equal(t, []string{`ArkAgent "ghost" is not among the manifests; there are: news-editor`}, problems)
}
