package pipeline

import (
	"fmt"
	"slices"
	"time"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/template"
)

// Start gives the state of a run in which nothing has happened yet. The steps with a result in an earlier run take it
// over and are not worked on; they count no tokens. Results of steps that do not exist are ignored.
func (p *Plan) Start(results ...StepResult) *State {
	s := &State{Steps: make([]StepState, len(p.steps))}
	for i, st := range p.steps {
		s.Steps[i] = StepState{Phase: v1alpha1.StepPending, Remaining: len(st.graph.deps[i]), Task: -1}
	}
	f := fold{p: p, s: s, at: p.run.Started}
	for _, r := range results {
		if i, ok := p.byName[r.Step]; ok && s.Steps[i].Phase == v1alpha1.StepPending {
			f.reuse(i, r)
		}
	}
	for i := range p.steps {
		f.release(i)
	}
	f.settle()
	return s
}

// Apply folds an event into the state. It is idempotent: an event that was applied before, or that is about nothing in
// this run, changes nothing.
func (p *Plan) Apply(s *State, e Event) {
	f := fold{p: p, s: s}
	switch e := e.(type) {
	case TaskEnded:
		f.at = e.At
		f.taskEnded(&e)
	case Accounted:
		f.accounted(&e)
	case TaskStarted:
		f.taskStarted(&e)
	case Delegated:
		f.at = e.At
		f.delegated(&e)
	case Cancelled:
		f.at = e.At
		message := e.Reason
		if message == "" {
			message = "the run was cancelled"
		}
		f.end(Ending{Phase: v1alpha1.RunCancelled, Reason: v1alpha1.ReasonCancelled, Message: message})
	case AgentReadiness:
		if s.Agents == nil {
			s.Agents = map[string]AgentReadiness{}
		}
		s.Agents[e.Agent] = e
	case Chosen:
		f.chosen(e)
	case Issued:
		f.issued(e.ID)
	case Ended:
		f.at = e.At
		f.ended(&e)
	}
	f.settle()
}

// fold is one call of Apply: the state and the time of the event.
type fold struct {
	p     *Plan
	s     *State
	at    time.Time
	queue []int // steps that were done and whose dependents were not told yet
	// notBefore of the tasks that are made: a retry waits for its back-off.
	notBefore time.Time
	starting  bool // the units of a step are being started: one that fails at once is settled by that
}

// end settles how the run ends. The first to say so wins.
func (f *fold) end(e Ending) {
	if f.s.Ending == nil {
		f.s.Ending = &e
	}
}

// settle lets what is done release what waits for it, and finds out whether the run is complete.
func (f *fold) settle() {
	for at := 0; at < len(f.queue); at++ {
		for _, d := range f.p.steps[f.queue[at]].dependents {
			f.s.Steps[d].Remaining--
			f.release(d)
		}
	}
	f.queue = nil
	if f.s.Done == len(f.s.Steps) && f.s.Ending == nil {
		f.complete()
	}
}

// complete ends a run whose steps are all done.
func (f *fold) complete() {
	output, ref, err := f.runOutput()
	if err != nil {
		f.end(Ending{Phase: v1alpha1.RunFailed, Reason: ReasonOutputFailed, Message: fmt.Sprintf("the run's output cannot be made: %v", err)})
		return
	}
	f.end(Ending{Phase: v1alpha1.RunSucceeded, Reason: v1alpha1.ReasonSucceeded, Output: output, OutputRef: ref})
}

// runOutput is the run's result: that of its template, or the output of the last step that has one. A template that is
// one single action passes a large text on as it is.
func (f *fold) runOutput() (string, *task.Ref, error) {
	if f.p.output == nil {
		for i := len(f.s.Steps) - 1; i >= 0; i-- {
			if st := &f.s.Steps[i]; st.Phase == v1alpha1.StepSucceeded {
				return st.Output, st.OutputRef, nil
			}
		}
		return "", nil, nil
	}
	text, err := f.p.eval(f.s, f.p.output, scene{})
	if !tooLarge(err) {
		return text, nil, err
	}
	v, again := f.p.value(f.s, f.p.output, scene{})
	if again != nil {
		return "", nil, err
	}
	switch v := v.(type) {
	case string:
		return v, nil, nil
	case *template.Large:
		ref, _ := v.Of.(*task.Ref)
		return v.Head, ref, nil
	default:
		return "", nil, err
	}
}

