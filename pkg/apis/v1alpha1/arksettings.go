package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ArkSettings is what several agents share: how the model is asked, and pieces of the system prompt.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=aset,path=arksettings,categories=ark
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name must not be longer than 63 characters"
type ArkSettings struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what is shared.
	// +kubebuilder:default={}
	// +optional
	Spec ArkSettingsSpec `json:"spec,omitzero"`
	// Status is what was last seen; ark writes it.
	// +optional
	Status ArkSettingsStatus `json:"status,omitzero"`
}

// ArkSettingsList is a list of ArkSettings.
//
// +kubebuilder:object:root=true
type ArkSettingsList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ArkSettings `json:"items"`
}

// ArkSettingsSpec is what several agents share.
type ArkSettingsSpec struct {
	// Temperature of the model, from 0 to 2, as text.
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:Pattern=`^([01](\.[0-9]+)?|2(\.0+)?)$`
	// +optional
	Temperature string `json:"temperature,omitempty"`
	// TopP of the model, from 0 to 1, as text.
	// +kubebuilder:validation:MaxLength=16
	// +kubebuilder:validation:Pattern=`^(0(\.[0-9]+)?|1(\.0+)?)$`
	// +optional
	TopP string `json:"topP,omitempty"`
	// OutputFormat of answers: structured-json, markdown, plain, or a description in words.
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	OutputFormat string `json:"outputFormat,omitempty"`
	// MemoryBackend of agents without memoryRef.
	// +optional
	MemoryBackend MemoryBackend `json:"memoryBackend,omitempty"`
	// PromptFragments are pieces of the system prompt by name. persona is prepended; all others are appended,
	// outputRules last.
	// +kubebuilder:validation:MaxProperties=32
	// +optional
	PromptFragments map[string]string `json:"promptFragments,omitempty"`
	// Fragments are pieces of the system prompt in the order given.
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	// +optional
	Fragments []Fragment `json:"fragments,omitempty"`
	// Security of tool servers.
	// +optional
	Security *SecuritySettings `json:"security,omitempty"`
}

// Fragment is a piece of a system prompt.
type Fragment struct {
	// Name of the fragment.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Name string `json:"name"`
	// Text of the fragment.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=65536
	Text string `json:"text"`
	// Position before or after the agent's own prompt.
	// +kubebuilder:default=append
	// +optional
	Position FragmentPosition `json:"position,omitempty"`
}

// FragmentPosition is where a fragment stands.
// +kubebuilder:validation:Enum=prepend;append
type FragmentPosition string

const (
	FragmentPrepend FragmentPosition = "prepend"
	FragmentAppend  FragmentPosition = "append"
)

// SecuritySettings bound which tool servers may be used.
type SecuritySettings struct {
	// MCPAllowlist are the beginnings of the only URLs that tool servers may have. Empty means any.
	// +kubebuilder:validation:MaxItems=128
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=2048
	// +listType=set
	// +optional
	MCPAllowlist []string `json:"mcpAllowlist,omitempty"`
	// RequireMCPAuth refuses tool servers without auth.
	// +optional
	RequireMCPAuth bool `json:"requireMCPAuth,omitempty"`
}

// ArkSettingsStatus is what was last seen of settings.
type ArkSettingsStatus struct {
	// ObservedGeneration is the generation of the spec that the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions of the settings: Ready.
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// ArkMemory is where agents remember between tasks.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=am,path=arkmemories,categories=ark
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Backend",type=string,JSONPath=`.spec.backend`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name must not be longer than 63 characters"
type ArkMemory struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is how things are remembered.
	// +kubebuilder:default={}
	// +optional
	Spec ArkMemorySpec `json:"spec,omitzero"`
	// Status is what was last seen; ark writes it.
	// +optional
	Status ArkMemoryStatus `json:"status,omitzero"`
}

// ArkMemoryList is a list of ArkMemories.
//
// +kubebuilder:object:root=true
type ArkMemoryList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ArkMemory `json:"items"`
}

