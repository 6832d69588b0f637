package pipeline_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/task"
)

var simSeeds = flag.Int("sim.seeds", 300, "how many runs the simulation plays")

// TestSimulation plays random pipelines with every feature under random faults: tasks are lost and published again,
// results come late, twice and in any order, the process is killed between any two effects, and its successor folds
// what is stored. Whatever happens: the run ends; no task is made before what it depends on is done; the usage is that
// of the stored results, each once; a new fold comes to the same state; and the same seed gives the same trace.
func TestSimulation(t *testing.T) {
	t.Parallel()
	seeds := *simSeeds
	reached := map[string]int{}
	for seed := range uint64(seeds) {
		first := simulate(t, seed)
		require.Equal(t, first.trace.String(), simulate(t, seed).trace.String(), "seed %d gives the same trace", seed)
		reached[string(first.end.Phase)+" "+first.end.Reason]++
		for what := range first.seen {
			reached[what]++
		}
	}
	t.Log(reached)
	if seeds < 300 {
		return // too few to reach everything
	}
	for _, what := range []string{
		"Succeeded Succeeded", "Failed StepFailed", "Failed TimedOut", "Failed BudgetExceeded", "Cancelled Cancelled",
		"Failed RoutingFailed", "route", "judge", "delegate", "child run", "retry", "loop", "item", "crash", "lost", "double", "withdraw", "chosen", "skipped", "preset",
	} {
		require.Positive(t, reached[what], "the simulation reaches %q", what)
	}
}

// sim is one simulated run with its world: what is stored, and what is on its way.
type sim struct {
	t     *testing.T
	r     *rand.Rand
	plan  *pipeline.Plan
	state *pipeline.State
	start []pipeline.StepResult
	now   time.Time
	trace strings.Builder
	seen  map[string]bool

	log       []pipeline.Event           // stored, in the broker's order
	results   map[string]bool            // tasks with a stored result
	queued    []work                     // tasks that somebody will answer
	submitted map[string]bool            // every task that was ever queued
	usage     task.Usage                 // of the stored results
	end       *pipeline.Ended            // the committed end
	done      map[string]bool            // steps whose end is known from outside
	children  int                        // delegated so far
	unapplied []pipeline.Event           // stored, not folded yet
	owner     map[string]pipeline.Chosen // which agent a step was given
}

type work struct {
	id      string
	kind    task.Kind
	step    string
	canSpan bool // it may delegate
	schema  bool
}

func simulate(t *testing.T, seed uint64) *sim {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 7))
	s := &sim{
		t: t, r: r, now: epoch(), seen: map[string]bool{}, results: map[string]bool{}, submitted: map[string]bool{},
		done: map[string]bool{}, owner: map[string]pipeline.Chosen{},
	}
	spec := randomSpec(r)
	s.plan = compile(t, spec)
	if r.IntN(8) == 0 && len(spec.Pipeline) > 0 {
		s.start = []pipeline.StepResult{{Step: spec.Pipeline[0].ID(), Output: `{"go":"yes","list":[1,2]}`}}
		s.seen["preset"] = true
	}
	s.state = s.plan.Start(s.start...)
	for turn := 0; s.end == nil; turn++ {
		if turn > 20_000 {
			require.Fail(t, "the run does not end", "seed %d\n%s", seed, s.trace.String())
		}
		s.turn()
	}
	s.check(seed)
	return s
}

func (s *sim) note(format string, args ...any) { fmt.Fprintf(&s.trace, format+"\n", args...) }

func (s *sim) saw(what string) { s.seen[what] = true }

// turn does one thing of all that could happen next.
func (s *sim) turn() {
	switch n := s.r.IntN(100); {
	case n < 45:
		s.act()
	case n < 75 && len(s.queued) > 0:
		s.answer()
	case n < 90 && len(s.unapplied) > 0:
		s.fold()
	case n < 93:
		s.crash()
	case n < 94 && len(s.log) > 0:
		// A message that was folded long ago is delivered once more.
		s.saw("double")
		s.plan.Apply(s.state, s.log[s.r.IntN(len(s.log))])
	case n < 95:
		s.plan.Apply(s.state, pipeline.TaskEnded{TaskID: "nobody", Status: task.Succeeded, Usage: task.Usage{InputTokens: 1 << 40}, At: s.now})
		s.plan.Apply(s.state, pipeline.AgentReadiness{Agent: fmt.Sprintf("agent-%d", s.r.IntN(3)), Ready: s.r.IntN(2) == 0, Pending: s.r.IntN(5)})
	case n < 96 && s.r.IntN(40) == 0:
		s.note("cancel")
		s.saw("cancelled")
		s.store(pipeline.Cancelled{Reason: "enough", At: s.now})
	default:
		s.pass()
	}
}

