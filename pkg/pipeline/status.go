package pipeline

import (
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/task"
)

// The bounds of a status. Texts are counted as they are written in JSON. Together they keep it below 200 KiB whatever
// the pipeline's size; what is cut is read from the store.
const (
	maxStatusSteps   = 150
	maxRunOutput     = 24 << 10
	allStepOutputs   = 48 << 10 // shared by all steps that are shown
	maxStepOutput    = 24 << 10 // of one step, however few are shown: the schema allows no more than 32 KiB of it
	allStepMessages  = 24 << 10
	maxStatusMessage = 4000
)

// Status is the bounded view of a run that people see. The engine leaves out what it does not know: observedGeneration,
// traceID, resolved, and outputRef of a run's own output that was not stored, which the caller sets when State.Output is
// longer than what is shown. It depends on now only for steps that wait for a time.
func (p *Plan) Status(s *State, now time.Time) v1alpha1.ArkRunStatus {
	v := view{p: p, s: s, now: now}
	rows := v.rows()
	shown := choose(rows)
	status := v1alpha1.ArkRunStatus{
		Phase: v1alpha1.RunRunning, StepCounts: countSteps(rows), TotalTokenUsage: tokens(s.Usage), StartTime: micro(p.run.Started),
	}
	done := status.StepCounts.Total - status.StepCounts.Pending - status.StepCounts.Running
	status.StepSummary = fmt.Sprintf("%d/%d", done, status.StepCounts.Total)
	for _, r := range shown {
		status.Steps = append(status.Steps, r.bound(min(maxStepOutput, allStepOutputs/len(shown)), min(maxStatusMessage, allStepMessages/len(shown))))
	}
	if e := s.Ending; e != nil && s.Ended {
		status.Phase, status.FailedStep = e.Phase, e.FailedStep
		status.Message = cut(e.Message, maxStatusMessage)
		status.Output = cut(e.Output, maxRunOutput)
		status.OutputRef = refBehind(status.Output, e.Output, e.OutputRef)
		status.CompletionTime = micro(s.EndedAt)
		status.Duration = Duration(s.EndedAt.Sub(p.run.Started))
	} else {
		status.Message = cut(v.waitsFor(rows), maxStatusMessage)
	}
	status.Conditions = v.conditions(status.Message)
	return status
}

// Steps lists every step, however many there are, in the order of the pipeline, each followed by the work that was
// delegated below it. Outputs and messages are cut to n bytes, as they are written in JSON.
func (p *Plan) Steps(s *State, now time.Time, n int) []v1alpha1.StepStatus {
	v := view{p: p, s: s, now: now}
	rows := v.rows()
	out := make([]v1alpha1.StepStatus, len(rows))
	for i, r := range rows {
		out[i] = r.bound(n, min(n, maxStatusMessage))
	}
	return out
}

// StepOfTask is the step, or the piece of delegated work, that a task is about.
func (p *Plan) StepOfTask(t *TaskState) string {
	if t.Child != nil {
		return t.Child.Name
	}
	return p.steps[t.Step].id
}

// Output is the result of a run that has ended, or is certain to end, as far as it is held.
func (s *State) Output() string {
	if s.Ending == nil {
		return ""
	}
	return s.Ending.Output
}

// view is one call of Status.
type view struct {
	p   *Plan
	s   *State
	now time.Time
}

// row is one step or piece of delegated work before its texts are cut.
type row struct {
	status v1alpha1.StepStatus
	output string
	ref    *task.Ref
	data   bool // the output is JSON
}

// rows lists every step in the order of the pipeline, each followed by the work that was delegated below it.
func (v *view) rows() []row {
	below := map[int][]int{}
	for i := range v.s.Tasks {
		if v.s.Tasks[i].Child != nil {
			below[v.s.Tasks[i].Step] = append(below[v.s.Tasks[i].Step], i)
		}
	}
	open := map[int][]int{}
	for _, i := range v.s.Open {
		if t := &v.s.Tasks[i]; t.Child == nil {
			open[t.Step] = append(open[t.Step], i)
		}
	}
	rows := make([]row, 0, len(v.s.Steps)+len(below))
	for i := range v.s.Steps {
		rows = append(rows, v.step(i, open[i]))
		for _, child := range below[i] {
			rows = append(rows, delegatedRow(&v.s.Tasks[child]))
		}
	}
	return rows
}

