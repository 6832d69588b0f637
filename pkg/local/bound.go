package local

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/memory"
	"arkonis.dev/ark/pkg/prompt"
	"arkonis.dev/ark/pkg/template"
)

// Bound is the most that a run, or a step, can come to. Unbounded says why there is no such number.
type Bound struct {
	Calls     int64  `json:"calls"`  // of the model, those after a provider's errors not counted
	Tokens    int64  `json:"tokens"` // input and output
	Unbounded string `json:"unbounded,omitempty"`
}

// framing is what a call's messages cost beside their texts, and what the engine writes around inputs, in tokens.
const (
	framing     = 256
	perSection  = 64
	judgeWords  = 1024
	defaultLoop = 10
)

// bounder computes bounds of the steps of one run. A text of n bytes has at most n tokens; an answer that is read
// again has at most as many tokens as it could be written with.
type bounder struct {
	spec    *v1alpha1.ArkRunSpec
	agents  map[string]*agent
	outputs map[string]int64 // step -> tokens of its output at most
}

// step is the bound of one step whose dependencies are computed already.
func (b *bounder) step(s *v1alpha1.Step, a *agent, delegates bool) Bound {
	runs := int64(1)
	if s.Loop != nil {
		runs = times(runs, int64(cmp.Or(s.Loop.MaxIterations, defaultLoop)))
	}
	if s.ForEach != nil {
		runs = times(runs, int64(cmp.Or(s.ForEach.MaxItems, 100)))
	}
	answer := a.maxTokens()
	if s.MaxOutputBytes > 0 {
		answer = min(answer, s.MaxOutputBytes)
	}
	b.outputs[s.ID()] = times(runs, answer)
	tasks := times(runs, attempts(s))
	bound := Bound{Calls: times(tasks, a.turns(delegates))}
	input, err := b.input(s, a)
	switch {
	case err != nil:
		bound.Unbounded = fmt.Sprintf("step %s: %v", s.ID(), err)
	case delegates:
		bound.Unbounded = fmt.Sprintf("step %s may hand work to others", s.ID())
	case a.hasTools():
		bound.Unbounded = fmt.Sprintf("step %s may call tools", s.ID())
	}
	bound.Tokens = times(tasks, plus(input, a.maxTokens()))
	if s.Validate != nil && s.Validate.Semantic != "" {
		judge := plus(plus(answer, int64(len(s.Validate.Semantic))), judgeWords)
		bound.Calls = plus(bound.Calls, tasks)
		bound.Tokens = plus(bound.Tokens, times(tasks, plus(judge, a.maxTokens())))
	}
	if s.MaxTokens > 0 {
		bound.Tokens, bound.Unbounded = min(bound.Tokens, s.MaxTokens), ""
	}
	return bound
}

// attempts is how many tasks a step makes of one prompt at most: each attempt may be corrected, each correction tried
// again.
func attempts(s *v1alpha1.Step) int64 {
	n := int64(1)
	if s.Retry != nil {
		n = max(1, int64(s.Retry.MaxAttempts))
	}
	corrections := int64(0)
	if s.OutputSchema != "" || s.Validate != nil && s.Validate.OnFailure == v1alpha1.ValidationRetry {
		corrections = 2
		if s.Validate != nil && s.Validate.MaxRetries != nil {
			corrections = int64(*s.Validate.MaxRetries)
		}
	}
	return times(n, 1+corrections)
}

// input is the most tokens that one call of a step reads.
func (b *bounder) input(s *v1alpha1.Step, a *agent) (int64, error) {
	n := int64(framing + len(a.resolved.Prompt) + len(prompt.Note) + len(s.OutputSchema))
	if a.memory != nil {
		n = plus(n, memory.DefaultPromptBytes)
	}
	// A correction repeats the answer and says what is wrong with it.
	if attempts(s) > 1 {
		n = plus(n, plus(a.maxTokens(), judgeWords))
	}
	if len(s.Inputs) == 0 {
		return plus(n, b.inputs()), nil
	}
	for _, key := range slices.Sorted(maps.Keys(s.Inputs)) {
		t, err := template.Parse(key, s.Inputs[key])
		if err != nil {
			return 0, fmt.Errorf("its input %s does not parse", key)
		}
		n = plus(n, int64(perSection+len(key)))
		n = plus(n, b.rendered(t, s.Inputs[key], s))
	}
	if s.ForEach != nil {
		if t, err := template.Parse("items", s.ForEach.Items); err == nil {
			for _, ref := range t.References() {
				n = plus(n, b.reference(ref.Path, s))
			}
		}
	}
	return n, nil
}