// pass lets time go by, now and then to the next moment that something waits for.
func (s *sim) pass() {
	wake := s.plan.Decide(s.state, s.now).Wake
	if s.r.IntN(3) == 0 && wake.After(s.now) && wake.Sub(s.now) < time.Hour {
		s.now = wake
		return
	}
	s.now = s.now.Add(time.Duration(s.r.IntN(5000)) * time.Millisecond)
}

// act carries out some of what is due, and may be killed on the way.
func (s *sim) act() {
	for _, a := range s.plan.Decide(s.state, s.now).Actions {
		if s.r.IntN(20) == 0 {
			s.crash()
			return
		}
		s.do(a)
		if s.end != nil {
			return
		}
		if s.r.IntN(20) == 0 {
			s.crash() // done, but not known to be
			return
		}
		s.plan.Apply(s.state, pipeline.Issued{ID: a.ActionID()})
	}
}

func (s *sim) do(a pipeline.Action) {
	switch a := a.(type) {
	case *pipeline.Submit:
		if a.Chosen {
			s.choose(a)
		}
		s.queue(work{id: a.TaskID, kind: a.Kind, step: a.Step, canSpan: len(a.CanDelegate) > 0, schema: a.OutputSchema != nil},
			name(a.Kind, a.Step, a.Item, a.Iteration, a.Attempt))
		s.mark(a.Kind == task.KindJudge, "judge")
		s.mark(a.Kind == task.KindRoute, "route")
		s.mark(a.Attempt > 0, "retry")
		s.mark(a.Iteration > 0, "loop")
		s.mark(a.Item > 0, "item")
	case *pipeline.StartRun:
		s.saw("child run")
		s.queue(work{id: a.TaskID, kind: task.KindStep, step: a.Step}, "child "+name(task.KindStep, a.Step, a.Item, a.Iteration, a.Attempt))
	case *pipeline.Withdraw:
		s.saw("withdraw")
		s.note("withdraw %s %s", a.TaskID, a.Code)
		s.result(pipeline.TaskEnded{TaskID: a.TaskID, Status: withdrawn(a.Code), Code: a.Code, Message: a.Message})
	case *pipeline.Finish:
		s.note("finish %s %s %s %q", a.Phase, a.Reason, a.FailedStep, a.Output)
		require.Empty(s.t, s.open(), "every task has a result before the run ends")
		s.end = &pipeline.Ended{Phase: a.Phase, Reason: a.Reason, Message: a.Message, FailedStep: a.FailedStep, Output: a.Output, At: s.now}
	}
}

func (s *sim) mark(is bool, what string) {
	if is {
		s.saw(what)
	}
}

// choose commits a choice; one that was committed before must be kept.
func (s *sim) choose(a *pipeline.Submit) {
	s.saw("chosen")
	c := pipeline.Chosen{Step: a.Step, Agent: a.Agent}
	if old, ok := s.owner[a.Step]; ok {
		require.Equal(s.t, old, c, "a committed choice is kept")
		return
	}
	s.owner[a.Step] = c
	s.log = append(s.log, c)
	s.plan.Apply(s.state, c)
}

// queue publishes a task: the same id again is refused.
func (s *sim) queue(w work, called string) {
	if s.results[w.id] {
		return
	}
	if !s.submitted[w.id] {
		s.note("submit %s", called)
		s.checkDependencies(w.step)
	}
	s.submitted[w.id] = true
	if s.r.IntN(25) == 0 {
		s.saw("lost")
		return // the message is lost; a later process publishes it again
	}
	if !slices.ContainsFunc(s.queued, func(q work) bool { return q.id == w.id }) {
		s.queued = append(s.queued, w)
	}
}

// checkDependencies asserts that everything that a step depends on is done by what the outside knows: all tasks of
// those steps have results.
func (s *sim) checkDependencies(step string) {
	status := s.plan.Status(s.state, s.now)
	phases := map[string]v1alpha1.StepPhase{}
	for i := range status.Steps {
		phases[status.Steps[i].Name] = status.Steps[i].Phase
	}
	spec := s.plan.Run().Spec
	for i := range spec.Pipeline {
		st := &spec.Pipeline[i]
		if st.ID() != step {
			continue
		}
		for _, dep := range st.DependsOn {
			require.True(s.t, phases[dep].Terminal(), "%s starts before %s is done, which is %s", step, dep, phases[dep])
			for id, of := range s.stepsOf() {
				require.False(s.t, of == dep && !s.results[id], "%s starts while a task of %s has no result", step, dep)
			}
		}
	}
}

