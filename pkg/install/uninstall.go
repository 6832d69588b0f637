package install

import (
	"context"
	"fmt"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"arkonis.dev/ark/pkg/apis/data"
	"arkonis.dev/ark/pkg/apis/v1alpha1"
)

// Uninstall has the operator cancel the runs that are live, and removes the operator, its rights, its Services and the
// certificates that it made for the API which it served; it waits until the operator's pod is gone. The definitions of ark's
// kinds, all objects of these kinds, and the namespace with the queue's volume and the operator's keys stay: a later install
// goes on with them. Without an operator nothing is left that could keep any of them from being deleted.
//
// For the ends of runs it waits for half of the time that the context has, and not where no operator works. It returns the
// names of those, as namespace/name, that are live without an operator: they are marked as cancelled, and the next operator
// ends them before they cost anything.
func (c *Cluster) Uninstall(ctx context.Context, namespace string) (unended []string, err error) {
	if err := c.helmOwns(ctx, namespace, "helm uninstall"); err != nil {
		return nil, err
	}
	if err := c.endRuns(ctx, namespace); err != nil {
		return nil, err
	}
	if err := c.removeOperator(ctx, namespace); err != nil {
		return nil, err
	}
	return c.markRuns(ctx)
}

// removeOperator removes what an install consists of, but for the definitions and the namespace.
func (c *Cluster) removeOperator(ctx context.Context, namespace string) error {
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
	secrets := core("secrets")
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
	if err := c.beginRemoval(ctx, r, o, how); err != nil {
		return err
	}
	return c.untilGone(ctx, r, o)
}

func (c *Cluster) beginRemoval(ctx context.Context, r schema.GroupVersionResource, o *unstructured.Unstructured, how metav1.DeletionPropagation) error {
	uid := o.GetUID()
	err := c.of(r, o.GetNamespace()).Delete(ctx, o.GetName(), metav1.DeleteOptions{
		PropagationPolicy: &how, Preconditions: &metav1.Preconditions{UID: &uid},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) { // it is gone, or is another one
		return fmt.Errorf("remove %s: %w", place(o), err)
	}
	return nil
}

func (c *Cluster) untilGone(ctx context.Context, r schema.GroupVersionResource, o *unstructured.Unstructured) error {
	err := c.until(ctx, r, o.GetNamespace(), o.GetName(), func(now *unstructured.Unstructured) bool {
		return now == nil || now.GetUID() != o.GetUID()
	})
	if err != nil {
		return fmt.Errorf("%s is being removed, but is not gone yet%s: %w; run the command again to go on", place(o), c.holders(context.WithoutCancel(ctx), r, o), err)
	}
	c.say(place(o), "removed")
	return nil
}

// removal is what is to be removed, and how.
type removal struct {
	resource schema.GroupVersionResource
	object   *unstructured.Unstructured
	how      metav1.DeletionPropagation
}

// removeAll deletes objects, all of them before it waits until each is gone.
func (c *Cluster) removeAll(ctx context.Context, all []removal) error {
	for _, r := range all {
		if err := c.beginRemoval(ctx, r.resource, r.object, r.how); err != nil {
			return err
		}
	}
	for _, r := range all {
		if err := c.untilGone(ctx, r.resource, r.object); err != nil {
			return err
		}
	}
	return nil
}

// place describes an object and says where it is.
func place(o *unstructured.Unstructured) string {
	if o.GetNamespace() == "" {
		return Describe(o)
	}
	return Describe(o) + " in " + o.GetNamespace()
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
