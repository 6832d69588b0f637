package local

import (
	"cmp"
	"slices"
	"strconv"
	"strings"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm/mock"
	"arkonis.dev/ark/pkg/manifest"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/runner"
)

// Finding is something in manifests that is wrong, or that somebody should look at.
type Finding struct {
	manifest.Finding
	Warning bool
}

// Validate finds everything about loaded manifests that can be known without running them: graphs, templates, schemas,
// references, prompts, settings and tools. The findings stand in the order of their places.
func Validate(set *manifest.Set) []Finding {
	v := &validation{set: set, catalogs: map[string]*catalog{}}
	for _, t := range set.Teams {
		v.team(t)
	}
	for _, a := range set.Agents {
		v.agent(v.catalog(a.Namespace), a, func(message string, warning bool) {
			v.add(set.Finding(a, "", message, ""), warning)
		})
	}
	slices.SortStableFunc(v.found, func(a, b Finding) int { return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line)) })
	return slices.Compact(v.found)
}

type validation struct {
	set      *manifest.Set
	catalogs map[string]*catalog
	found    []Finding
}

func (v *validation) add(f manifest.Finding, warning bool) {
	v.found = append(v.found, Finding{Finding: f, Warning: warning})
}

func (v *validation) catalog(namespace string) *catalog {
	namespace = cmp.Or(namespace, defaultNamespace)
	if v.catalogs[namespace] == nil {
		v.catalogs[namespace] = newCatalog(v.set, namespace)
	}
	return v.catalogs[namespace]
}

func (v *validation) team(t *v1alpha1.ArkTeam) {
	c := v.catalog(t.Namespace)
	found := pipeline.ValidateTeam(t, runner.Engine())
	// The input is not known yet: what a run would be made of is looked at without it.
	_, more := pipeline.Snapshot(t, c.lookup(), nil, v1alpha1.Trigger{})
	for _, f := range append(found, more...) {
		v.add(v.set.Finding(t, f.Path, f.Message, f.Hint), f.Severity == pipeline.SeverityWarning)
	}
	for _, own := range ownAgents(t) {
		path := rolePath(t, own.Labels[v1alpha1.LabelRole])
		v.agent(c, own, func(message string, warning bool) {
			v.add(v.set.Finding(t, path, message, ""), warning)
		})
		if c.agents[own.Name].Labels[v1alpha1.LabelTeam] != t.Name {
			v.add(v.set.Finding(t, path, "its agent needs the name "+own.Name+", which another ArkAgent has", "rename one of them"), false)
		}
	}
}

// agent finds what is wrong with an agent whatever environment it runs in.
func (v *validation) agent(c *catalog, object *v1alpha1.ArkAgent, report func(message string, warning bool)) {
	a, problems := c.resolve(object, override{}, func(string) string { return "" })
	_, more := newEquipment(c, mock.Script{}, true).tools(a)
	for _, p := range append(problems, more...) {
		// Secrets and ConfigMaps may be where the agent will run.
		report(strings.TrimPrefix(p, "ArkAgent "+object.Name+": "), strings.HasSuffix(p, notInFiles))
	}
}

// rolePath is where a role stands in its team.
func rolePath(t *v1alpha1.ArkTeam, role string) string {
	for i := range t.Spec.Roles {
		if t.Spec.Roles[i].Name == role {
			return "spec.roles[" + strconv.Itoa(i) + "]"
		}
	}
	return "spec.routing"
}
