// Package kube is ark's way to the Kubernetes API: configuration as kubectl reads it, typed clients for ark's kinds,
// informers, and server-side apply that writes only what differs.
//
// Everything here is safe for concurrent use. Objects that an informer returns are shared: they are never changed, only
// copied.
package kube

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/gentype"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// FieldManager is the name under which ark's operator owns fields.
const FieldManager = "ark"

// Clients are the clients of one API server.
type Clients struct {
	Config   *rest.Config
	Core     kubernetes.Interface // the kinds of Kubernetes itself
	Metadata metadata.Interface   // metadata of objects whose contents are read only when they are needed

	ark    rest.Interface
	params runtime.ParameterCodec
}

// NewClients makes clients of a configuration.
func NewClients(c *rest.Config) (*Clients, error) {
	core, err := kubernetes.NewForConfig(c)
	if err != nil {
		return nil, fmt.Errorf("kubernetes client: %w", err)
	}
	meta, err := metadata.NewForConfig(c)
	if err != nil {
		return nil, fmt.Errorf("metadata client: %w", err)
	}
	scheme := runtime.NewScheme()
	if err := v1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("scheme of ark's kinds: %w", err)
	}
	own := rest.CopyConfig(c)
	gv := v1alpha1.GroupVersion()
	own.GroupVersion, own.APIPath = &gv, "/apis"
	own.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	ark, err := rest.RESTClientFor(own)
	if err != nil {
		return nil, fmt.Errorf("client of ark's kinds: %w", err)
	}
	return &Clients{Config: c, Core: core, Metadata: meta, ark: ark, params: runtime.NewParameterCodec(scheme)}, nil
}

// Client reads and writes one of ark's kinds in one namespace, or in all when that is "".
type Client[T Object, L runtime.Object] = gentype.ClientWithList[T, L]

func client[T Object, L runtime.Object](c *Clients, resource, namespace string, object func() T, list func() L) *Client[T, L] {
	return gentype.NewClientWithList(resource, c.ark, c.params, namespace, object, list)
}

// Agents are the ArkAgents of a namespace.
func (c *Clients) Agents(namespace string) *Client[*v1alpha1.ArkAgent, *v1alpha1.ArkAgentList] {
	return client(c, "arkagents", namespace,
		func() *v1alpha1.ArkAgent { return &v1alpha1.ArkAgent{} }, func() *v1alpha1.ArkAgentList { return &v1alpha1.ArkAgentList{} })
}

// Teams are the ArkTeams of a namespace.
func (c *Clients) Teams(namespace string) *Client[*v1alpha1.ArkTeam, *v1alpha1.ArkTeamList] {
	return client(c, "arkteams", namespace,
		func() *v1alpha1.ArkTeam { return &v1alpha1.ArkTeam{} }, func() *v1alpha1.ArkTeamList { return &v1alpha1.ArkTeamList{} })
}

// Runs are the ArkRuns of a namespace.
func (c *Clients) Runs(namespace string) *Client[*v1alpha1.ArkRun, *v1alpha1.ArkRunList] {
	return client(c, "arkruns", namespace,
		func() *v1alpha1.ArkRun { return &v1alpha1.ArkRun{} }, func() *v1alpha1.ArkRunList { return &v1alpha1.ArkRunList{} })
}

// Events are the ArkEvents of a namespace.
func (c *Clients) Events(namespace string) *Client[*v1alpha1.ArkEvent, *v1alpha1.ArkEventList] {
	return client(c, "arkevents", namespace,
		func() *v1alpha1.ArkEvent { return &v1alpha1.ArkEvent{} }, func() *v1alpha1.ArkEventList { return &v1alpha1.ArkEventList{} })
}

// Services are the ArkServices of a namespace.
func (c *Clients) Services(namespace string) *Client[*v1alpha1.ArkService, *v1alpha1.ArkServiceList] {
	return client(c, "arkservices", namespace,
		func() *v1alpha1.ArkService { return &v1alpha1.ArkService{} }, func() *v1alpha1.ArkServiceList { return &v1alpha1.ArkServiceList{} })
}

// Memories are the ArkMemories of a namespace.
func (c *Clients) Memories(namespace string) *Client[*v1alpha1.ArkMemory, *v1alpha1.ArkMemoryList] {
	return client(c, "arkmemories", namespace,
		func() *v1alpha1.ArkMemory { return &v1alpha1.ArkMemory{} }, func() *v1alpha1.ArkMemoryList { return &v1alpha1.ArkMemoryList{} })
}

// Settings are the ArkSettings of a namespace.
func (c *Clients) Settings(namespace string) *Client[*v1alpha1.ArkSettings, *v1alpha1.ArkSettingsList] {
	return client(c, "arksettings", namespace,
		func() *v1alpha1.ArkSettings { return &v1alpha1.ArkSettings{} }, func() *v1alpha1.ArkSettingsList { return &v1alpha1.ArkSettingsList{} })
}

// Notifies are the ArkNotifies of a namespace.
func (c *Clients) Notifies(namespace string) *Client[*v1alpha1.ArkNotify, *v1alpha1.ArkNotifyList] {
	return client(c, "arknotifies", namespace,
		func() *v1alpha1.ArkNotify { return &v1alpha1.ArkNotify{} }, func() *v1alpha1.ArkNotifyList { return &v1alpha1.ArkNotifyList{} })
}

// Registries are the ArkRegistries of a namespace.
func (c *Clients) Registries(namespace string) *Client[*v1alpha1.ArkRegistry, *v1alpha1.ArkRegistryList] {
	return client(c, "arkregistries", namespace,
		func() *v1alpha1.ArkRegistry { return &v1alpha1.ArkRegistry{} }, func() *v1alpha1.ArkRegistryList { return &v1alpha1.ArkRegistryList{} })
}
