package local

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/mock"
	"arkonis.dev/ark/pkg/manifest"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/runner"
)

// prepared is a run that can start: everything is resolved and checked.
type prepared struct {
	catalog  *catalog
	spec     v1alpha1.ArkRunSpec
	agents   map[string]*agent
	outfits  []outfit // of the agents
	warnings []string
}

// problems gathers what is wrong, so that all of it is told at once.
type problems struct {
	set      *manifest.Set // nil for manifests that come from a store
	errors   []string
	warnings []string
}

func (p *problems) add(texts ...string) { p.errors = append(p.errors, texts...) }

// findings takes over what the engine found wrong with a team or its input.
func (p *problems) findings(team *v1alpha1.ArkTeam, found []pipeline.Finding) {
	for _, f := range found {
		text := p.place(team, f)
		if f.Severity == pipeline.SeverityWarning {
			p.warnings = append(p.warnings, text)
		} else {
			p.add(text)
		}
	}
}

func (p *problems) place(team *v1alpha1.ArkTeam, f pipeline.Finding) string {
	text := f.Message
	if f.Hint != "" {
		text += " (" + f.Hint + ")"
	}
	if name, ok := strings.CutPrefix(f.Path, "input."); ok {
		return fmt.Sprintf("input %s of team %s: %s", name, team.Name, text)
	}
	if p.set != nil && p.set.Locate(team, "") != "" {
		return p.set.Finding(team, f.Path, f.Message, f.Hint).String()
	}
	return fmt.Sprintf("ArkTeam/%s: %s: %s", team.Name, f.Path, text)
}

func (p *problems) err() error {
	if len(p.errors) == 0 {
		return nil
	}
	return &ConfigError{Problems: p.errors}
}

// prepare resolves what the options ask for.
func prepare(o *Options) (*prepared, error) {
	script, err := parseScript(cmp.Or(o.MockScriptName, "mock script"), o.MockScript)
	if err != nil {
		return nil, err
	}
	team, agent, err := choose(o)
	if err != nil {
		return nil, err
	}
	p := &problems{set: o.Manifests}
	var spec v1alpha1.ArkRunSpec
	var c *catalog
	if team != nil {
		c = newCatalog(o.Manifests, cmp.Or(team.Namespace, defaultNamespace))
		spec = c.teamSpec(team, o, p)
	} else {
		c = newCatalog(o.Manifests, cmp.Or(agent.Namespace, defaultNamespace))
		spec, err = agentSpec(agent, o.Input)
		if err != nil {
			return nil, err
		}
	}
	p.add(c.conflicts()...)
	if o.MaxTokens > 0 && (spec.MaxTokens == 0 || o.MaxTokens < spec.MaxTokens) {
		spec.MaxTokens = o.MaxTokens
	}
	return c.equipRun(spec, override{Model: o.Model, Provider: o.Provider}, script, o, p)
}

// parseScript reads a mock script; no text is no script.
func parseScript(name string, text []byte) (mock.Script, error) {
	if len(text) == 0 {
		return mock.Script{}, nil
	}
	script, err := mock.ParseScript(name, text)
	if err != nil {
		return mock.Script{}, &ConfigError{Problems: strings.Split(err.Error(), "\n")}
	}
	return script, nil
}

// agentProblems gathers what is wrong with agents: what several of them lack, such as a key, is told once.
type agentProblems struct {
	what  []string
	who   map[string][]string // by what is wrong with them
	other []string            // about no agent that there is
}

func (f *agentProblems) add(agent string, texts []string) {
	for _, text := range texts {
		what, ok := strings.CutPrefix(text, "ArkAgent "+agent+": ")
		if !ok {
			f.other = append(f.other, text)
			continue
		}
		if f.who[what] == nil {
			f.what = append(f.what, what)
		}
		f.who[what] = append(f.who[what], agent)
	}
}

// agents takes over what is wrong with agents, each at the place of the first one that has it.
func (p *problems) agents(c *catalog, found agentProblems) {
	p.add(found.other...)
	for _, what := range found.what {
		who := found.who[what]
		text := "ArkAgent " + who[0] + ": " + what
		if len(who) > 1 {
			text = "ArkAgents " + strings.Join(who, ", ") + ": " + what
		}
		if place := p.agentPlace(c, who[0]); place != "" {
			text = place + ": " + text
		}
		p.add(text)
	}
}

// agentPlace is where an agent, or the role that it is made of, stands in the files.
func (p *problems) agentPlace(c *catalog, name string) string {
	object := c.agents[name]
	if p.set == nil || object == nil {
		return ""
	}
	if place := p.set.Locate(object, ""); place != "" {
		return place
	}
	if team := c.teams[object.Labels[v1alpha1.LabelTeam]]; team != nil {
		return p.set.Locate(team, rolePath(team, object.Labels[v1alpha1.LabelRole]))
	}
	return ""
}

// equipRun resolves the agents of a run and gives them their providers and tools.
func (c *catalog) equipRun(spec v1alpha1.ArkRunSpec, over override, script mock.Script, o *Options, p *problems) (*prepared, error) {
	out := &prepared{catalog: c, spec: spec, agents: map[string]*agent{}}
	e := newEquipment(c, script, o.NoMCP)
	found := agentProblems{who: map[string][]string{}}
	for _, name := range c.agentsOf(&spec) {
		a, wrong := c.agent(name, over, o.Getenv)
		found.add(name, wrong)
		if a == nil {
			continue
		}
		outfit, wrong := e.outfit(a)
		found.add(name, wrong)
		p.warnings = append(p.warnings, a.warnings...)
		out.agents[name] = a
		out.outfits = append(out.outfits, outfit)
	}
	p.agents(c, found)
	if len(o.MockScript) > 0 && !e.models.Used(llm.Mock) && len(p.errors) == 0 {
		p.warnings = append(p.warnings, "--mock-script is not used, as no agent has the provider mock: add --provider mock")
	}
	c.setPromptHashes(out)
	out.warnings = p.warnings
	return out, p.err()
}

