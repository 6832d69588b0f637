package pipeline_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/schema"
	"arkonis.dev/ark/pkg/task"
)

// epoch is when every run of the tests starts.
func epoch() time.Time { return time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC) }

func options() pipeline.Options {
	return pipeline.Options{
		Extract: schema.Extract,
		Schema: func(text string) (func(any) []pipeline.Violation, error) {
			s, err := schema.Compile([]byte(text))
			if err != nil {
				return nil, err
			}
			return func(doc any) []pipeline.Violation {
				var out []pipeline.Violation
				for _, v := range s.Validate(doc) {
					out = append(out, pipeline.Violation(v))
				}
				return out
			}, nil
		},
	}
}

// objects are what a scenario file holds.
type objects struct {
	team   *v1alpha1.ArkTeam
	run    *v1alpha1.ArkRun
	lookup pipeline.Lookup
	input  map[string]any
}

func parseYAML[T any](t testing.TB, f txtar.File) *T {
	t.Helper()
	out := new(T)
	require.NoError(t, yaml.UnmarshalStrict(f.Data, out), f.Name)
	return out
}

// readObjects reads the manifests of an archive: team.yaml or run.yaml, and what the team can refer to.
func readObjects(t testing.TB, a *txtar.Archive) objects {
	t.Helper()
	o := objects{lookup: pipeline.Lookup{
		Agents: map[string]*v1alpha1.ArkAgent{}, Teams: map[string]*v1alpha1.ArkTeam{}, Registries: map[string]*v1alpha1.ArkRegistry{},
	}}
	for _, f := range a.Files {
		switch {
		case f.Name == "team.yaml":
			o.team = parseYAML[v1alpha1.ArkTeam](t, f)
			o.team.Namespace = "default"
		case f.Name == "run.yaml":
			o.run = parseYAML[v1alpha1.ArkRun](t, f)
		case f.Name == "input.json":
			require.NoError(t, json.Unmarshal(f.Data, &o.input))
		case strings.HasPrefix(f.Name, "team-"):
			team := parseYAML[v1alpha1.ArkTeam](t, f)
			o.lookup.Teams[team.Name] = team
		case strings.HasPrefix(f.Name, "agent-"):
			agent := parseYAML[v1alpha1.ArkAgent](t, f)
			o.lookup.Agents[agent.Name] = agent
		case strings.HasPrefix(f.Name, "registry-"):
			registry := parseYAML[v1alpha1.ArkRegistry](t, f)
			o.lookup.Registries[registry.Name] = registry
		}
	}
	return o
}

// spec is the run of the objects: as it is written, or the snapshot of the team.
func (o objects) spec(t testing.TB) v1alpha1.ArkRunSpec {
	t.Helper()
	if o.run != nil {
		return o.run.Spec
	}
	require.Empty(t, failures(pipeline.ValidateTeam(o.team, options())))
	input, findings := pipeline.ResolveInput(o.team, o.input)
	require.Empty(t, failures(findings))
	spec, findings := pipeline.Snapshot(o.team, o.lookup, input, v1alpha1.Trigger{Kind: v1alpha1.TriggerLocal})
	require.Empty(t, failures(findings))
	return spec
}

func failures(findings []pipeline.Finding) []string {
	var out []string
	for _, f := range findings {
		if f.Severity == pipeline.SeverityError {
			out = append(out, f.String())
		}
	}
	return out
}

func compile(t testing.TB, spec v1alpha1.ArkRunSpec) *pipeline.Plan {
	t.Helper()
	plan, err := pipeline.Compile(pipeline.Run{
		UID: "uid-1", Name: "team-run-1", Namespace: "default", Spec: spec, Started: epoch(),
	}, options())
	require.NoError(t, err)
	return plan
}

// driver stands for whoever drives a run: it carries actions out, remembers what was stored, and can be restarted.
type driver struct {
	t     testing.TB
	plan  *pipeline.Plan
	state *pipeline.State
	now   time.Time
	start []pipeline.StepResult
	log   []pipeline.Event // what is stored: a restart folds it again
	tasks map[string]string
	names map[string]string // task ids by how a script calls them
	out   strings.Builder
	hold  bool // withdrawn tasks get no result by themselves
	ended *pipeline.Ended
}

func newDriver(t testing.TB, plan *pipeline.Plan, start ...pipeline.StepResult) *driver {
	return &driver{
		t: t, plan: plan, state: plan.Start(start...), start: start, now: epoch(), tasks: map[string]string{}, names: map[string]string{},
	}
}

// name is how scripts and traces call a task: kind:step[item]@iteration#attempt, each part only when it is not the
// usual one.
func name(kind task.Kind, step string, item, iteration, attempt int) string {
	s := step
	if kind != task.KindStep {
		s = string(kind) + ":" + step
	}
	if item > 0 {
		s += fmt.Sprintf("[%d]", item)
	}
	if iteration > 0 {
		s += fmt.Sprintf("@%d", iteration)
	}
	if attempt > 0 {
		s += fmt.Sprintf("#%d", attempt)
	}
	return s
}

func (d *driver) store(e pipeline.Event) {
	d.log = append(d.log, e)
	d.plan.Apply(d.state, e)
}

// act carries out what is due until nothing is.
func (d *driver) act() {
	for range 100 {
		actions := d.plan.Decide(d.state, d.now).Actions
		if len(actions) == 0 {
			return
		}
		for _, a := range actions {
			d.do(a)
			d.plan.Apply(d.state, pipeline.Issued{ID: a.ActionID()})
		}
	}
	require.Fail(d.t, "the run never comes to rest")
}

