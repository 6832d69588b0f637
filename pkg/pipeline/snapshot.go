package pipeline

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
)

// Lookup is what a team can refer to: the objects of its namespace by name. Inline roles of teams need not be among
// the agents. A nil map means that there are none.
type Lookup struct {
	Agents     map[string]*v1alpha1.ArkAgent
	Teams      map[string]*v1alpha1.ArkTeam
	Registries map[string]*v1alpha1.ArkRegistry
}

// ValidateReferences finds what a team refers to and what is not there, and teams that lead back to themselves.
func ValidateReferences(team *v1alpha1.ArkTeam, l Lookup) []Finding {
	var findings []Finding
	missing := func(path, kind, name string, names []string) {
		f := failure(path, "there is no %s %q", kind, name)
		f.Hint = oneOf(kind+"s", name, names)
		findings = append(findings, f)
	}
	spec := &team.Spec
	for i := range spec.Roles {
		r, path := &spec.Roles[i], listPath("spec.roles", i)
		if _, ok := l.Agents[r.ArkAgent]; r.ArkAgent != "" && !ok {
			missing(path+".arkAgent", "ArkAgent", r.ArkAgent, sortedKeys(l.Agents))
		}
		if _, ok := l.Teams[r.ArkTeam]; r.ArkTeam != "" && !ok && r.ArkTeam != team.Name {
			missing(path+".arkTeam", "ArkTeam", r.ArkTeam, sortedKeys(l.Teams))
		}
	}
	if ref := spec.RegistryRef; ref != nil && l.Registries[ref.Name] == nil {
		missing("spec.registryRef.name", "ArkRegistry", ref.Name, sortedKeys(l.Registries))
	}
	if r := spec.Routing; r != nil && l.Registries[r.RegistryRef.Name] == nil {
		missing("spec.routing.registryRef.name", "ArkRegistry", r.RegistryRef.Name, sortedKeys(l.Registries))
	}
	for i := range spec.Pipeline {
		findings = append(findings, missingInputs(team, i, l)...)
	}
	return append(findings, teamLoop(team, l)...)
}

// missingInputs finds what a team that plays a role requires and its step does not give.
func missingInputs(team *v1alpha1.ArkTeam, i int, l Lookup) []Finding {
	st := &team.Spec.Pipeline[i]
	r := team.Role(st.Role)
	if r == nil || l.Teams[r.ArkTeam] == nil || len(st.Inputs) == 0 {
		return nil // without inputs the step gives the run's own, which are known when there is a run
	}
	var findings []Finding
	below := l.Teams[r.ArkTeam]
	for k := range below.Spec.Inputs {
		in := &below.Spec.Inputs[k]
		_, given := st.Inputs[in.Name]
		preset, ok := below.Spec.Input[in.Name]
		if !in.Required || given || in.Default != nil || ok && !preset.IsNull() {
			continue
		}
		f := failure(stepPath(i)+".inputs", "the team %q requires the input %q, which the step does not give", below.Name, in.Name)
		f.Hint = fmt.Sprintf("add %s to the step's inputs", in.Name)
		findings = append(findings, f)
	}
	return findings
}

// teamLoop finds a chain of teams that never ends, anywhere below a team.
func teamLoop(team *v1alpha1.ArkTeam, l Lookup) []Finding {
	names, index := []string{team.Name}, map[string]int{team.Name: 0}
	var edges [][]int
	for at := 0; at < len(names); at++ {
		t := l.Teams[names[at]]
		if at == 0 {
			t = team
		}
		var out []int
		for i := range t.Spec.Roles {
			name := t.Spec.Roles[i].ArkTeam
			if name == "" || (name != team.Name && l.Teams[name] == nil) {
				continue
			}
			to, seen := index[name]
			if !seen {
				to = len(names)
				names, index[name] = append(names, name), to
			}
			out = append(out, to)
		}
		edges = append(edges, out)
	}
	cycle := findCycle(len(names), func(i int) []int { return edges[i] })
	if cycle == nil {
		return nil
	}
	path := "spec.roles"
	if cycle[0] == 0 {
		next := names[cycle[1%len(cycle)]]
		k := slices.IndexFunc(team.Spec.Roles, func(r v1alpha1.Role) bool { return r.ArkTeam == next })
		path = listPath(path, k) + ".arkTeam"
	}
	f := failure(path, "teams run each other in a circle: %s", chain(names, cycle))
	f.Hint = "let one of these roles be played by an agent"
	return []Finding{f}
}

