package local

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/local/progress"
	"arkonis.dev/ark/pkg/memory"
)

// PlanReport is what a run would do: `ark run --dry-run`.
type PlanReport struct {
	Team     string     `json:"team,omitempty"`
	Agent    string     `json:"agent,omitempty"`
	Mode     string     `json:"mode"` // pipeline, dynamic, routed or agent
	Steps    []PlanStep `json:"steps"`
	Bound    Bound      `json:"bound"`
	Limit    int64      `json:"maxTokens,omitempty"` // what the run may use
	Output   string     `json:"output,omitempty"`    // the template of the run's result
	Warnings []string   `json:"warnings,omitempty"`
}

// PlanStep is one step, in an order in which the steps may run.
type PlanStep struct {
	Name      string            `json:"name"`
	Role      string            `json:"role,omitempty"`
	Agent     string            `json:"agent,omitempty"`
	Team      string            `json:"team,omitempty"` // that plays the role
	Model     string            `json:"model,omitempty"`
	Provider  string            `json:"provider,omitempty"`
	DependsOn []string          `json:"dependsOn,omitempty"`
	Repeats   []string          `json:"repeats,omitempty"` // conditions, loops and lists, in words
	Inputs    map[string]string `json:"inputs,omitempty"`  // templates
	Checks    []string          `json:"checks,omitempty"`  // of the answer, in words
	Tools     []string          `json:"tools,omitempty"`
	Delegates []string          `json:"delegates,omitempty"` // roles that work may be handed to
	Bound     Bound             `json:"bound"`
}

// planRun describes a run. The agents are those of the run and of the teams in it.
func (c *catalog) planRun(spec *v1alpha1.ArkRunSpec, agents map[string]*agent) *PlanReport {
	p := &PlanReport{Mode: mode(spec), Limit: spec.MaxTokens, Output: spec.Output}
	if spec.TeamRef != nil {
		p.Team = spec.TeamRef.Name
	}
	if spec.AgentRef != nil {
		p.Agent = spec.AgentRef.Name
	}
	b := &bounder{spec: spec, agents: agents, outputs: map[string]int64{}}
	var bounds []Bound
	for _, s := range inOrder(steps(spec)) {
		step := c.planStep(spec, &s, b)
		p.Steps = append(p.Steps, step)
		bounds = append(bounds, step.Bound)
	}
	p.Bound = sum(bounds, spec.MaxTokens)
	return p
}

func mode(spec *v1alpha1.ArkRunSpec) string {
	switch {
	case len(spec.Pipeline) > 0:
		return "pipeline"
	case spec.Routing != nil:
		return "routed"
	case spec.Entry != "":
		return "dynamic"
	default:
		return "agent"
	}
}

// steps is the pipeline of a run, or the one step that stands for it.
func steps(spec *v1alpha1.ArkRunSpec) []v1alpha1.Step {
	switch mode(spec) {
	case "pipeline":
		return spec.Pipeline
	case "routed":
		return []v1alpha1.Step{{Name: "route"}}
	case "dynamic":
		return []v1alpha1.Step{{Role: spec.Entry}}
	default:
		return []v1alpha1.Step{{Role: spec.AgentRef.Name}}
	}
}

// inOrder sorts steps so that each stands after those that it depends on, otherwise in the order written. Steps of a
// cycle, which no valid run has, are left out.
func inOrder(steps []v1alpha1.Step) []v1alpha1.Step {
	done := map[string]bool{}
	var out []v1alpha1.Step
	for progress := true; progress; {
		progress = false
		for i := range steps {
			s := &steps[i]
			ready := !slices.ContainsFunc(s.DependsOn, func(d string) bool { return !done[d] })
			if ready && !done[s.ID()] {
				done[s.ID()], progress = true, true
				out = append(out, *s)
			}
		}
	}
	return out
}