func (d *driver) know(id, name string) bool {
	_, again := d.tasks[id]
	d.tasks[id], d.names[name] = name, id
	return again
}

func (d *driver) do(a pipeline.Action) {
	switch a := a.(type) {
	case *pipeline.Submit:
		n := name(a.Kind, a.Step, a.Item, a.Iteration, a.Attempt)
		if d.know(a.TaskID, n) {
			fmt.Fprintf(&d.out, "submit %s again\n", n)
			return
		}
		if a.Chosen {
			d.store(pipeline.Chosen{Step: a.Step, Agent: a.Agent})
		}
		fmt.Fprintf(&d.out, "submit %s to %s%s\n%s", n, a.Agent, extras(a), indent(a.Prompt))
	case *pipeline.StartRun:
		n := name(task.KindStep, a.Step, a.Item, a.Iteration, a.Attempt)
		if d.know(a.TaskID, n) {
			fmt.Fprintf(&d.out, "start run for %s again\n", n)
			return
		}
		input, err := json.Marshal(a.Input)
		require.NoError(d.t, err)
		require.True(d.t, strings.HasPrefix(a.ChildName, a.Team+"-run-"), a.ChildName)
		fmt.Fprintf(&d.out, "start run of team %s for %s hops=%d%s\n%s", a.Team, n, a.Hops, budgets(a.Budgets), indent(string(input)))
	case *pipeline.Withdraw:
		fmt.Fprintf(&d.out, "withdraw %s: %s: %s\n", d.tasks[a.TaskID], a.Code, a.Message)
		if !d.hold {
			d.result(pipeline.TaskEnded{TaskID: a.TaskID, Status: withdrawn(a.Code), Code: a.Code, Message: a.Message})
		}
	case *pipeline.Finish:
		fmt.Fprintf(&d.out, "finish %s %s%s\n", a.Phase, a.Reason, prefixed(" step=", a.FailedStep))
		if a.Message != "" {
			d.out.WriteString(indent(a.Message))
		}
		if a.Output != "" {
			d.out.WriteString("output\n" + indent(a.Output))
		}
		d.ended = &pipeline.Ended{
			Phase: a.Phase, Reason: a.Reason, Message: a.Message, FailedStep: a.FailedStep, Output: a.Output, At: d.now,
		}
		d.store(*d.ended)
	}
}

func withdrawn(c task.Code) task.Status {
	if c == task.CodeCancelled {
		return task.Cancelled
	}
	return task.Failed
}

// result stores a result, unless there is one: the first wins.
func (d *driver) result(e pipeline.TaskEnded) {
	for _, old := range d.log {
		if r, ok := old.(pipeline.TaskEnded); ok && r.TaskID == e.TaskID {
			return
		}
	}
	e.At = d.now
	d.store(e)
}

// restart is a new process: it folds what is stored with a fresh plan and state, and must come to the same.
func (d *driver) restart() {
	before := canonical(d.t, d.state)
	d.plan = compile(d.t, d.plan.Run().Spec)
	d.state = d.plan.Start(d.start...)
	for _, e := range choicesFirst(d.log) {
		d.plan.Apply(d.state, e)
	}
	require.Equal(d.t, before, canonical(d.t, d.state), "a new process folds the same")
}

// choicesFirst puts the committed choices before all else, as they are read from the record of the run.
func choicesFirst(log []pipeline.Event) []pipeline.Event {
	log = slices.Clone(log)
	slices.SortStableFunc(log, func(a, b pipeline.Event) int {
		_, chosenA := a.(pipeline.Chosen)
		_, chosenB := b.(pipeline.Chosen)
		switch {
		case chosenA == chosenB:
			return 0
		case chosenA:
			return -1
		default:
			return 1
		}
	})
	return log
}

// canonical is the state without what only its own process knows.
func canonical(t testing.TB, s *pipeline.State, change ...func(*pipeline.State)) string {
	t.Helper()
	text, err := json.Marshal(s)
	require.NoError(t, err)
	copied := &pipeline.State{}
	require.NoError(t, json.Unmarshal(text, copied))
	copied.FinishIssued, copied.Agents = false, nil
	for i := range copied.Tasks {
		k := &copied.Tasks[i]
		k.Issued, k.Withdrawn, k.Prompt, k.Input = false, false, "", nil
		k.Started, k.Pod = time.Time{}, "" // may come from a hint, which is not stored
	}
	for _, f := range change {
		f(copied)
	}
	text, err = json.MarshalIndent(copied, "", " ")
	require.NoError(t, err)
	return string(text)
}

func extras(a *pipeline.Submit) string {
	s := prefixed(" model=", a.Model) + prefixed(" canDelegate=", strings.Join(a.CanDelegate, ","))
	if a.OutputSchema != nil {
		s += " schema"
	}
	if a.TimeoutSeconds > 0 {
		s += fmt.Sprintf(" timeout=%ds", a.TimeoutSeconds)
	}
	if a.Chosen {
		s += " chosen"
	}
	for _, c := range a.Capabilities {
		s += " can=" + c.ID
	}
	return s + budgets(a.Budgets)
}

func budgets(all []task.Budget) string {
	s := ""
	for _, b := range all {
		s += fmt.Sprintf(" budget=%s:%d", b.Scope, b.Limit)
	}
	return s
}

func prefixed(prefix, s string) string {
	if s == "" {
		return ""
	}
	return prefix + s
}

func indent(text string) string {
	var b strings.Builder
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		b.WriteString(strings.TrimRight("  | "+line, " ") + "\n")
	}
	return b.String()
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
