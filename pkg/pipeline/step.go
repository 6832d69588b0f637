package pipeline

import (
	"fmt"
	"slices"
	"strings"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/task"
)

// release starts a step when it waits for nothing any more.
func (f *fold) release(i int) {
	st, state := f.p.steps[i], &f.s.Steps[i]
	if state.Phase != v1alpha1.StepPending || state.Remaining > 0 || f.s.Ending != nil {
		return
	}
	text, err := f.p.eval(f.s, st.when, scene{step: st})
	state.Started = f.at
	switch {
	case err != nil:
		f.failStep(i, ReasonTemplateFailed, err.Error())
	case st.when != nil && falsy(text):
		state.Phase, state.Message = v1alpha1.StepSkipped, "its condition is false"
		f.stepDone(i)
	default:
		state.Phase = v1alpha1.StepRunning
		f.iterate(i)
	}
}

// candidates are the agents that a step may be given to.
func (p *Plan) candidates(st *step, state *StepState) []string {
	switch {
	case !st.routed && len(st.candidates) > 0:
		return st.candidates
	case !st.routed:
		return []string{st.agent}
	}
	if c := p.capability(state.Selected); c != nil {
		return c.Agents
	}
	return []string{p.routing.Fallback}
}

// capability is the choice of a router with an id, or nil.
func (p *Plan) capability(id string) *v1alpha1.RunCapability {
	i := slices.IndexFunc(p.routing.Capabilities, func(c v1alpha1.RunCapability) bool { return c.ID == id && id != "" })
	if i < 0 {
		return nil
	}
	return &p.routing.Capabilities[i]
}

// pick chooses among agents: the committed choice; else one that is ready, has the least to do, and comes first by name.
func (f *fold) pick(st *step, agents []string) string {
	if committed := f.s.Choices[st.id]; slices.Contains(agents, committed) {
		return committed
	}
	busy := func(name string) (int, int) {
		a, known := f.s.Agents[name]
		if known && !a.Ready {
			return 1, a.Pending
		}
		return 0, a.Pending
	}
	return slices.MinFunc(agents, func(a, b string) int {
		unreadyA, pendingA := busy(a)
		unreadyB, pendingB := busy(b)
		switch {
		case unreadyA != unreadyB:
			return unreadyA - unreadyB
		case pendingA != pendingB:
			return pendingA - pendingB
		default:
			return strings.Compare(a, b)
		}
	})
}

// iterate starts an iteration of a step: one unit, or one for each item.
func (f *fold) iterate(i int) {
	st, state := f.p.steps[i], &f.s.Steps[i]
	state.Next, state.Settled, state.Attempts, state.Items = 0, 0, 0, nil
	n := 1
	if st.items != nil {
		items, err := f.items(st)
		if err != nil {
			f.failStep(i, ReasonTemplateFailed, err.Error())
			return
		}
		if most := int(st.spec.ForEach.MaxItems); len(items) > most {
			f.failStep(i, ReasonTooManyItems, fmt.Sprintf("forEach.items gives %d items, and maxItems is %d: raise it, or give fewer", len(items), most))
			return
		}
		state.Items = items
		n = len(items)
	}
	state.Units = make([]Unit, n)
	f.startUnits(i)
}

// items gives what a forEach works on.
func (f *fold) items(st *step) ([]v1alpha1.Value, error) {
	v, err := f.p.value(f.s, st.items, scene{step: st})
	if err != nil {
		return nil, err
	}
	if text, ok := v.(string); strings.TrimSpace(text) != "" {
		raw, err := f.p.options.Extract(text)
		if err != nil {
			return nil, fmt.Errorf("forEach.items must give a JSON array, and gives the text %q", chars.Head(text, 100))
		}
		if v, err = decodeJSON(raw); err != nil {
			return nil, fmt.Errorf("forEach.items must give a JSON array: %w", err)
		}
	} else if ok {
		v = nil // nothing at all, such as the output of a step that was skipped
	}
	list, ok := v.([]any)
	if !ok && v != nil {
		return nil, fmt.Errorf("forEach.items must give a JSON array, and gives %s", describe(v))
	}
	out := make([]v1alpha1.Value, len(list))
	for i := range list {
		if out[i], err = v1alpha1.NewValue(list[i]); err != nil {
			return nil, fmt.Errorf("forEach.items[%d]: %w", i, err)
		}
	}
	return out, nil
}

