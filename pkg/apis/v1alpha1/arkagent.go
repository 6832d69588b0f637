package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ArkAgent is a pool of agent pods: what an agent knows (prompt), can do (tools) and may cost (limits).
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName={arkagent,aa},categories=ark
// +kubebuilder:subresource:status
// +kubebuilder:subresource:scale:specpath=.spec.replicas,statuspath=.status.replicas,selectorpath=.status.selector
// +kubebuilder:printcolumn:name="Model",type=string,JSONPath=`.spec.model`
// +kubebuilder:printcolumn:name="Replicas",type=integer,JSONPath=`.status.replicas`
// +kubebuilder:printcolumn:name="Ready",type=integer,JSONPath=`.status.readyReplicas`
// +kubebuilder:printcolumn:name="Pending",type=integer,JSONPath=`.status.pendingTasks`,priority=1
// +kubebuilder:printcolumn:name="Tokens(24h)",type=integer,JSONPath=`.status.dailyTokenUsage.totalTokens`,priority=1
// +kubebuilder:printcolumn:name="Provider",type=string,JSONPath=`.spec.provider`,priority=1
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 57",message="metadata.name must not be longer than 57 characters, so that the name of its Deployment fits 63"
type ArkAgent struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what the agent shall be.
	// +required
	Spec ArkAgentSpec `json:"spec"`
	// Status is what was last seen; ark writes it.
	// +optional
	Status ArkAgentStatus `json:"status,omitzero"`
}

// ArkAgentList is a list of ArkAgents.
//
// +kubebuilder:object:root=true
type ArkAgentList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ArkAgent `json:"items"`
}

// ArkAgentSpec is what an agent shall be.
// +kubebuilder:validation:XValidation:rule="!(has(self.systemPrompt) && has(self.systemPromptRef))",message="systemPrompt and systemPromptRef exclude each other"
type ArkAgentSpec struct {
	// Model is the model's name as its server knows it. It also selects the provider: claude-* is anthropic, mock* is
	// mock, everything else is openai; provider overrides that.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +required
	Model string `json:"model"`

	AgentTemplate `json:",inline"`
}

// AgentTemplate is what an ArkAgent and an inline role of an ArkTeam share: everything but the model.
type AgentTemplate struct {
	// Provider of the model. With auto the model's name selects it.
	// +kubebuilder:default=auto
	// +optional
	Provider Provider `json:"provider,omitempty"`
	// Replicas is the number of pods. It is left alone when autoscaling is set.
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=50
	// +optional
	Replicas *int32 `json:"replicas,omitempty"`

	// SystemPrompt tells the agent who it is and how to work.
	// +kubebuilder:validation:MaxLength=262144
	// +optional
	SystemPrompt string `json:"systemPrompt,omitempty"`
	// SystemPromptRef takes the system prompt from a ConfigMap or a Secret. A change there rolls the pods.
	// +optional
	SystemPromptRef *SystemPromptSource `json:"systemPromptRef,omitempty"`

	// MCPServers whose tools the agent may call.
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	// +optional
	MCPServers []MCPServer `json:"mcpServers,omitempty"`
	// Image with the programs that stdio tool servers need. ark's own binary is copied in by an init container.
	// +kubebuilder:validation:MaxLength=512
	// +optional
	Image string `json:"image,omitempty"`
	// Tools are HTTP calls that the agent may make.
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=name
	// +optional
	Tools []WebhookTool `json:"tools,omitempty"`

	// Limits of what a task may take.
	// +kubebuilder:default={}
	// +optional
	Limits *AgentLimits `json:"limits,omitempty"`
	// LivenessProbe checks that the agent's answers make sense. Without it a pod is ready when it is connected.
	// +optional
	LivenessProbe *Probe `json:"livenessProbe,omitempty"`

	// MemoryRef names the ArkMemory that the agent remembers in.
	// +optional
	MemoryRef *Reference `json:"memoryRef,omitempty"`
	// NotifyRef names the ArkNotify that hears of the agent's budget and health.
	// +optional
	NotifyRef *Reference `json:"notifyRef,omitempty"`
	// ConfigRef names the ArkSettings of the agent. It comes before all settingsRefs.
	// +optional
	ConfigRef *Reference `json:"configRef,omitempty"`
	// SettingsRefs name further ArkSettings; a later one wins.
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	SettingsRefs []Reference `json:"settingsRefs,omitempty"`

	// Capabilities that a registry lists for this agent.
	// +kubebuilder:validation:MaxItems=64
	// +listType=map
	// +listMapKey=id
	// +optional
	Capabilities []Capability `json:"capabilities,omitempty"`
	// RegistryRef names the only ArkRegistry that lists the agent. Without it every registry of the namespace does.
	// +optional
	RegistryRef *Reference `json:"registryRef,omitempty"`

	// Autoscaling sets the number of pods from the number of waiting tasks. Without it replicas holds.
	// +optional
	Autoscaling *Autoscaling `json:"autoscaling,omitempty"`
	// NetworkPolicy of the pods. default: only the service and metrics ports can be reached, and everything but
	// metadata addresses can be called. strict: only DNS, the queue and the hosts of the agent's provider and tools
	// can be called. disabled: none is made.
	// +kubebuilder:default=default
	// +optional
	NetworkPolicy NetworkPolicy `json:"networkPolicy,omitempty"`
	// TerminationGracePeriodSeconds is the time that running tasks have to finish when a pod is stopped. What is not
	// finished by then goes on in another pod.
	// +kubebuilder:default=150
	// +kubebuilder:validation:Minimum=30
	// +kubebuilder:validation:Maximum=600
	// +optional
	TerminationGracePeriodSeconds int64 `json:"terminationGracePeriodSeconds,omitempty"`

	AgentPod `json:",inline"`
}