func (f *fold) taskStarted(e *TaskStarted) {
	i := f.s.find(e.TaskID)
	if i < 0 || f.s.Tasks[i].Done {
		return
	}
	t := &f.s.Tasks[i]
	t.Pod = e.Pod
	if t.Started.IsZero() {
		t.Started = e.At
	}
}

func (f *fold) delegated(e *Delegated) {
	parent := f.s.find(e.Parent)
	if parent < 0 {
		return
	}
	up := f.s.Tasks[parent]
	child := f.s.add(TaskState{
		ID: e.Child, Kind: task.KindDelegate, Step: up.Step, Agent: e.Agent, Created: e.At, Issued: true,
		// The parent may have ended between asking for the work and now.
		Unwanted: up.Done || up.Unwanted,
		Child:    &DelegatedWork{Parent: f.nameOf(parent), Role: e.Role, Phase: v1alpha1.StepRunning},
	})
	if child < 0 {
		return
	}
	f.s.Tasks[child].Child.Name = f.nameChild(parent, e.Role)
	f.s.Tasks[parent].Children = append(f.s.Tasks[parent].Children, child)
}

// nameOf is how a task shows in the status.
func (f *fold) nameOf(i int) string {
	if child := f.s.Tasks[i].Child; child != nil {
		return child.Name
	}
	return f.p.steps[f.s.Tasks[i].Step].id
}

// maxStepName is the API's bound on the names of steps in a status.
const maxStepName = 253

// nameChild names delegated work <parent>/<role>-<n>. Work so deep that this would be too long is named after the
// step itself.
func (f *fold) nameChild(parent int, role string) string {
	prefix := f.nameOf(parent)
	if len(prefix)+len(role)+len("/-99999") > maxStepName {
		prefix = f.p.steps[f.s.Tasks[parent].Step].id + "/-"
	}
	prefix += "/" + role + "-"
	if f.s.Names == nil {
		f.s.Names = map[string]int{}
	}
	f.s.Names[prefix]++
	return fmt.Sprintf("%s%d", prefix, f.s.Names[prefix])
}

func (f *fold) chosen(e Chosen) {
	step, ok := f.p.byName[e.Step]
	if _, again := f.s.Choices[e.Step]; again || !ok || f.s.Steps[step].Phase.Terminal() {
		return
	}
	if f.s.Choices == nil {
		f.s.Choices = map[string]string{}
	}
	f.s.Choices[e.Step] = e.Agent
	// This fold may have given the step another agent already; nothing was published for that one.
	st := &f.s.Steps[step]
	if st.Agent == "" || !slices.Contains(f.p.candidates(f.p.steps[step], st), e.Agent) {
		return
	}
	for _, i := range f.s.Open {
		t := &f.s.Tasks[i]
		if t.Step != step || t.Kind == task.KindRoute || t.Child != nil {
			continue
		}
		if t.Issued {
			return
		}
		t.Agent = e.Agent
	}
	st.Agent = e.Agent
}

func (f *fold) issued(id string) {
	if id == finishID {
		f.s.FinishIssued = f.s.FinishIssued || f.s.Ending != nil
		return
	}
	withdrawn := len(id) > len(withdrawPrefix) && id[:len(withdrawPrefix)] == withdrawPrefix
	if withdrawn {
		id = id[len(withdrawPrefix):]
	}
	i := f.s.find(id)
	if i < 0 || f.s.Tasks[i].Done {
		return
	}
	if withdrawn {
		f.s.Tasks[i].Withdrawn = true
		return
	}
	f.s.Tasks[i].Issued = true
	f.s.Tasks[i].forget()
}