// stepsOf maps the tasks that are out to their steps.
func (s *sim) stepsOf() map[string]string {
	out := map[string]string{}
	for _, q := range s.queued {
		if q.kind != task.KindDelegate {
			out[q.id] = q.step
		}
	}
	return out
}

func (s *sim) open() []string {
	var out []string
	for i := range s.state.Tasks {
		if k := &s.state.Tasks[i]; !s.results[k.ID] {
			out = append(out, k.ID)
		}
	}
	return out
}

// answer lets an agent finish some task, in any order, with any outcome; or hand part of it over first.
func (s *sim) answer() {
	at := s.r.IntN(len(s.queued))
	w := s.queued[at]
	if w.canSpan && s.r.IntN(3) == 0 && s.children < 20 {
		s.children++
		s.saw("delegate")
		child := task.ChildID(w.id, fmt.Sprint(s.children))
		s.store(pipeline.Delegated{Parent: w.id, Child: child, Role: "helper", Agent: "agent-0", At: s.now})
		s.queued = append(s.queued, work{id: child, kind: task.KindDelegate, step: w.step, canSpan: s.r.IntN(2) == 0})
		return
	}
	if s.r.IntN(30) != 0 { // sometimes the acknowledgement is lost, and the task is answered again later
		s.queued = slices.Delete(s.queued, at, at+1)
	}
	s.result(s.outcome(w))
}

func (s *sim) outcome(w work) pipeline.TaskEnded {
	e := pipeline.TaskEnded{
		TaskID: w.id, Status: task.Succeeded, Output: `{"go":"yes","list":[1,2]}`, Pod: "pod", ToolCalls: s.r.IntN(3),
		Usage: task.Usage{InputTokens: int64(s.r.IntN(100)), OutputTokens: int64(s.r.IntN(100)), CachedTokens: int64(s.r.IntN(9))},
	}
	switch n := s.r.IntN(100); {
	case n < 8:
		e.Status, e.Code, e.Message = task.Failed, task.CodeProviderFailed, "broken"
	case n < 9:
		e.Status, e.Code, e.Message = task.Failed, task.CodeProviderAuth, "refused"
	case n == 10 && s.r.IntN(4) == 0:
		e.Status, e.Code, e.Message = task.Failed, task.CodeBudgetExceeded, "spent"
	case w.kind == task.KindRoute:
		e.Output = []string{"yes\nbecause", "none", "what?"}[s.r.IntN(3)]
	case w.kind == task.KindJudge:
		e.Output = []string{"VALID", "INVALID: bad", "hm", "PASS fine"}[s.r.IntN(4)]
	case n < 25:
		e.Output = []string{`{"go":"no","list":[]}`, "no JSON", "", `{"list":[3]}`}[s.r.IntN(4)]
	}
	return e
}

// result stores a result: the first of a task wins.
func (s *sim) result(e pipeline.TaskEnded) {
	if s.results[e.TaskID] {
		return
	}
	s.results[e.TaskID] = true
	s.usage = s.usage.Add(e.Usage)
	e.At = s.now
	s.note("result %s %s", e.TaskID, e.Status)
	s.store(e)
}

func (s *sim) store(e pipeline.Event) {
	s.log = append(s.log, e)
	s.unapplied = append(s.unapplied, e)
}

// fold takes in what was stored, late.
func (s *sim) fold() {
	n := 1 + s.r.IntN(len(s.unapplied))
	for _, e := range s.unapplied[:n] {
		before := slices.Clone(s.state.Steps)
		for i := range before {
			before[i].Units = slices.Clone(before[i].Units)
		}
		s.plan.Apply(s.state, e)
		s.checkArrows(before)
	}
	s.unapplied = s.unapplied[n:]
	if s.r.IntN(10) == 0 {
		s.refold()
	}
}