// once matches what writes a text at most once: a path, a condition, a comment.
var once = regexp.MustCompile(`\{\{-?\s*(/\*.*?\*/|[.$][\w.-]*|(if|else if)\s[^{}]*|else|end)\s*-?\}\}`)

// rendered is the most tokens that a template gives. Where it repeats or works on a text, only the evaluator's own
// limit bounds it.
func (b *bounder) rendered(t *template.Template, source string, s *v1alpha1.Step) int64 {
	if strings.Contains(once.ReplaceAllString(source, ""), "{{") {
		return template.MaxOutput
	}
	n := int64(len(source))
	for _, ref := range t.References() {
		n = plus(n, b.reference(ref.Path, s))
	}
	return n
}

// reference is the most tokens that a path of a template stands for.
func (b *bounder) reference(path []string, s *v1alpha1.Step) int64 {
	if len(path) < 2 {
		return plus(b.inputs(), b.all())
	}
	switch path[0] {
	case "steps":
		if path[1] == s.ID() {
			return b.outputs[path[1]]
		}
		if n, ok := b.outputs[path[1]]; ok {
			return plus(n, perSection)
		}
		return b.all()
	case "input":
		if v, ok := b.spec.Input[path[1]]; ok {
			return int64(len(v.Raw))
		}
		return 0
	default:
		return perSection
	}
}

func (b *bounder) inputs() int64 {
	n := int64(len(b.spec.Prompt))
	for k, v := range b.spec.Input {
		n = plus(n, int64(perSection+len(k)+len(v.Raw)))
	}
	return n
}

func (b *bounder) all() int64 {
	n := int64(0)
	for _, o := range b.outputs {
		n = plus(n, o)
	}
	return n
}

// maxTokens is the most that one call of an agent writes.
func (a *agent) maxTokens() int64 {
	const byDefault = 8000
	if a.spec.Limits == nil || a.spec.Limits.MaxTokensPerCall == 0 {
		return byDefault
	}
	return a.spec.Limits.MaxTokensPerCall
}

// hasTools says whether a task of the agent may call tools, those of a memory among them.
func (a *agent) hasTools() bool {
	return len(a.spec.Tools)+len(a.spec.MCPServers) > 0 || a.memory != nil
}

// turns is the most calls that one task of a step makes.
func (a *agent) turns(delegates bool) int64 {
	const byDefault = 25
	switch {
	case !delegates && !a.hasTools():
		return 1
	case a.spec.Limits == nil || a.spec.Limits.MaxTurns == 0:
		return byDefault
	default:
		return int64(a.spec.Limits.MaxTurns)
	}
}

// sum adds the bounds of steps.
func sum(bounds []Bound, limit int64) Bound {
	var out Bound
	var why []string
	for _, b := range bounds {
		out.Calls, out.Tokens = plus(out.Calls, b.Calls), plus(out.Tokens, b.Tokens)
		if b.Unbounded != "" {
			why = append(why, b.Unbounded)
		}
	}
	out.Unbounded = strings.Join(why, "; ")
	if limit > 0 {
		if out.Unbounded != "" || limit < out.Tokens {
			out.Tokens = limit
		}
		out.Unbounded = ""
	}
	return out
}

// plus and times stay at the largest number instead of passing it.
func plus(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

func times(a, b int64) int64 {
	if a != 0 && b > math.MaxInt64/a {
		return math.MaxInt64
	}
	return a * b
}
