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

	"arkonis.dev/ark/deploy"
	"arkonis.dev/ark/pkg/apis/data"
	"arkonis.dev/ark/pkg/apis/v1alpha1"
)

// Uninstall removes the operator, its rights, its Services and the certificates that it made for the API which it served, and
// waits until its pod is gone. The definitions of ark's
// kinds, all objects of these kinds, and the namespace with the queue's volume and the operator's keys stay: a later install
// goes on with them. Without an operator nothing is left that could keep any of them from being deleted.
func (c *Cluster) Uninstall(ctx context.Context, namespace string) error {
	if err := c.helmOwns(ctx, namespace, "helm uninstall"); err != nil {
		return err
	}
	for _, k := range slices.Backward(kinds()) { // an API that nobody serves, and who would make things anew, go first
		switch k.kind {
		case "CustomResourceDefinition", "Namespace":
			continue
		}
		if err := c.removeKind(ctx, k); err != nil {
			return err
		}
	}
	return c.removeCertificates(ctx, namespace)
}

// removeCertificates removes what the operator made for the aggregated API, which nobody serves any more.
func (c *Cluster) removeCertificates(ctx context.Context, namespace string) error {
	secrets := schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	keys, err := c.get(ctx, secrets, namespace, data.KeysSecret)
	if err != nil {
		return fmt.Errorf("secret %s: %w", data.KeysSecret, err)
	}
	if keys == nil || keys.GetLabels()[v1alpha1.LabelManagedBy] != v1alpha1.ManagedBy {
		return nil
	}
	return c.remove(ctx, secrets, keys, metav1.DeletePropagationBackground)
}

func (c *Cluster) removeKind(ctx context.Context, k kind) error {
	all, err := c.Client.Resource(k.resource).List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return fmt.Errorf("look for %s of ark: %w", k.resource.Resource, err)
	}
	for i := range all.Items {
		o := &all.Items[i]
		if o.GetLabels()[labelManagedBy] == "Helm" {
			continue
		}
		if err := c.remove(ctx, k.resource, o, k.removal()); err != nil {
			return err
		}
	}
	return nil
}

// remove deletes an object and waits until it is gone, and with it what it owns.
func (c *Cluster) remove(ctx context.Context, r schema.GroupVersionResource, o *unstructured.Unstructured, how metav1.DeletionPropagation) error {
	uid := o.GetUID()
	err := c.of(r, o.GetNamespace()).Delete(ctx, o.GetName(), metav1.DeleteOptions{
		PropagationPolicy: &how, Preconditions: &metav1.Preconditions{UID: &uid},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove %s: %w", Describe(o), err)
	}
	err = c.until(ctx, r, o.GetNamespace(), o.GetName(), func(now *unstructured.Unstructured) bool {
		return now == nil || now.GetUID() != uid
	})
	if err != nil {
		return fmt.Errorf("%s is being removed, but is not gone yet%s: %w", Describe(o), c.holders(context.WithoutCancel(ctx), r, o), err)
	}
	c.say(Describe(o), "removed")
	return nil
}

// holders names what keeps an object from going.
func (c *Cluster) holders(ctx context.Context, r schema.GroupVersionResource, o *unstructured.Unstructured) string {
	ctx, cancel := context.WithTimeout(ctx, podsTimeout)
	defer cancel()
	now, err := c.get(ctx, r, o.GetNamespace(), o.GetName())
	if err != nil || now == nil {
		return ""
	}
	conditions, _, _ := unstructured.NestedSlice(now.Object, "status", "conditions")
	var why []string
	for _, item := range conditions {
		condition, _ := item.(map[string]any)
		kind, _ := condition["type"].(string)
		if text, _ := condition["message"].(string); condition["status"] == "True" && (kind == "Terminating" || strings.HasPrefix(kind, "Namespace")) {
			why = append(why, text)
		}
	}
	if finalizers := now.GetFinalizers(); len(finalizers) > 0 {
		why = append(why, "it waits for "+strings.Join(finalizers, ", "))
	}
	if len(why) == 0 {
		return ""
	}
	return " (" + strings.Join(why, "; ") + ")"
}

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

// Purge removes what Uninstall leaves: the definitions of ark's kinds, and with them every object of these kinds in all
// namespaces and whatever belongs to it, the queue's volume, the operator's keys, and the namespace if an install made it.
// There is no way back.
func (c *Cluster) Purge(ctx context.Context, namespace string) error {
	definitions, err := decode(deploy.CRDs())
	if err != nil {
		return err
	}
	for _, d := range definitions {
		crd, err := c.get(ctx, resourceOf("CustomResourceDefinition"), "", d.GetName())
		if err != nil {
			return fmt.Errorf("%s: %w", Describe(d), err)
		}
		if crd == nil {
			continue
		}
		if err := c.remove(ctx, resourceOf("CustomResourceDefinition"), crd, metav1.DeletePropagationBackground); err != nil {
			return err
		}
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

// purgeForeign removes ark's data from a namespace that somebody else made.
func (c *Cluster) purgeForeign(ctx context.Context, namespace string) error {
	var errs []error
	for resource, labels := range map[string]string{
		"persistentvolumeclaims": podSelector,
		"secrets":                v1alpha1.LabelManagedBy + "=" + v1alpha1.ManagedBy,
	} {
		r := schema.GroupVersionResource{Version: "v1", Resource: resource}
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
