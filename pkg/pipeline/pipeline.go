// Package pipeline is the engine of ark: it decides what a run does next. It is pure - no I/O, no goroutine, no clock -
// and the same input gives the same output, whatever the order of maps.
//
// A run goes through it like this:
//
//	spec, findings := Snapshot(team, lookup, input, trigger)   // what the run shall be, once and for all
//	plan, err := Compile(Run{...}, options)                    // graph, templates, schemas; immutable, may be shared
//	state := plan.Start()
//	for each stored event: plan.Apply(state, event)            // the fold: results, delegations, cancel
//	decision := plan.Decide(state, now)                        // what is due, and when to ask again
//	status := plan.Status(state, now)                          // the bounded view that people see
//
// Everything that a decision depends on is folded in Apply, with the broker's time of the event; Decide only reads. So a
// process that was killed is replaced by one that folds the same events with a fresh plan: it decides the same. Three
// things are committed by the caller before anything follows from them, because two processes could differ in them:
// the choice among several agents (Submit.Chosen), the passing of the run's deadline (a withdrawn task's result), and the
// end of the run (Finish).
//
// A run ends in two moves. When its end is certain (State.Ending), or its deadline has passed, nothing new is started
// and every open task is withdrawn; when each has a result - its own or the withdrawal, whichever was first - the end is
// committed. So the tokens of every task are counted, exactly once, before the run is over.
//
// ValidateTeam finds what is wrong with a team without running it; Compile finds the same in a run's snapshot.
package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/template"
)

// DefaultTimeout bounds a run without timeoutSeconds.
const DefaultTimeout = 24 * time.Hour

// Bounds of a pipeline. They are those of the API's schema.
const (
	MaxSteps = 1000
	MaxRoles = 100
)

// Reasons of steps and runs beside those of v1alpha1 and task.Code.
const (
	ReasonTemplateFailed = "TemplateFailed" // a step: a template refers to something that does not exist
	ReasonTooManyItems   = "TooManyItems"   // a step: forEach has more items than maxItems
	ReasonItemsFailed    = "ItemsFailed"    // a step with continueOnError: some items failed
	ReasonReused         = "Reused"         // a step: its result comes from an earlier run
	ReasonRunEnded       = "RunEnded"       // a step: it has no end of its own
	ReasonOutputFailed   = "OutputFailed"   // a run: the template of its output failed
)

// RouteStep is the name of the one step of a routed run.
const RouteStep = "route"

// Run is what is compiled. Everything in it is immutable for the life of the run.
type Run struct {
	UID, Name, Namespace string
	Spec                 v1alpha1.ArkRunSpec // with the snapshot of the team in it
	Started              time.Time           // when the run was created: the timeout counts from here

	// Deadline and Budgets come from the run that this one is a part of: from the StartRun that asked for it. They
	// are zero for other runs.
	Deadline time.Time
	Budgets  []task.Budget
}

// Options are what the engine needs from outside, so that it links no schema library.
type Options struct {
	// Schema compiles a JSON Schema. The function that it gives checks a document (decoded with UseNumber) and returns
	// what is wrong with it, in a fixed order. Without Schema no schema can be used.
	Schema func(text string) (func(doc any) []Violation, error)
	// Extract finds the JSON in an answer. Without it, the whole answer must be JSON.
	Extract func(answer string) (json.RawMessage, error)
}

// Violation is one way in which a document does not fit a schema.
type Violation struct {
	Path    string // of the value in the document
	Message string // a sentence without a subject: must be a string, not a number
}

// InvalidError means that a run cannot be compiled.
type InvalidError struct {
	Findings []Finding
}

func (e *InvalidError) Error() string {
	lines := make([]string, 0, len(e.Findings))
	for _, f := range e.Findings {
		lines = append(lines, f.String())
	}
	return "the run is invalid: " + strings.Join(lines, "; ")
}

// Plan is a compiled run. It is immutable and safe for concurrent use.
type Plan struct {
	run       Run
	options   Options
	steps     []*step
	byName    map[string]int
	roles     map[string]task.Role
	input     map[string]any
	inputText string
	output    *expr
	deadline  time.Time
	budgets   []task.Budget
	routing   *v1alpha1.RunRouting
}

// step is one compiled step.
type step struct {
	index       int
	id          string
	spec        *v1alpha1.Step
	role        string
	agent       string   // the agent of the role
	candidates  []string // several agents: one is chosen when the step starts
	team        string   // the role is a team
	canDelegate []string
	promptHash  string
	routed      bool

	graph      *graph
	dependents []int

	when, again, items *expr // if, loop.condition, forEach.items
	inputs             []input
	listed             bool                      // some forEach.items names it
	schema, validate   func(doc any) []Violation // nil: none
	outputSchema       json.RawMessage
	emptyData          map[string]any // .data before there is any
	reject             []*regexp.Regexp
	maxAttempts        int
	maxCorrections     int // for mismatches of outputSchema
	maxRefusals        int // for what validate finds
	backoff            time.Duration
	budgets            []task.Budget
}

