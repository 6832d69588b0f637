package local

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/manifest"
	"arkonis.dev/ark/pkg/pipeline"
)

// catalog is what the manifests of one namespace hold, by name. Among the agents are those that teams make of their
// inline roles and routers.
type catalog struct {
	namespace  string
	agents     map[string]*v1alpha1.ArkAgent
	teams      map[string]*v1alpha1.ArkTeam
	registries map[string]*v1alpha1.ArkRegistry
	settings   map[string]*v1alpha1.ArkSettings
	memories   map[string]*v1alpha1.ArkMemory
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
}

// defaultNamespace is the namespace of objects that name none.
const defaultNamespace = "default"

// newCatalog takes the objects of a namespace; those that name none belong to every one.
func newCatalog(set *manifest.Set, namespace string) *catalog {
	return &catalog{
		namespace:  namespace,
		agents:     withInlineAgents(byName(set.Agents, namespace), byName(set.Teams, namespace)),
		teams:      byName(set.Teams, namespace),
		registries: byName(set.Registries, namespace),
		settings:   byName(set.Settings, namespace),
		memories:   byName(set.Memories, namespace),
		configMaps: byName(set.ConfigMaps, namespace),
		secrets:    byName(set.Secrets, namespace),
	}
}

func byName[T metav1.Object](objects []T, namespace string) map[string]T {
	out := make(map[string]T, len(objects))
	for _, o := range objects {
		if ns := o.GetNamespace(); ns == "" || ns == namespace {
			out[o.GetName()] = o
		}
	}
	return out
}

// withInlineAgents adds the agents that teams make. One of the same name that is there already stays: see conflicts.
func withInlineAgents(agents map[string]*v1alpha1.ArkAgent, teams map[string]*v1alpha1.ArkTeam) map[string]*v1alpha1.ArkAgent {
	for _, name := range slices.Sorted(maps.Keys(teams)) {
		for _, a := range ownAgents(teams[name]) {
			if agents[a.Name] == nil {
				agents[a.Name] = a
			}
		}
	}
	return agents
}

// ownAgents are the agents that a team makes, with defaults.
func ownAgents(team *v1alpha1.ArkTeam) []*v1alpha1.ArkAgent {
	var out []*v1alpha1.ArkAgent
	for i := range team.Spec.Roles {
		if a := team.RoleAgent(&team.Spec.Roles[i]); a != nil {
			out = append(out, a)
		}
	}
	if a := team.RouterAgent(); a != nil {
		out = append(out, a)
	}
	for _, a := range out {
		a.SetDefaults()
	}
	return out
}

// conflicts finds agents whose name a team needs for an agent of its own.
func (c *catalog) conflicts() (problems []string) {
	for _, name := range slices.Sorted(maps.Keys(c.teams)) {
		for _, own := range ownAgents(c.teams[name]) {
			if c.agents[own.Name].Labels[v1alpha1.LabelTeam] != name {
				problems = append(problems, fmt.Sprintf("ArkAgent %s: team %s needs this name for the agent of its role %s: rename one of them",
					own.Name, name, own.Labels[v1alpha1.LabelRole]))
			}
		}
	}
	return problems
}

// lookup is the catalog as the engine sees it.
func (c *catalog) lookup() pipeline.Lookup {
	return pipeline.Lookup{Agents: c.agents, Teams: c.teams, Registries: c.registries}
}

// teamsOf lists a team and all that play roles in it, however deep.
func (c *catalog) teamsOf(team *v1alpha1.ArkTeam) []*v1alpha1.ArkTeam {
	out := []*v1alpha1.ArkTeam{team}
	for i := 0; i < len(out); i++ {
		for k := range out[i].Spec.Roles {
			below := c.teams[out[i].Spec.Roles[k].ArkTeam]
			if below != nil && !slices.Contains(out, below) {
				out = append(out, below)
			}
		}
	}
	return out
}

// agentsOf lists the agents that a run may need, in a fixed order: those of its roles, of what a registry found, of
// its router, and those of the teams below it.
func (c *catalog) agentsOf(spec *v1alpha1.ArkRunSpec) []string {
	found := map[string]bool{}
	if spec.AgentRef != nil {
		found[spec.AgentRef.Name] = true
	}
	c.addAgents(found, spec)
	if spec.TeamRef != nil && c.teams[spec.TeamRef.Name] != nil {
		for _, team := range c.teamsOf(c.teams[spec.TeamRef.Name])[1:] {
			// Who plays the roles of a team does not depend on its input.
			below, _ := pipeline.Snapshot(team, c.lookup(), nil, v1alpha1.Trigger{})
			c.addAgents(found, &below)
		}
	}
	delete(found, "")
	return slices.Sorted(maps.Keys(found))
}

func (c *catalog) addAgents(found map[string]bool, spec *v1alpha1.ArkRunSpec) {
	for _, r := range spec.Roles {
		found[r.Agent] = true
	}
	for _, l := range spec.Lookups {
		for _, a := range l.Agents {
			found[a] = true
		}
	}
	if r := spec.Routing; r != nil {
		found[r.Agent] = true
		for _, capability := range r.Capabilities {
			for _, a := range capability.Agents {
				found[a] = true
			}
		}
		if c.agents[r.Fallback] != nil {
			found[r.Fallback] = true
		}
	}
}

// stored is the catalog as it is kept with a run: everything but Secrets.
type stored struct {
	Namespace  string                  `json:"namespace"`
	Agents     []*v1alpha1.ArkAgent    `json:"agents,omitempty"`
	Teams      []*v1alpha1.ArkTeam     `json:"teams,omitempty"`
	Registries []*v1alpha1.ArkRegistry `json:"registries,omitempty"`
	Settings   []*v1alpha1.ArkSettings `json:"settings,omitempty"`
	Memories   []*v1alpha1.ArkMemory   `json:"memories,omitempty"`
	ConfigMaps []*corev1.ConfigMap     `json:"configMaps,omitempty"`
}

// MarshalJSON writes everything but the Secrets.
func (c *catalog) MarshalJSON() ([]byte, error) {
	return json.Marshal(stored{
		Namespace: c.namespace, Agents: sorted(c.agents), Teams: sorted(c.teams), Registries: sorted(c.registries),
		Settings: sorted(c.settings), Memories: sorted(c.memories), ConfigMaps: sorted(c.configMaps),
	})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (c *catalog) UnmarshalJSON(text []byte) error {
	var s stored
	if err := json.Unmarshal(text, &s); err != nil {
		return err
	}
	*c = *newCatalog(&manifest.Set{
		Agents: s.Agents, Teams: s.Teams, Registries: s.Registries, Settings: s.Settings, Memories: s.Memories, ConfigMaps: s.ConfigMaps,
	}, cmp.Or(s.Namespace, defaultNamespace))
	return nil
}

func sorted[T any](m map[string]T) []T {
	out := make([]T, 0, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[name])
	}
	return out
}
