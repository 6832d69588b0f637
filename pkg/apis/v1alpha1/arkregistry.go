package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
	// +kubebuilder:validation:Pattern=`^https?://[^\s]+$`
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
