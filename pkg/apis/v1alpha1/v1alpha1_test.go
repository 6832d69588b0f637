package v1alpha1_test

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
)

func TestSchemeKnowsEveryKind(t *testing.T) {
	t.Parallel()
	scheme := runtime.NewScheme()
	require.NoError(t, v1alpha1.AddToScheme(scheme))
	var kinds []string
	for _, k := range v1alpha1.Kinds() {
		name := reflect.TypeOf(k.Object).Elem().Name()
		kinds = append(kinds, name)
		object, err := scheme.New(v1alpha1.Kind(name))
		require.NoError(t, err)
		require.IsType(t, k.Object, object)
		list, err := scheme.New(v1alpha1.Kind(name + "List"))
		require.NoError(t, err)
		require.IsType(t, k.List, list)
	}
	require.True(t, slices.IsSorted(kinds))
	require.Len(t, kinds, 9)
}

func TestPhasesThatEnd(t *testing.T) {
	t.Parallel()
	require.Equal(t, []bool{false, false, true, true, true}, []bool{
		v1alpha1.RunPending.Terminal(), v1alpha1.RunRunning.Terminal(), v1alpha1.RunSucceeded.Terminal(),
		v1alpha1.RunFailed.Terminal(), v1alpha1.RunCancelled.Terminal(),
	})
	require.Equal(t, []bool{false, false, false, false, true, true, true, true}, []bool{
		v1alpha1.StepPending.Terminal(), v1alpha1.StepRunning.Terminal(), v1alpha1.StepValidating.Terminal(), v1alpha1.StepWaiting.Terminal(),
		v1alpha1.StepSucceeded.Terminal(), v1alpha1.StepFailed.Terminal(), v1alpha1.StepSkipped.Terminal(), v1alpha1.StepCancelled.Terminal(),
	})
}

// The greatest names that the rules allow give derived names that fit.
func TestDerivedNamesFit(t *testing.T) {
	t.Parallel()
	team := strings.Repeat("t", v1alpha1.MaxTeamNameLength)
	require.Len(t, v1alpha1.RunName(team, "0123456789abcdef"), v1alpha1.MaxNameLength)
	require.LessOrEqual(t, len(v1alpha1.RouterAgentName(team)), v1alpha1.MaxAgentNameLength)
	require.Len(t, strings.Repeat("a", v1alpha1.MaxAgentNameLength)+v1alpha1.AgentDeploymentSuffix, v1alpha1.MaxNameLength)
	require.Len(t, strings.Repeat("e", v1alpha1.MaxHookNameLength)+v1alpha1.WebhookTokenSuffix, v1alpha1.MaxNameLength)
}

func TestRoleAgent(t *testing.T) {
	t.Parallel()
	team := &v1alpha1.ArkTeam{
		ObjectMeta: metav1.ObjectMeta{Name: "blog", Namespace: "demo"},
		Spec: v1alpha1.ArkTeamSpec{
			NotifyRef: &v1alpha1.Reference{Name: "people"},
			Roles: []v1alpha1.Role{
				{Name: "writer", Model: "m", AgentTemplate: v1alpha1.AgentTemplate{SystemPrompt: "You write."}},
				{Name: "editor", ArkAgent: "editor"},
				{Name: "quiet", Model: "m", AgentTemplate: v1alpha1.AgentTemplate{NotifyRef: &v1alpha1.Reference{Name: "nobody"}}},
			},
		},
	}
	team.SetDefaults()
	want := &v1alpha1.ArkAgent{
		TypeMeta: metav1.TypeMeta{APIVersion: "arkonis.dev/v1alpha1", Kind: "ArkAgent"},
		ObjectMeta: metav1.ObjectMeta{Name: "blog-writer", Namespace: "demo", Labels: map[string]string{
			"app.kubernetes.io/managed-by": "ark", "app.kubernetes.io/name": "agent", "app.kubernetes.io/instance": "blog-writer",
			"arkonis.dev/agent": "blog-writer", "arkonis.dev/team": "blog", "arkonis.dev/role": "writer",
		}},
		Spec: v1alpha1.ArkAgentSpec{Model: "m", AgentTemplate: v1alpha1.AgentTemplate{
			SystemPrompt: "You write.", NotifyRef: &v1alpha1.Reference{Name: "people"},
		}},
	}
	require.Equal(t, want, team.RoleAgent(team.Role("writer")), "replicas stay unset when nobody wrote them")
	require.Nil(t, team.RoleAgent(team.Role("editor")))
	require.Equal(t, "nobody", team.RoleAgent(team.Role("quiet")).Spec.NotifyRef.Name)
	require.Nil(t, team.Role("nobody"))
	require.Nil(t, team.RouterAgent())

	agent := team.RoleAgent(team.Role("writer"))
	agent.SetDefaults()
	require.EqualValues(t, 1, *agent.Spec.Replicas)
	require.Nil(t, team.Spec.Roles[0].Replicas, "the role is not touched")
}

