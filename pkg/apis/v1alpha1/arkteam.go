package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ArkTeam joins agents into a pipeline, lets them delegate to each other, or routes work among them.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=at,categories=ark
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Last Run",type=string,JSONPath=`.status.lastRunName`
// +kubebuilder:printcolumn:name="Entry",type=string,JSONPath=`.status.entryRole`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 48",message="metadata.name must not be longer than 48 characters, so that the names of its runs fit 63"
// +kubebuilder:validation:XValidation:rule="!has(self.spec.entry) || self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",message="metadata.name of a team with an entry also names a Service: it must start with a letter and hold only lower case letters, digits and hyphens"
// +kubebuilder:validation:XValidation:rule="!has(self.spec.roles) || self.spec.roles.all(r, !has(r.model) || size(self.metadata.name) + size(r.name) <= 56)",message="metadata.name and the name of an inline role must not be longer than 56 characters together, so that the name of the role's Deployment fits 63"
type ArkTeam struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what the team shall be.
	// +required
	Spec ArkTeamSpec `json:"spec"`
	// Status is what was last seen; ark writes it.
	// +optional
	Status ArkTeamStatus `json:"status,omitzero"`
}

// ArkTeamList is a list of ArkTeams.
//
// +kubebuilder:object:root=true
type ArkTeamList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ArkTeam `json:"items"`
}

// ArkTeamSpec is what a team shall be. With pipeline its steps say who works when; with entry alone that role
// receives every task and may delegate; with routing a router agent picks one capability for each task.
// +kubebuilder:validation:XValidation:rule="has(self.routing) || (has(self.pipeline) && size(self.pipeline) > 0) || has(self.entry)",message="a team needs one of pipeline, entry and routing"
// +kubebuilder:validation:XValidation:rule="!has(self.routing) || !((has(self.pipeline) && size(self.pipeline) > 0) || has(self.entry) || (has(self.roles) && size(self.roles) > 0))",message="a team with routing has no roles, no pipeline and no entry"
// +kubebuilder:validation:XValidation:rule="!has(self.entry) || (has(self.roles) && self.roles.exists(r, r.name == self.entry))",message="entry must be the name of a role"
// +kubebuilder:validation:XValidation:rule="!has(self.pipeline) || self.pipeline.all(s, has(s.registryLookup) || (has(self.roles) && self.roles.exists(r, r.name == s.role)))",message="the role of every step without registryLookup must be the name of a role"
type ArkTeamSpec struct {
	// Roles of the team.
	// +kubebuilder:validation:MaxItems=100
	// +listType=map
	// +listMapKey=name
	// +optional
	Roles []Role `json:"roles,omitempty"`
	// Inputs declares what a run of the team takes. It is checked when a run is created.
	// +kubebuilder:validation:MaxItems=100
	// +listType=map
	// +listMapKey=name
	// +optional
	Inputs []Input `json:"inputs,omitempty"`
	// Input holds default input values. Any JSON value is allowed.
	// +kubebuilder:validation:MaxProperties=256
	// +optional
	Input Values `json:"input,omitempty"`
	// Pipeline are the steps of a run. A step starts when the steps that it depends on are done.
	// +kubebuilder:validation:MaxItems=1000
	// +listType=atomic
	// +optional
	Pipeline []Step `json:"pipeline,omitempty"`
	// Entry is the role that receives every task when there is no pipeline, and that the team's service leads to.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Entry string `json:"entry,omitempty"`
	// Routing lets a router agent pick one capability for each task.
	// +optional
	Routing *Routing `json:"routing,omitempty"`
	// Output is a template of the run's result. Without it, it is the last step's output.
	// +kubebuilder:validation:MaxLength=65536
	// +optional
	Output string `json:"output,omitempty"`

	// TimeoutSeconds bounds a whole run. 0 means 24 hours.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=31536000
	// +optional
	TimeoutSeconds int64 `json:"timeoutSeconds,omitempty"`
	// MaxTokens bounds what a whole run may use. 0 means no limit.
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxTokens int64 `json:"maxTokens,omitempty"`
	// Limits of the team over all its runs.
	// +optional
	Limits *TeamLimits `json:"limits,omitempty"`

	// NotifyRef names the ArkNotify that hears of the team's runs. Inline roles inherit it.
	// +optional
	NotifyRef *Reference `json:"notifyRef,omitempty"`
	// RegistryRef names the ArkRegistry that steps look capabilities up in.
	// +optional
	RegistryRef *Reference `json:"registryRef,omitempty"`

	// SuccessfulRunsHistoryLimit is the number of succeeded runs that are kept.
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000
	// +optional
	SuccessfulRunsHistoryLimit *int32 `json:"successfulRunsHistoryLimit,omitempty"`
	// FailedRunsHistoryLimit is the number of failed and cancelled runs that are kept.
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10000
	// +optional
	FailedRunsHistoryLimit *int32 `json:"failedRunsHistoryLimit,omitempty"`
	// RunRetainFor is how long a finished run is kept at most, such as 72h. Without it only the limits count.
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:Pattern=`^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$`
	// +optional
	RunRetainFor string `json:"runRetainFor,omitempty"`
	// Suspend refuses triggers while it is true. Live runs go on.
	// +kubebuilder:default=false
	// +optional
	Suspend bool `json:"suspend,omitempty"`
}

