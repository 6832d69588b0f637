// Package teamspec takes the snapshot of a team for a run: the team, what it refers to, and the input, all as they are at
// that moment. Everything that makes an ArkRun goes through it.
package teamspec

import (
	"context"
	"fmt"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/runner"
)

// Refusal is why a team cannot run: a reason of a condition, and a sentence that says what to do.
type Refusal struct{ Reason, Message string }

// Snapshot makes the spec of a run of a team. The cache is asked first. What it does not have or would refuse is looked
// at once more in the API server itself: the cache may be behind what was applied a moment ago.
func Snapshot(ctx context.Context, cache *kube.Cache, clients *kube.Clients, namespace, name string, input map[string]any, trigger v1alpha1.Trigger) (*v1alpha1.ArkRunSpec, *Refusal, error) {
	if team, ok := cache.Teams.Get(namespace, name); ok {
		if spec, wrong := Make(team, Lookup(cache, namespace), input, trigger); wrong == nil {
			return spec, nil, nil
		}
	}
	team, err := clients.Teams(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, &Refusal{v1alpha1.ReasonTeamNotFound, fmt.Sprintf("there is no ArkTeam %q in the namespace %s", name, namespace)}, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read team %s: %w", name, err)
	}
	l, err := read(ctx, clients, namespace)
	if err != nil {
		return nil, nil, err
	}
	spec, wrong := Make(team, l, input, trigger)
	return spec, wrong, nil
}

// Make makes the spec of a run of a team; it is pure. Nothing in the spec is shared with the team.
func Make(team *v1alpha1.ArkTeam, l pipeline.Lookup, input map[string]any, trigger v1alpha1.Trigger) (*v1alpha1.ArkRunSpec, *Refusal) {
	switch {
	case team.DeletionTimestamp != nil:
		return nil, &Refusal{v1alpha1.ReasonTeamNotFound, fmt.Sprintf("the ArkTeam %q is being removed", team.Name)}
	case team.Spec.Suspend:
		return nil, &Refusal{v1alpha1.ReasonSuspended, fmt.Sprintf("the ArkTeam %q is suspended: set spec.suspend to false", team.Name)}
	}
	if wrong := refuse(v1alpha1.ReasonInvalidSpec, pipeline.ValidateTeam(team, runner.Engine())); wrong != nil {
		return nil, wrong
	}
	values, found := pipeline.ResolveInput(team, input)
	if wrong := refuse(v1alpha1.ReasonInvalidInput, found); wrong != nil {
		return nil, wrong
	}
	spec, found := pipeline.Snapshot(team, l, values, trigger)
	if wrong := refuse(v1alpha1.ReasonReferenceNotFound, found); wrong != nil {
		return nil, wrong
	}
	return &spec, nil
}

func refuse(reason string, found []pipeline.Finding) *Refusal {
	var texts []string
	for _, f := range found {
		if f.Severity != pipeline.SeverityWarning {
			texts = append(texts, f.String())
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return &Refusal{reason, strings.Join(texts, "; ")}
}

// Lookup is what a team of a namespace can refer to, as the cache has it.
func Lookup(cache *kube.Cache, namespace string) pipeline.Lookup {
	return pipeline.Lookup{
		Agents: byName(cache.Agents.In(namespace)), Teams: byName(cache.Teams.In(namespace)), Registries: byName(cache.Registries.In(namespace)),
	}
}

func read(ctx context.Context, c *kube.Clients, namespace string) (l pipeline.Lookup, err error) {
	agents, err := c.Agents(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return l, fmt.Errorf("list agents: %w", err)
	}
	teams, err := c.Teams(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return l, fmt.Errorf("list teams: %w", err)
	}
	registries, err := c.Registries(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return l, fmt.Errorf("list registries: %w", err)
	}
	return pipeline.Lookup{Agents: byName(pointers(agents.Items)), Teams: byName(pointers(teams.Items)), Registries: byName(pointers(registries.Items))}, nil
}

func pointers[T any](list []T) []*T {
	out := make([]*T, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

func byName[T metav1.Object](list []T) map[string]T {
	out := make(map[string]T, len(list))
	for _, o := range list {
		out[o.GetName()] = o
	}
	return out
}
