package pipeline

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
)

// ValidateTeam finds what is wrong with a team by itself: names, graphs, templates, schemas, expressions, inputs. What
// it refers to is looked at by ValidateReferences, and what the API's schema says by ArkTeam.Validate. Findings come in
// the order of the team's fields.
func ValidateTeam(team *v1alpha1.ArkTeam, o Options) []Finding {
	team = team.DeepCopy()
	team.SetDefaults()
	spec := &team.Spec
	s := subject{
		steps: spec.Pipeline, entry: spec.Entry, output: spec.Output, routing: spec.Routing != nil,
	}
	for i := range spec.Roles {
		r := &spec.Roles[i]
		s.roles = append(s.roles, role{name: r.Name, team: r.ArkTeam, canDelegate: r.CanDelegate})
	}
	findings := s.checkRoleNames()
	findings = append(findings, checkInputs(spec)...)
	if len(spec.Inputs) > 0 {
		s.inputs = declaredInputs(spec)
	}
	return append(findings, s.check(o)...)
}

// checkRun finds what is wrong with the snapshot of a run, with defaults.
func checkRun(spec *v1alpha1.ArkRunSpec, o Options) []Finding {
	s := subject{
		steps: spec.Pipeline, entry: spec.Entry, output: spec.Output, routing: spec.Routing != nil,
		agent: spec.AgentRef != nil,
	}
	for i := range spec.Roles {
		r := &spec.Roles[i]
		s.roles = append(s.roles, role{name: r.Name, team: r.Team, canDelegate: r.CanDelegate})
	}
	findings := append(s.checkRoleNames(), s.check(o)...)
	for i := range spec.Roles {
		if r := &spec.Roles[i]; (r.Agent == "") == (r.Team == "") {
			findings = append(findings, failure(listPath("spec.roles", i), "the role %q needs exactly one of agent and team", r.Name))
		}
	}
	for i := range spec.Pipeline {
		if st := &spec.Pipeline[i]; st.RegistryLookup != nil && !s.hasRole(st.Role) && !lookupFound(spec, st) {
			findings = append(findings, failure(stepPath(i)+".registryLookup",
				"no agent has the capability %q, and there is neither a fallback nor a role", st.RegistryLookup.Capability))
		}
	}
	if r := spec.Routing; r != nil && r.Agent == "" {
		findings = append(findings, failure("spec.routing.agent", "is empty: it must name the agent of the router"))
	}
	return findings
}

func lookupFound(spec *v1alpha1.ArkRunSpec, st *v1alpha1.Step) bool {
	return st.RegistryLookup.Fallback != "" || slices.ContainsFunc(spec.Lookups, func(l v1alpha1.RunLookup) bool {
		return l.Step == st.ID() && len(l.Agents) > 0
	})
}

// subject is what teams and runs have in common for a check.
type subject struct {
	roles   []role
	steps   []v1alpha1.Step
	entry   string
	output  string
	routing bool
	agent   bool                          // a run of one agent
	inputs  map[string]v1alpha1.InputType // declared ones; nil: not declared
	graph   *graph
	schemas []schemaShape // of the steps' outputSchemas
}

type role struct {
	name, team  string
	canDelegate []string
}

func (s *subject) roleNames() []string {
	names := make([]string, len(s.roles))
	for i := range s.roles {
		names[i] = s.roles[i].name
	}
	return names
}

func (s *subject) roleIndex(name string) int {
	return slices.IndexFunc(s.roles, func(r role) bool { return r.name == name })
}

func (s *subject) hasRole(name string) bool { return s.roleIndex(name) >= 0 }

// teamOf is the team that plays a role, if one does.
func (s *subject) teamOf(name string) string {
	if i := s.roleIndex(name); i >= 0 {
		return s.roles[i].team
	}
	return ""
}