// input is one compiled entry of a step's inputs.
type input struct {
	key  string
	expr *expr
}

// Compile makes the plan of a run. The error is an *InvalidError that lists everything that is wrong.
func Compile(run Run, o Options) (*Plan, error) {
	if o.Extract == nil {
		o.Extract = wholeJSON
	}
	copied := v1alpha1.ArkRun{Spec: *run.Spec.DeepCopy()}
	copied.SetDefaults()
	run.Spec = copied.Spec
	if findings := checkRun(&run.Spec, o); hasErrors(findings) {
		return nil, &InvalidError{Findings: findings}
	}
	input, err := run.Spec.Input.Decode()
	if err != nil {
		return nil, &InvalidError{Findings: []Finding{failure("spec.input", "is not JSON: %v", err)}}
	}
	p := &Plan{
		run: run, options: o, input: input, routing: run.Spec.Routing,
		roles: roleTable(&run.Spec),
	}
	p.deadline = deadline(&run)
	p.budgets = runBudgets(&run)
	p.inputText = p.textOfInput()
	if err := p.compileSteps(); err != nil {
		return nil, fmt.Errorf("compile run %s: %w", run.Name, err)
	}
	return p, nil
}

// Roles is the role table of the run, which every task carries. It must not be changed.
func (p *Plan) Roles() map[string]task.Role { return p.roles }

// Agents lists every agent that may be given a task of the run, delegated ones too, sorted.
func (p *Plan) Agents() []string {
	found := map[string]bool{}
	for _, st := range p.steps {
		found[st.agent] = true
		for _, a := range st.candidates {
			found[a] = true
		}
	}
	for _, r := range p.roles {
		found[r.Agent] = true
	}
	if p.routing != nil {
		found[p.routing.Agent] = true
		known := false
		for i := range p.routing.Capabilities {
			c := &p.routing.Capabilities[i]
			known = known || c.ID == p.routing.Fallback
			for _, a := range c.Agents {
				found[a] = true
			}
		}
		if !known {
			found[p.routing.Fallback] = true
		}
	}
	delete(found, "")
	return sortedKeys(found)
}

// StepName is the name of a step by its place in the plan.
func (p *Plan) StepName(i int) string { return p.steps[i].id }

// Deadline is when the run ends at the latest.
func (p *Plan) Deadline() time.Time { return p.deadline }

// Run is the run that was compiled, with defaults. It must not be changed.
func (p *Plan) Run() Run { return p.run }

func deadline(run *Run) time.Time {
	d := run.Started.Add(DefaultTimeout)
	if s := run.Spec.TimeoutSeconds; s > 0 {
		d = run.Started.Add(time.Duration(s) * time.Second)
	}
	if !run.Deadline.IsZero() && run.Deadline.Before(d) {
		d = run.Deadline
	}
	return d
}

func runBudgets(run *Run) []task.Budget {
	var out []task.Budget
	if run.Spec.MaxTokens > 0 {
		out = append(out, task.Budget{Scope: runScope(run.UID), Limit: run.Spec.MaxTokens})
	}
	return append(out, run.Budgets...)
}

func runScope(uid string) string { return "run." + uid }

func stepScope(uid, step string) string { return "step." + uid + "." + step }

func roleTable(spec *v1alpha1.ArkRunSpec) map[string]task.Role {
	roles := make(map[string]task.Role, len(spec.Roles))
	for _, r := range spec.Roles {
		if r.Agent != "" {
			roles[r.Name] = task.Role{Agent: r.Agent, CanDelegate: r.CanDelegate, PromptHash: r.PromptHash}
		}
	}
	return roles
}

// pipelineOf gives the steps of a run in any mode: those of its pipeline, or the one step that it consists of.
func pipelineOf(spec *v1alpha1.ArkRunSpec) []v1alpha1.Step {
	switch {
	case len(spec.Pipeline) > 0:
		return spec.Pipeline
	case spec.AgentRef != nil:
		return []v1alpha1.Step{{Name: spec.AgentRef.Name}}
	case spec.Routing != nil:
		return []v1alpha1.Step{{Name: RouteStep}}
	default:
		return []v1alpha1.Step{{Role: spec.Entry}}
	}
}

func (p *Plan) compileSteps() error {
	specs := pipelineOf(&p.run.Spec)
	g, findings := newGraph(specs)
	if hasErrors(findings) {
		return &InvalidError{Findings: findings}
	}
	p.byName = g.index
	for i := range specs {
		st, err := p.compileStep(g, i, &specs[i])
		if err != nil {
			return fmt.Errorf("step %q: %w", specs[i].ID(), err)
		}
		p.steps = append(p.steps, st)
	}
	p.markListed()
	if p.run.Spec.Output == "" {
		return nil
	}
	var err error
	p.output, err = p.compileExpr("output", p.run.Spec.Output)
	return err
}

