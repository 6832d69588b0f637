package kube

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"sync"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// Cache is every kind that the operator watches. Of namespaces, Secrets and ConfigMaps it has the metadata; of the kinds of
// Kubernetes that ark itself makes, only those that carry ark's label.
type Cache struct {
	Agents     *Informer[*v1alpha1.ArkAgent]
	Teams      *Informer[*v1alpha1.ArkTeam]
	Runs       *Informer[*v1alpha1.ArkRun]
	Events     *Informer[*v1alpha1.ArkEvent]
	Services   *Informer[*v1alpha1.ArkService]
	Memories   *Informer[*v1alpha1.ArkMemory]
	Settings   *Informer[*v1alpha1.ArkSettings]
	Notifies   *Informer[*v1alpha1.ArkNotify]
	Registries *Informer[*v1alpha1.ArkRegistry]

	Namespaces *Informer[*metav1.PartialObjectMetadata] // those that are watched, or all
	Secrets    *Informer[*metav1.PartialObjectMetadata]
	ConfigMaps *Informer[*metav1.PartialObjectMetadata]

	Deployments     *Informer[*appsv1.Deployment]
	Pods            *Informer[*corev1.Pod]
	NetworkPolicies *Informer[*networkingv1.NetworkPolicy]

	running []runner
	spaces  metadata.ResourceInterface // namespaces, for Gone
}

type runner interface {
	run(ctx context.Context, log *slog.Logger)
	synced() []cache.InformerSynced
	name() string
}

// lister is what all typed clients have.
type lister[L runtime.Object] interface {
	List(ctx context.Context, opts metav1.ListOptions) (L, error)
	Watch(ctx context.Context, opts metav1.ListOptions) (watch.Interface, error)
}

// from makes a source of a typed client; selector may be empty. A namespace that is not there any more, or is being
// removed, has taken the rights in it along: it has nothing then, so that others are looked after all the same.
func from[L runtime.Object](selector string, of func(namespace string) lister[L], gone func(context.Context, string) bool) func(string) source {
	return func(namespace string) source {
		c := of(namespace)
		return source{
			list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.LabelSelector = selector
				all, err := c.List(ctx, o)
				if apierrors.IsForbidden(err) && namespace != metav1.NamespaceAll && gone(ctx, namespace) {
					return reflect.New(reflect.TypeFor[L]().Elem()).Interface().(L), nil
				}
				return all, err
			},
			watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.LabelSelector = selector
				return c.Watch(ctx, o)
			},
		}
	}
}

// NewCache makes the informers of some namespaces, or of all when none is named. They start with Run.
func NewCache(c *Clients, namespaces []string) (*Cache, error) {
	k := &Cache{spaces: c.Metadata.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"})}
	own := v1alpha1.LabelManagedBy + "=" + v1alpha1.ManagedBy
	secrets := schema.GroupVersionResource{Version: "v1", Resource: "secrets"}
	configMaps := schema.GroupVersionResource{Version: "v1", Resource: "configmaps"}
	errs := []error{
		addNamespaces(k, c, namespaces),
		add(k, &k.Agents, "ArkAgent", namespaces, "", &v1alpha1.ArkAgent{}, nil, func(ns string) lister[*v1alpha1.ArkAgentList] { return c.Agents(ns) }),
		add(k, &k.Teams, "ArkTeam", namespaces, "", &v1alpha1.ArkTeam{}, nil, func(ns string) lister[*v1alpha1.ArkTeamList] { return c.Teams(ns) }),
		add(k, &k.Runs, "ArkRun", namespaces, "", &v1alpha1.ArkRun{}, slimRun, func(ns string) lister[*v1alpha1.ArkRunList] { return c.Runs(ns) }),
		add(k, &k.Events, "ArkEvent", namespaces, "", &v1alpha1.ArkEvent{}, slimEvent, func(ns string) lister[*v1alpha1.ArkEventList] { return c.Events(ns) }),
		add(k, &k.Services, "ArkService", namespaces, "", &v1alpha1.ArkService{}, nil, func(ns string) lister[*v1alpha1.ArkServiceList] { return c.Services(ns) }),
		add(k, &k.Memories, "ArkMemory", namespaces, "", &v1alpha1.ArkMemory{}, nil, func(ns string) lister[*v1alpha1.ArkMemoryList] { return c.Memories(ns) }),
		add(k, &k.Settings, "ArkSettings", namespaces, "", &v1alpha1.ArkSettings{}, nil, func(ns string) lister[*v1alpha1.ArkSettingsList] { return c.Settings(ns) }),
		add(k, &k.Notifies, "ArkNotify", namespaces, "", &v1alpha1.ArkNotify{}, nil, func(ns string) lister[*v1alpha1.ArkNotifyList] { return c.Notifies(ns) }),
		add(k, &k.Registries, "ArkRegistry", namespaces, "", &v1alpha1.ArkRegistry{}, nil, func(ns string) lister[*v1alpha1.ArkRegistryList] { return c.Registries(ns) }),

		add(k, &k.Secrets, "Secret", namespaces, "", &metav1.PartialObjectMetadata{}, slimMetadata, func(ns string) lister[*metav1.PartialObjectMetadataList] {
			return c.Metadata.Resource(secrets).Namespace(ns)
		}),
		add(k, &k.ConfigMaps, "ConfigMap", namespaces, "", &metav1.PartialObjectMetadata{}, slimMetadata, func(ns string) lister[*metav1.PartialObjectMetadataList] {
			return c.Metadata.Resource(configMaps).Namespace(ns)
		}),

		add(k, &k.Deployments, "Deployment", namespaces, own, &appsv1.Deployment{}, nil, func(ns string) lister[*appsv1.DeploymentList] { return c.Core.AppsV1().Deployments(ns) }),
		add(k, &k.Pods, "Pod", namespaces, own, &corev1.Pod{}, slimPod, func(ns string) lister[*corev1.PodList] { return c.Core.CoreV1().Pods(ns) }),
		add(k, &k.NetworkPolicies, "NetworkPolicy", namespaces, own, &networkingv1.NetworkPolicy{}, nil, func(ns string) lister[*networkingv1.NetworkPolicyList] {
			return c.Core.NetworkingV1().NetworkPolicies(ns)
		}),
	}
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return k, nil
}

func add[T Object, L runtime.Object](k *Cache, to **Informer[T], kind string, namespaces []string, selector string, example T, slim func(T), of func(string) lister[L]) error {
	i, err := newInformer(kind, namespaces, example, from(selector, of, k.Gone), slim)
	if err != nil {
		return err
	}
	*to = i
	k.running = append(k.running, i)
	return nil
}

func named(name string) string { return fields.OneTermEqualSelector("metadata.name", name).String() }

// addNamespaces adds the informer of the namespaces themselves. They are in no namespace: each one is found by its name.
func addNamespaces(k *Cache, c *Clients, namespaces []string) error {
	all := c.Metadata.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"})
	i, err := newInformer("Namespace", namespaces, &metav1.PartialObjectMetadata{}, func(name string) source {
		selector := ""
		if name != metav1.NamespaceAll {
			selector = named(name)
		}
		return source{
			list: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
				o.FieldSelector = selector
				return all.List(ctx, o)
			},
			watch: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
				o.FieldSelector = selector
				return all.Watch(ctx, o)
			},
		}
	}, slimMetadata)
	if err != nil {
		return err
	}
	k.Namespaces = i
	k.running = append(k.running, i)
	return nil
}