func (c *catalog) planStep(spec *v1alpha1.ArkRunSpec, s *v1alpha1.Step, b *bounder) PlanStep {
	p := PlanStep{Name: s.ID(), Role: s.Role, DependsOn: s.DependsOn, Inputs: s.Inputs, Repeats: repeats(s), Checks: checks(s)}
	if spec.Routing != nil && len(spec.Pipeline) == 0 {
		return c.planRoute(spec, p, b)
	}
	role := roleOf(spec, s)
	p.Team, p.Delegates = role.Team, role.CanDelegate
	if role.Team != "" {
		b.outputs[p.Name] = 0
		p.Bound = Bound{Unbounded: fmt.Sprintf("step %s is a run of team %s", p.Name, role.Team)}
		if s.MaxTokens > 0 {
			p.Bound = Bound{Tokens: s.MaxTokens}
		}
		return p
	}
	a := b.agents[role.Agent]
	if a == nil {
		return p
	}
	p.describe(a)
	p.Bound = b.step(s, a, len(role.CanDelegate) > 0)
	return p
}

// roleOf is who works on a step: what a registry had for it, or its role.
func roleOf(spec *v1alpha1.ArkRunSpec, s *v1alpha1.Step) v1alpha1.RunRole {
	for _, l := range spec.Lookups {
		if l.Step == s.ID() && len(l.Agents) > 0 {
			return v1alpha1.RunRole{Name: s.Role, Agent: l.Agents[0]}
		}
	}
	for _, r := range spec.Roles {
		if r.Name == s.Role {
			return r
		}
	}
	return v1alpha1.RunRole{Name: s.Role, Agent: s.Role}
}

// planRoute describes a routed run: the router's call, then the costliest agent that it may pick.
func (c *catalog) planRoute(spec *v1alpha1.ArkRunSpec, p PlanStep, b *bounder) PlanStep {
	router := b.agents[spec.Routing.Agent]
	if router == nil {
		return p
	}
	p.describe(router)
	choice := Bound{}
	for _, name := range candidates(spec.Routing) {
		if a := b.agents[name]; a != nil {
			bound := b.step(&v1alpha1.Step{Name: p.Name}, a, false)
			choice.Calls, choice.Tokens = max(choice.Calls, bound.Calls), max(choice.Tokens, bound.Tokens)
			choice.Unbounded = cmp.Or(choice.Unbounded, bound.Unbounded)
		}
	}
	asked := int64(framing)
	for _, capability := range spec.Routing.Capabilities {
		p.Delegates = append(p.Delegates, capability.ID)
		asked += int64(perSection + len(capability.ID) + len(capability.Description) + len(strings.Join(capability.Tags, " ")))
	}
	route := b.step(&v1alpha1.Step{Name: p.Name}, router, false)
	p.Bound = sum([]Bound{choice, {Calls: 1, Tokens: plus(route.Tokens, asked)}}, 0)
	return p
}

func candidates(r *v1alpha1.RunRouting) []string {
	found := map[string]bool{r.Fallback: true}
	for _, capability := range r.Capabilities {
		for _, a := range capability.Agents {
			found[a] = true
		}
	}
	return slices.Sorted(maps.Keys(found))
}

func (p *PlanStep) describe(a *agent) {
	p.Agent, p.Model, p.Provider = a.name, a.model, a.provider
	for _, t := range a.spec.Tools {
		p.Tools = append(p.Tools, t.Name)
	}
	if a.memory != nil {
		p.Tools = append(p.Tools, memory.ToolNames()...)
	}
}

func repeats(s *v1alpha1.Step) []string {
	var out []string
	if s.If != "" {
		out = append(out, "only if "+s.If)
	}
	if s.Loop != nil {
		out = append(out, fmt.Sprintf("again while %s, at most %d times", s.Loop.Condition, cmp.Or(s.Loop.MaxIterations, defaultLoop)))
	}
	if s.ForEach != nil {
		out = append(out, fmt.Sprintf("for each of %s, %d at once", s.ForEach.Items, cmp.Or(s.ForEach.MaxParallel, 5)))
	}
	if s.Retry != nil && s.Retry.MaxAttempts > 1 {
		out = append(out, fmt.Sprintf("up to %d attempts", s.Retry.MaxAttempts))
	}
	if s.ContinueOnError {
		out = append(out, "may fail")
	}
	return out
}

