package install

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
)

// ErrNotReady says that the operator was not ready in time.
var ErrNotReady = errors.New("the operator is not ready")

const dryRunNote = " (server dry run)"

// Install applies the objects and removes those of an earlier install that are not among them. It returns when the API
// server serves ark's kinds and has the rest; with dryRun nothing is stored.
func (c *Cluster) Install(ctx context.Context, s Settings, dryRun bool) error {
	objects, err := Objects(s)
	if err != nil {
		return err
	}
	if err := c.helmOwns(ctx, s.Namespace, "helm upgrade"); err != nil {
		return err
	}
	namespace, err := c.get(ctx, resourceOf("Namespace"), "", s.Namespace)
	if err != nil {
		return fmt.Errorf("namespace %s: %w", s.Namespace, err)
	}
	if namespace != nil && namespace.GetDeletionTimestamp() != nil {
		return fmt.Errorf("namespace %s is being deleted: wait until it is gone", s.Namespace)
	}
	established := dryRun
	for _, o := range objects {
		if o.GetKind() != "CustomResourceDefinition" && !established {
			established = true
			if err := c.waitEstablished(ctx, objects); err != nil {
				return err
			}
		}
		switch {
		case o.GetKind() == "Namespace" && namespace != nil && !ours(namespace):
			c.say(Describe(o), "is there already and stays as it is")
		case dryRun && namespace == nil && o.GetNamespace() == s.Namespace:
			c.say(Describe(o), "not checked: its namespace is not there yet")
		default:
			if err := c.apply(ctx, o, dryRun); err != nil {
				return err
			}
		}
	}
	return c.prune(ctx, objects, dryRun)
}

func (c *Cluster) apply(ctx context.Context, o *unstructured.Unstructured, dryRun bool) error {
	k, err := kindOf(o)
	if err != nil {
		return err
	}
	before, err := c.get(ctx, k.resource, o.GetNamespace(), o.GetName())
	if err != nil {
		return fmt.Errorf("%s: %w", Describe(o), err)
	}
	body, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("%s: %w", Describe(o), err)
	}
	force := true
	options := metav1.PatchOptions{FieldManager: FieldManager, Force: &force}
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	after, err := c.of(k.resource, o.GetNamespace()).Patch(ctx, o.GetName(), types.ApplyPatchType, body, options)
	if err != nil {
		return c.applyError(o, err)
	}
	c.say(place(o), outcome(before, after, dryRun))
	return nil
}

func outcome(before, after *unstructured.Unstructured, dryRun bool) string {
	done := "changed"
	switch {
	case before == nil:
		done = "created"
	case before.GetResourceVersion() == after.GetResourceVersion():
		done = "unchanged"
	}
	if dryRun {
		done += dryRunNote
	}
	return done
}

func (c *Cluster) applyError(o *unstructured.Unstructured, err error) error {
	switch {
	case apierrors.IsInvalid(err) && o.GetKind() == "StatefulSet":
		return fmt.Errorf("%s: %w\nthe volume of an installed ark cannot be changed: give the --storage-class and --storage-size that it was installed with, or run ark uninstall first (the volume stays)", Describe(o), err)
	case apierrors.IsForbidden(err):
		return fmt.Errorf("%s: %w\ninstalling takes the rights of a cluster administrator", Describe(o), err)
	case apierrors.IsNotFound(err) && o.GetNamespace() != "":
		return fmt.Errorf("%s: namespace %s does not exist: create it first", Describe(o), o.GetNamespace())
	}
	return fmt.Errorf("%s: %w", Describe(o), err)
}

func (c *Cluster) waitEstablished(ctx context.Context, objects []*unstructured.Unstructured) error {
	for _, o := range objects {
		if o.GetKind() != "CustomResourceDefinition" {
			continue
		}
		if err := c.until(ctx, resourceOf(o.GetKind()), "", o.GetName(), established); err != nil {
			return fmt.Errorf("%s: the API server does not serve it yet: %w", Describe(o), err)
		}
	}
	return nil
}

func established(crd *unstructured.Unstructured) bool {
	if crd == nil {
		return false
	}
	conditions, _, _ := unstructured.NestedSlice(crd.Object, "status", "conditions")
	for _, condition := range conditions {
		if m, ok := condition.(map[string]any); ok && m["type"] == "Established" {
			return m["status"] == "True"
		}
	}
	return false
}

// prune removes objects of an earlier install that this one does not have: rights in namespaces that are not watched any
// more, before all.
func (c *Cluster) prune(ctx context.Context, objects []*unstructured.Unstructured, dryRun bool) error {
	keep := map[string]bool{}
	for _, o := range objects {
		keep[Describe(o)+" "+o.GetNamespace()] = true
	}
	var options metav1.DeleteOptions
	if dryRun {
		options.DryRun = []string{metav1.DryRunAll}
	}
	for _, k := range kinds() {
		all, err := c.Client.Resource(k.resource).List(ctx, metav1.ListOptions{LabelSelector: selector})
		if err != nil {
			return fmt.Errorf("look for %s of an earlier install: %w", k.resource.Resource, err)
		}
		for i := range all.Items {
			o := &all.Items[i]
			if keep[Describe(o)+" "+o.GetNamespace()] || !ours(o) {
				continue
			}
			if err := c.of(k.resource, o.GetNamespace()).Delete(ctx, o.GetName(), options); err != nil && !apierrors.IsNotFound(err) {
				return fmt.Errorf("remove %s of an earlier install: %w", Describe(o), err)
			}
			done := "removed"
			if dryRun {
				done += dryRunNote
			}
			c.say(Describe(o), done)
		}
	}
	return nil
}

// Wait returns when the operator is ready: all of its pods are those of the last install and pass their probe. It ends with
// ErrNotReady, and with what is known of the pods, when the context does before.
func (c *Cluster) Wait(ctx context.Context, namespace string) error {
	err := c.until(ctx, resourceOf("StatefulSet"), namespace, "ark", ready)
	if err == nil {
		c.say("ark", "is ready")
		return nil
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %s", ErrNotReady, c.podStates(context.WithoutCancel(ctx), namespace))
	}
	return fmt.Errorf("wait for the operator: %w", err)
}

func ready(o *unstructured.Unstructured) bool {
	if o == nil {
		return false
	}
	number := func(path ...string) int64 {
		n, _, _ := unstructured.NestedInt64(o.Object, path...)
		return n
	}
	replicas := number("spec", "replicas")
	return number("status", "observedGeneration") >= o.GetGeneration() &&
		number("status", "updatedReplicas") == replicas && number("status", "readyReplicas") == replicas
}