// Snapshot makes the spec of a run of a team: what the team is now, and who plays its roles. The input must be resolved
// (ResolveInput). Nothing in the spec is shared with the team. Findings of severity error mean that the spec cannot be
// run.
func Snapshot(team *v1alpha1.ArkTeam, l Lookup, input map[string]any, trigger v1alpha1.Trigger) (v1alpha1.ArkRunSpec, []Finding) {
	findings := ValidateReferences(team, l)
	team = team.DeepCopy()
	team.SetDefaults()
	values, err := v1alpha1.NewValues(input)
	if err != nil {
		findings = append(findings, failure("input", "is not JSON: %v", err))
	}
	spec := v1alpha1.ArkRunSpec{
		TeamRef: &v1alpha1.Reference{Name: team.Name}, TeamGeneration: team.Generation, Input: values, Trigger: &trigger,
		Pipeline: team.Spec.Pipeline, Entry: team.Spec.Entry, Output: team.Spec.Output,
		TimeoutSeconds: team.Spec.TimeoutSeconds, MaxTokens: team.Spec.MaxTokens,
	}
	for i := range team.Spec.Roles {
		spec.Roles = append(spec.Roles, runRole(team, &team.Spec.Roles[i], l))
	}
	for i := range spec.Pipeline {
		if spec.Pipeline[i].RegistryLookup != nil {
			found, f := lookUp(team, i, l)
			spec.Lookups = append(spec.Lookups, found)
			findings = append(findings, f...)
		}
	}
	if team.Spec.Routing != nil {
		var f []Finding
		spec.Routing, f = runRouting(team, l)
		findings = append(findings, f...)
	}
	return spec, findings
}

func runRole(team *v1alpha1.ArkTeam, r *v1alpha1.Role, l Lookup) v1alpha1.RunRole {
	out := v1alpha1.RunRole{Name: r.Name, Agent: r.ArkAgent, Team: r.ArkTeam, CanDelegate: r.CanDelegate}
	if r.Model != "" {
		out.Agent = v1alpha1.RoleAgentName(team.Name, r.Name)
	}
	if agent := l.Agents[out.Agent]; agent != nil {
		out.AgentGeneration, out.PromptHash = agent.Generation, agent.Status.SystemPromptHash
	}
	return out
}

// indexed lists the agents that a registry offers to a team, by name. Agents of other teams are offered only when the
// registry's policy allows it; an empty registry name offers every agent.
func indexed(team *v1alpha1.ArkTeam, registry string, l Lookup) []*v1alpha1.ArkAgent {
	all := maps.Clone(l.Agents)
	if all == nil {
		all = map[string]*v1alpha1.ArkAgent{}
	}
	for i := range team.Spec.Roles {
		if agent := team.RoleAgent(&team.Spec.Roles[i]); agent != nil {
			all[agent.Name] = agent
		}
	}
	crossTeam := false
	if reg := l.Registries[registry]; reg != nil && reg.Spec.Policy != nil {
		crossTeam = reg.Spec.Policy.AllowCrossTeam
	}
	var out []*v1alpha1.ArkAgent
	for _, name := range sortedKeys(all) {
		agent := all[name]
		owner := agent.Labels[v1alpha1.LabelTeam]
		if owner != "" && owner != team.Name && !crossTeam {
			continue
		}
		if ref := agent.Spec.RegistryRef; registry == "" || ref == nil || ref.Name == registry {
			out = append(out, agent)
		}
	}
	return out
}

// lookUp resolves the registryLookup of one step.
func lookUp(team *v1alpha1.ArkTeam, i int, l Lookup) (v1alpha1.RunLookup, []Finding) {
	st := &team.Spec.Pipeline[i]
	want := st.RegistryLookup
	registry := ""
	if team.Spec.RegistryRef != nil {
		registry = team.Spec.RegistryRef.Name
	}
	out := v1alpha1.RunLookup{Step: st.ID()}
	var known []string
	for _, agent := range indexed(team, registry, l) {
		for k := range agent.Spec.Capabilities {
			c := &agent.Spec.Capabilities[k]
			known = append(known, c.ID)
			if c.ID == want.Capability && hasAll(c.Tags, want.Tags) {
				out.Agents = append(out.Agents, agent.Name)
				break
			}
		}
	}
	path := stepPath(i) + ".registryLookup"
	switch {
	case len(out.Agents) > 0:
	case want.Fallback != "":
		if agent, ok := resolveAgent(team, want.Fallback, l); ok {
			out.Agents = []string{agent}
			break
		}
		f := failure(path+".fallback", "there is no ArkAgent %q", want.Fallback)
		f.Hint = oneOf("ArkAgents", want.Fallback, sortedKeys(l.Agents))
		return out, []Finding{f}
	case team.Role(st.Role) == nil:
		slices.Sort(known)
		f := failure(path, "no agent has the capability %q%s", want.Capability, withTags(want.Tags))
		f.Hint = oneOf("capabilities", want.Capability, slices.Compact(known))
		return out, []Finding{f}
	}
	return out, nil
}

