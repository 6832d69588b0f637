package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ArkService lets requests from outside reach agents.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=asvc,categories=ark
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Agent",type=string,JSONPath=`.spec.selector.arkAgent`
// +kubebuilder:printcolumn:name="Strategy",type=string,JSONPath=`.spec.routing.strategy`
// +kubebuilder:printcolumn:name="Ready",type=integer,JSONPath=`.status.readyReplicas`
// +kubebuilder:printcolumn:name="URL",type=string,JSONPath=`.status.url`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",message="metadata.name also names a Service: it must start with a letter, hold only lower case letters, digits and hyphens, and not be longer than 63 characters"
type ArkService struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is who can be reached, and how.
	// +required
	Spec ArkServiceSpec `json:"spec"`
	// Status is what was last seen; ark writes it.
	// +optional
	Status ArkServiceStatus `json:"status,omitzero"`
}

// ArkServiceList is a list of ArkServices.
//
// +kubebuilder:object:root=true
type ArkServiceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ArkService `json:"items"`
}

// ArkServiceSpec is who can be reached, and how.
type ArkServiceSpec struct {
	// Selector says which agents the requests go to.
	Selector ServiceSelector `json:"selector"`
	// Routing says which of them gets a request.
	// +kubebuilder:default={}
	// +optional
	Routing *ServiceRouting `json:"routing,omitempty"`
	// Ports that are listened on.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=port
	Ports []ServicePort `json:"ports"`
	// Auth of callers: a bearer token, or nothing.
	// +kubebuilder:default=bearer
	// +optional
	Auth ServiceAuth `json:"auth,omitempty"`
	// TokenSecretRef names the Secret and the key that hold the bearer token. Without it, it is the key token of the
	// Secret <service>-token, which ark makes.
	// +optional
	TokenSecretRef *KeyReference `json:"tokenSecretRef,omitempty"`
}

// ServiceSelector says which agents the requests go to.
// +kubebuilder:validation:XValidation:rule="[has(self.arkAgent), has(self.matchLabels), has(self.arkTeam)].filter(x, x).size() == 1",message="selector needs exactly one of arkAgent, matchLabels and arkTeam"
type ServiceSelector struct {
	// ArkAgent names one agent.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +optional
	ArkAgent string `json:"arkAgent,omitempty"`
	// MatchLabels selects ArkAgents by their labels.
	// +kubebuilder:validation:MinProperties=1
	// +kubebuilder:validation:MaxProperties=32
	// +optional
	MatchLabels map[string]string `json:"matchLabels,omitempty"`
	// ArkTeam names a team with an entry; its entry role gets the requests.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +optional
	ArkTeam string `json:"arkTeam,omitempty"`
}

// ServiceRouting says which agent gets a request.
type ServiceRouting struct {
	// Strategy to choose among the agents.
	// +kubebuilder:default=round-robin
	// +optional
	Strategy RoutingStrategy `json:"strategy,omitempty"`
}

// RoutingStrategy is a way to choose among agents.
// +kubebuilder:validation:Enum=round-robin;least-busy;random
type RoutingStrategy string

const (
	StrategyRoundRobin RoutingStrategy = "round-robin"
	StrategyLeastBusy  RoutingStrategy = "least-busy"
	StrategyRandom     RoutingStrategy = "random"
)

// ServicePort is a port that is listened on.
type ServicePort struct {
	// Protocol that is spoken: plain HTTP and OpenAI's chat completions, or A2A.
	Protocol ServiceProtocol `json:"protocol"`
	// Port of the Service.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	Port int32 `json:"port"`
}

// ServiceProtocol is what is spoken on a port.
// +kubebuilder:validation:Enum=HTTP;A2A
type ServiceProtocol string

const (
	ProtocolHTTP ServiceProtocol = "HTTP"
	ProtocolA2A  ServiceProtocol = "A2A"
)

// ServiceAuth is how callers show who they are.
// +kubebuilder:validation:Enum=bearer;none
type ServiceAuth string

const (
	ServiceBearer ServiceAuth = "bearer"
	ServiceOpen   ServiceAuth = "none"
)