func (v *view) step(i int, open []int) row {
	st, state := v.p.steps[i], &v.s.Steps[i]
	out := v1alpha1.StepStatus{
		Name: st.id, Role: st.role, Agent: state.Agent, Phase: state.Phase,
		Attempts: int32(state.Attempts), Iterations: int32(iterations(st, state)), //nolint:gosec // bounded by the API
		TokenUsage: tokens(state.Usage), ToolCalls: int32(state.ToolCalls), //nolint:gosec // far below
		StartTime: micro(state.Started), CompletionTime: micro(state.Completed), Message: state.Message, Reason: state.Reason,
		SelectedCapability: state.Selected, RoutingReason: state.RoutingReason,
	}
	if state.Usage == (task.Usage{}) && state.Attempts == 0 {
		out.TokenUsage = nil
	}
	if state.Task >= 0 {
		t := &v.s.Tasks[state.Task]
		out.TaskID, out.Pod = t.ID, t.Pod
	}
	if state.Phase == v1alpha1.StepRunning && !v.s.Ended {
		out.Phase, out.Message = v.live(open)
	}
	if out.Message == "" && out.Phase.Terminal() {
		out.Message = strings.Join(state.Notes, "; ")
	}
	return row{status: out, output: state.Output, ref: state.OutputRef, data: st.schema != nil && state.HasOutput}
}

// iterations counts the items of a forEach that are done, or the iterations of a loop.
func iterations(st *step, state *StepState) int {
	switch {
	case st.items != nil:
		return state.Settled
	case st.again != nil && state.Phase == v1alpha1.StepSucceeded:
		return state.Iteration + 1
	case st.again != nil:
		return state.Iteration
	default:
		return 0
	}
}

// live says what a step that is worked on is at: waiting when nobody works on any of its tasks and something says why.
func (v *view) live(open []int) (v1alpha1.StepPhase, string) {
	judging, waiting := 0, ""
	for _, i := range open {
		t := &v.s.Tasks[i]
		if t.Kind == task.KindJudge {
			judging++
		}
		why := v.waits(t)
		if why == "" {
			waiting = ""
			break
		}
		waiting = orElse(waiting, why)
	}
	switch {
	case waiting != "":
		return v1alpha1.StepWaiting, waiting
	case len(open) > 0 && judging == len(open):
		return v1alpha1.StepValidating, ""
	default:
		return v1alpha1.StepRunning, ""
	}
}

// waits says what a task waits for; nothing when it is worked on or could be.
func (v *view) waits(t *TaskState) string {
	switch {
	case v.now.Before(t.NotBefore):
		return "the next attempt starts at " + t.NotBefore.UTC().Format(time.RFC3339)
	case !t.Started.IsZero() || t.Team != "":
		return ""
	}
	agent, known := v.s.Agents[t.Agent]
	if !known || agent.Ready {
		return ""
	}
	if agent.Message == "" {
		return fmt.Sprintf("the agent %q has no ready pod", t.Agent)
	}
	return fmt.Sprintf("the agent %q is not ready: %s", t.Agent, agent.Message)
}

func delegatedRow(t *TaskState) row {
	c := t.Child
	return row{
		output: c.Output, ref: c.OutputRef,
		status: v1alpha1.StepStatus{
			Name: c.Name, Role: c.Role, Agent: t.Agent, Phase: c.Phase, TaskID: t.ID, Parent: c.Parent, Attempts: 1,
			TokenUsage: tokens(c.Usage), ToolCalls: int32(c.ToolCalls), //nolint:gosec // far below
			StartTime: micro(t.Created), CompletionTime: micro(c.Completed), Message: c.Message, Reason: c.Reason, Pod: t.Pod,
		},
	}
}

// waitsFor says what the run waits for, if all that is open waits.
func (v *view) waitsFor(rows []row) string {
	if e := v.s.Ending; e != nil {
		return "ending: " + orElse(e.Message, e.Reason)
	}
	var waiting []string
	for i := range rows {
		switch st := &rows[i].status; st.Phase {
		case v1alpha1.StepWaiting:
			waiting = append(waiting, fmt.Sprintf("step %q waits: %s", st.Name, st.Message))
		case v1alpha1.StepRunning, v1alpha1.StepValidating:
			return ""
		default:
		}
	}
	return strings.Join(waiting, "; ")
}

func (v *view) conditions(message string) []metav1.Condition {
	ready := metav1.Condition{
		Type: v1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: "Running",
		LastTransitionTime: metav1.NewTime(v.p.run.Started), Message: message,
	}
	complete := ready
	complete.Type = v1alpha1.ConditionComplete
	if v.s.Ended {
		complete.Status = metav1.ConditionTrue
		complete.Reason, ready.Reason = v.s.Ending.Reason, v.s.Ending.Reason
		complete.LastTransitionTime, ready.LastTransitionTime = metav1.NewTime(v.s.EndedAt), metav1.NewTime(v.s.EndedAt)
		if v.s.Ending.Phase == v1alpha1.RunSucceeded {
			ready.Status = metav1.ConditionTrue
		}
	}
	return []metav1.Condition{ready, complete}
}