// TeamLimits bound a team over all its runs.
type TeamLimits struct {
	// MaxDailyTokens is the budget of all roles together over a rolling 24 hours. 0 means no limit.
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxDailyTokens int64 `json:"maxDailyTokens,omitempty"`
}

// Role is one member of a team: an agent that is described right here (model and any field of an ArkAgent), an
// ArkAgent, or a whole team.
// +kubebuilder:validation:XValidation:rule="[has(self.model), has(self.arkAgent), has(self.arkTeam)].filter(x, x).size() == 1",message="a role needs exactly one of model (an inline agent), arkAgent and arkTeam"
// +kubebuilder:validation:XValidation:rule="has(self.model) || !(has(self.provider) || has(self.replicas) || has(self.systemPrompt) || has(self.systemPromptRef) || has(self.mcpServers) || has(self.image) || has(self.tools) || has(self.limits) || has(self.livenessProbe) || has(self.memoryRef) || has(self.notifyRef) || has(self.configRef) || has(self.settingsRefs) || has(self.capabilities) || has(self.registryRef) || has(self.autoscaling) || has(self.networkPolicy) || has(self.terminationGracePeriodSeconds) || has(self.envFrom) || has(self.env) || has(self.resources) || has(self.nodeSelector) || has(self.tolerations) || has(self.affinity) || has(self.imagePullSecrets) || has(self.priorityClassName) || has(self.serviceAccountName) || has(self.podLabels) || has(self.podAnnotations) || has(self.podSecurityContext))",message="a role with arkAgent or arkTeam takes everything from there: the fields of an inline agent need model"
// +kubebuilder:validation:XValidation:rule="!(has(self.systemPrompt) && has(self.systemPromptRef))",message="systemPrompt and systemPromptRef exclude each other"
// +kubebuilder:validation:XValidation:rule="!has(self.canDelegate) || !(self.name in self.canDelegate)",message="a role cannot delegate to itself"
// +kubebuilder:validation:XValidation:rule="!has(self.canDelegate) || !has(self.arkTeam)",message="a role with arkTeam cannot delegate: the roles of that team may"
type Role struct {
	// Name of the role.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=53
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// ArkAgent names an ArkAgent that plays the role.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +optional
	ArkAgent string `json:"arkAgent,omitempty"`
	// ArkTeam names an ArkTeam that plays the role: each step of it is a run of that team.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +optional
	ArkTeam string `json:"arkTeam,omitempty"`
	// CanDelegate lists the roles that this one may hand work to.
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	// +listType=set
	// +optional
	CanDelegate []string `json:"canDelegate,omitempty"`

	// Model of an inline agent. The team makes an ArkAgent <team>-<role> of it.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +optional
	Model string `json:"model,omitempty"`

	AgentTemplate `json:",inline"`
}

// Routing lets a router agent pick one capability of a registry for each task.
type Routing struct {
	// RegistryRef names the ArkRegistry that lists the capabilities.
	RegistryRef Reference `json:"registryRef"`
	// Model of the router agent.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	Model string `json:"model"`
	// Provider of the model. With auto the model's name selects it.
	// +kubebuilder:default=auto
	// +optional
	Provider Provider `json:"provider,omitempty"`
	// SystemPrompt of the router, instead of ark's own.
	// +kubebuilder:validation:MaxLength=262144
	// +optional
	SystemPrompt string `json:"systemPrompt,omitempty"`
	// Fallback is the capability or the ArkAgent that gets the task when the router picks nothing that exists.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +optional
	Fallback string `json:"fallback,omitempty"`
	// EnvFrom adds the keys of Secrets and ConfigMaps to the router's environment.
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	// +optional
	EnvFrom []corev1.EnvFromSource `json:"envFrom,omitempty"`
}

