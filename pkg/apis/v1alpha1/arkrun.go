package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ArkRun is the record of one execution of a team or of one task of an agent. Its spec never changes.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=ar,categories=ark
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Team",type=string,JSONPath=`.spec.teamRef.name`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Steps",type=string,JSONPath=`.status.stepSummary`
// +kubebuilder:printcolumn:name="Tokens",type=integer,JSONPath=`.status.totalTokenUsage.totalTokens`
// +kubebuilder:printcolumn:name="Started",type=date,JSONPath=`.status.startTime`
// +kubebuilder:printcolumn:name="Duration",type=string,JSONPath=`.status.duration`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Agent",type=string,JSONPath=`.spec.agentRef.name`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`,priority=1
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name must not be longer than 63 characters"
// +kubebuilder:validation:XValidation:rule="!has(self.spec.retryOf) || self.spec.retryOf.name != self.metadata.name",message="a run cannot retry itself: spec.retryOf.name is its own name"
type ArkRun struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what was to be done, as it was when the run was created. It never changes.
	// +structType=atomic
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="the spec of a run never changes: create a new run"
	// +required
	Spec ArkRunSpec `json:"spec"`
	// Status is how far the run is; ark writes it, always whole: the API server keeps no account of who wrote which step.
	// +structType=atomic
	// +optional
	Status ArkRunStatus `json:"status,omitzero"`
}

// ArkRunList is a list of ArkRuns.
//
// +kubebuilder:object:root=true
type ArkRunList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ArkRun `json:"items"`
}

// ArkRunSpec is what is to be done: whose work it is, with which input, and a snapshot of the team as it was then. A
// person may write teamRef and input alone; ark then takes the snapshot and keeps it in status.resolved.
// +kubebuilder:validation:XValidation:rule="has(self.teamRef) != has(self.agentRef)",message="a run needs exactly one of teamRef and agentRef"
// +kubebuilder:validation:XValidation:rule="!has(self.agentRef) || (has(self.prompt) && size(self.prompt) > 0)",message="a run of an agent needs a prompt"
// +kubebuilder:validation:XValidation:rule="!has(self.agentRef) || !(has(self.pipeline) || has(self.entry) || has(self.routing))",message="a run of an agent has no pipeline, no entry and no routing"
// +kubebuilder:validation:XValidation:rule="!has(self.agentRef) || !has(self.retryOf) || !has(self.retryOf.step)",message="a run of an agent has one step only: leave retryOf.step out"
type ArkRunSpec struct {
	// TeamRef names the team that runs.
	// +optional
	TeamRef *Reference `json:"teamRef,omitempty"`
	// AgentRef names the agent that works on the prompt.
	// +optional
	AgentRef *Reference `json:"agentRef,omitempty"`
	// TeamGeneration is the generation of the team that the snapshot was taken of.
	// +optional
	TeamGeneration int64 `json:"teamGeneration,omitempty"`
	// Input of the run. Any JSON value is allowed.
	// +kubebuilder:validation:MaxProperties=256
	// +optional
	Input Values `json:"input,omitempty"`
	// Prompt of a run of an agent.
	// +kubebuilder:validation:MaxLength=1048576
	// +optional
	Prompt string `json:"prompt,omitempty"`
	// Trigger is what made the run.
	// +optional
	Trigger *Trigger `json:"trigger,omitempty"`

	// Roles of the team and who plays them.
	// +kubebuilder:validation:MaxItems=101
	// +listType=map
	// +listMapKey=name
	// +optional
	Roles []RunRole `json:"roles,omitempty"`
	// Pipeline are the steps of the run.
	// +kubebuilder:validation:MaxItems=1000
	// +listType=atomic
	// +optional
	Pipeline []Step `json:"pipeline,omitempty"`
	// Lookups are the agents that were found for steps with registryLookup.
	// +kubebuilder:validation:MaxItems=1000
	// +listType=map
	// +listMapKey=step
	// +optional
	Lookups []RunLookup `json:"lookups,omitempty"`
	// Entry is the role that receives the task when there is no pipeline.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Entry string `json:"entry,omitempty"`
	// Routing is what a router agent may choose from.
	// +optional
	Routing *RunRouting `json:"routing,omitempty"`
	// Output is the template of the run's result.
	// +kubebuilder:validation:MaxLength=65536
	// +optional
	Output string `json:"output,omitempty"`
	// TimeoutSeconds bounds the run. 0 means 24 hours.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=31536000
	// +optional
	TimeoutSeconds int64 `json:"timeoutSeconds,omitempty"`
	// MaxTokens bounds what the run may use. 0 means no limit.
	// +kubebuilder:validation:Minimum=0
	// +optional
	MaxTokens int64 `json:"maxTokens,omitempty"`

	// Parent is the step of another run that this run carries out, for a role that is a team; ark sets it.
	// +optional
	Parent *ParentTask `json:"parent,omitempty"`
	// RetryOf makes the run go on from one of the same team, or agent, that has ended: the results of its steps that
	// succeeded are taken over and not paid for again; all others run, and what depends on them. The team is taken as it is
	// now. The input is that of the other run, and may be left out.
	// +optional
	RetryOf *RetryOf `json:"retryOf,omitempty"`
}

// RetryOf names the run that a run goes on from.
type RetryOf struct {
	// Name of the ArkRun, in the same namespace.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// UID of the ArkRun: another one of the same name is refused then.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +optional
	UID string `json:"uid,omitempty"`
	// Step that runs again although it succeeded, and all that depends on it. It is needed for a run that succeeded.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Step string `json:"step,omitempty"`
}