// AgentPod is the part of an agent that is copied to its pods.
type AgentPod struct {
	// EnvFrom adds the keys of Secrets and ConfigMaps to the environment, such as a provider's API key.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	EnvFrom []corev1.EnvFromSource `json:"envFrom,omitempty"`
	// Env adds variables to the environment. It wins over envFrom.
	// +kubebuilder:validation:MaxItems=128
	// +listType=map
	// +listMapKey=name
	// +optional
	Env []corev1.EnvVar `json:"env,omitempty"`
	// Resources of the agent's container.
	// +kubebuilder:default={requests: {cpu: "100m", memory: "128Mi"}, limits: {cpu: "500m", memory: "512Mi"}}
	// +optional
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`
	// NodeSelector names the labels of the nodes that the pods may run on.
	// +kubebuilder:validation:MaxProperties=32
	// +optional
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`
	// Tolerations of the pods.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`
	// Affinity of the pods.
	// +optional
	Affinity *corev1.Affinity `json:"affinity,omitempty"`
	// ImagePullSecrets of the pods.
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	ImagePullSecrets []corev1.LocalObjectReference `json:"imagePullSecrets,omitempty"`
	// PriorityClassName of the pods.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	PriorityClassName string `json:"priorityClassName,omitempty"`
	// ServiceAccountName of the pods. Its token is not mounted.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	ServiceAccountName string `json:"serviceAccountName,omitempty"`
	// PodLabels are added to the pods' labels; ark's own win.
	// +kubebuilder:validation:MaxProperties=32
	// +optional
	PodLabels map[string]string `json:"podLabels,omitempty"`
	// PodAnnotations are added to the pods' annotations; ark's own win.
	// +kubebuilder:validation:MaxProperties=32
	// +optional
	PodAnnotations map[string]string `json:"podAnnotations,omitempty"`
	// PodSecurityContext is laid over ark's own, which satisfies the restricted Pod Security Standard with uid 65532.
	// +optional
	PodSecurityContext *corev1.PodSecurityContext `json:"podSecurityContext,omitempty"`
}

// Provider is a kind of model server.
// +kubebuilder:validation:Enum=auto;openai;anthropic;mock
type Provider string

const (
	ProviderAuto      Provider = "auto" // the model's name decides
	ProviderOpenAI    Provider = "openai"
	ProviderAnthropic Provider = "anthropic"
	ProviderMock      Provider = "mock" // deterministic, no network, no key
)