// ArkTeamStatus is what was last seen of a team.
type ArkTeamStatus struct {
	// ObservedGeneration is the generation of the spec that the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions of the team: Ready, and with a daily limit BudgetExceeded.
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Phase of the team: Ready when it could run, and what its last run says.
	// +optional
	Phase TeamPhase `json:"phase,omitempty"`
	// Roles and the pods that play them.
	// +kubebuilder:validation:MaxItems=101
	// +listType=map
	// +listMapKey=name
	// +optional
	Roles []RoleStatus `json:"roles,omitempty"`
	// EntryRole is the role that receives every task of a dynamic team.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	EntryRole string `json:"entryRole,omitempty"`
	// LastRunName is the name of the newest run.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	LastRunName string `json:"lastRunName,omitempty"`
	// LastRunPhase is the phase of the newest run.
	// +optional
	LastRunPhase RunPhase `json:"lastRunPhase,omitempty"`
	// LastRunTime is when the newest run was created.
	// +optional
	LastRunTime *metav1.Time `json:"lastRunTime,omitempty"`
	// ActiveRuns is the number of runs that have not ended.
	// +optional
	ActiveRuns int32 `json:"activeRuns"`
}

// TeamPhase sums up a team.
// +kubebuilder:validation:Enum=Pending;Ready;Running;Succeeded;Failed
type TeamPhase string

const (
	TeamPending   TeamPhase = "Pending"   // roles are not ready
	TeamReady     TeamPhase = "Ready"     // never run
	TeamRunning   TeamPhase = "Running"   // a run is live
	TeamSucceeded TeamPhase = "Succeeded" // the newest run succeeded
	TeamFailed    TeamPhase = "Failed"    // the newest run failed, or the team is invalid
)

// RoleStatus is the state of one role.
type RoleStatus struct {
	// Name of the role.
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// Agent is the ArkAgent that plays the role.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Agent string `json:"agent,omitempty"`
	// ReadyReplicas is the number of the agent's pods that take tasks.
	// +optional
	ReadyReplicas int32 `json:"readyReplicas"`
	// DesiredReplicas is the number of the agent's pods that are aimed at.
	// +optional
	DesiredReplicas int32 `json:"desiredReplicas"`
}

// Step is one piece of a pipeline.
type Step struct {
	// Name of the step. Without it, it is the role's name; it is needed when a role stands in several steps.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	// +optional
	Name string `json:"name,omitempty"`
	// Role that works on the step.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Role string `json:"role"`
	// DependsOn lists the steps that must be done before.
	// +kubebuilder:validation:MaxItems=1000
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=63
	// +listType=set
	// +optional
	DependsOn []string `json:"dependsOn,omitempty"`
	// Inputs are templates. The input prompt comes first in what the agent is sent, each other one as a titled section.
	// Without inputs the agent is sent the run's input.
	// +kubebuilder:validation:MaxProperties=256
	// +optional
	Inputs map[string]string `json:"inputs,omitempty"`
	// If is a template. When it gives nothing, false, 0 or no, the step is skipped.
	// +kubebuilder:validation:MaxLength=65536
	// +optional
	If string `json:"if,omitempty"`
	// Loop repeats the step while a condition holds.
	// +optional
	Loop *Loop `json:"loop,omitempty"`
	// ForEach works on the step once for each item of a list, several at once.
	// +optional
	ForEach *ForEach `json:"forEach,omitempty"`
	// OutputSchema is the JSON Schema (2020-12) that the answer must satisfy, as JSON text.
	// +kubebuilder:validation:MaxLength=262144
	// +optional
	OutputSchema string `json:"outputSchema,omitempty"`
	// Validate checks the answer.
	// +optional
	Validate *Validation `json:"validate,omitempty"`
	// Retry works on the step again after it failed.
	// +optional
	Retry *Retry `json:"retry,omitempty"`
	// TimeoutSeconds bounds the work on one attempt, from the moment that a pod took it. 0 leaves it to the agent.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	// +optional
	TimeoutSeconds int64 `json:"timeoutSeconds,omitempty"`
	// MaxTokens bounds what all attempts together may use. 0 means no limit.
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxTokens int64 `json:"maxTokens,omitempty"`
	// ContinueOnError lets the run go on when the step fails.
	// +optional
	ContinueOnError bool `json:"continueOnError,omitempty"`
	// RegistryLookup picks the agent by capability when a run is created.
	// +optional
	RegistryLookup *RegistryLookup `json:"registryLookup,omitempty"`
	// MaxOutputBytes cuts the answer. 0 means no limit.
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxOutputBytes int64 `json:"maxOutputBytes,omitempty"`
}