// ended takes the committed end over, whatever this fold would have decided. Steps without an end are cancelled when
// they were worked on and skipped otherwise.
func (f *fold) ended(e *Ended) {
	if f.s.Ended {
		return
	}
	f.s.Ended, f.s.EndedAt = true, e.At
	f.s.Ending = &Ending{
		Phase: e.Phase, Reason: e.Reason, Message: e.Message, FailedStep: e.FailedStep, Output: e.Output, OutputRef: e.OutputRef,
	}
	for i := range f.s.Steps {
		st := &f.s.Steps[i]
		switch {
		case st.Phase.Terminal():
			continue
		case st.Phase == v1alpha1.StepPending:
			st.Phase = v1alpha1.StepSkipped
		default:
			st.Phase = v1alpha1.StepCancelled
		}
		st.Completed, st.Reason, st.Message = e.At, ReasonRunEnded, "the run ended before: "+e.Reason
	}
	for i := range f.s.Tasks {
		if c := f.s.Tasks[i].Child; c != nil && !c.Phase.Terminal() {
			c.Phase, c.Completed = v1alpha1.StepCancelled, e.At
		}
	}
}

// taskEnded folds the first result of a task: it is counted, whatever else becomes of it, and moves its unit on.
func (f *fold) taskEnded(e *TaskEnded) {
	i := f.s.find(e.TaskID)
	if i < 0 || f.s.Tasks[i].Done {
		return
	}
	f.s.close(i)
	t := &f.s.Tasks[i]
	f.count(t, e)
	for _, child := range t.Children {
		f.s.Tasks[child].Unwanted = true
	}
	if t.Child != nil {
		f.delegateEnded(t, e)
		return
	}
	state := &f.s.Steps[t.Step]
	if state.Phase != v1alpha1.StepRunning {
		return // it failed, or the run has ended
	}
	if e.Status != task.Succeeded {
		f.taskFailed(t, e)
		return
	}
	switch t.Kind {
	case task.KindJudge:
		f.judged(t.Step, t.Item, e.Output)
	case task.KindRoute:
		f.routed(t.Step, t.Item, e.Output)
	default:
		f.answered(t.Step, t.Item, e)
	}
}

// count adds what the task cost to where it is shown and to the run. Nothing is added twice: the task is closed.
func (f *fold) count(t *TaskState, e *TaskEnded) {
	f.s.Usage = f.s.Usage.Add(e.Usage)
	f.s.ToolCalls += e.ToolCalls
	if e.Status != task.Succeeded && t.Team == "" {
		reported := e.Usage
		t.Reported = &reported
	}
	if e.Pod != "" {
		t.Pod = e.Pod
	}
	if !e.Started.IsZero() {
		t.Started = e.Started
	}
	state := &f.s.Steps[t.Step]
	state.note(e.Notes)
	if c := t.Child; c != nil {
		c.Usage, c.ToolCalls = e.Usage, e.ToolCalls
		return
	}
	state.Usage = state.Usage.Add(e.Usage)
	state.ToolCalls += e.ToolCalls
}

// Unaccounted lists the tasks that did not succeed and whose results may not say all that they cost. The results of
// child runs do.
func (p *Plan) Unaccounted(s *State) []TaskState {
	var open []TaskState
	for i := range s.Tasks {
		if s.Tasks[i].Reported != nil {
			open = append(open, s.Tasks[i])
		}
	}
	return open
}

// accounted counts what a task has cost beyond what its result said.
func (f *fold) accounted(e *Accounted) {
	i := f.s.find(e.TaskID)
	if i < 0 || f.s.Tasks[i].Reported == nil {
		return
	}
	t := &f.s.Tasks[i]
	more := e.Usage.Sub(*t.Reported)
	t.Reported = nil
	f.s.Usage = f.s.Usage.Add(more)
	if c := t.Child; c != nil {
		c.Usage = c.Usage.Add(more)
		return
	}
	state := &f.s.Steps[t.Step]
	state.Usage = state.Usage.Add(more)
}

// maxNotes bounds what a step keeps of its tasks' notes.
const maxNotes = 8

// note keeps what is new.
func (s *StepState) note(notes []string) {
	for _, n := range notes {
		if len(s.Notes) < maxNotes && !slices.Contains(s.Notes, n) {
			s.Notes = append(s.Notes, n)
		}
	}
}