// markListed finds the steps whose output may be read as a list.
func (p *Plan) markListed() {
	for _, st := range p.steps {
		if st.items == nil {
			continue
		}
		names := st.items.steps
		if st.items.all {
			names = p.visible(st)
		}
		for _, name := range names {
			if i, ok := p.byName[name]; ok {
				p.steps[i].listed = true
			}
		}
	}
}

func (p *Plan) compileStep(g *graph, index int, spec *v1alpha1.Step) (*step, error) {
	st := &step{
		index: index, id: spec.ID(), spec: spec, role: spec.Role, graph: g, dependents: g.dependents[index],
		maxAttempts: 1, maxCorrections: defaultCorrections,
	}
	p.castRole(st)
	if spec.MaxTokens > 0 {
		st.budgets = append(st.budgets, task.Budget{Scope: stepScope(p.run.UID, st.id), Limit: spec.MaxTokens})
	}
	st.budgets = append(st.budgets, p.budgets...)
	if r := spec.Retry; r != nil {
		st.maxAttempts = int(r.MaxAttempts)
		st.backoff = time.Duration(r.BackoffSeconds) * time.Second
	}
	return st, errors.Join(p.compileTemplates(st), p.compileChecks(st))
}

const defaultCorrections = 2

// castRole finds who works on a step.
func (p *Plan) castRole(st *step) {
	spec := &p.run.Spec
	if spec.AgentRef != nil {
		st.agent = spec.AgentRef.Name
	}
	for i := range spec.Roles {
		if r := &spec.Roles[i]; r.Name == st.spec.Role {
			st.agent, st.team, st.canDelegate, st.promptHash = r.Agent, r.Team, r.CanDelegate, r.PromptHash
		}
	}
	st.routed = spec.Routing != nil && len(spec.Pipeline) == 0
	if lookup := st.spec.RegistryLookup; lookup != nil {
		found := []string{}
		for i := range spec.Lookups {
			if spec.Lookups[i].Step == st.id {
				found = spec.Lookups[i].Agents
			}
		}
		if len(found) == 0 && lookup.Fallback != "" {
			found = []string{lookup.Fallback}
		}
		if len(found) > 0 {
			st.agent, st.team, st.promptHash, st.candidates = found[0], "", "", found
		}
	}
}

func (p *Plan) compileTemplates(st *step) error {
	var err error
	compile := func(name, source string) *expr {
		if source == "" || err != nil {
			return nil
		}
		var e *expr
		e, err = p.compileExpr(name, source)
		return e
	}
	st.when = compile("if", st.spec.If)
	if st.spec.Loop != nil {
		st.again = compile("loop.condition", st.spec.Loop.Condition)
	}
	if st.spec.ForEach != nil {
		st.items = compile("forEach.items", st.spec.ForEach.Items)
	}
	for _, key := range sortedKeys(st.spec.Inputs) {
		e := &expr{}
		if source := st.spec.Inputs[key]; source != "" {
			e = compile("inputs."+key, source)
		}
		st.inputs = append(st.inputs, input{key, e})
	}
	return err
}

func (p *Plan) compileChecks(st *step) error {
	var err error
	if text := st.spec.OutputSchema; text != "" {
		if st.schema, err = p.options.Schema(text); err != nil {
			return fmt.Errorf("outputSchema: %w", err)
		}
		st.outputSchema = json.RawMessage(text)
		st.emptyData = emptyData(text)
	}
	v := st.spec.Validate
	if v == nil {
		return nil
	}
	st.maxCorrections = int(*v.MaxRetries)
	if v.OnFailure == v1alpha1.ValidationRetry {
		st.maxRefusals = st.maxCorrections
	}
	if v.Schema != "" {
		if st.validate, err = p.options.Schema(v.Schema); err != nil {
			return fmt.Errorf("validate.schema: %w", err)
		}
	}
	for i, pattern := range v.RejectPatterns {
		re, err := regexp.Compile(pattern)
		if err != nil {
			return fmt.Errorf("validate.rejectPatterns[%d]: %w", i, err)
		}
		st.reject = append(st.reject, re)
	}
	return nil
}

// expr is a compiled template and the steps that it names.
type expr struct {
	template *template.Template // nil: the empty text
	steps    []string
	all      bool // it names the steps as a whole
}

func (p *Plan) compileExpr(name, source string) (*expr, error) {
	t, err := template.Parse(name, source)
	if err != nil {
		return nil, err
	}
	e := &expr{template: t}
	seen := map[string]bool{}
	for _, ref := range t.References() {
		switch {
		case len(ref.Path) == 0, len(ref.Path) == 1 && ref.Path[0] == "steps":
			e.all = true
		case ref.Path[0] == "steps" && !seen[ref.Path[1]]:
			seen[ref.Path[1]] = true
			e.steps = append(e.steps, ref.Path[1])
		}
	}
	return e, nil
}