// Loop repeats a step.
type Loop struct {
	// Condition is a template. The step is worked on once more as long as it gives something else than nothing, false,
	// 0 or no.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=65536
	Condition string `json:"condition"`
	// MaxIterations bounds the loop.
	// +kubebuilder:default=10
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	// +optional
	MaxIterations int32 `json:"maxIterations,omitempty"`
}

// ForEach works on a step once for each item of a list. The output is a JSON array in the order of the items.
type ForEach struct {
	// Items is a template that gives a JSON array.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=65536
	Items string `json:"items"`
	// As is the name of the item in templates.
	// +kubebuilder:default=item
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[A-Za-z_][A-Za-z0-9_]*$`
	// +optional
	As string `json:"as,omitempty"`
	// MaxParallel is the number of items that are worked on at once.
	// +kubebuilder:default=5
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=1000
	// +optional
	MaxParallel int32 `json:"maxParallel,omitempty"`
	// MaxItems fails the step when the list is longer.
	// +kubebuilder:default=100
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	// +optional
	MaxItems int32 `json:"maxItems,omitempty"`
}

// Validation checks an answer: rejectPatterns, contains, schema, semantic, in this order.
type Validation struct {
	// RejectPatterns are regular expressions (RE2). An answer that one of them matches fails the step at once.
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=4096
	// +listType=atomic
	// +optional
	RejectPatterns []string `json:"rejectPatterns,omitempty"`
	// Contains is a text that the answer must hold.
	// +kubebuilder:validation:MaxLength=65536
	// +optional
	Contains string `json:"contains,omitempty"`
	// Schema is the JSON Schema (2020-12) that the answer must satisfy, as JSON text.
	// +kubebuilder:validation:MaxLength=262144
	// +optional
	Schema string `json:"schema,omitempty"`
	// Semantic asks a model whether the answer is good, with these words.
	// +kubebuilder:validation:MaxLength=65536
	// +optional
	Semantic string `json:"semantic,omitempty"`
	// SemanticModel is the model that is asked, instead of the agent's own.
	// +kubebuilder:validation:MaxLength=256
	// +optional
	SemanticModel string `json:"semanticModel,omitempty"`
	// OnFailure says what becomes of the step when the answer is not good: it fails, or the agent is told why and
	// tries again.
	// +kubebuilder:default=fail
	// +optional
	OnFailure ValidationPolicy `json:"onFailure,omitempty"`
	// MaxRetries is the number of further attempts.
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=10
	// +optional
	MaxRetries *int32 `json:"maxRetries,omitempty"`
}

// ValidationPolicy says what becomes of a step whose answer is not good.
// +kubebuilder:validation:Enum=fail;retry
type ValidationPolicy string

const (
	ValidationFail  ValidationPolicy = "fail"
	ValidationRetry ValidationPolicy = "retry"
)

// Retry works on a step again after it failed.
type Retry struct {
	// MaxAttempts is the number of attempts, the first one counted.
	// +kubebuilder:default=3
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=100
	// +optional
	MaxAttempts int32 `json:"maxAttempts,omitempty"`
	// BackoffSeconds between the end of one attempt and the next. 0 tries again at once.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=86400
	// +optional
	BackoffSeconds int64 `json:"backoffSeconds,omitempty"`
}

// RegistryLookup picks an agent by what it can do.
type RegistryLookup struct {
	// Capability that the agent must have.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	Capability string `json:"capability"`
	// Tags that the capability must all carry.
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=128
	// +listType=set
	// +optional
	Tags []string `json:"tags,omitempty"`
	// Fallback is the ArkAgent that works on the step when nobody has the capability. Without it the step's role does.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Fallback string `json:"fallback,omitempty"`
}

// ID is the name of the step in the run: its name, or else its role.
func (s *Step) ID() string {
	if s.Name != "" {
		return s.Name
	}
	return s.Role
}
