package local

import (
	"slices"

	corev1 "k8s.io/api/core/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// catalog is what the manifests hold, by name.
type catalog struct {
	namespace  string
	agents     map[string]*v1alpha1.ArkAgent
	teams      map[string]*v1alpha1.ArkTeam
	registries map[string]*v1alpha1.ArkRegistry
	settings   map[string]*v1alpha1.ArkSettings
	configMaps map[string]*corev1.ConfigMap
	secrets    map[string]*corev1.Secret
}

// agentsOf lists the agents that a team may need, those of the teams that play its roles among them, in a fixed order.
func (c *catalog) agentsOf(team *v1alpha1.ArkTeam) []string {
	found := map[string]bool{}
	c.collect(team, found, map[string]bool{})
	out := make([]string, 0, len(found))
	for name := range found {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func (c *catalog) collect(team *v1alpha1.ArkTeam, found, seen map[string]bool) {
	if team == nil || seen[team.Name] {
		return
	}
	seen[team.Name] = true
	for i := range team.Spec.Roles {
		r := &team.Spec.Roles[i]
		switch {
		case r.ArkTeam != "":
			c.collect(c.teams[r.ArkTeam], found, seen)
		case r.ArkAgent != "":
			found[r.ArkAgent] = true
		default:
			found[v1alpha1.RoleAgentName(team.Name, r.Name)] = true
		}
	}
	indexed := team.Spec.Routing != nil
	for i := range team.Spec.Pipeline {
		if l := team.Spec.Pipeline[i].RegistryLookup; l != nil {
			indexed = true
			if l.Fallback != "" {
				found[l.Fallback] = true
			}
		}
	}
	if team.Spec.Routing != nil {
		found[v1alpha1.RouterAgentName(team.Name)] = true
	}
	if indexed { // any agent with capabilities may be picked
		for name, a := range c.agents {
			if len(a.Spec.Capabilities) > 0 {
				found[name] = true
			}
		}
	}
}
