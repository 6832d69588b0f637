package pipeline_test

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/task"
)

// answers are the whole answers of tasks, in a store: the engine gets of a large one what it asks for.
type answers struct {
	t     *testing.T
	plan  *pipeline.Plan
	state *pipeline.State
	give  map[string][]string // by step, or by kind/step; the last one again and again

	asked []*pipeline.Submit
	most  int // bytes of an answer that were held
	ended *pipeline.Finish
}

func refTo(text string) *task.Ref {
	sum := sha256.Sum256([]byte(text))
	hash := hex.EncodeToString(sum[:])
	return &task.Ref{Key: "uid-1/" + hash, Size: int64(len(text)), SHA256: hash, Preview: text[:min(len(text), task.PreviewLimit)]}
}

// next is the next answer to a task.
func (a *answers) next(s *pipeline.Submit) string {
	key := s.Step
	if s.Kind != task.KindStep {
		key = string(s.Kind) + "/" + s.Step
	}
	all := a.give[key]
	require.NotEmpty(a.t, all, key)
	if len(all) > 1 {
		a.give[key] = all[1:]
	}
	return all[0]
}

// run answers until the run has ended.
func (a *answers) run() *answers {
	a.t.Helper()
	for now := epoch(); a.ended == nil; {
		actions := a.plan.Decide(a.state, now).Actions
		require.NotEmpty(a.t, actions)
		for _, action := range actions {
			switch action := action.(type) {
			case *pipeline.Submit:
				a.asked = append(a.asked, action)
				text := a.next(action)
				e := pipeline.TaskEnded{TaskID: action.TaskID, Status: task.Succeeded, Output: text, At: now}
				if len(text) > task.InlineLimit {
					e.Output, e.OutputRef = "", refTo(text)
					e.Output = text[:min(int64(len(text)), a.plan.Reads(a.state, e))]
					a.most = max(a.most, len(e.Output))
				}
				a.plan.Apply(a.state, e)
			case *pipeline.Finish:
				a.ended = action
				a.plan.Apply(a.state, pipeline.Ended{
					Phase: action.Phase, Reason: action.Reason, Message: action.Message, Output: action.Output, OutputRef: action.OutputRef, At: now,
				})
			}
		}
	}
	return a
}

// prompt is what a step was asked last.
func (a *answers) prompt(step string) *pipeline.Submit {
	a.t.Helper()
	for _, s := range slices.Backward(a.asked) {
		if s.Step == step && s.Kind == task.KindStep {
			return s
		}
	}
	require.Fail(a.t, "step was not asked", step)
	return nil
}

func answering(t *testing.T, spec v1alpha1.ArkRunSpec, give map[string][]string) *answers {
	t.Helper()
	plan := compile(t, spec)
	return &answers{t: t, plan: plan, state: plan.Start(), give: give}
}

func after(name, dep, prompt string) v1alpha1.Step {
	return v1alpha1.Step{Name: name, Role: "r", DependsOn: []string{dep}, Inputs: map[string]string{"prompt": prompt}}
}

const (
	kib = 1 << 10
	mib = 1 << 20
)

// A large output is held as its beginning. The prompt of the next step shows that and says so, and attaches the whole.
func TestLargeOutputIsShownAsItsBeginning(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1000 * kib, mib, mib + 1, 64 * mib} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			text := strings.Repeat("0123456789abcde\n", size/16+1)[:size]
			a := answering(t, oneRole(v1alpha1.Step{Name: "one", Role: "r"}, after("two", "one", "Sum up: {{ .steps.one.output }}")),
				map[string][]string{"one": {text}, "two": {text}}).run()
			require.Equal(t, v1alpha1.RunSucceeded, a.ended.Phase, a.ended.Message)
			asked := a.prompt("two")
			if size < mib {
				require.Equal(t, "Sum up: <step-output step=\"one\">\n"+text+"\n</step-output>", asked.Prompt)
				require.Empty(t, asked.Attached)
				return
			}
			ref := refTo(text)
			require.Equal(t, "Sum up: <step-output step=\"one\">\n"+ref.Beginning(text[:64*kib])+"\n</step-output>", asked.Prompt)
			ref.Preview = ""
			require.Equal(t, []pipeline.Attachment{{Ref: *ref}}, asked.Attached)
			require.Equal(t, ref.SHA256, a.ended.OutputRef.SHA256, "the run's output is that of the last step")
			status := a.plan.Status(a.state, epoch())
			require.EqualValues(t, size, status.OutputRef.Size)
			require.EqualValues(t, size, status.Steps[0].OutputRef.Size)
			require.LessOrEqual(t, a.most, mib)
		})
	}
}

