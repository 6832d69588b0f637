package v1alpha1

// Labels and annotations that ark sets on what it creates, and reads.
const (
	LabelManagedBy = "app.kubernetes.io/managed-by" // always ManagedBy
	LabelName      = "app.kubernetes.io/name"       // NameAgent on whatever belongs to an agent's pods
	LabelInstance  = "app.kubernetes.io/instance"   // the ArkAgent's name

	LabelAgent = "arkonis.dev/agent" // the ArkAgent
	LabelTeam  = "arkonis.dev/team"  // the ArkTeam
	LabelRole  = "arkonis.dev/role"  // the role of an inline agent in its team
	LabelEvent = "arkonis.dev/event" // the ArkEvent

	AnnotationCancel = "arkonis.dev/cancel" // "true" on an ArkRun cancels it
	AnnotationTrace  = "arkonis.dev/traceparent"

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
	ReasonCancelled      = "Cancelled"
	ReasonRoutingFailed  = "RoutingFailed"
)

// Longest names, in characters: what ark derives from them fits the 63 characters of a label and of a DNS label.
const (
	MaxNameLength      = 63
	MaxAgentNameLength = MaxNameLength - len(AgentDeploymentSuffix)
	MaxTeamNameLength  = MaxNameLength - len(runInfix) - runHexLength
	MaxHookNameLength  = MaxNameLength - len(WebhookTokenSuffix)

	// AgentDeploymentSuffix follows the agent's name in the name of its Deployment.
	AgentDeploymentSuffix = "-agent"
	// WebhookTokenSuffix follows the event's name in the name of the Secret that holds its bearer token.
	WebhookTokenSuffix = "-webhook-token"

	runInfix     = "-run-"
	runHexLength = 10
	routerRole   = "router"
)

// RoleAgentName is the name of the ArkAgent that a team makes for an inline role.
func RoleAgentName(team, role string) string { return team + "-" + role }

// RouterAgentName is the name of the ArkAgent that a routed team makes for its router.
func RouterAgentName(team string) string { return RoleAgentName(team, routerRole) }

// RunName is the name of a team's run; hex is at least 10 hex characters that are derived from the trigger's id.
func RunName(team, hex string) string { return team + runInfix + hex[:runHexLength] }
