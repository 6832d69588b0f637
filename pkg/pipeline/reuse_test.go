package pipeline_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/task"
)

// diamond is a -> b, c -> d, where c is skipped, and e beside them.
func diamond() v1alpha1.ArkRunSpec {
	spec := oneRole(
		v1alpha1.Step{Name: "a", Role: "r", Inputs: map[string]string{"prompt": "a {{ .input.x }}"}},
		v1alpha1.Step{Name: "b", Role: "r", DependsOn: []string{"a"}, Inputs: map[string]string{"prompt": "b {{ .steps.a.output }}"}},
		v1alpha1.Step{Name: "c", Role: "r", DependsOn: []string{"a"}, If: "no"},
		v1alpha1.Step{Name: "d", Role: "r", DependsOn: []string{"b", "c"}},
		v1alpha1.Step{Name: "e", Role: "r"},
	)
	spec.Input = v1alpha1.Values{"x": {Raw: []byte(`1`)}}
	return spec
}

// What a run can take over from an earlier one, in which the named steps failed.
func TestReusable(t *testing.T) {
	t.Parallel()
	step := func(i int, change func(*v1alpha1.Step)) func(*v1alpha1.ArkRunSpec) {
		return func(s *v1alpha1.ArkRunSpec) { change(&s.Pipeline[i]) }
	}
	for name, c := range map[string]struct {
		failed string
		from   string
		change func(*v1alpha1.ArkRunSpec)
		want   string
	}{
		"nothing failed":             {"", "", nil, "a b d e"},
		"the last failed":            {"d", "", nil, "a b e"},
		"one in the middle failed":   {"b", "", nil, "a e"},
		"the first failed":           {"a", "", nil, "e"},
		"from a step on":             {"", "b", nil, "a e"},
		"from the skipped step on":   {"", "c", nil, "a b e"},
		"from another than failed":   {"d", "e", nil, "a b"},
		"from nowhere":               {"", "x", nil, `there is no step "x": there are a, b, c, d, e`},
		"what failed was mended":     {"b", "", step(1, func(s *v1alpha1.Step) { s.Inputs["prompt"] = "another" }), "a e"},
		"what waits was mended":      {"b", "", step(3, func(s *v1alpha1.Step) { s.If = "yes" }), "a e"},
		"a result is another's":      {"b", "", step(0, func(s *v1alpha1.Step) { s.Inputs["prompt"] = "another" }), `the step "a" is another one since the run first (inputs): run it again as well, from it or from a step before it on`},
		"and it is run again":        {"b", "a", step(0, func(s *v1alpha1.Step) { s.Inputs["prompt"] = "another" }), "e"},
		"it was given more time":     {"b", "", step(0, func(s *v1alpha1.Step) { s.TimeoutSeconds, s.MaxTokens = 7, 7 }), "a e"},
		"it has to give JSON now":    {"b", "", step(0, func(s *v1alpha1.Step) { s.OutputSchema = "{}" }), `the step "a" is another one since the run first (outputSchema): run it again as well, from it or from a step before it on`},
		"the condition changed":      {"", "", step(2, func(s *v1alpha1.Step) { s.If = "yes" }), "a b e"},
		"another stands before":      {"b", "", step(4, func(s *v1alpha1.Step) { s.DependsOn = []string{"b"} }), "a"},
		"a step is gone":             {"b", "", func(s *v1alpha1.ArkRunSpec) { s.Pipeline = s.Pipeline[:4] }, "a"},
		"a step is new":              {"d", "", func(s *v1alpha1.ArkRunSpec) { s.Pipeline = append(s.Pipeline, v1alpha1.Step{Name: "f", Role: "r"}) }, "a b e"},
		"the input changed":          {"d", "", func(s *v1alpha1.ArkRunSpec) { s.Input["x"] = v1alpha1.Value{Raw: []byte(`2`)} }, "the input is not that of the run first, so that its results are those of something else"},
		"input for nothing reusable": {"ae", "", func(s *v1alpha1.ArkRunSpec) { s.Input["x"] = v1alpha1.Value{Raw: []byte(`2`)} }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			first, err := pipeline.Compile(pipeline.Run{UID: "1", Name: "first", Namespace: "n", Spec: diamond(), Started: epoch()}, options())
			require.NoError(t, err)
			s := first.Start()
			play(t, first, s, func(a *pipeline.Submit) (pipeline.TaskEnded, bool) {
				if strings.Contains(c.failed, a.Step) {
					return pipeline.TaskEnded{Status: task.Failed, Code: task.CodeProviderAuth, Message: "no key"}, true
				}
				return pipeline.TaskEnded{Status: task.Succeeded, Output: "did " + a.Step}, true
			})
			spec := diamond()
			if c.change != nil {
				c.change(&spec)
			}
			next := compile(t, spec)
			results, err := next.Reusable(first, s, c.from)
			if err != nil {
				require.EqualError(t, err, c.want)
				return
			}
			var names []string
			for _, r := range results {
				names = append(names, r.Step)
				require.Equal(t, pipeline.StepResult{Step: r.Step, Output: "did " + r.Step, Agent: "t-r", Run: "first"}, r)
			}
			require.Equal(t, c.want, strings.Join(names, " "))
			reusedAgain(t, next, results)
		})
	}
}

// A run that took results over hands them on with the name of the run that they come from, and counts nothing for them.
func reusedAgain(t *testing.T, plan *pipeline.Plan, results []pipeline.StepResult) {
	t.Helper()
	s := plan.Start(results...)
	worked := 0
	play(t, plan, s, func(a *pipeline.Submit) (pipeline.TaskEnded, bool) {
		worked++
		return pipeline.TaskEnded{Status: task.Succeeded, Output: "again " + a.Step, Usage: task.Usage{InputTokens: 1}}, true
	})
	status := plan.Status(s, epoch())
	require.Equal(t, v1alpha1.RunSucceeded, status.Phase)
	require.EqualValues(t, worked, status.TotalTokenUsage.TotalTokens)
	third, err := plan.Reusable(plan, s, "")
	require.NoError(t, err)
	from := map[string]string{}
	for _, r := range third {
		from[r.Step] = r.Run
	}
	for _, r := range results {
		require.Equal(t, "first", from[r.Step], fmt.Sprint(from))
	}
}