// A list that a forEach has made is in no store yet: it is attached with what is to be stored. Many large outputs share the
// room that a prompt has.
func TestManyLargeOutputsShareAPrompt(t *testing.T) {
	t.Parallel()
	item := strings.Repeat("x", 400*kib)
	spec := oneRole(
		v1alpha1.Step{Name: "many", Role: "r", ForEach: &v1alpha1.ForEach{Items: "[1,2,3]"}},
		v1alpha1.Step{Name: "big", Role: "r"},
		v1alpha1.Step{Name: "small", Role: "r"},
		v1alpha1.Step{Name: "end", Role: "r", DependsOn: []string{"many", "big", "small"}, Inputs: map[string]string{
			"prompt": "{{ .steps.small.output }}", "both": "{{ .steps.many.output }}{{ .steps.big.output }}{{ .steps.big.output }}{{ if .steps.many.output }}some{{ end }}",
		}},
	)
	a := answering(t, spec, map[string][]string{"many": {item}, "big": {strings.Repeat("y", 2*mib)}, "small": {"s"}, "end": {"e"}}).run()
	require.Equal(t, v1alpha1.RunSucceeded, a.ended.Phase, a.ended.Message)
	list := `["` + item + `","` + item + `","` + item + `"]`
	asked := a.prompt("end")
	require.Len(t, asked.Attached, 2, "each once")
	require.Equal(t, list, asked.Attached[0].Text)
	require.Equal(t, refTo(list).Key, asked.Attached[0].Ref.Key)
	require.Empty(t, asked.Attached[1].Text)
	require.Contains(t, asked.Prompt, refTo(list).Beginning(list[:64*kib]))
	require.True(t, strings.HasSuffix(asked.Prompt, "some"))

	steps := []v1alpha1.Step{}
	var all strings.Builder
	give := map[string][]string{"end": {"e"}}
	names := []string{}
	for i := range 40 {
		name := fmt.Sprintf("s%02d", i)
		names = append(names, name)
		steps = append(steps, v1alpha1.Step{Name: name, Role: "r"})
		give[name] = []string{strings.Repeat(string(rune('A'+i)), 2*mib)}
		fmt.Fprintf(&all, "{{ .steps.%s.output }}", name)
	}
	steps = append(steps, v1alpha1.Step{Name: "end", Role: "r", DependsOn: names, Inputs: map[string]string{"prompt": all.String()}})
	a = answering(t, oneRole(steps...), give).run()
	require.Equal(t, v1alpha1.RunSucceeded, a.ended.Phase, a.ended.Message)
	require.Len(t, a.prompt("end").Attached, 40)
	require.Contains(t, a.prompt("end").Prompt, "(These are the first 16384 of 2097152 bytes.")
}

// What looks at the whole of an answer gets the whole, or refuses an answer that is too large for it and says what to do.
func TestChecksOfLargeAnswers(t *testing.T) {
	t.Parallel()
	long := func(n int, end string) string { return strings.Repeat("x", n-len(end)) + end }
	for name, c := range map[string]struct {
		step   v1alpha1.Step
		answer string
		failed string // in the message
	}{
		"contains":            {v1alpha1.Step{Validate: &v1alpha1.Validation{Contains: "END"}}, long(20*mib, "END"), ""},
		"does not contain":    {v1alpha1.Step{Validate: &v1alpha1.Validation{Contains: "END"}}, long(20*mib, "."), "must contain this text: END"},
		"rejected at its end": {v1alpha1.Step{Validate: &v1alpha1.Validation{RejectPatterns: []string{"END$"}}}, long(3*mib, "END"), "matches the pattern END$"},
		"cut":                 {v1alpha1.Step{MaxOutputBytes: 2 * mib}, long(8*mib, "END"), ""},
		"JSON":                {v1alpha1.Step{OutputSchema: `{"type": "string"}`}, `"` + long(2*mib, `"`), ""},
		"too much JSON":       {v1alpha1.Step{OutputSchema: `{"type": "string"}`}, `"` + long(9*mib, `"`), "at most 8388608 are allowed of an answer that must fit a JSON Schema"},
		"judged":              {v1alpha1.Step{Validate: &v1alpha1.Validation{Semantic: "is good"}}, long(mib, "END"), ""},
		"too much for a judge": {
			v1alpha1.Step{Validate: &v1alpha1.Validation{Semantic: "is good"}}, long(mib+1, "END"), "at most 1048576 are allowed of an answer that a judge reads",
		},
		"too much for an item": {v1alpha1.Step{ForEach: &v1alpha1.ForEach{Items: "[1]"}}, long(16*mib+1, "END"), "at most 16777216 are allowed of an answer for one item"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.step.Name, c.step.Role = "one", "r"
			a := answering(t, oneRole(c.step, after("two", "one", "{{ .steps.one.output }}")),
				map[string][]string{"one": {c.answer}, "judge/one": {"VALID"}, "two": {"done"}}).run()
			if c.failed != "" {
				require.Equal(t, v1alpha1.RunFailed, a.ended.Phase)
				require.Contains(t, a.ended.Message, c.failed)
				return
			}
			require.Equal(t, v1alpha1.RunSucceeded, a.ended.Phase, a.ended.Message)
			if c.step.MaxOutputBytes > 0 {
				require.LessOrEqual(t, a.most, 2*mib+4)
				require.Len(t, a.prompt("two").Attached[0].Text, 2*mib, "what was cut is another text than what is stored")
			}
		})
	}
}