// Gone asks the API server whether a namespace is not there any more, or is being removed. The rights in it go with it:
// what may not be read there is nothing then.
func (k *Cache) Gone(ctx context.Context, namespace string) bool {
	found, err := k.spaces.List(ctx, metav1.ListOptions{FieldSelector: named(namespace)})
	return err == nil && (len(found.Items) == 0 || found.Items[0].DeletionTimestamp != nil)
}

// Missing says whether the error of a read means that an object is not there: neither it, or not even its namespace.
func (k *Cache) Missing(ctx context.Context, namespace string, err error) bool {
	return apierrors.IsNotFound(err) || apierrors.IsForbidden(err) && k.Gone(ctx, namespace)
}

// Run watches until the context ends. synced is called once, when everything that is there has been seen; when the
// context ends before, it is not called.
func (k *Cache) Run(ctx context.Context, log *slog.Logger, synced func()) {
	var group sync.WaitGroup
	var all []cache.InformerSynced
	for _, r := range k.running {
		group.Go(func() { r.run(ctx, log) })
		all = append(all, r.synced()...)
	}
	if cache.WaitForCacheSync(ctx.Done(), all...) {
		synced()
	}
	group.Wait()
}

// Unsynced names the kinds that were not seen whole yet.
func (k *Cache) Unsynced() []string {
	var kinds []string
	for _, r := range k.running {
		for _, s := range r.synced() {
			if !s() {
				kinds = append(kinds, r.name())
				break
			}
		}
	}
	return kinds
}

// slimMetadata keeps what tells a version from another one.
func slimMetadata(o *metav1.PartialObjectMetadata) {
	o.Annotations = nil
}

// slimPod keeps what says which agent a pod is of and how it is.
func slimPod(p *corev1.Pod) {
	p.Annotations = nil
	spec := corev1.PodSpec{NodeName: p.Spec.NodeName}
	for _, c := range p.Spec.Containers {
		spec.Containers = append(spec.Containers, corev1.Container{Name: c.Name, Image: c.Image})
	}
	p.Spec = spec
}

// slimRun keeps of a run that has ended whose it is, which trigger made it, how it ended and when. There may be many
// thousands of them. Who wants to know more asks the API server.
func slimRun(r *v1alpha1.ArkRun) {
	if !r.Status.Phase.Terminal() {
		return
	}
	r.TypeMeta, r.Labels, r.Annotations = metav1.TypeMeta{}, nil, nil
	r.OwnerReferences = append([]metav1.OwnerReference(nil), r.OwnerReferences...) // no larger than it is
	r.Spec = v1alpha1.ArkRunSpec{TeamRef: r.Spec.TeamRef, AgentRef: r.Spec.AgentRef, Trigger: r.Spec.Trigger, Parent: r.Spec.Parent}
	r.Status = v1alpha1.ArkRunStatus{Phase: r.Status.Phase, CompletionTime: r.Status.CompletionTime}
}

// slimEvent keeps of a manual event that has fired, or was refused, what decides when it is removed.
func slimEvent(e *v1alpha1.ArkEvent) {
	if e.Spec.Source.Type != v1alpha1.EventManual || e.Status.FiredCount+e.Status.SkippedCount == 0 {
		return
	}
	e.TypeMeta, e.Annotations = metav1.TypeMeta{}, nil
	e.Spec = v1alpha1.ArkEventSpec{Source: v1alpha1.EventSource{Type: v1alpha1.EventManual}}
	e.Status = v1alpha1.ArkEventStatus{FiredCount: e.Status.FiredCount, SkippedCount: e.Status.SkippedCount}
}

// Describe is how messages name an object.
func Describe(kind, namespace, name string) string {
	return fmt.Sprintf("%s %s/%s", kind, namespace, name)
}