// NetworkPolicy says how far an agent's pods are shut off.
// +kubebuilder:validation:Enum=default;strict;disabled
type NetworkPolicy string

const (
	NetworkPolicyDefault  NetworkPolicy = "default"
	NetworkPolicyStrict   NetworkPolicy = "strict"
	NetworkPolicyDisabled NetworkPolicy = "disabled"
)

// SystemPromptSource takes a prompt from exactly one place.
// +kubebuilder:validation:XValidation:rule="has(self.configMapKeyRef) != has(self.secretKeyRef)",message="systemPromptRef needs exactly one of configMapKeyRef and secretKeyRef"
type SystemPromptSource struct {
	// ConfigMapKeyRef takes the prompt from a ConfigMap.
	// +optional
	ConfigMapKeyRef *KeyReference `json:"configMapKeyRef,omitempty"`
	// SecretKeyRef takes the prompt from a Secret.
	// +optional
	SecretKeyRef *KeyReference `json:"secretKeyRef,omitempty"`
}

// AgentLimits bound what a task may take.
type AgentLimits struct {
	// MaxTokensPerCall is the most that one model call may write.
	// +kubebuilder:default=8000
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000000
	// +optional
	MaxTokensPerCall int64 `json:"maxTokensPerCall,omitempty"`
	// MaxConcurrentTasks is the number of tasks that one pod works on at once.
	// +kubebuilder:default=5
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	// +optional
	MaxConcurrentTasks int32 `json:"maxConcurrentTasks,omitempty"`
	// TimeoutSeconds bounds the work on one task, from the moment that a pod first took it.
	// +kubebuilder:default=120
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	// +optional
	TimeoutSeconds int64 `json:"timeoutSeconds,omitempty"`
	// MaxDailyTokens is the budget of all pods together over a rolling 24 hours. 0 means no limit.
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxDailyTokens int64 `json:"maxDailyTokens,omitempty"`
	// Retries is how often a task is taken over by another pod after one died with it.
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	// +optional
	Retries *int32 `json:"retries,omitempty"`
	// MaxTurns is how often a task may call the model.
	// +kubebuilder:default=25
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	// +optional
	MaxTurns int32 `json:"maxTurns,omitempty"`
	// OnBudgetExceeded says what becomes of a task when a budget is used up: it fails, or it waits until it frees.
	// +kubebuilder:default=Fail
	// +optional
	OnBudgetExceeded BudgetPolicy `json:"onBudgetExceeded,omitempty"`
}

// BudgetPolicy says what becomes of a task when a budget is used up.
// +kubebuilder:validation:Enum=Fail;Wait
type BudgetPolicy string

const (
	BudgetFail BudgetPolicy = "Fail"
	BudgetWait BudgetPolicy = "Wait"
)

// Probe checks that the agent's answers make sense.
type Probe struct {
	// Type of the probe. semantic asks the model; ping only checks that the pod is connected.
	// +kubebuilder:default=semantic
	// +optional
	Type ProbeType `json:"type,omitempty"`
	// IntervalSeconds between two questions.
	// +kubebuilder:default=30
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=86400
	// +optional
	IntervalSeconds int64 `json:"intervalSeconds,omitempty"`
	// ValidatorPrompt is the question.
	// +kubebuilder:validation:MaxLength=65536
	// +optional
	ValidatorPrompt string `json:"validatorPrompt,omitempty"`
	// Expect is the word that the answer must hold, as a whole word.
	// +kubebuilder:default=HEALTHY
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +optional
	Expect string `json:"expect,omitempty"`
	// TimeoutSeconds for the answer.
	// +kubebuilder:default=15
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=3600
	// +optional
	TimeoutSeconds int64 `json:"timeoutSeconds,omitempty"`
	// FailureThreshold is the number of wrong answers in a row that makes the agent unready.
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	// +optional
	FailureThreshold int32 `json:"failureThreshold,omitempty"`
}

// ProbeType is a way to check an agent.
// +kubebuilder:validation:Enum=semantic;ping
type ProbeType string

const (
	ProbeSemantic ProbeType = "semantic"
	ProbePing     ProbeType = "ping"
)