// ArkServiceStatus is what was last seen of a service.
type ArkServiceStatus struct {
	// ObservedGeneration is the generation of the spec that the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions of the service: Ready.
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// ReadyReplicas is the number of pods that answer.
	// +optional
	ReadyReplicas int32 `json:"readyReplicas"`
	// URL in the cluster.
	// +kubebuilder:validation:MaxLength=2048
	// +optional
	URL string `json:"url,omitempty"`
}

// ArkRegistry lists what the agents of a namespace, or of the cluster, can do.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=areg,path=arkregistries,categories=ark
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Scope",type=string,JSONPath=`.spec.scope`
// +kubebuilder:printcolumn:name="Agents",type=integer,JSONPath=`.status.indexedAgents`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name must not be longer than 63 characters"
type ArkRegistry struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what the registry shall list.
	// +kubebuilder:default={}
	// +optional
	Spec ArkRegistrySpec `json:"spec,omitzero"`
	// Status is what it lists; ark writes it.
	// +optional
	Status ArkRegistryStatus `json:"status,omitzero"`
}

// ArkRegistryList is a list of ArkRegistries.
//
// +kubebuilder:object:root=true
type ArkRegistryList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ArkRegistry `json:"items"`
}

// ArkRegistrySpec is what a registry shall list.
type ArkRegistrySpec struct {
	// Scope of the registry: the agents of its own namespace, or those of the whole cluster.
	// +kubebuilder:default=namespace-scoped
	// +optional
	Scope RegistryScope `json:"scope,omitempty"`
	// Policy of who may use what is listed.
	// +kubebuilder:default={}
	// +optional
	Policy *RegistryPolicy `json:"policy,omitempty"`
	// MCPBindings are the tool servers that give capabilities.
	// +kubebuilder:validation:MaxItems=128
	// +listType=map
	// +listMapKey=capabilityId
	// +optional
	MCPBindings []MCPBinding `json:"mcpBindings,omitempty"`
}

// RegistryScope is what a registry lists.
// +kubebuilder:validation:Enum=namespace-scoped;cluster-wide
type RegistryScope string

const (
	ScopeNamespace RegistryScope = "namespace-scoped"
	ScopeCluster   RegistryScope = "cluster-wide"
)

// RegistryPolicy says who may use what is listed.
type RegistryPolicy struct {
	// MaxDepth is how deep work may be handed on.
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=20
	// +optional
	MaxDepth int32 `json:"maxDepth,omitempty"`
	// AllowCrossTeam lets a team use the inline agents of another one.
	// +kubebuilder:default=false
	// +optional
	AllowCrossTeam bool `json:"allowCrossTeam,omitempty"`
}

// MCPBinding says which tool server gives a capability.
type MCPBinding struct {
	// CapabilityID is the id of the capability.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	CapabilityID string `json:"capabilityId"`
	// URL of the tool server.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^https?://.`
	URL string `json:"url"`
}

// ArkRegistryStatus is what a registry lists.
type ArkRegistryStatus struct {
	// ObservedGeneration is the generation of the spec that the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions of the registry: Ready.
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// IndexedAgents is the number of agents that are listed.
	// +optional
	IndexedAgents int32 `json:"indexedAgents"`
	// Capabilities and who has them.
	// +kubebuilder:validation:MaxItems=1024
	// +listType=map
	// +listMapKey=id
	// +optional
	Capabilities []RunCapability `json:"capabilities,omitempty"`
	// Fleet is every agent that is listed.
	// +kubebuilder:validation:MaxItems=1024
	// +listType=atomic
	// +optional
	Fleet []FleetAgent `json:"fleet,omitempty"`
}

// FleetAgent is one agent of a registry.
type FleetAgent struct {
	// Name of the ArkAgent.
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// Namespace of the ArkAgent.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// Team that made the agent for a role.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Team string `json:"team,omitempty"`
	// Model of the agent.
	// +kubebuilder:validation:MaxLength=256
	// +optional
	Model string `json:"model,omitempty"`
	// ReadyReplicas is the number of its pods that take tasks.
	// +optional
	ReadyReplicas int32 `json:"readyReplicas"`
	// Capabilities of the agent.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=128
	// +listType=set
	// +optional
	Capabilities []string `json:"capabilities,omitempty"`
}
