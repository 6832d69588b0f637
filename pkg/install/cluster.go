package install

import (
	"context"
	"fmt"
	"io"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// FieldManager is the name under which an install owns fields.
const FieldManager = "ark-install"

// Labels by which an install knows its objects.
const (
	labelPartOf    = "app.kubernetes.io/part-of"
	labelManagedBy = "app.kubernetes.io/managed-by"
	podSelector    = "app.kubernetes.io/name=ark,app.kubernetes.io/component=operator"
	selector       = podSelector + "," + labelPartOf + "=ark"
)

// Cluster is a cluster to install into. What is done to each object is written to Out, a line an object.
type Cluster struct {
	Client dynamic.Interface
	Out    io.Writer
}

func (c *Cluster) say(what, done string) { fmt.Fprintf(c.Out, "%s %s\n", what, done) }

func (c *Cluster) of(r schema.GroupVersionResource, namespace string) dynamic.ResourceInterface {
	if namespace == "" {
		return c.Client.Resource(r)
	}
	return c.Client.Resource(r).Namespace(namespace)
}

// get returns an object, nil when there is none.
func (c *Cluster) get(ctx context.Context, r schema.GroupVersionResource, namespace, name string) (*unstructured.Unstructured, error) {
	o, err := c.of(r, namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return o, err
}

// until waits for what a condition says of one object; the condition gets nil while there is none.
func (c *Cluster) until(ctx context.Context, r schema.GroupVersionResource, namespace, name string, done func(*unstructured.Unstructured) bool) error {
	only := fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
	client := c.of(r, namespace)
	lw := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = only
			return client.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = only
			return client.Watch(ctx, o)
		},
	}
	there := func(store cache.Store) (bool, error) {
		for _, item := range store.List() {
			if o, ok := item.(*unstructured.Unstructured); ok {
				return done(o), nil
			}
		}
		return done(nil), nil
	}
	changed := func(e watch.Event) (bool, error) {
		o, ok := e.Object.(*unstructured.Unstructured)
		if !ok || e.Type == watch.Deleted {
			return done(nil), nil
		}
		return done(o), nil
	}
	_, err := watchtools.UntilWithSync(ctx, lw, &unstructured.Unstructured{}, there, changed)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// helmOwns refuses to touch an ark that Helm installed.
func (c *Cluster) helmOwns(ctx context.Context, namespace, instead string) error {
	for _, resource := range []schema.GroupVersionResource{resourceOf("StatefulSet"), {Group: "apps", Version: "v1", Resource: "deployments"}} {
		o, err := c.get(ctx, resource, namespace, "ark")
		if apierrors.IsForbidden(err) {
			return fmt.Errorf("look for ark in namespace %s: %w; to install or remove ark takes the rights of a cluster's administrator", namespace, err)
		}
		if err != nil {
			return fmt.Errorf("look for ark in namespace %s: %w", namespace, err)
		}
		if o != nil && o.GetLabels()[labelManagedBy] == "Helm" {
			return fmt.Errorf("ark in namespace %s was installed by Helm: use %s", namespace, instead)
		}
	}
	return nil
}

// ours says whether an object was applied by an install.
func ours(o *unstructured.Unstructured) bool {
	for _, f := range o.GetManagedFields() {
		if f.Manager == FieldManager && f.Operation == metav1.ManagedFieldsOperationApply {
			return true
		}
	}
	return false
}