func TestRouterAgent(t *testing.T) {
	t.Parallel()
	envFrom := []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "keys"}}}}
	team := &v1alpha1.ArkTeam{ObjectMeta: metav1.ObjectMeta{Name: "ops"}, Spec: v1alpha1.ArkTeamSpec{Routing: &v1alpha1.Routing{
		Model: "m", SystemPrompt: "Pick one.", EnvFrom: envFrom,
	}}}
	agent := team.RouterAgent()
	require.Equal(t, "ops-router", agent.Name)
	require.Equal(t, v1alpha1.ArkAgentSpec{Model: "m", AgentTemplate: v1alpha1.AgentTemplate{
		SystemPrompt: "Pick one.", AgentPod: v1alpha1.AgentPod{EnvFrom: envFrom},
	}}, agent.Spec)
	agent.Spec.EnvFrom[0].SecretRef.Name = "other"
	require.Equal(t, "keys", team.Spec.Routing.EnvFrom[0].SecretRef.Name, "nothing is shared with the team")
}

func TestResolved(t *testing.T) {
	t.Parallel()
	team := &v1alpha1.Reference{Name: "t"}
	require.False(t, (&v1alpha1.ArkRunSpec{TeamRef: team}).Resolved())
	require.True(t, (&v1alpha1.ArkRunSpec{TeamRef: team, Entry: "a"}).Resolved())
	require.True(t, (&v1alpha1.ArkRunSpec{TeamRef: team, Pipeline: []v1alpha1.Step{{Role: "a"}}}).Resolved())
	require.True(t, (&v1alpha1.ArkRunSpec{TeamRef: team, Routing: &v1alpha1.RunRouting{}}).Resolved())
	require.True(t, (&v1alpha1.ArkRunSpec{AgentRef: team, Prompt: "x"}).Resolved())
}

func TestBothShapes(t *testing.T) {
	t.Parallel()
	key := v1alpha1.KeyReference{Name: "s", Key: "k"}
	source := &v1alpha1.SecretSource{SecretKeyRef: key}
	require.Equal(t, []*v1alpha1.KeyReference{&key, &key, nil, &key, &key, nil, &key, &key}, []*v1alpha1.KeyReference{
		(&v1alpha1.Header{SecretKeyRef: &key}).Secret(), (&v1alpha1.Header{ValueFrom: source}).Secret(), (&v1alpha1.Header{Value: "v"}).Secret(),
		(&v1alpha1.MCPAuth{TokenSecretRef: &key}).Token(), (&v1alpha1.MCPAuth{Bearer: source}).Token(), (&v1alpha1.MCPAuth{}).Token(),
		(&v1alpha1.SlackChannel{WebhookURLFrom: &key}).Secret(), (&v1alpha1.SlackChannel{WebhookURLSecretRef: &key}).Secret(),
	})
	one := v1alpha1.NotifyChannel{Type: v1alpha1.ChannelSlack}
	require.Equal(t, []v1alpha1.NotifyChannel{one}, (&v1alpha1.ArkNotifySpec{Channel: &one}).AllChannels())
	require.Equal(t, []v1alpha1.NotifyChannel{one}, (&v1alpha1.ArkNotifySpec{Channels: []v1alpha1.NotifyChannel{one}}).AllChannels())
	for _, spec := range []v1alpha1.ArkNotifySpec{
		{On: []v1alpha1.NotifyEvent{v1alpha1.NotifyTeamFailed}},
		{OnUnquoted: []v1alpha1.NotifyEvent{v1alpha1.NotifyTeamFailed}},
		{Events: []v1alpha1.NotifyRule{{Type: v1alpha1.NotifyTeamFailed}}},
	} {
		require.True(t, spec.Tells(v1alpha1.NotifyTeamFailed))
		require.False(t, spec.Tells(v1alpha1.NotifyTeamSucceeded))
	}
	require.True(t, (&v1alpha1.ArkNotifySpec{}).Tells(v1alpha1.NotifyAgentDegraded))
}

