package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ArkRunStatus is how far a run is.
type ArkRunStatus struct {
	// ObservedGeneration is the generation of the spec that the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions of the run: Ready and Complete.
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`

	// Phase of the run.
	// +optional
	Phase RunPhase `json:"phase,omitempty"`
	// Resolved is the snapshot of the team, when the run was created without one.
	// +optional
	Resolved *ResolvedRun `json:"resolved,omitempty"`
	// Reused is what was taken over from the run that this one retries.
	// +optional
	Reused *ReusedResults `json:"reused,omitempty"`

	// Steps of the run: all of them up to 150, beyond that the unfinished, the failed and the newest.
	// +kubebuilder:validation:MaxItems=150
	// +listType=atomic
	// +optional
	Steps []StepStatus `json:"steps,omitempty"`
	// StepCounts counts all steps of the run, also those that are not in steps.
	// +optional
	StepCounts *StepCounts `json:"stepCounts,omitempty"`
	// StepSummary is the number of steps that are done and of all of them, as in 3/5.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	StepSummary string `json:"stepSummary,omitempty"`

	// Output is the run's result, cut when it is long.
	// +kubebuilder:validation:MaxLength=32768
	// +optional
	Output string `json:"output,omitempty"`
	// OutputRef points at the whole result when output is cut.
	// +optional
	OutputRef *PayloadRef `json:"outputRef,omitempty"`
	// TotalTokenUsage of all steps, attempts, judges and delegates.
	// +optional
	TotalTokenUsage *TokenUsage `json:"totalTokenUsage,omitempty"`

	// StartTime is when the run started.
	// +optional
	StartTime *metav1.MicroTime `json:"startTime,omitempty"`
	// CompletionTime is when the run ended.
	// +optional
	CompletionTime *metav1.MicroTime `json:"completionTime,omitempty"`
	// Duration from start to end for people, as in 6.3s.
	// +kubebuilder:validation:MaxLength=32
	// +optional
	Duration string `json:"duration,omitempty"`
	// Message says what the run waits for, or why it failed and what to do.
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	Message string `json:"message,omitempty"`
	// FailedStep is the step that failed the run.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	FailedStep string `json:"failedStep,omitempty"`
	// TraceID of the run's trace, in hex.
	// +kubebuilder:validation:MaxLength=32
	// +optional
	TraceID string `json:"traceID,omitempty"`
}

// ResolvedRun is the snapshot of a run that was created without one. Exactly one of its fields is set.
type ResolvedRun struct {
	// Spec is the spec with the snapshot in it, in the form of the run's own spec. It was checked when it was taken: the API
	// server need not do it again with every status.
	// +kubebuilder:validation:Schemaless
	// +kubebuilder:validation:Type=object
	// +kubebuilder:pruning:PreserveUnknownFields
	// +optional
	Spec *ArkRunSpec `json:"spec,omitempty"`
	// Ref points at the spec in the payload store when it is large.
	// +optional
	Ref *PayloadRef `json:"ref,omitempty"`
}

// ReusedResults are the results that a run took over from the one that it retries. They are copies: the other run may go.
type ReusedResults struct {
	// Run that they were taken from.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Run string `json:"run,omitempty"`
	// UID of that run.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	UID string `json:"uid,omitempty"`
	// Steps is the number of results.
	// +optional
	Steps int32 `json:"steps"`
	// Ref points at the results in the payload store; there is none when nothing was taken over.
	// +optional
	Ref *PayloadRef `json:"ref,omitempty"`
}

// RunPhase is how far a run is.
// +kubebuilder:validation:Enum=Pending;Running;Succeeded;Failed;Cancelled
type RunPhase string

const (
	RunPending   RunPhase = "Pending" // accepted, nothing was started
	RunRunning   RunPhase = "Running"
	RunSucceeded RunPhase = "Succeeded"
	RunFailed    RunPhase = "Failed"
	RunCancelled RunPhase = "Cancelled"
)

// Terminal says whether a run with this phase has ended.
func (p RunPhase) Terminal() bool { return p == RunSucceeded || p == RunFailed || p == RunCancelled }

// StepPhase is how far a step is.
// +kubebuilder:validation:Enum=Pending;Running;Validating;Waiting;Succeeded;Failed;Skipped;Cancelled
type StepPhase string

const (
	StepPending    StepPhase = "Pending"    // its dependencies are not done
	StepRunning    StepPhase = "Running"    // queued or worked on
	StepValidating StepPhase = "Validating" // a judge looks at the answer
	StepWaiting    StepPhase = "Waiting"    // for something that message names: a pod, a back-off
	StepSucceeded  StepPhase = "Succeeded"
	StepFailed     StepPhase = "Failed"
	StepSkipped    StepPhase = "Skipped" // its condition was false, or the run ended before
	StepCancelled  StepPhase = "Cancelled"
)

// Terminal says whether a step with this phase is done.
func (p StepPhase) Terminal() bool {
	return p == StepSucceeded || p == StepFailed || p == StepSkipped || p == StepCancelled
}

// StepCounts counts steps by what became of them.
type StepCounts struct {
	// Total number of steps, delegated work not counted.
	// +optional
	Total int32 `json:"total"`
	// Pending steps have not started.
	// +optional
	Pending int32 `json:"pending,omitempty"`
	// Running steps are queued, worked on, validated or waiting.
	// +optional
	Running int32 `json:"running,omitempty"`
	// Succeeded steps.
	// +optional
	Succeeded int32 `json:"succeeded,omitempty"`
	// Failed steps.
	// +optional
	Failed int32 `json:"failed,omitempty"`
	// Skipped steps.
	// +optional
	Skipped int32 `json:"skipped,omitempty"`
	// Cancelled steps.
	// +optional
	Cancelled int32 `json:"cancelled,omitempty"`
	// Delegated pieces of work.
	// +optional
	Delegated int32 `json:"delegated,omitempty"`
}

// StepStatus is how far a step, or a piece of delegated work, is.
type StepStatus struct {
	// Name of the step.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Role that works on it.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Role string `json:"role,omitempty"`
	// Agent that works on it.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Agent string `json:"agent,omitempty"`
	// Phase of the step.
	// +optional
	Phase StepPhase `json:"phase,omitempty"`
	// TaskID of the newest task.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	TaskID string `json:"taskID,omitempty"`
	// Parent is the step that handed the work over.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Parent string `json:"parent,omitempty"`
	// Attempts that were made.
	// +optional
	Attempts int32 `json:"attempts,omitempty"`
	// Iterations of a loop, or items of a forEach, that were done.
	// +optional
	Iterations int32 `json:"iterations,omitempty"`
	// Output of the step, cut when it is long.
	// +kubebuilder:validation:MaxLength=32768
	// +optional
	Output string `json:"output,omitempty"`
	// OutputRef points at the whole output when output is cut.
	// +optional
	OutputRef *PayloadRef `json:"outputRef,omitempty"`
	// Data is the output as JSON, when the step has an outputSchema and the output is short.
	// +optional
	Data *Value `json:"data,omitempty"`
	// TokenUsage of all attempts.
	// +optional
	TokenUsage *TokenUsage `json:"tokenUsage,omitempty"`
	// ToolCalls that were made.
	// +optional
	ToolCalls int32 `json:"toolCalls,omitempty"`
	// StartTime is when the step was queued.
	// +optional
	StartTime *metav1.MicroTime `json:"startTime,omitempty"`
	// CompletionTime is when the step was done.
	// +optional
	CompletionTime *metav1.MicroTime `json:"completionTime,omitempty"`
	// Message says what the step waits for, or why it failed and what to do.
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	Message string `json:"message,omitempty"`
	// Reason in one CamelCase word.
	// +kubebuilder:validation:MaxLength=128
	// +optional
	Reason string `json:"reason,omitempty"`
	// Pod that works, or worked last, on the step.
	// +kubebuilder:validation:MaxLength=253
	// +optional
	Pod string `json:"pod,omitempty"`
	// SelectedCapability is what the router picked.
	// +kubebuilder:validation:MaxLength=128
	// +optional
	SelectedCapability string `json:"selectedCapability,omitempty"`
	// RoutingReason is why the router picked it.
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	RoutingReason string `json:"routingReason,omitempty"`
}