// startUnits starts as many units as may be worked on at once, and ends the iteration when all are settled.
func (f *fold) startUnits(i int) {
	st, state := f.p.steps[i], &f.s.Steps[i]
	atOnce := 1
	if st.items != nil {
		atOnce = max(1, int(st.spec.ForEach.MaxParallel)) // a snapshot may be written by hand
	}
	f.starting = true
	for state.Next < len(state.Units) && state.Next-state.Settled < atOnce && state.Phase == v1alpha1.StepRunning && f.s.Ending == nil {
		item := state.Next
		state.Next++
		if st.routed {
			f.route(i, item)
		} else {
			f.work(i, item)
		}
	}
	f.starting = false
	if state.Settled == len(state.Units) {
		f.iterated(i)
	}
}

// work makes a task for an answer.
func (f *fold) work(i, item int) {
	st, state := f.p.steps[i], &f.s.Steps[i]
	u := &state.Units[item]
	if state.Agent == "" {
		state.Agent = f.pick(st, f.p.candidates(st, state))
	}
	t := TaskState{Kind: task.KindStep, Agent: state.Agent, Team: st.team, Attempt: u.Attempts}
	var err error
	feedback := correction(st, u)
	if st.team != "" {
		t.Input, err = f.p.childInput(f.s, st, item, feedback)
	} else {
		t.Prompt, t.Attached, err = f.p.request(f.s, st, item)
		if feedback != "" {
			t.Prompt = strings.TrimPrefix(t.Prompt+"\n\n"+feedback, "\n\n")
		}
	}
	if err != nil {
		f.failUnit(i, item, ReasonTemplateFailed, err.Error())
		return
	}
	u.Phase = UnitWorking
	u.Attempts++
	state.Attempts = max(state.Attempts, u.Attempts)
	f.open(i, item, t)
}

// judge makes a task for a verdict on the unit's output.
func (f *fold) judge(i, item int) {
	st, state := f.p.steps[i], &f.s.Steps[i]
	u := &state.Units[item]
	asked, _, err := f.p.request(f.s, st, item)
	if err != nil {
		f.failUnit(i, item, ReasonTemplateFailed, err.Error())
		return
	}
	u.Phase = UnitJudging
	t := TaskState{Kind: task.KindJudge, Agent: state.Agent, Attempt: u.Judgings, Prompt: judgePrompt(st, asked, u.Output)}
	u.Judgings++
	f.open(i, item, t)
}

// route makes a task for a router's choice.
func (f *fold) route(i, item int) {
	u := &f.s.Steps[i].Units[item]
	u.Phase = UnitRouting
	f.open(i, item, TaskState{Kind: task.KindRoute, Agent: f.p.routing.Agent, Prompt: f.p.routePrompt()})
}

// open makes a task of the step's current iteration known, unless the run is about to end.
func (f *fold) open(i, item int, t TaskState) {
	if f.s.Ending != nil {
		return
	}
	st, state := f.p.steps[i], &f.s.Steps[i]
	t.Step, t.Item, t.Iteration, t.Created = i, item, state.Iteration, f.at
	t.NotBefore = f.notBefore
	t.ID = task.ID(t.Kind, f.p.run.UID, st.id, t.Item, t.Iteration, t.Attempt)
	if at := f.s.add(t); at >= 0 {
		state.Task = at
	}
}

// acceptUnit takes the unit's output as its result.
func (f *fold) acceptUnit(i, item int) {
	u := &f.s.Steps[i].Units[item]
	u.Phase, u.Refused, u.RefusedRef, u.Feedback = UnitDone, "", nil, ""
	f.unitSettled(i)
}

// failUnit ends a unit without a result. The step fails with it, unless it goes through its other items first.
func (f *fold) failUnit(i, item int, reason, message string) {
	st, state := f.p.steps[i], &f.s.Steps[i]
	u := &state.Units[item]
	u.Phase, u.Reason, u.Message = UnitFailed, reason, message
	if st.items != nil && st.spec.ContinueOnError {
		f.unitSettled(i)
		return
	}
	if st.items != nil {
		message = fmt.Sprintf("item %d: %s", item, message)
	} else {
		state.Output, state.Raw, state.OutputRef = u.Refused, "", u.RefusedRef
	}
	f.failStep(i, reason, message)
}