// Conditions and the run's output take a large text by what is known of it; what needs all of it fails and says why.
func TestTemplatesOverLargeOutputs(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("x", 3*mib)
	for name, c := range map[string]struct {
		condition, output string
		want              string // the message of the run's failure
		phase             v1alpha1.StepPhase
	}{
		"there is one":         {condition: "{{ if .steps.one.output }}yes{{ end }}", phase: v1alpha1.StepSucceeded},
		"it is not that short": {condition: `{{ ne .steps.one.output "done" }}`, phase: v1alpha1.StepSucceeded},
		"nor this":             {condition: `{{ eq .steps.one.output "done" }}`, phase: v1alpha1.StepSkipped},
		"how it begins":        {condition: `{{ eq (truncate 3 .steps.one.output) "xxx" }}`, phase: v1alpha1.StepSucceeded},
		"passed on":            {output: "{{ .steps.one.output }}"},
		"with more around it":  {output: "This: {{ .steps.one.output }}", want: "the text has 3145728 bytes"},
		"its length in words":  {condition: `{{ len (split " " .steps.one.output) }}`, want: "the text has 3145728 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			two := after("two", "one", "go")
			two.If = c.condition
			spec := oneRole(v1alpha1.Step{Name: "one", Role: "r"}, two)
			spec.Output = c.output
			a := answering(t, spec, map[string][]string{"one": {text}, "two": {"done"}}).run()
			if c.want != "" {
				require.Equal(t, v1alpha1.RunFailed, a.ended.Phase)
				require.Contains(t, a.ended.Message, c.want)
				return
			}
			require.Equal(t, v1alpha1.RunSucceeded, a.ended.Phase, a.ended.Message)
			if c.output != "" {
				require.Equal(t, refTo(text).Key, a.ended.OutputRef.Key)
				return
			}
			require.Equal(t, c.phase, a.state.Steps[1].Phase)
		})
	}
}

// The input of a child run is a part of its object: what does not fit is refused.
func TestLargeOutputIsNoInputOfATeam(t *testing.T) {
	t.Parallel()
	spec := oneRole(v1alpha1.Step{Name: "one", Role: "r"}, v1alpha1.Step{Name: "two", Role: "t", DependsOn: []string{"one"}, Inputs: map[string]string{"text": "{{ .steps.one.output }}"}})
	spec.Roles = append(spec.Roles, v1alpha1.RunRole{Name: "t", Team: "other"})
	for _, size := range []int{mib, 2 * mib} {
		a := answering(t, spec, map[string][]string{"one": {strings.Repeat("x", size)}}).run()
		require.Equal(t, v1alpha1.RunFailed, a.ended.Phase)
		require.Contains(t, a.ended.Message, `to the run of the team "other", whose input may have 1048576 in all`)
	}
}

// What a later run takes over of a large result is its beginning, unless it takes the JSON apart.
func TestLargeResultsAreReusable(t *testing.T) {
	t.Parallel()
	spec := oneRole(
		v1alpha1.Step{Name: "text", Role: "r"},
		v1alpha1.Step{Name: "json", Role: "r", OutputSchema: `{"type": "string"}`},
		after("end", "json", "{{ .steps.json.data }}"),
	)
	plain, quoted := strings.Repeat("x", 2*mib), `"`+strings.Repeat("x", 2*mib)+`"`
	a := answering(t, spec, map[string][]string{"text": {plain}, "json": {quoted}}).run()
	require.Equal(t, v1alpha1.RunFailed, a.ended.Phase, "the step end cannot show so much of what it takes apart")
	results, err := compile(t, spec).Reusable(a.plan, a.state, "")
	require.NoError(t, err)
	require.Len(t, results, 2)
	require.Equal(t, []any{int64(64 * kib), plain[:64*kib], refTo(plain).Key}, []any{results[0].Held, results[0].Output, results[0].OutputRef.Key})
	require.Equal(t, []any{int64(0), quoted}, []any{results[1].Held, results[1].Output})
}