func TestValidateDocument(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, kind, doc, want string }{
		{"fine", "ArkAgent", `{"apiVersion": "arkonis.dev/v1alpha1", "kind": "ArkAgent", "metadata": {"any": 1}, "spec": {"model": "m"}}`, ""},
		{"an unknown kind", "ArkFlow", `{}`, `kind: Invalid value: "ArkFlow": is not a kind of arkonis.dev/v1alpha1`},
		{"no spec", "ArkTeam", `{}`, "spec: Required value"},
		{"a null spec", "ArkTeam", `{"spec": null}`, "spec: Required value"},
		{"a kind that needs none", "ArkMemory", `{}`, ""},
		{"a spec that is a list", "ArkMemory", `{"spec": []}`, "spec: Invalid value: []: must be an object"},
		{"a field beside spec", "ArkMemory", `{"specs": {}}`, "specs: Invalid value: unknown field; did you mean spec?"},
		{"a swapped letter", "ArkAgent", `{"spec": {"modle": "m", "model": "m"}}`, "spec.modle: Invalid value: unknown field; did you mean model?"},
		{"another letter case", "ArkAgent", `{"spec": {"model": "m", "mcpservers": []}}`, "spec.mcpservers: Invalid value: unknown field; did you mean mcpServers?"},
		{"a null field that is unknown", "ArkAgent", `{"spec": {"model": "m", "prompt": null}}`, "spec.prompt: Invalid value: unknown field"},
		{
			"a field of an old version", "ArkTeam", `{"spec": {"roles": [{"name": "a", "model": "m", "networkPolicy": {"mode": "strict"}}]}}`,
			`spec.roles[0].networkPolicy: Invalid value: {"mode":"strict"}: must be a string`,
		},
		{
			"all at once", "ArkAgent", `{"spec": {"replicas": 99, "nope": 1}}`,
			"spec.model: Required value; spec.nope: Invalid value: unknown field; spec.replicas: Invalid value: 99: must be at most 50",
		},
		{"a duplicate", "ArkTeam", `{"spec": {"pipeline": [{"role": "a", "dependsOn": ["b", "b"]}]}}`, `spec.pipeline[0].dependsOn[1]: Duplicate value: "b"`},
		{"a quantity that is none", "ArkAgent", `{"spec": {"model": "m", "resources": {"limits": {"cpu": "lots"}}}}`, `spec.resources.limits[cpu]: Invalid value: "lots": must match`},
		{"a number too large", "ArkAgent", `{"spec": {"model": "m", "limits": {"maxDailyTokens": 1e30}}}`, "spec.limits.maxDailyTokens: Invalid value: 1e+30: does not fit int64"},
		{
			"a time that is none", "ArkRun", `{"spec": {"teamRef": {"name": "t"}, "trigger": {"firedAt": "now"}}}`,
			`spec.trigger.firedAt: Invalid value: "now": must be a time such as 2026-01-31T12:00:00Z`,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var doc map[string]any
			require.NoError(t, json.Unmarshal([]byte(c.doc), &doc))
			got := text(v1alpha1.ValidateDocument(c.kind, doc))
			if c.want == "" {
				require.Empty(t, got)
			}
			require.Contains(t, got, c.want)
		})
	}
}