// Capability is something that an agent can do, as a registry lists it.
type Capability struct {
	// ID of the capability.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	ID string `json:"id"`
	// Description for the router that picks a capability.
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	Description string `json:"description,omitempty"`
	// Tags to filter by.
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=128
	// +listType=set
	// +optional
	Tags []string `json:"tags,omitempty"`
	// InputSchema is the JSON Schema of what the capability expects, as JSON text.
	// +kubebuilder:validation:MaxLength=65536
	// +optional
	InputSchema string `json:"inputSchema,omitempty"`
}

// Autoscaling sets the number of pods from the depth of the agent's queue.
// +kubebuilder:validation:XValidation:rule="(has(self.minReplicas) ? self.minReplicas : 1) <= (has(self.maxReplicas) ? self.maxReplicas : 10)",message="minReplicas must not be greater than maxReplicas"
type Autoscaling struct {
	// MinReplicas is the least number of pods. 0 lets an idle agent vanish until there is work.
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=1000
	// +optional
	MinReplicas *int32 `json:"minReplicas,omitempty"`
	// MaxReplicas is the greatest number of pods.
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	// +optional
	MaxReplicas int32 `json:"maxReplicas,omitempty"`
	// TargetPendingTasks is the number of waiting tasks per pod that is aimed at.
	// +kubebuilder:default=5
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100000
	// +optional
	TargetPendingTasks int32 `json:"targetPendingTasks,omitempty"`
	// ScaleDownAfterSeconds is how long fewer pods must have been enough before some are removed.
	// +kubebuilder:default=300
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	// +optional
	ScaleDownAfterSeconds *int64 `json:"scaleDownAfterSeconds,omitempty"`
}

// ArkAgentStatus is what was last seen of an agent.
type ArkAgentStatus struct {
	// ObservedGeneration is the generation of the spec that the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions of the agent: Ready, BudgetExceeded, MCPDegraded, Healthy.
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Replicas is the number of pods that exist.
	// +optional
	Replicas int32 `json:"replicas"`
	// ReadyReplicas is the number of pods that take tasks.
	// +optional
	ReadyReplicas int32 `json:"readyReplicas"`
	// DesiredReplicas is the number of pods that are aimed at.
	// +optional
	DesiredReplicas int32 `json:"desiredReplicas"`
	// PendingTasks wait in the agent's queue.
	// +optional
	PendingTasks int64 `json:"pendingTasks"`
	// RunningTasks are being worked on.
	// +optional
	RunningTasks int64 `json:"runningTasks"`
	// Selector of the pods, for autoscalers.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Selector string `json:"selector,omitempty"`

	// DailyTokenUsage is what the agent used over the last 24 hours.
	// +optional
	DailyTokenUsage *DailyTokenUsage `json:"dailyTokenUsage,omitempty"`
	// ToolConnections is the state of the agent's tool servers.
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	// +optional
	ToolConnections []ToolConnection `json:"toolConnections,omitempty"`
	// SystemPromptHash is the SHA-256 of the composed system prompt, in hex.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	SystemPromptHash string `json:"systemPromptHash,omitempty"`
}

// DailyTokenUsage is what was used over the last 24 hours.
type DailyTokenUsage struct {
	// InputTokens that the model read, where they are counted apart.
	// +optional
	InputTokens int64 `json:"inputTokens,omitempty"`
	// OutputTokens that the model wrote, where they are counted apart.
	// +optional
	OutputTokens int64 `json:"outputTokens,omitempty"`
	// TotalTokens are input and output tokens.
	// +optional
	TotalTokens int64 `json:"totalTokens"`
	// Limit is the daily budget; 0 means no limit.
	// +optional
	Limit int64 `json:"limit,omitempty"`
	// ResetsAt is when enough tokens leave the window for another call, if the budget is used up.
	// +optional
	ResetsAt *metav1.Time `json:"resetsAt,omitempty"`
}

// ToolConnection is the state of one tool server.
type ToolConnection struct {
	// Name of the tool server.
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// Healthy says whether the server answers.
	// +optional
	Healthy bool `json:"healthy"`
	// Message says what is wrong and what to do.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Message string `json:"message,omitempty"`
}