// ArkMemorySpec is how things are remembered. The block must match the backend.
// +kubebuilder:validation:XValidation:rule="!has(self.nats) || !has(self.backend) || self.backend == 'nats'",message="nats goes with backend nats"
// +kubebuilder:validation:XValidation:rule="(has(self.backend) && self.backend == 'redis') == has(self.redis)",message="redis goes with backend redis"
// +kubebuilder:validation:XValidation:rule="(has(self.backend) && self.backend == 'vector-store') == has(self.vectorStore)",message="vectorStore goes with backend vector-store"
// +kubebuilder:validation:XValidation:rule="!has(self.embedding) || has(self.vectorStore)",message="embedding goes with backend vector-store"
type ArkMemorySpec struct {
	// Backend that keeps what is remembered. nats needs nothing installed; in-context keeps nothing between tasks.
	// +kubebuilder:default=nats
	// +optional
	Backend MemoryBackend `json:"backend,omitempty"`
	// NATS keeps it in ark's own queue.
	// +optional
	NATS *NATSMemory `json:"nats,omitempty"`
	// Redis keeps it in Redis.
	// +optional
	Redis *RedisMemory `json:"redis,omitempty"`
	// VectorStore keeps it where it is found by meaning.
	// +optional
	VectorStore *VectorStoreMemory `json:"vectorStore,omitempty"`
	// Embedding is the model that turns texts into vectors.
	// +optional
	Embedding *Embedding `json:"embedding,omitempty"`
}

// MemoryBackend keeps what is remembered.
// +kubebuilder:validation:Enum=in-context;nats;redis;vector-store
type MemoryBackend string

const (
	MemoryInContext   MemoryBackend = "in-context"
	MemoryNATS        MemoryBackend = "nats"
	MemoryRedis       MemoryBackend = "redis"
	MemoryVectorStore MemoryBackend = "vector-store"
)

// NATSMemory keeps entries in ark's own queue.
type NATSMemory struct {
	// TTLSeconds after which an entry is forgotten. 0 means never.
	// +kubebuilder:validation:Minimum=0
	// +optional
	TTLSeconds int64 `json:"ttlSeconds,omitempty"`
	// MaxEntries that are kept. 0 means no limit.
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxEntries int64 `json:"maxEntries,omitempty"`
}

// RedisMemory keeps entries in Redis.
type RedisMemory struct {
	// SecretRef names the Secret whose key REDIS_URL holds the address.
	SecretRef SecretReference `json:"secretRef"`
	// TTLSeconds after which an entry is forgotten. 0 means never.
	// +kubebuilder:default=3600
	// +kubebuilder:validation:Minimum=0
	// +optional
	TTLSeconds *int64 `json:"ttlSeconds,omitempty"`
	// MaxEntries that are kept. 0 means no limit.
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxEntries int64 `json:"maxEntries,omitempty"`
}

// VectorStoreMemory keeps entries where they are found by meaning.
type VectorStoreMemory struct {
	// Provider of the store.
	Provider VectorStoreProvider `json:"provider"`
	// Endpoint of the store.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=2048
	Endpoint string `json:"endpoint"`
	// Collection in the store.
	// +kubebuilder:default=agent-memories
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +optional
	Collection string `json:"collection,omitempty"`
	// SecretRef names the Secret with the store's credentials.
	// +optional
	SecretRef *SecretReference `json:"secretRef,omitempty"`
	// TTLSeconds after which an entry is forgotten. 0 means never.
	// +kubebuilder:validation:Minimum=0
	// +optional
	TTLSeconds int64 `json:"ttlSeconds,omitempty"`
}

// VectorStoreProvider is a kind of vector store.
// +kubebuilder:validation:Enum=qdrant;pgvector
type VectorStoreProvider string

const (
	VectorStoreQdrant   VectorStoreProvider = "qdrant"
	VectorStorePgvector VectorStoreProvider = "pgvector"
)

// Embedding is the model that turns texts into vectors.
type Embedding struct {
	// Model that makes the vectors.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Model string `json:"model"`
	// Provider of the model. With auto the model's name selects it.
	// +optional
	Provider Provider `json:"provider,omitempty"`
	// Dimensions of a vector. 0 leaves it to the model.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=65536
	// +optional
	Dimensions int32 `json:"dimensions,omitempty"`
	// APIKeyRef names the Secret and the key that hold the provider's API key.
	// +optional
	APIKeyRef *KeyReference `json:"apiKeyRef,omitempty"`
}

// ArkMemoryStatus is what was last seen of a memory.
type ArkMemoryStatus struct {
	// ObservedGeneration is the generation of the spec that the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions of the memory: Ready.
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}