// What only code checks: names, and texts that hold something else.
func TestValidate(t *testing.T) {
	t.Parallel()
	agent := &v1alpha1.ArkAgent{Spec: v1alpha1.ArkAgentSpec{Model: "m"}}
	require.Equal(t, "metadata.name: Required value: name or generateName is required", text(agent.Validate()))
	agent.GenerateName = "writer-"
	require.Empty(t, agent.Validate())
	agent.Name = "The Writer"
	require.Contains(t, text(agent.Validate()), `metadata.name: Invalid value: "The Writer": a lowercase RFC 1123 subdomain`)

	agent.Name = "writer"
	agent.Spec.Capabilities = []v1alpha1.Capability{{ID: "a", InputSchema: "[]"}, {ID: "b", InputSchema: "null"}, {ID: "c", InputSchema: `{"type": "object"}`}}
	require.Equal(t, `spec.capabilities[0].inputSchema: Invalid value: "[]": must be the JSON text of an object: `+
		`json: cannot unmarshal array into Go value of type map[string]json.RawMessage; `+
		`spec.capabilities[1].inputSchema: Invalid value: "null": must be the JSON text of an object`, text(agent.Validate()))

	team := &v1alpha1.ArkTeam{ObjectMeta: metav1.ObjectMeta{Name: "t"}, Spec: v1alpha1.ArkTeamSpec{
		Roles: []v1alpha1.Role{{Name: "a", Model: "m"}}, Entry: "a", RunRetainFor: "72h",
	}}
	require.Empty(t, team.Validate())
	team.Spec.RunRetainFor = "99999999999999h"
	require.Equal(t, `spec.runRetainFor: Invalid value: "99999999999999h": must be a duration such as 90m or 72h`, text(team.Validate()))
}

func text(errs field.ErrorList) string {
	out := make([]string, len(errs))
	for i, err := range errs {
		out[i] = err.Error()
	}
	return strings.Join(out, "; ")
}

func FuzzValidateDocument(f *testing.F) {
	f.Add("ArkAgent", `{"spec": {"model": "m", "tools": [{"name": "a", "url": "http://x", "headers": [{}]}]}}`)
	f.Add("ArkTeam", `{"spec": {"roles": [1, null, {"name": {}}], "pipeline": {"a": [[]]}, "input": {"x": null}}}`)
	f.Add("ArkRun", `{"spec": {"input": {"a": [null]}, "trigger": {"hops": 1e400}}}`)
	f.Fuzz(func(t *testing.T, kind, doc string) {
		var object map[string]any
		if json.Unmarshal([]byte(doc), &object) != nil {
			return
		}
		// Whatever passes the schema can be decoded, and checked, and what is decoded passes the schema again.
		if len(v1alpha1.ValidateDocument(kind, object)) > 0 {
			return
		}
		for _, k := range v1alpha1.Kinds() {
			if reflect.TypeOf(k.Object).Elem().Name() != kind {
				continue
			}
			spec, err := json.Marshal(map[string]any{"spec": object["spec"]})
			require.NoError(t, err)
			require.NoError(t, json.Unmarshal(spec, k.Object))
			v := k.Object.(interface {
				SetDefaults()
				Validate() field.ErrorList
			})
			v.SetDefaults()
			v.Validate()
		}
	})
}

func BenchmarkValidateTeam(b *testing.B) {
	team := &v1alpha1.ArkTeam{ObjectMeta: metav1.ObjectMeta{Name: "t"}, Spec: v1alpha1.ArkTeamSpec{Roles: []v1alpha1.Role{{Name: "a", Model: "m"}}}}
	for range 3 {
		team.Spec.Pipeline = append(team.Spec.Pipeline, v1alpha1.Step{Role: "a"})
	}
	for b.Loop() {
		if errs := team.Validate(); len(errs) > 0 {
			b.Fatal(errs)
		}
	}
}
