// Package v1alpha1 holds ark's custom resources: group arkonis.dev, version v1alpha1, nine namespaced kinds.
//
// Three things live here for each kind: its shape (arkagent.go and so on, with the markers that the CRDs in crds/ are
// generated from), its defaults (SetDefaults, defaults.go) and its rules (Validate). The CRD carries the same
// defaults and, as far as CEL's cost limits allow, the same rules; the code carries all of them, because `ark run`
// has no API server. Rules that need a graph or a parsed template belong to pkg/pipeline.
//
// Everything here is plain data without a lock: safe for concurrent reads, and to be copied with DeepCopy before it
// is changed by someone who does not own it.
//
// +kubebuilder:object:generate=true
// +groupName=arkonis.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API group of every kind in this package, Version its version.
const (
	GroupName = "arkonis.dev"
	Version   = "v1alpha1"
)

// GroupVersion is the API group and version of every kind in this package.
func GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: GroupName, Version: Version}
}

// Kind returns the group, version and kind of a kind in this package, such as "ArkTeam".
func Kind(kind string) schema.GroupVersionKind { return GroupVersion().WithKind(kind) }

// Resource returns the group, version and resource of a kind in this package, such as "arkteams".
func Resource(resource string) schema.GroupVersionResource {
	return GroupVersion().WithResource(resource)
}

// Kinds returns an empty object of every kind, in alphabetical order, each with its own list kind.
func Kinds() []struct{ Object, List runtime.Object } {
	return []struct{ Object, List runtime.Object }{
		{&ArkAgent{}, &ArkAgentList{}},
		{&ArkEvent{}, &ArkEventList{}},
		{&ArkMemory{}, &ArkMemoryList{}},
		{&ArkNotify{}, &ArkNotifyList{}},
		{&ArkRegistry{}, &ArkRegistryList{}},
		{&ArkRun{}, &ArkRunList{}},
		{&ArkService{}, &ArkServiceList{}},
		{&ArkSettings{}, &ArkSettingsList{}},
		{&ArkTeam{}, &ArkTeamList{}},
	}
}

// AddToScheme makes the kinds of this package known to a scheme. It always returns nil; the error is there so that it
// can be used where the Kubernetes libraries expect such a function.
func AddToScheme(s *runtime.Scheme) error {
	for _, k := range Kinds() {
		s.AddKnownTypes(GroupVersion(), k.Object, k.List)
	}
	metav1.AddToGroupVersion(s, GroupVersion())
	return nil
}

// Labels and annotations that ark sets on what it creates, and reads.
const (
	LabelManagedBy = "app.kubernetes.io/managed-by" // always ManagedBy
	LabelName      = "app.kubernetes.io/name"       // NameAgent on whatever belongs to an agent's pods
	LabelInstance  = "app.kubernetes.io/instance"   // the ArkAgent's name

	LabelAgent = "arkonis.dev/agent" // the ArkAgent
	LabelTeam  = "arkonis.dev/team"  // the ArkTeam
	LabelRole  = "arkonis.dev/role"  // the role of an inline agent in its team
	LabelEvent = "arkonis.dev/event" // the ArkEvent
	LabelRun   = "arkonis.dev/run"   // the ArkRun at the top, on all runs that carry out steps below it

	AnnotationCancel = "arkonis.dev/cancel" // "true" on an ArkRun cancels it
	AnnotationTrace  = "arkonis.dev/traceparent"
	// AnnotationStore on an ArkRun names the queue's store that holds its results. Where that is another one, they are lost.
	AnnotationStore = "arkonis.dev/store"
	// AnnotationCancelReason is a sentence for people beside AnnotationCancel.
	AnnotationCancelReason = "arkonis.dev/cancel-reason"
	// AnnotationInput on an ArkEvent says how the inputs of its targets are written: InputJSON, or as templates without it.
	AnnotationInput = "arkonis.dev/input"
	InputJSON       = "json"

	ManagedBy = "ark"
	NameAgent = "agent"
)