func (s *subject) check(o Options) []Finding {
	findings := s.checkMode()
	if len(s.steps) > MaxSteps {
		return append(findings, failure("spec.pipeline", "has %d steps: at most %d are allowed", len(s.steps), MaxSteps))
	}
	findings = append(findings, s.checkDelegation()...)
	g, graphFindings := newGraph(s.steps)
	findings = append(findings, graphFindings...)
	s.graph = g
	s.schemas = make([]schemaShape, len(s.steps))
	for i := range s.steps {
		s.schemas[i] = shapeOf(s.steps[i].OutputSchema)
	}
	for i := range s.steps {
		findings = append(findings, s.checkStep(i, o)...)
	}
	if hasErrors(graphFindings) {
		return findings // what stands before a step is not known
	}
	for i := range s.steps {
		findings = append(findings, s.checkStepTemplates(i)...)
	}
	return append(findings, s.checkTemplate("spec.output", s.output, scope{step: outputScope})...)
}

func (s *subject) checkMode() []Finding {
	if s.agent {
		return nil
	}
	switch {
	case len(s.steps) == 0 && s.entry == "" && !s.routing:
		f := failure("spec", "there is nothing to run")
		f.Hint = "give one of pipeline, entry and routing"
		return []Finding{f}
	case s.entry != "" && !s.hasRole(s.entry):
		f := failure("spec.entry", "there is no role %q", s.entry)
		f.Hint = oneOf("roles", s.entry, s.roleNames())
		return []Finding{f}
	}
	return nil
}

func (s *subject) checkRoleNames() []Finding {
	var findings []Finding
	first := map[string]int{}
	for i := range s.roles {
		name := s.roles[i].name
		at, twice := first[name]
		switch {
		case name == "":
			findings = append(findings, failure(listPath("spec.roles", i)+".name", "the role has no name"))
		case twice:
			f := failure(listPath("spec.roles", i)+".name", "the role %q is there already: it is spec.roles[%d]", name, at)
			f.Hint = "give each role a name of its own; one role can stand in several steps"
			findings = append(findings, f)
		default:
			first[name] = i
		}
	}
	return findings
}

// checkDelegation looks at who may hand work to whom.
func (s *subject) checkDelegation() []Finding {
	var findings []Finding
	edges := make([][]int, len(s.roles))
	for i := range s.roles {
		for k, name := range s.roles[i].canDelegate {
			path := listPath(listPath("spec.roles", i)+".canDelegate", k)
			to := s.roleIndex(name)
			switch {
			case to < 0:
				f := failure(path, "there is no role %q", name)
				f.Hint = oneOf("roles", name, s.roleNames())
				findings = append(findings, f)
			case s.roles[to].team != "":
				f := failure(path, "work cannot be delegated to the role %q: it is played by the team %q", name, s.roles[to].team)
				f.Hint = "let a step have that role, or delegate to an agent"
				findings = append(findings, f)
			default:
				edges[i] = append(edges[i], to)
			}
		}
	}
	if cycle := findCycle(len(s.roles), func(i int) []int { return edges[i] }); cycle != nil {
		f := failure(listPath("spec.roles", cycle[0])+".canDelegate", "work could be delegated in a circle: %s", chain(s.roleNames(), cycle))
		f.Hint = "remove one of these permissions"
		findings = append(findings, f)
	}
	return findings
}

// checkStep looks at everything of a step but its place in the graph and its templates.
func (s *subject) checkStep(i int, o Options) []Finding {
	st, path := &s.steps[i], stepPath(i)
	var findings []Finding
	add := func(f Finding, hint string) {
		f.Hint = hint
		findings = append(findings, f)
	}
	switch {
	case st.RegistryLookup != nil || s.hasRole(st.Role):
	case st.Role == "":
		add(failure(path+".role", "the step has no role"), oneOf("roles", "", s.roleNames()))
	default:
		add(failure(path+".role", "there is no role %q", st.Role), oneOf("roles", st.Role, s.roleNames()))
	}
	if st.ForEach != nil && slices.Contains([]string{"input", "steps", "run", "iteration"}, st.ForEach.As) {
		add(failure(path+".forEach.as", "%q means something else in templates", st.ForEach.As), "choose another name, such as item")
	}
	findings = append(findings, checkSchema(path+".outputSchema", st.OutputSchema, o)...)
	v := st.Validate
	if v == nil {
		return findings
	}
	for k, pattern := range v.RejectPatterns {
		if _, err := regexp.Compile(pattern); err != nil {
			add(failure(listPath(path+".validate.rejectPatterns", k), "is not a regular expression: %v", err),
				"the syntax is RE2, without look-around and back references")
		}
	}
	findings = append(findings, checkSchema(path+".validate.schema", v.Schema, o)...)
	if team := s.teamOf(st.Role); v.Semantic != "" && team != "" && st.RegistryLookup == nil {
		add(failure(path+".validate.semantic", "the step is worked on by the team %q: there is no agent that could judge the answer", team),
			"let a step of that team, or a step after this one, check the answer")
	}
	return findings
}