func checks(s *v1alpha1.Step) []string {
	var out []string
	if s.OutputSchema != "" {
		out = append(out, "JSON that fits the outputSchema")
	}
	v := s.Validate
	if v == nil {
		return out
	}
	if len(v.RejectPatterns) > 0 {
		out = append(out, fmt.Sprintf("none of %d patterns", len(v.RejectPatterns)))
	}
	if v.Contains != "" {
		out = append(out, fmt.Sprintf("contains %q", v.Contains))
	}
	if v.Schema != "" {
		out = append(out, "JSON that fits the schema")
	}
	if v.Semantic != "" {
		out = append(out, "judged: "+v.Semantic)
	}
	return out
}

// WriteJSON writes the plan, indented.
func (p *PlanReport) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(p); err != nil {
		return fmt.Errorf("write plan: %w", err)
	}
	return nil
}

// WriteText writes the plan for people.
func (p *PlanReport) WriteText(w io.Writer) error {
	var b strings.Builder
	if p.Team != "" {
		fmt.Fprintf(&b, "Team %s (%s)\n", p.Team, p.Mode)
	} else {
		fmt.Fprintf(&b, "Agent %s\n", p.Agent)
	}
	for i := range p.Steps {
		p.Steps[i].write(&b, i+1)
	}
	if p.Output != "" {
		fmt.Fprintf(&b, "Output: %s\n", progress.Plain(p.Output))
	}
	fmt.Fprintf(&b, "\n%s\n", p.Bound.words(p.Limit))
	for _, warning := range p.Warnings {
		fmt.Fprintf(&b, "warning: %s\n", warning)
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("write plan: %w", err)
	}
	return nil
}

func (p *PlanStep) write(b *strings.Builder, number int) {
	who := p.Agent
	if p.Team != "" {
		who = "team " + p.Team
	}
	fmt.Fprintf(b, "\n%d. %s - %s", number, p.Name, who)
	if p.Model != "" {
		fmt.Fprintf(b, " (model %s, provider %s)", p.Model, p.Provider)
	}
	b.WriteByte('\n')
	list := func(title string, items []string) {
		if len(items) > 0 {
			fmt.Fprintf(b, "   %s: %s\n", title, progress.Plain(strings.Join(items, ", ")))
		}
	}
	list("after", p.DependsOn)
	list("runs", p.Repeats)
	for _, key := range slices.Sorted(maps.Keys(p.Inputs)) {
		list("input "+key, []string{p.Inputs[key]})
	}
	list("checked", p.Checks)
	list("tools", p.Tools)
	list("may hand work to", p.Delegates)
	fmt.Fprintf(b, "   bound: %s\n", p.Bound.brief())
}

func (b Bound) brief() string {
	if b.Unbounded != "" {
		return "none - " + b.Unbounded
	}
	if b.Calls == 0 {
		return fmt.Sprintf("%d tokens", b.Tokens)
	}
	return fmt.Sprintf("%d model calls, %d tokens", b.Calls, b.Tokens)
}

// words says what a whole run can come to.
func (b Bound) words(limit int64) string {
	switch {
	case b.Unbounded != "":
		return "Token bound: none, because " + b.Unbounded + ". Set maxTokens on the team or use --max-tokens."
	case limit > 0 && b.Tokens == limit:
		return fmt.Sprintf("Token bound: %d, the limit of the run; no call is made that could pass it.", b.Tokens)
	default:
		return fmt.Sprintf("Token bound: %d in at most %d model calls.", b.Tokens, b.Calls)
	}
}
