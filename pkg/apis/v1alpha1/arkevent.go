package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ArkEvent fires teams and agents: from outside, at times, or when a team has finished.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=ae,categories=ark
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Type",type=string,JSONPath=`.spec.source.type`
// +kubebuilder:printcolumn:name="Suspended",type=boolean,JSONPath=`.spec.suspended`
// +kubebuilder:printcolumn:name="Fired",type=integer,JSONPath=`.status.firedCount`
// +kubebuilder:printcolumn:name="Last Fired",type=date,JSONPath=`.status.lastFiredAt`
// +kubebuilder:printcolumn:name="Next Fire",type=string,JSONPath=`.status.nextFireAt`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name must not be longer than 63 characters"
// +kubebuilder:validation:XValidation:rule="self.spec.source.type != 'webhook' || size(self.metadata.name) <= 49",message="metadata.name of a webhook event must not be longer than 49 characters, so that the name of its Secret fits 63"
type ArkEvent struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what fires, and whom.
	// +required
	Spec ArkEventSpec `json:"spec"`
	// Status is what was last seen; ark writes it.
	// +optional
	Status ArkEventStatus `json:"status,omitzero"`
}

// ArkEventList is a list of ArkEvents.
//
// +kubebuilder:object:root=true
type ArkEventList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ArkEvent `json:"items"`
}

// ArkEventSpec is what fires, and whom.
type ArkEventSpec struct {
	// Source is what fires.
	Source EventSource `json:"source"`
	// Targets are fired together; each makes a run of its own.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=50
	// +listType=atomic
	Targets []EventTarget `json:"targets"`
	// ConcurrencyPolicy says what becomes of a trigger while a run of an earlier one is live: both run, the new one is
	// skipped, or the old run is cancelled.
	// +kubebuilder:default=Allow
	// +optional
	ConcurrencyPolicy ConcurrencyPolicy `json:"concurrencyPolicy,omitempty"`
	// CatchUp says what becomes of the times that a cron event missed: the last of them fires, or none.
	// +kubebuilder:default=Last
	// +optional
	CatchUp CatchUp `json:"catchUp,omitempty"`
	// StartingDeadlineSeconds is how late a missed time may still fire.
	// +kubebuilder:default=86400
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=31536000
	// +optional
	StartingDeadlineSeconds int64 `json:"startingDeadlineSeconds,omitempty"`
	// Suspended stops the event from firing.
	// +kubebuilder:default=false
	// +optional
	Suspended bool `json:"suspended,omitempty"`
}

// EventSource is what fires.
// +kubebuilder:validation:XValidation:rule="(self.type == 'cron') == has(self.cron)",message="cron goes with type cron"
// +kubebuilder:validation:XValidation:rule="!has(self.timeZone) || self.type == 'cron'",message="timeZone goes with type cron"
// +kubebuilder:validation:XValidation:rule="(self.type == 'team-output') == has(self.teamOutput)",message="teamOutput goes with type team-output"
// +kubebuilder:validation:XValidation:rule="!has(self.webhook) || self.type == 'webhook'",message="webhook goes with type webhook"
type EventSource struct {
	// Type of the source.
	Type EventType `json:"type"`
	// Cron says when to fire, in five fields: minute, hour, day of month, month, day of week.
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^\s*\S+(\s+\S+){4}\s*$`
	// +optional
	Cron string `json:"cron,omitempty"`
	// TimeZone of cron, such as Europe/Berlin. Without it, it is UTC.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_+/-]+$`
	// +optional
	TimeZone string `json:"timeZone,omitempty"`
	// TeamOutput fires when a team has finished.
	// +optional
	TeamOutput *TeamOutputSource `json:"teamOutput,omitempty"`
	// Webhook fires when it is called. Without it, callers show a bearer token.
	// +optional
	Webhook *WebhookSource `json:"webhook,omitempty"`
}

// EventType is a kind of source.
// +kubebuilder:validation:Enum=webhook;cron;team-output;manual
type EventType string

const (
	EventWebhook    EventType = "webhook"
	EventCron       EventType = "cron"
	EventTeamOutput EventType = "team-output"
	EventManual     EventType = "manual" // fires once, and is removed after an hour
)

// TeamOutputSource fires when a team has finished.
type TeamOutputSource struct {
	// Name of the team.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// OnPhase is how the run must have ended; * is any way.
	// +kubebuilder:default=Succeeded
	// +optional
	OnPhase OutputPhase `json:"onPhase,omitempty"`
}

// OutputPhase is how a run must have ended.
// +kubebuilder:validation:Enum=Succeeded;Failed;*
type OutputPhase string

const (
	OnSucceeded OutputPhase = "Succeeded"
	OnFailed    OutputPhase = "Failed"
	OnAny       OutputPhase = "*"
)