// Condition types. Every kind has Ready.
const (
	ConditionReady          = "Ready"
	ConditionComplete       = "Complete"       // ArkRun: the run has ended, whichever way
	ConditionBudgetExceeded = "BudgetExceeded" // ArkAgent: the daily budget is used up
	ConditionMCPDegraded    = "MCPDegraded"    // ArkAgent: a tool server is unreachable
	ConditionHealthy        = "Healthy"        // ArkAgent: the verdict of the semantic probe
	ConditionNameConflict   = "NameConflict"   // an object that ark did not make has a name that ark needs
)

// Reasons of conditions. A run's reason is also the reason of its failure.
const (
	ReasonReconciled     = "Reconciled"
	ReasonReconcileError = "ReconcileError"
	ReasonNameConflict   = "NameConflict"
	ReasonInvalidSpec    = "InvalidSpec"

	ReasonAllReplicasReady      = "AllReplicasReady"
	ReasonProgressing           = "Progressing"
	ReasonPromptResolutionError = "PromptResolutionError"
	ReasonSecretNotFound        = "SecretNotFound"
	ReasonScaledToZero          = "ScaledToZero"
	ReasonDailyLimitReached     = "DailyLimitReached"
	ReasonTeamDailyLimitReached = "TeamDailyLimitReached"
	ReasonWithinLimit           = "WithinLimit"
	ReasonServerUnreachable     = "ServerUnreachable"
	ReasonServersReachable      = "ServersReachable"
	ReasonProbePending          = "ProbePending"
	ReasonProbeSucceeded        = "ProbeSucceeded"
	ReasonProbeFailed           = "ProbeFailed"

	ReasonRolesNotReady     = "RolesNotReady"
	ReasonInvalidTopology   = "InvalidTopology"
	ReasonInvalidDAG        = "InvalidDAG"
	ReasonReferenceNotFound = "ReferenceNotFound"
	ReasonSuspended         = "Suspended"

	ReasonSucceeded      = "Succeeded"
	ReasonStepFailed     = "StepFailed"
	ReasonTimedOut       = "TimedOut"
	ReasonBudgetExceeded = "BudgetExceeded"
	ReasonInvalidInput   = "InvalidInput"
	ReasonTeamNotFound   = "TeamNotFound"
	ReasonAgentNotFound  = "AgentNotFound"
	ReasonCancelled      = "Cancelled"
	ReasonRoutingFailed  = "RoutingFailed"
	ReasonStoreLost      = "StoreLost"     // the queue's store, with the results of the run's steps, is gone
	ReasonStatusRefused  = "StatusRefused" // the API server does not take the run's status
	ReasonNotRetryable   = "NotRetryable"  // the run cannot go on from the one that it retries
)

// Longest names, in characters: what ark derives from them fits the 63 characters of a label and of a DNS label.
const (
	MaxNameLength      = 63
	MaxAgentNameLength = MaxNameLength - len(AgentDeploymentSuffix)
	MaxTeamNameLength  = MaxNameLength - len(runInfix) - RunHexLength
	MaxHookNameLength  = MaxNameLength - len(WebhookTokenSuffix)

	// AgentDeploymentSuffix follows the agent's name in the name of its Deployment.
	AgentDeploymentSuffix = "-agent"
	// WebhookTokenSuffix follows the event's name in the name of the Secret that holds its bearer token.
	WebhookTokenSuffix = "-webhook-token"

	// RunHexLength is how much of an id the name of a run has.
	RunHexLength = 10

	runInfix   = "-run-"
	routerRole = "router"
)

// RoleAgentName is the name of the ArkAgent that a team makes for an inline role.
func RoleAgentName(team, role string) string { return team + "-" + role }

// RouterAgentName is the name of the ArkAgent that a routed team makes for its router.
func RouterAgentName(team string) string { return RoleAgentName(team, routerRole) }

// RunName is the name of a team's run; hex is at least 10 hex characters that are derived from the trigger's id.
func RunName(team, hex string) string { return team + runInfix + hex[:RunHexLength] }