func (f *fold) unitSettled(i int) {
	f.s.Steps[i].Settled++
	if !f.starting {
		f.startUnits(i)
	}
}

// iterated ends an iteration: it makes the step's output and asks whether there is another one.
func (f *fold) iterated(i int) {
	st, state := f.p.steps[i], &f.s.Steps[i]
	failed := f.takeOutput(st, state)
	if failed != "" {
		f.failStep(i, ReasonItemsFailed, failed)
		return
	}
	if st.again != nil {
		text, err := f.p.eval(f.s, st.again, scene{step: st})
		if err != nil {
			f.failStep(i, ReasonTemplateFailed, err.Error())
			return
		}
		last := state.Iteration+1 >= int(st.spec.Loop.MaxIterations)
		if !falsy(text) && !last {
			if f.s.Ending == nil {
				state.Iteration++
				f.iterate(i)
			}
			return
		}
		if !falsy(text) {
			state.Message = fmt.Sprintf("stopped after maxIterations (%d) while loop.condition still held", st.spec.Loop.MaxIterations)
		}
	}
	state.Phase = v1alpha1.StepSucceeded
	f.stepDone(i)
}

// takeOutput makes the output of the iteration: the unit's own, or a JSON array of the items' in their order. Items
// that failed are null in it, and are summed up in what is returned.
func (f *fold) takeOutput(st *step, state *StepState) (failed string) {
	state.HasOutput = true
	if st.items == nil {
		u := &state.Units[0]
		state.Output, state.Raw, state.OutputRef, state.Message = u.Output, u.Raw, u.Ref, u.Message
		return ""
	}
	count, first, rewritten := 0, "", false
	for k := range state.Units {
		u := &state.Units[k]
		rewritten = rewritten || st.schema != nil || u.Raw != "" && u.Raw != u.Output
		if u.Phase == UnitFailed {
			if count++; count == 1 {
				first = fmt.Sprintf("item %d: %s", k, u.Message)
			}
		}
	}
	state.Output, state.Raw, state.OutputRef, state.Message = listOf(state.Units, func(u *Unit) string {
		if st.schema != nil {
			return u.Output
		}
		return jsonText(u.Output)
	}), "", nil, ""
	if rewritten {
		if raw := listOf(state.Units, func(u *Unit) string { return jsonText(orElse(u.Raw, u.Output)) }); raw != state.Output {
			state.Raw = raw
		}
	}
	for k := range state.Units {
		state.Units[k].Output, state.Units[k].Raw, state.Units[k].Ref = "", "", nil // they are in the list
	}
	if count == 0 {
		return ""
	}
	return fmt.Sprintf("%d of %d items failed; %s", count, len(state.Units), first)
}

// listOf is the JSON list of what items gave; null stands for one that failed. Outputs may be large: they are copied once.
func listOf(units []Unit, text func(*Unit) string) string {
	size := len("[]")
	for k := range units {
		size += len(units[k].Output) + len(`"",`)
	}
	var b strings.Builder
	b.Grow(size)
	b.WriteByte('[')
	for k := range units {
		if k > 0 {
			b.WriteByte(',')
		}
		if units[k].Phase == UnitFailed {
			b.WriteString("null")
		} else {
			b.WriteString(text(&units[k]))
		}
	}
	b.WriteByte(']')
	return b.String()
}

func orElse(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// failStep ends a step that failed, and with it the run unless the step lets it go on.
func (f *fold) failStep(i int, reason, message string) {
	st, state := f.p.steps[i], &f.s.Steps[i]
	state.Phase, state.Reason, state.Message = v1alpha1.StepFailed, reason, message
	if state.Started.IsZero() {
		state.Started = f.at
	}
	if reason != ReasonItemsFailed {
		state.HasOutput = false
	}
	if st.spec.ContinueOnError {
		f.stepDone(i)
		return
	}
	state.Completed = f.at
	f.end(Ending{
		Phase: v1alpha1.RunFailed, Reason: v1alpha1.ReasonStepFailed, FailedStep: st.id,
		Message: fmt.Sprintf("step %q failed: %s", st.id, message),
	})
}

// stepDone ends a step in a way that lets the run go on.
func (f *fold) stepDone(i int) {
	f.s.Steps[i].Completed = f.at
	f.s.Done++
	f.queue = append(f.queue, i)
}