func checkSchema(path, text string, o Options) []Finding {
	if text == "" {
		return nil
	}
	if o.Schema == nil {
		return []Finding{failure(path, "cannot be checked here: the engine was given no checker of schemas")}
	}
	if _, err := o.Schema(text); err != nil {
		f := failure(path, "is not a usable JSON Schema: %v", err)
		f.Hint = "JSON Schema 2020-12, written as JSON text"
		return []Finding{f}
	}
	return nil
}

func (s *subject) checkStepTemplates(i int) []Finding {
	st, path := &s.steps[i], stepPath(i)
	findings := s.checkTemplate(path+".if", st.If, scope{step: i})
	inside := scope{step: i, self: st.Loop != nil, iteration: true}
	if st.ForEach != nil {
		findings = append(findings, s.checkTemplate(path+".forEach.items", st.ForEach.Items, inside)...)
	}
	each := inside
	if st.ForEach != nil {
		each.item = st.ForEach.As
	}
	for _, key := range sortedKeys(st.Inputs) {
		findings = append(findings, s.checkTemplate(path+".inputs."+key, st.Inputs[key], each)...)
	}
	if st.Loop != nil {
		findings = append(findings, s.checkTemplate(path+".loop.condition", st.Loop.Condition, inside)...)
	}
	return findings
}

// Severity says what a finding means.
type Severity string

const (
	SeverityError   Severity = "error"   // the object cannot be run
	SeverityWarning Severity = "warning" // it can, but somebody should look
)

// Finding is one thing that is wrong with an object.
type Finding struct {
	Path     string // of the field: spec.pipeline[2].inputs.prompt
	Severity Severity
	Message  string // the cause
	Hint     string // what to do; may be empty
}

func (f Finding) String() string {
	s := f.Path + ": " + f.Message
	if f.Hint != "" {
		s += " (" + f.Hint + ")"
	}
	return s
}

func failure(path, format string, args ...any) Finding {
	return Finding{Path: path, Severity: SeverityError, Message: fmt.Sprintf(format, args...)}
}

func hasErrors(findings []Finding) bool {
	return slices.ContainsFunc(findings, func(f Finding) bool { return f.Severity == SeverityError })
}

func stepPath(i int) string { return listPath("spec.pipeline", i) }

func listPath(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// oneOf is the hint that names what there is: the name that was probably meant, or else all.
func oneOf(what, name string, names []string) string {
	if len(names) == 0 {
		return "there are no " + what
	}
	names = distinct(names)
	for _, n := range names {
		if n != name && near(name, n) {
			return fmt.Sprintf("did you mean %q?", n)
		}
	}
	const most = 20
	if len(names) > most {
		return fmt.Sprintf("%s are %s and %d more", what, strings.Join(names[:most], ", "), len(names)-most)
	}
	return what + " are " + strings.Join(names, ", ")
}

func distinct(names []string) []string {
	var out []string
	for _, n := range names {
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

// near says whether one name is probably a slip of the other: two letters swapped, or one added, left out or changed.
func near(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	if len(a) < 3 || len(b)-len(a) > 1 {
		return false
	}
	i := 0
	for i < len(a) && a[i] == b[i] {
		i++
	}
	switch {
	case len(a) < len(b):
		return a[i:] == b[i+1:]
	case i == len(a):
		return true
	case a[i+1:] == b[i+1:]:
		return true
	default:
		return i+1 < len(a) && a[i] == b[i+1] && a[i+1] == b[i] && a[i+2:] == b[i+2:]
	}
}