func (f *fold) delegateEnded(t *TaskState, e *TaskEnded) {
	c := t.Child
	if c.Phase.Terminal() {
		return
	}
	c.Completed, c.Output, c.OutputRef, c.Reason, c.Message = e.At, condense(e.Output, e.OutputRef), e.OutputRef, string(e.Code), e.Message
	switch e.Status {
	case task.Succeeded:
		c.Phase = v1alpha1.StepSucceeded
	case task.Cancelled:
		c.Phase = v1alpha1.StepCancelled
	default:
		c.Phase = v1alpha1.StepFailed
	}
}

// taskFailed retries, or gives the unit up.
func (f *fold) taskFailed(t *TaskState, e *TaskEnded) {
	i, item := t.Step, t.Item
	st := f.p.steps[i]
	u := &f.s.Steps[i].Units[item]
	code, message := whyFailed(e)
	if t.Kind == task.KindStep && e.Output != "" {
		u.Refused, u.RefusedRef = condense(e.Output, e.OutputRef), e.OutputRef
	}
	switch {
	case f.s.Ending != nil:
		// It was withdrawn, and its step is cancelled when the run has ended - unless it failed by itself just then.
		if code != task.CodeCancelled && code != task.CodeDeadline {
			f.failUnit(i, item, string(code), message)
		}
	case f.endedByTask(t, e, code, message):
	case t.Kind == task.KindRoute:
		f.routeElsewhere(i, item, "the router failed: "+message)
	case retryable(code) && u.Failures+1 < st.maxAttempts:
		u.Failures++
		f.notBefore = f.at.Add(st.backoff)
		if t.Kind == task.KindJudge {
			f.judge(i, item)
		} else {
			f.work(i, item)
		}
		f.notBefore = time.Time{}
	default:
		if t.Kind == task.KindJudge {
			message = "the check of the answer failed: " + message
		}
		f.failUnit(i, item, string(code), message)
	}
}

// whyFailed is the code and the sentence of a failed task, also when it gave none.
func whyFailed(e *TaskEnded) (task.Code, string) {
	code, message := e.Code, e.Message
	if code == "" {
		code = task.CodeInternal
		if e.Status == task.Cancelled {
			code = task.CodeCancelled
		}
	}
	if message == "" {
		message = "the task gave no reason"
	}
	return code, message
}

// endedByTask ends the run when the task's failure is the run's own: it was cancelled, its time or its tokens are used
// up. In a fold after a restart, the results of withdrawn tasks are what is left of the decision to end the run.
func (f *fold) endedByTask(t *TaskState, e *TaskEnded, code task.Code, message string) bool {
	st := f.p.steps[t.Step]
	switch {
	case code == task.CodeCancelled && t.Team == "":
		f.end(Ending{Phase: v1alpha1.RunCancelled, Reason: v1alpha1.ReasonCancelled, Message: message})
	case code == task.CodeDeadline && (t.Team == "" || !e.At.Before(f.p.deadline)):
		f.end(f.p.timedOut())
	case code == task.CodeBudgetExceeded && (!st.spec.ContinueOnError || f.runBudget(e.Scope)):
		state := &f.s.Steps[t.Step]
		state.Phase, state.Reason, state.Message, state.Completed = v1alpha1.StepFailed, string(code), message, f.at
		f.end(Ending{
			Phase: v1alpha1.RunFailed, Reason: v1alpha1.ReasonBudgetExceeded, FailedStep: st.id,
			Message: fmt.Sprintf("step %q: %s", st.id, message),
		})
	default:
		return false
	}
	return true
}

// runBudget says whether a scope is one that every task of the run is charged in. Of an unknown one that is assumed.
func (f *fold) runBudget(scope string) bool {
	if scope == "" {
		return len(f.p.budgets) > 0
	}
	for _, b := range f.p.budgets {
		if b.Scope == scope {
			return true
		}
	}
	return false
}

// retryable says whether a further attempt can end in another way.
func retryable(code task.Code) bool {
	switch code {
	case task.CodeCancelled, task.CodeBudgetExceeded, task.CodeProviderAuth, task.CodeBadTask, task.CodeDeadline:
		return false
	default:
		return true
	}
}