// WebhookSource says how callers show who they are.
// +kubebuilder:validation:XValidation:rule="(has(self.auth) && self.auth == 'hmac') == has(self.hmac)",message="hmac goes with auth hmac"
type WebhookSource struct {
	// Auth of callers: a bearer token (Secret <event>-webhook-token, key token), a signature of the body, or nothing.
	// +kubebuilder:default=bearer
	// +optional
	Auth WebhookAuth `json:"auth,omitempty"`
	// HMAC says how the body is signed.
	// +optional
	HMAC *HMACAuth `json:"hmac,omitempty"`
	// IdempotencyHeader is the header whose value makes a repeated call return the same runs. Without it, it is
	// Idempotency-Key.
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[!#$%&'*+.^_|~0-9A-Za-z-]+$`
	// +optional
	IdempotencyHeader string `json:"idempotencyHeader,omitempty"`
}

// WebhookAuth is how callers show who they are.
// +kubebuilder:validation:Enum=bearer;hmac;none
type WebhookAuth string

const (
	WebhookBearer WebhookAuth = "bearer"
	WebhookHMAC   WebhookAuth = "hmac"
	WebhookNone   WebhookAuth = "none"
)

// HMACAuth says how a body is signed.
type HMACAuth struct {
	// SecretRef names the Secret and the key that hold the shared secret.
	SecretRef KeyReference `json:"secretRef"`
	// Header that carries the signature in hex, with or without the algorithm's name and = before it.
	// +kubebuilder:default=X-Hub-Signature-256
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[!#$%&'*+.^_|~0-9A-Za-z-]+$`
	// +optional
	Header string `json:"header,omitempty"`
	// Algorithm of the signature.
	// +kubebuilder:default=sha256
	// +optional
	Algorithm HMACAlgorithm `json:"algorithm,omitempty"`
}

// HMACAlgorithm is the hash of a signature.
// +kubebuilder:validation:Enum=sha256;sha384;sha512
type HMACAlgorithm string

const (
	HMACSHA256 HMACAlgorithm = "sha256"
	HMACSHA384 HMACAlgorithm = "sha384"
	HMACSHA512 HMACAlgorithm = "sha512"
)

// EventTarget is who is fired.
// +kubebuilder:validation:XValidation:rule="has(self.team) != has(self.agent)",message="a target needs exactly one of team and agent"
type EventTarget struct {
	// Team that is run.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Team string `json:"team,omitempty"`
	// Agent that works on the prompt.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Agent string `json:"agent,omitempty"`
	// Input of the run; each value is a template.
	// +kubebuilder:validation:MaxProperties=256
	// +optional
	Input map[string]string `json:"input,omitempty"`
	// Prompt is a template: the text of an agent's task, or the input prompt of a team.
	// +kubebuilder:validation:MaxLength=65536
	// +optional
	Prompt string `json:"prompt,omitempty"`
}

// ConcurrencyPolicy says what becomes of a trigger while a run of an earlier one is live.
// +kubebuilder:validation:Enum=Allow;Forbid;Replace
type ConcurrencyPolicy string

const (
	ConcurrencyAllow   ConcurrencyPolicy = "Allow"
	ConcurrencyForbid  ConcurrencyPolicy = "Forbid"
	ConcurrencyReplace ConcurrencyPolicy = "Replace"
)

// CatchUp says what becomes of missed times.
// +kubebuilder:validation:Enum=None;Last
type CatchUp string

const (
	CatchUpNone CatchUp = "None"
	CatchUpLast CatchUp = "Last"
)

// ArkEventStatus is what was last seen of an event.
type ArkEventStatus struct {
	// ObservedGeneration is the generation of the spec that the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions of the event: Ready.
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// LastFiredAt is when the event last fired.
	// +optional
	LastFiredAt *metav1.Time `json:"lastFiredAt,omitempty"`
	// NextFireAt is when a cron event fires next.
	// +optional
	NextFireAt *metav1.Time `json:"nextFireAt,omitempty"`
	// FiredCount is how often the event fired.
	// +optional
	FiredCount int64 `json:"firedCount"`
	// SkippedCount is how often the event did not fire although it was due.
	// +optional
	SkippedCount int64 `json:"skippedCount"`
	// LastRuns are the newest runs, newest first.
	// +kubebuilder:validation:MaxItems=50
	// +listType=atomic
	// +optional
	LastRuns []EventRun `json:"lastRuns,omitempty"`
	// WebhookURL is where a webhook event is called.
	// +kubebuilder:validation:MaxLength=2048
	// +optional
	WebhookURL string `json:"webhookURL,omitempty"`
}

// EventRun is a run that an event made.
type EventRun struct {
	// Name of the run.
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// Target is the team or agent.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Target string `json:"target,omitempty"`
	// FiredAt is when the event fired.
	// +optional
	FiredAt *metav1.Time `json:"firedAt,omitempty"`
}