// ParentTask is the task of a run that a child run carries out, and what holds for the child because of it.
type ParentTask struct {
	// RunUID of the run above, which owns this one.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	RunUID string `json:"runUID"`
	// TaskID of the step's task.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	TaskID string `json:"taskID"`
	// Step of the run above.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Step string `json:"step,omitempty"`
	// Item of the step's forEach, from 0; steps without one have none.
	// +kubebuilder:validation:Minimum=0
	// +optional
	Item *int32 `json:"item,omitempty"`
	// Deadline of the run above.
	// +optional
	Deadline *metav1.MicroTime `json:"deadline,omitempty"`
	// Budgets of the step and of the runs above, which this run's calls are charged to as well.
	// +kubebuilder:validation:MaxItems=64
	// +listType=atomic
	// +optional
	Budgets []RunBudget `json:"budgets,omitempty"`
}

// RunBudget is a limit in tokens.
type RunBudget struct {
	// Scope in the ledger.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	Scope string `json:"scope"`
	// Limit in tokens.
	// +kubebuilder:validation:Minimum=0
	Limit int64 `json:"limit"`
	// WindowSeconds is the length of a rolling window; 0 means that the budget never frees again.
	// +kubebuilder:validation:Minimum=0
	// +optional
	WindowSeconds int64 `json:"windowSeconds,omitempty"`
}

// Trigger is what made a run.
type Trigger struct {
	// Kind of the trigger.
	// +optional
	Kind TriggerKind `json:"kind,omitempty"`
	// Name of the object that triggered: the ArkEvent, or the ArkRun that this one is a part or a repetition of.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Name string `json:"name,omitempty"`
	// ID of the trigger. The same id never makes a second run.
	// +kubebuilder:validation:MaxLength=256
	// +optional
	ID string `json:"id,omitempty"`
	// FiredAt is when the trigger was accepted.
	// +optional
	FiredAt *metav1.MicroTime `json:"firedAt,omitempty"`
	// Hops is the number of runs that led to this one, each triggered by the end of the one before.
	// +kubebuilder:validation:Minimum=0
	// +optional
	Hops int32 `json:"hops,omitempty"`
}

// TriggerKind is a kind of trigger: those of an ArkEvent, and those that ark makes itself.
// +kubebuilder:validation:Enum=webhook;cron;team-output;manual;service;step;retry;local
type TriggerKind string

const (
	TriggerWebhook    TriggerKind = "webhook"
	TriggerCron       TriggerKind = "cron"
	TriggerTeamOutput TriggerKind = "team-output"
	TriggerManual     TriggerKind = "manual"
	TriggerService    TriggerKind = "service" // a request to an ArkService
	TriggerStep       TriggerKind = "step"    // a step whose role is a team; the name is the parent run's
	TriggerRetry      TriggerKind = "retry"   // the name is the repeated run's
	TriggerLocal      TriggerKind = "local"   // ark run
)

// RunRole is one role as it was when the run was created. Exactly one of agent and team is set.
// +kubebuilder:validation:XValidation:rule="has(self.agent) != has(self.team)",message="a role of a run needs exactly one of agent and team"
type RunRole struct {
	// Name of the role.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// Agent is the ArkAgent that plays the role.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Agent string `json:"agent,omitempty"`
	// Team is the ArkTeam that plays the role.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Team string `json:"team,omitempty"`
	// CanDelegate lists the roles that this one may hand work to.
	// +kubebuilder:validation:MaxItems=100
	// +kubebuilder:validation:items:MaxLength=63
	// +listType=set
	// +optional
	CanDelegate []string `json:"canDelegate,omitempty"`
	// AgentGeneration is the generation of the agent at that time.
	// +optional
	AgentGeneration int64 `json:"agentGeneration,omitempty"`
	// PromptHash is the SHA-256 of the agent's system prompt at that time, in hex.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	PromptHash string `json:"promptHash,omitempty"`
}

// RunLookup is what a registry had for a step when the run was created.
type RunLookup struct {
	// Step whose registryLookup it answers.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Step string `json:"step"`
	// Agents that have the capability, in the registry's order. Empty: the step's fallback, else its role.
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=63
	// +listType=atomic
	// +optional
	Agents []string `json:"agents,omitempty"`
}

// RunRouting is what a router agent may choose from.
type RunRouting struct {
	// Agent is the ArkAgent of the router.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Agent string `json:"agent"`
	// Fallback is the capability or the ArkAgent that gets the task when the router picks nothing that exists.
	// +kubebuilder:validation:MaxLength=128
	// +optional
	Fallback string `json:"fallback,omitempty"`
	// Capabilities to choose from.
	// +kubebuilder:validation:MaxItems=256
	// +listType=map
	// +listMapKey=id
	// +optional
	Capabilities []RunCapability `json:"capabilities,omitempty"`
}

// RunCapability is one choice of a router, and who has it.
type RunCapability struct {
	// ID of the capability.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	ID string `json:"id"`
	// Description of the capability.
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	Description string `json:"description,omitempty"`
	// Tags of the capability.
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=128
	// +listType=set
	// +optional
	Tags []string `json:"tags,omitempty"`
	// Agents that have the capability.
	// +kubebuilder:validation:MaxItems=256
	// +kubebuilder:validation:items:MaxLength=63
	// +listType=atomic
	// +optional
	Agents []string `json:"agents,omitempty"`
}

// TopRun is the name of the run that this one was made for: the one that a person or a trigger asked for.
func (n *ArkRun) TopRun() string {
	if top := n.Labels[LabelRun]; top != "" && n.Spec.Parent != nil {
		return top
	}
	return n.Name
}