// resolveAgent finds an agent by its own name, or by the name of a role of the team.
func resolveAgent(team *v1alpha1.ArkTeam, name string, l Lookup) (string, bool) {
	if _, ok := l.Agents[name]; ok {
		return name, true
	}
	for i := range team.Spec.Roles {
		r := &team.Spec.Roles[i]
		inline := v1alpha1.RoleAgentName(team.Name, r.Name)
		switch {
		case r.Model != "" && (r.Name == name || inline == name):
			return inline, true
		case r.ArkAgent != "" && r.Name == name:
			return r.ArkAgent, true
		}
	}
	return "", false
}

func withTags(tags []string) string {
	if len(tags) == 0 {
		return ""
	}
	return fmt.Sprintf(" with the tags %s", strings.Join(tags, ", "))
}

func hasAll(tags, wanted []string) bool {
	return !slices.ContainsFunc(wanted, func(t string) bool { return !slices.Contains(tags, t) })
}

// runRouting lists what the router of a team may choose from.
func runRouting(team *v1alpha1.ArkTeam, l Lookup) (*v1alpha1.RunRouting, []Finding) {
	r := team.Spec.Routing
	out := &v1alpha1.RunRouting{Agent: v1alpha1.RouterAgentName(team.Name), Fallback: r.Fallback}
	byID := map[string]*v1alpha1.RunCapability{}
	for _, agent := range indexed(team, r.RegistryRef.Name, l) {
		if agent.Name == out.Agent {
			continue
		}
		for k := range agent.Spec.Capabilities {
			c := &agent.Spec.Capabilities[k]
			have := byID[c.ID]
			if have == nil {
				have = &v1alpha1.RunCapability{ID: c.ID}
				byID[c.ID] = have
			}
			have.Description = cmp.Or(have.Description, c.Description)
			have.Tags = union(have.Tags, c.Tags)
			if !slices.Contains(have.Agents, agent.Name) {
				have.Agents = append(have.Agents, agent.Name)
			}
		}
	}
	for _, id := range sortedKeys(byID) {
		out.Capabilities = append(out.Capabilities, *byID[id])
	}
	return out, checkRouting(team, out, l)
}

func checkRouting(team *v1alpha1.ArkTeam, out *v1alpha1.RunRouting, l Lookup) []Finding {
	var findings []Finding
	agent, fallbackIsAgent := "", false
	if out.Fallback != "" {
		agent, fallbackIsAgent = resolveAgent(team, out.Fallback, l)
	}
	known := slices.ContainsFunc(out.Capabilities, func(c v1alpha1.RunCapability) bool { return c.ID == out.Fallback })
	if fallbackIsAgent && !known {
		out.Fallback = agent
	}
	if out.Fallback != "" && !known && !fallbackIsAgent {
		f := failure("spec.routing.fallback", "%q is neither a capability of the registry %q nor an ArkAgent", out.Fallback, team.Spec.Routing.RegistryRef.Name)
		var ids []string
		for i := range out.Capabilities {
			ids = append(ids, out.Capabilities[i].ID)
		}
		f.Hint = oneOf("capabilities", out.Fallback, ids)
		findings = append(findings, f)
	}
	if len(out.Capabilities) == 0 && !fallbackIsAgent {
		f := failure("spec.routing.registryRef.name", "the registry %q lists no capability that the router could choose", team.Spec.Routing.RegistryRef.Name)
		f.Hint = "give an ArkAgent capabilities"
		findings = append(findings, f)
	}
	return findings
}

func union(a, b []string) []string {
	for _, t := range b {
		if !slices.Contains(a, t) {
			a = append(a, t)
		}
	}
	return a
}
