package pipeline

import (
	"fmt"
	"reflect"
	"strings"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/task"
)

// StepResult is the result of a step in an earlier run.
type StepResult struct {
	Step      string
	Output    string // or its beginning, when OutputRef says that there is more
	Raw       string // the agent's own text, when it differs from Output
	OutputRef *task.Ref
	Held      int64 // how many bytes of Output a run that takes it over needs; 0: all

	Agent string // that worked on it
	Run   string // name of the run in which it was worked on; empty when nobody knows
}

// Text is the whole of Output, wherever it is.
func (r *StepResult) Text() task.Text {
	if r.OutputRef != nil {
		return task.Text{Ref: r.OutputRef}
	}
	return task.Text{Inline: r.Output}
}

// Result gives the result of a step that succeeded, to be shown or to start a later run from. Of a large output that is
// stored it may have the beginning only.
func (p *Plan) Result(s *State, step string) (StepResult, bool) {
	i, ok := p.byName[step]
	if !ok || s.Steps[i].Phase != v1alpha1.StepSucceeded {
		return StepResult{}, false
	}
	st := &s.Steps[i]
	return StepResult{
		Step: step, Output: st.Output, Raw: st.Raw, OutputRef: st.OutputRef, Agent: st.Agent, Run: orElse(st.From, p.run.Name),
	}, true
}

// reuse takes over the result that a step had in an earlier run.
func (f *fold) reuse(i int, r StepResult) {
	state := &f.s.Steps[i]
	state.Phase, state.Reason = v1alpha1.StepSucceeded, ReasonReused
	state.Output, state.Raw, state.OutputRef, state.HasOutput = r.Output, r.Raw, r.OutputRef, true
	state.Agent, state.From = r.Agent, r.Run
	if r.Run != "" {
		state.Message = "taken over from run " + r.Run
	}
	state.Started = f.at
	f.stepDone(i)
}

// Reusable lists the results of an earlier run that this one can start with, in the order of its steps: of the steps that
// succeeded there and that depend on nothing that is worked on here. from names a step that is worked on again, and with
// it all that depends on it; it may be empty. A step that was skipped by its condition stands in nobody's way: its
// condition comes out the same.
//
// The error is a sentence: the step from does not exist, or a result cannot be used because what it was asked for is not
// what is asked for now.
func (p *Plan) Reusable(earlier *Plan, s *State, from string) ([]StepResult, error) {
	again, err := p.again(from)
	if err != nil {
		return nil, err
	}
	taken := make([]*StepResult, len(p.steps))
	for _, i := range p.order() {
		st := p.steps[i]
		for _, dep := range st.graph.deps[i] {
			again[i] = again[i] || again[dep]
		}
		result, ok := earlier.Result(s, st.id)
		switch {
		case again[i]:
		case ok:
			if changed := st.changedSince(earlier.steps[earlier.byName[st.id]]); changed != "" {
				return nil, fmt.Errorf("the step %q is another one since the run %s (%s): run it again as well, from it or from a step before it on", st.id, earlier.run.Name, changed)
			}
			if !st.keeps(sizeOf(result.Output, result.OutputRef)) {
				result.Held = headBytes
			}
			taken[i] = &result
		default:
			again[i] = !p.skippedAgain(st, earlier, s)
		}
	}
	var out []StepResult
	for _, r := range taken {
		if r != nil {
			out = append(out, *r)
		}
	}
	if len(out) > 0 && !reflect.DeepEqual(p.input, earlier.input) {
		return nil, fmt.Errorf("the input is not that of the run %s, so that its results are those of something else", earlier.run.Name)
	}
	return out, nil
}

// again says of each step whether it was asked for from a step on.
func (p *Plan) again(from string) ([]bool, error) {
	again := make([]bool, len(p.steps))
	if from == "" {
		return again, nil
	}
	first, ok := p.byName[from]
	if !ok {
		names := make([]string, len(p.steps))
		for i, st := range p.steps {
			names[i] = st.id
		}
		return nil, fmt.Errorf("there is no step %q: there are %s", from, strings.Join(names, ", "))
	}
	for i, st := range p.steps {
		again[i] = i == first || st.graph.before[i].has(first)
	}
	return again, nil
}

// AskedAgain says whether a step of a run that retries another one was asked to be worked on as if it never had been.
func (p *Plan) AskedAgain(step string) bool {
	retry := p.run.Spec.RetryOf
	i, ok := p.byName[step]
	if retry == nil || !ok {
		return false
	}
	again, err := p.again(retry.Step)
	return err == nil && again[i]
}

// order lists the steps so that each stands behind those that it depends on.
func (p *Plan) order() []int {
	waits := make([]int, len(p.steps))
	var out []int
	for i, st := range p.steps {
		if waits[i] = len(st.graph.deps[i]); waits[i] == 0 {
			out = append(out, i)
		}
	}
	for at := 0; at < len(out); at++ {
		for _, d := range p.steps[out[at]].dependents {
			if waits[d]--; waits[d] == 0 {
				out = append(out, d)
			}
		}
	}
	return out
}

// skippedAgain says that a step was left out because of its condition, which comes out the same.
func (p *Plan) skippedAgain(st *step, earlier *Plan, s *State) bool {
	i, ok := earlier.byName[st.id]
	return ok && s.Steps[i].Phase == v1alpha1.StepSkipped && s.Steps[i].Reason != ReasonRunEnded &&
		st.changedSince(earlier.steps[i]) == "" && reflect.DeepEqual(p.input, earlier.input)
}

// changedSince names what makes a step another one than it was. Who plays its role, and how long and how often it may be
// tried, do not.
func (st *step) changedSince(was *step) string {
	a, b := st.spec, was.spec
	for _, part := range []struct {
		name     string
		now, old any
	}{
		{"role", a.Role, b.Role},
		{"inputs", a.Inputs, b.Inputs},
		{"if", a.If, b.If},
		{"loop", a.Loop, b.Loop},
		{"forEach", a.ForEach, b.ForEach},
		{"outputSchema", a.OutputSchema, b.OutputSchema},
		{"validate", a.Validate, b.Validate},
		{"registryLookup", a.RegistryLookup, b.RegistryLookup},
	} {
		if !reflect.DeepEqual(part.now, part.old) {
			return part.name
		}
	}
	return ""
}