func countSteps(rows []row) *v1alpha1.StepCounts {
	c := &v1alpha1.StepCounts{}
	for i := range rows {
		if rows[i].status.Parent != "" {
			c.Delegated++
			continue
		}
		c.Total++
		switch rows[i].status.Phase {
		case v1alpha1.StepPending:
			c.Pending++
		case v1alpha1.StepRunning, v1alpha1.StepValidating, v1alpha1.StepWaiting:
			c.Running++
		case v1alpha1.StepSucceeded:
			c.Succeeded++
		case v1alpha1.StepFailed:
			c.Failed++
		case v1alpha1.StepSkipped:
			c.Skipped++
		case v1alpha1.StepCancelled:
			c.Cancelled++
		}
	}
	return c
}

// choose leaves as many rows as a status holds, in their order: what is worked on first, then the failed, then the
// newest of those that are done, then what has not started.
func choose(rows []row) []row {
	if len(rows) <= maxStatusSteps {
		return rows
	}
	rank := func(r *row) int {
		switch r.status.Phase {
		case v1alpha1.StepRunning, v1alpha1.StepValidating, v1alpha1.StepWaiting:
			return 0
		case v1alpha1.StepFailed:
			return 1
		case v1alpha1.StepPending:
			return 3
		default:
			return 2
		}
	}
	order := make([]int, len(rows))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		ra, rb := rank(&rows[a]), rank(&rows[b])
		if ra != rb || ra != 2 {
			return ra - rb
		}
		return ended(&rows[b]).Compare(ended(&rows[a]))
	})
	kept := order[:maxStatusSteps]
	slices.Sort(kept)
	out := make([]row, len(kept))
	for i, k := range kept {
		out[i] = rows[k]
	}
	return out
}

func ended(r *row) time.Time {
	if r.status.CompletionTime == nil {
		return time.Time{}
	}
	return r.status.CompletionTime.Time
}

// bound cuts the texts of a row to its share of the status, in bytes of output and of message.
func (r row) bound(share, message int) v1alpha1.StepStatus {
	r.status.Message = cut(r.status.Message, message)
	r.status.RoutingReason = cut(r.status.RoutingReason, message)
	if r.data && isWhole(r.output, r.ref) && written(r.output) <= share/2 {
		r.status.Data = &v1alpha1.Value{Raw: []byte(r.output)}
		share /= 2
	}
	r.status.Output = cut(r.output, share)
	r.status.OutputRef = refBehind(r.status.Output, r.output, r.ref)
	return r.status
}

// refBehind points at the whole of a text of which less is shown.
func refBehind(shown, text string, ref *task.Ref) *v1alpha1.PayloadRef {
	if ref == nil || int64(len(shown)) == sizeOf(text, ref) {
		return nil
	}
	return &v1alpha1.PayloadRef{Key: ref.Key, Size: ref.Size, SHA256: ref.SHA256}
}

// cut shortens a text to n bytes as written in JSON.
func cut(s string, n int) string {
	used := 0
	for i, r := range s {
		if used += cost(r); used > n {
			return s[:i]
		}
	}
	return s
}

func written(s string) int {
	n := 0
	for _, r := range s {
		n += cost(r)
	}
	return n
}

// cost is the number of bytes of a character in a JSON text.
func cost(r rune) int {
	switch {
	case r == '"', r == '\\', r == '\n', r == '\r', r == '\t':
		return 2
	case r < ' ', r == '<', r == '>', r == '&', r == '\u2028', r == '\u2029', r == utf8.RuneError:
		return 6
	default:
		return utf8.RuneLen(r)
	}
}

func tokens(u task.Usage) *v1alpha1.TokenUsage {
	return &v1alpha1.TokenUsage{
		InputTokens: u.InputTokens, OutputTokens: u.OutputTokens, CachedTokens: u.CachedTokens, TotalTokens: u.Total(),
		UnknownCalls: u.UnknownCalls,
	}
}

func micro(t time.Time) *metav1.MicroTime {
	if t.IsZero() {
		return nil
	}
	m := metav1.NewMicroTime(t)
	return &m
}

// Duration is a time for people: 38ms, 6.3s, 2m5s.
func Duration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%dms", max(d, 0).Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1fs", d.Seconds())
	default:
		return d.Round(time.Second).String()
	}
}