// setPromptHashes notes the composed prompts in the agents, as an operator does, and in the run's snapshot.
func (c *catalog) setPromptHashes(p *prepared) {
	for name, a := range p.agents {
		object := c.agents[name].DeepCopy()
		object.Status.SystemPromptHash = a.resolved.PromptHash
		c.agents[name] = object
	}
	for i := range p.spec.Roles {
		if a := p.agents[p.spec.Roles[i].Agent]; a != nil {
			p.spec.Roles[i].PromptHash = a.resolved.PromptHash
		}
	}
}

// choose finds the team or agent to run. Exactly one is returned.
func choose(o *Options) (*v1alpha1.ArkTeam, *v1alpha1.ArkAgent, error) {
	teams, agents := map[string]*v1alpha1.ArkTeam{}, map[string]*v1alpha1.ArkAgent{}
	for _, t := range o.Manifests.Teams {
		teams[t.Name] = t
	}
	for _, a := range o.Manifests.Agents {
		agents[a.Name] = a
	}
	agents = withInlineAgents(agents, teams)
	switch {
	case o.Team != "":
		if t := teams[o.Team]; t != nil {
			return t, nil, nil
		}
		return nil, nil, configErrorf("ArkTeam %q (--team) is not among the manifests; there are: %s", o.Team, names(teams))
	case o.Agent != "":
		if a := agents[o.Agent]; a != nil {
			return nil, a, nil
		}
		return nil, nil, configErrorf("ArkAgent %q (--agent) is not among the manifests; there are: %s", o.Agent, names(agents))
	}
	if roots := rootTeams(teams); len(roots) == 1 {
		return roots[0], nil, nil
	}
	switch {
	case len(teams) == 1: // it plays a role in itself, which is told when it is checked
		return slices.Collect(maps.Values(teams))[0], nil, nil
	case len(teams) > 1:
		return nil, nil, configErrorf("the manifests hold %d teams (%s): name one with --team", len(teams), names(teams))
	case len(agents) == 1:
		return nil, agents[slices.Collect(maps.Keys(agents))[0]], nil
	case len(agents) > 1:
		return nil, nil, configErrorf("the manifests hold no team and %d agents (%s): name one with --agent", len(agents), names(agents))
	default:
		return nil, nil, configErrorf("the manifests hold neither an ArkTeam nor an ArkAgent: there is nothing to run")
	}
}

// rootTeams are the teams that play no role in another one.
func rootTeams(teams map[string]*v1alpha1.ArkTeam) []*v1alpha1.ArkTeam {
	used := map[string]bool{}
	for _, t := range teams {
		for i := range t.Spec.Roles {
			used[t.Spec.Roles[i].ArkTeam] = true
		}
	}
	var out []*v1alpha1.ArkTeam
	for _, t := range sorted(teams) {
		if !used[t.Name] {
			out = append(out, t)
		}
	}
	return out
}

// teamSpec is the spec of a run of a team, with everything that is wrong with it in p.
func (c *catalog) teamSpec(team *v1alpha1.ArkTeam, o *Options, p *problems) v1alpha1.ArkRunSpec {
	if team.Spec.Suspend {
		p.warnings = append(p.warnings, fmt.Sprintf("ArkTeam %s is suspended; that holds for its triggers in a cluster, not here", team.Name))
	}
	for _, t := range c.teamsOf(team) {
		p.findings(t, pipeline.ValidateTeam(t, runner.Engine()))
	}
	input, found := pipeline.ResolveInput(team, o.Input)
	p.findings(team, found)
	spec, found := pipeline.Snapshot(team, c.lookup(), input, v1alpha1.Trigger{Kind: v1alpha1.TriggerLocal})
	p.findings(team, found)
	return spec
}

// agentSpec is the spec of a run of one agent.
func agentSpec(a *v1alpha1.ArkAgent, input map[string]any) (v1alpha1.ArkRunSpec, error) {
	const key = "prompt"
	prompt, ok := input[key].(string)
	if !ok || prompt == "" {
		return v1alpha1.ArkRunSpec{}, configErrorf("agent %s needs a prompt: give it with --input prompt=TEXT", a.Name)
	}
	for name := range input {
		if name != key {
			return v1alpha1.ArkRunSpec{}, configErrorf("input %s: an agent takes only the input prompt; name a team with --team to use others", name)
		}
	}
	return v1alpha1.ArkRunSpec{
		AgentRef: &v1alpha1.Reference{Name: a.Name}, Prompt: prompt, Trigger: &v1alpha1.Trigger{Kind: v1alpha1.TriggerLocal},
	}, nil
}

// snapshot is the spec of a child run, and what is wrong with its input or its team.
func (c *catalog) snapshot(team *v1alpha1.ArkTeam, values map[string]any, trigger v1alpha1.Trigger) (v1alpha1.ArkRunSpec, []string) {
	p := &problems{}
	input, found := pipeline.ResolveInput(team, values)
	p.findings(team, found)
	spec, found := pipeline.Snapshot(team, c.lookup(), input, trigger)
	p.findings(team, found)
	return spec, p.errors
}
