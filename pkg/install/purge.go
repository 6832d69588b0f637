package install

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"arkonis.dev/ark/deploy"
	"arkonis.dev/ark/pkg/apis/v1alpha1"
)

// Count is how many objects of a kind there are.
type Count struct {
	Kind string
	N    int
}

// Counts returns how many objects of each of ark's kinds there are in the whole cluster, for those that have any.
func (c *Cluster) Counts(ctx context.Context) ([]Count, error) {
	definitions, err := decode(deploy.CRDs())
	if err != nil {
		return nil, err
	}
	var counts []Count
	for _, crd := range definitions {
		resource, _, _ := strings.Cut(crd.GetName(), ".")
		all, err := c.Client.Resource(v1alpha1.Resource(resource)).List(ctx, metav1.ListOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("count %s: %w", resource, err)
		}
		if n := len(all.Items); n > 0 {
			counts = append(counts, Count{Kind: resource, N: n})
		}
	}
	return counts, nil
}

// Purge removes all that Uninstall does and all that it leaves: the definitions of ark's kinds, and with them every object of
// these kinds in all namespaces and whatever belongs to it, the queue's volume, the operator's keys, and the namespace if an
// install made it. There is no way back. One that ended too early is gone on with by the next.
//
// The definitions go first, while an operator works that tells agents of each run that is gone: from then on nobody can make
// another. What belongs to agents is not left to the cluster's garbage collector, which may not have heard of kinds that
// are young, and learns nothing of those that are gone. Agents' pods go before the operator, as they have nothing to finish
// while it can tell them so; what an operator that had not heard of its agent's end made anew goes after it.
func (c *Cluster) Purge(ctx context.Context, namespace string) error {
	if err := c.helmOwns(ctx, namespace, "helm uninstall"); err != nil {
		return err
	}
	if err := c.removeDefinitions(ctx); err != nil {
		return err
	}
	if err := c.removeAgents(ctx); err != nil {
		return err
	}
	if err := c.removeOperator(ctx, namespace); err != nil {
		return err
	}
	if err := c.removeAgents(ctx); err != nil {
		return err
	}
	ns, err := c.get(ctx, resourceOf("Namespace"), "", namespace)
	if err != nil {
		return fmt.Errorf("namespace %s: %w", namespace, err)
	}
	if ns == nil {
		return nil
	}
	if ours(ns) {
		return c.remove(ctx, resourceOf("Namespace"), ns, metav1.DeletePropagationBackground)
	}
	return c.purgeForeign(ctx, namespace)
}

// removeDefinitions removes the definitions of ark's kinds, with every object: first of those that are work or make work,
// then of those that the work needs.
func (c *Cluster) removeDefinitions(ctx context.Context) error {
	definitions, err := decode(deploy.CRDs())
	if err != nil {
		return err
	}
	crds := resourceOf("CustomResourceDefinition")
	var work, rest []removal
	for _, d := range definitions {
		crd, err := c.get(ctx, crds, "", d.GetName())
		if err != nil {
			return fmt.Errorf("%s: %w", Describe(d), err)
		}
		kind, _, _ := unstructured.NestedString(d.Object, "spec", "names", "kind")
		switch {
		case crd == nil:
		case slices.Contains([]string{"ArkEvent", "ArkTeam", "ArkRun"}, kind):
			work = append(work, removal{crds, crd, metav1.DeletePropagationBackground})
		default:
			rest = append(rest, removal{crds, crd, metav1.DeletePropagationBackground})
		}
	}
	if err := c.removeAll(ctx, work); err != nil {
		return err
	}
	return c.removeAll(ctx, rest)
}

// agentSelector chooses whatever belongs to an agent's pods.
const agentSelector = v1alpha1.LabelManagedBy + "=" + v1alpha1.ManagedBy + "," + v1alpha1.LabelName + "=" + v1alpha1.NameAgent

// removeAgents removes what the operator made for agents, in all namespaces, and waits until no pod of it is left. The removal
// of all of it begins before any is waited for. What is no agent's any more, as somebody made it an orphan on purpose, stays,
// with its pods.
func (c *Cluster) removeAgents(ctx context.Context) error {
	const whole, alone = metav1.DeletePropagationForeground, metav1.DeletePropagationBackground
	foreign := map[types.UID]bool{}
	var going []removal
	for _, k := range []struct {
		resource schema.GroupVersionResource
		how      metav1.DeletionPropagation
	}{
		{schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, whole},
		{schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "replicasets"}, whole},
		{core("pods"), alone},
		{core("secrets"), alone},
		{schema.GroupVersionResource{Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"}, alone},
	} {
		all, err := c.Client.Resource(k.resource).List(ctx, metav1.ListOptions{LabelSelector: agentSelector})
		if err != nil {
			return fmt.Errorf("look for %s of agents: %w", k.resource.Resource, err)
		}
		for i := range all.Items {
			o := &all.Items[i]
			if ofAgent(o, foreign) {
				going = append(going, removal{k.resource, o, k.how})
			} else {
				foreign[o.GetUID()] = true
			}
		}
	}
	return c.removeAll(ctx, going)
}

// ofAgent says whether an object is an agent's, or that of a Deployment or ReplicaSet which was one's.
func ofAgent(o *unstructured.Unstructured, foreign map[types.UID]bool) bool {
	owner := metav1.GetControllerOf(o)
	if owner == nil {
		return false
	}
	switch owner.Kind {
	case "Deployment", "ReplicaSet":
		return !foreign[owner.UID]
	default:
		group, _, _ := strings.Cut(owner.APIVersion, "/")
		return group == v1alpha1.GroupVersion().Group
	}
}

// purgeForeign removes ark's data from a namespace that somebody else made.
func (c *Cluster) purgeForeign(ctx context.Context, namespace string) error {
	var errs []error
	for resource, labels := range map[string]string{
		"persistentvolumeclaims": podSelector,
		"secrets":                v1alpha1.LabelManagedBy + "=" + v1alpha1.ManagedBy,
	} {
		r := core(resource)
		all, err := c.of(r, namespace).List(ctx, metav1.ListOptions{LabelSelector: labels})
		if err != nil {
			errs = append(errs, fmt.Errorf("look for %s of ark: %w", resource, err))
			continue
		}
		for i := range all.Items {
			errs = append(errs, c.remove(ctx, r, &all.Items[i], metav1.DeletePropagationBackground))
		}
	}
	return errors.Join(errs...)
}