// checkArrows holds the phases of steps and units to the arrows that are documented with them.
func (s *sim) checkArrows(before []pipeline.StepState) {
	const (
		idle, routing, working = pipeline.UnitIdle, pipeline.UnitRouting, pipeline.UnitWorking
		judging, done, failed  = pipeline.UnitJudging, pipeline.UnitDone, pipeline.UnitFailed
	)
	arrows := map[pipeline.UnitPhase][]pipeline.UnitPhase{
		idle: {idle, routing, working, failed}, routing: {routing, working, failed}, working: {working, judging, done, failed},
		judging: {judging, working, done, failed}, done: {done}, failed: {failed},
	}
	for i := range before {
		was, is := &before[i], &s.state.Steps[i]
		switch was.Phase {
		case v1alpha1.StepPending:
		case v1alpha1.StepRunning:
			require.NotContains(s.t, []v1alpha1.StepPhase{v1alpha1.StepPending, v1alpha1.StepSkipped}, is.Phase)
		default:
			require.Equal(s.t, was.Phase, is.Phase)
		}
		for k := range is.Units {
			from := idle
			if was.Iteration == is.Iteration && k < len(was.Units) {
				from = was.Units[k].Phase
			}
			require.Contains(s.t, arrows[from], is.Units[k].Phase, "from %q", from)
		}
	}
}

// refold checks that a new process would come to the same state.
func (s *sim) refold() {
	applied := s.log[:len(s.log)-len(s.unapplied)]
	if slices.ContainsFunc(s.log[len(applied):], func(e pipeline.Event) bool { _, ok := e.(pipeline.Chosen); return ok }) {
		return // a choice was committed and applied out of the order of the log
	}
	again := s.plan.Start(s.start...)
	for _, e := range choicesFirst(applied) {
		s.plan.Apply(again, e)
	}
	have, want := canonical(s.t, again, s.forgetChoices), canonical(s.t, s.state, s.forgetChoices)
	if have != want {
		require.Fail(s.t, "a new process folds another state", "%s\n%s", cmp.Diff(want, have), s.trace.String())
	}
}

// forgetChoices drops the choices among agents that nobody committed: another process may choose otherwise.
func (s *sim) forgetChoices(state *pipeline.State) {
	spec := s.plan.Run().Spec
	several := map[string]int{}
	for _, l := range spec.Lookups {
		several[l.Step] = slices.IndexFunc(spec.Pipeline, func(st v1alpha1.Step) bool { return st.ID() == l.Step })
	}
	if spec.Routing != nil {
		several[pipeline.RouteStep] = 0
	}
	for step, i := range several {
		if _, committed := s.owner[step]; committed {
			continue
		}
		state.Steps[i].Agent = ""
		for k := range state.Tasks {
			if state.Tasks[k].Step == i && state.Tasks[k].Child == nil {
				state.Tasks[k].Agent = ""
			}
		}
	}
}

// crash kills the process; the next one folds everything that is stored.
func (s *sim) crash() {
	s.saw("crash")
	s.plan = compile(s.t, s.plan.Run().Spec)
	s.state = s.plan.Start(s.start...)
	for _, e := range choicesFirst(s.log) {
		s.plan.Apply(s.state, e)
	}
	s.unapplied = nil
	// Tasks that were lost are found by the sweep: the fresh fold gives their actions again.
}

// check looks at the run when it has ended.
func (s *sim) check(seed uint64) {
	t := s.t
	for _, e := range s.unapplied {
		s.plan.Apply(s.state, e)
	}
	s.plan.Apply(s.state, *s.end)
	require.Equal(t, s.usage, s.state.Usage, "seed %d: every result counts once", seed)
	status := s.plan.Status(s.state, s.now)
	require.Equal(t, s.end.Phase, status.Phase)
	require.Equal(t, s.usage.Total(), status.TotalTokenUsage.TotalTokens)
	var sum int64
	for i := range status.Steps {
		st := &status.Steps[i]
		require.True(t, st.Phase.Terminal(), "seed %d: step %s is %s", seed, st.Name, st.Phase)
		if st.TokenUsage != nil {
			sum += st.TokenUsage.TotalTokens
		}
		s.mark(st.Phase == v1alpha1.StepSkipped, "skipped")
	}
	require.Equal(t, s.usage.Total(), sum, "seed %d: the steps sum up to the run", seed)
	for _, a := range s.plan.Decide(s.state, s.now.Add(1000*time.Hour)).Actions {
		// Work may have been delegated in the last moment.
		require.IsType(t, &pipeline.Withdraw{}, a, "seed %d: nothing new follows the end", seed)
	}
	before := canonical(t, s.state)
	for _, e := range s.log {
		s.plan.Apply(s.state, e)
	}
	s.plan.Apply(s.state, pipeline.Ended{Phase: v1alpha1.RunSucceeded, Reason: "Other"})
	require.Equal(t, before, canonical(t, s.state), "seed %d: everything again changes nothing", seed)
}
