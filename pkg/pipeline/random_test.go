package pipeline_test

import (
	"fmt"
	"math/rand/v2"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
)

// randomSpec makes a valid pipeline with any of the features.
func randomSpec(r *rand.Rand) v1alpha1.ArkRunSpec {
	spec := v1alpha1.ArkRunSpec{
		TeamRef: &v1alpha1.Reference{Name: "t"},
		Roles: []v1alpha1.RunRole{
			{Name: "worker", Agent: "agent-0", CanDelegate: []string{"helper"}},
			{Name: "helper", Agent: "agent-1"},
			{Name: "sub", Team: "below"},
		},
		Input: v1alpha1.Values{"prompt": {Raw: []byte(`"go"`)}},
	}
	if r.IntN(2) == 0 {
		spec.TimeoutSeconds = int64(20 + r.IntN(600))
	}
	if r.IntN(3) == 0 {
		spec.MaxTokens = 100_000
	}
	switch r.IntN(12) {
	case 0:
		spec.Routing = &v1alpha1.RunRouting{Agent: "agent-1", Capabilities: []v1alpha1.RunCapability{
			{ID: "yes", Agents: []string{"agent-2", "agent-0"}}, {ID: "none", Agents: nil},
		}}
		if r.IntN(2) == 0 {
			spec.Routing.Fallback = "agent-1"
		}
		return spec
	case 1:
		spec.Entry = "worker"
		return spec
	}
	for i := range 1 + r.IntN(9) {
		spec.Pipeline = append(spec.Pipeline, randomStep(r, &spec, i))
	}
	return spec
}

func randomStep(r *rand.Rand, spec *v1alpha1.ArkRunSpec, i int) v1alpha1.Step {
	st := v1alpha1.Step{Name: fmt.Sprintf("s%d", i), Role: []string{"worker", "worker", "helper", "sub"}[r.IntN(4)]}
	chance := func(n int) bool { return r.IntN(n) == 0 }
	st.Inputs = map[string]string{"prompt": "do {{ .input.prompt }}"}
	for k := range spec.Pipeline {
		if !chance(3) {
			continue
		}
		dep := &spec.Pipeline[k]
		st.DependsOn = append(st.DependsOn, dep.Name)
		switch r.IntN(4) {
		case 0:
			st.Inputs["in"+dep.Name] = "{{ .steps." + dep.Name + ".output }}"
		case 1:
			st.If = "{{ if eq .steps." + dep.Name + ".status \"Succeeded\" }}yes{{ end }}"
		case 2:
			if dep.OutputSchema != "" && dep.ForEach == nil {
				st.ForEach = &v1alpha1.ForEach{Items: "{{ .steps." + dep.Name + ".data.list }}", MaxParallel: int32(1 + r.IntN(3))}
				st.Inputs["item"] = "{{ .item }}"
			}
		}
	}
	if chance(2) {
		st.OutputSchema = `{"type":"object","required":["go"],"properties":{"go":{"type":"string"},"list":{"type":"array"}}}`
	}
	if chance(3) {
		retries := int32(r.IntN(4))
		st.Validate = &v1alpha1.Validation{MaxRetries: &retries, Contains: []string{"", "go"}[r.IntN(2)]}
		if chance(2) {
			st.Validate.OnFailure = v1alpha1.ValidationRetry
		}
		if st.Role != "sub" && chance(2) {
			st.Validate.Semantic = "is good"
		}
	}
	if chance(3) {
		st.Loop = &v1alpha1.Loop{Condition: "{{ lt .iteration 2 }}", MaxIterations: int32(1 + r.IntN(4))}
		st.Inputs["before"] = "{{ .steps." + st.Name + ".output }}"
	}
	if st.ForEach == nil && chance(5) {
		st.ForEach = &v1alpha1.ForEach{Items: []string{"[]", "[1,2,3,4,5,6]", "[null,{}]", "none"}[r.IntN(4)], MaxParallel: int32(1 + r.IntN(4))}
		st.Inputs["each"] = "{{ .item }}"
	}
	if chance(2) {
		st.Retry = &v1alpha1.Retry{MaxAttempts: int32(1 + r.IntN(4)), BackoffSeconds: int64(r.IntN(8))}
	}
	if chance(6) && st.Role != "sub" {
		st.RegistryLookup = &v1alpha1.RegistryLookup{Capability: "x"}
		spec.Lookups = append(spec.Lookups, v1alpha1.RunLookup{Step: st.Name, Agents: []string{"agent-2", "agent-0", "agent-1"}})
	}
	st.ContinueOnError = chance(2)
	if chance(6) {
		st.MaxTokens = 1000
	}
	return st
}
