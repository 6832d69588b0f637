package v1alpha1

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ArkNotify tells people what happened to teams and agents.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:shortName=anfy,path=arknotifies,categories=ark
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="Channels",type=integer,JSONPath=`.status.channelCount`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:validation:XValidation:rule="size(self.metadata.name) <= 63",message="metadata.name must not be longer than 63 characters"
type ArkNotify struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec is what is told, and where.
	// +required
	Spec ArkNotifySpec `json:"spec"`
	// Status is what was last told; ark writes it.
	// +optional
	Status ArkNotifyStatus `json:"status,omitzero"`
}

// ArkNotifyList is a list of ArkNotifies.
//
// +kubebuilder:object:root=true
type ArkNotifyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ArkNotify `json:"items"`
}

// ArkNotifySpec is what is told, and where. There are two ways to write it: on, channels and rateLimitSeconds; or
// events with a template each, one channel and rateLimiting.
// +kubebuilder:validation:XValidation:rule="has(self.channels) != has(self.channel)",message="exactly one of channels and channel is needed"
// +kubebuilder:validation:XValidation:rule="[has(self.on), has(self.__true__), has(self.events)].filter(x, x).size() <= 1",message="on and events exclude each other"
type ArkNotifySpec struct {
	// On lists what is told. Empty means everything.
	// +kubebuilder:validation:MaxItems=16
	// +listType=set
	// +optional
	On []NotifyEvent `json:"on,omitempty"`
	// OnUnquoted is on when it was not quoted: readers of YAML 1.1, kubectl among them, take the bare word on for the
	// boolean true.
	// +kubebuilder:validation:MaxItems=16
	// +listType=set
	// +optional
	OnUnquoted []NotifyEvent `json:"true,omitempty"`
	// Channels that it is told in.
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	// +optional
	Channels []NotifyChannel `json:"channels,omitempty"`
	// RateLimitSeconds is the time between two messages about the same thing. 0 means no limit.
	// +kubebuilder:default=300
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=604800
	// +optional
	RateLimitSeconds *int64 `json:"rateLimitSeconds,omitempty"`

	// Channel that it is told in, when there is only one.
	// +optional
	Channel *NotifyChannel `json:"channel,omitempty"`
	// Events lists what is told, each with its own template. Empty means everything.
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=type
	// +optional
	Events []NotifyRule `json:"events,omitempty"`
	// RateLimiting bounds the messages about the same thing. It wins over rateLimitSeconds.
	// +optional
	RateLimiting *RateLimiting `json:"rateLimiting,omitempty"`
}

// NotifyEvent is something that is told.
// +kubebuilder:validation:Enum=TeamSucceeded;TeamFailed;TeamTimedOut;BudgetExceeded;DailyLimitReached;AgentDegraded
type NotifyEvent string

const (
	NotifyTeamSucceeded     NotifyEvent = "TeamSucceeded"
	NotifyTeamFailed        NotifyEvent = "TeamFailed"
	NotifyTeamTimedOut      NotifyEvent = "TeamTimedOut"
	NotifyBudgetExceeded    NotifyEvent = "BudgetExceeded"
	NotifyDailyLimitReached NotifyEvent = "DailyLimitReached"
	NotifyAgentDegraded     NotifyEvent = "AgentDegraded"
)

// NotifyRule is something that is told, and in which words.
type NotifyRule struct {
	// Type of what is told.
	Type NotifyEvent `json:"type"`
	// Template of the message, instead of the channel's and of ark's own.
	// +kubebuilder:validation:MaxLength=65536
	// +optional
	Template string `json:"template,omitempty"`
}

// RateLimiting bounds the messages about the same thing.
type RateLimiting struct {
	// WindowSeconds is the length of the window.
	// +kubebuilder:default=300
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=604800
	// +optional
	WindowSeconds int64 `json:"windowSeconds,omitempty"`
	// MaxPerWindow is the number of messages in a window.
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=10000
	// +optional
	MaxPerWindow int32 `json:"maxPerWindow,omitempty"`
}

// NotifyChannel is where something is told.
// +kubebuilder:validation:XValidation:rule="(self.type == 'slack') == has(self.slack)",message="slack goes with type slack"
// +kubebuilder:validation:XValidation:rule="(self.type == 'webhook') == has(self.webhook)",message="webhook goes with type webhook"
type NotifyChannel struct {
	// Type of the channel.
	Type ChannelType `json:"type"`
	// Slack posts to an incoming webhook of Slack.
	// +optional
	Slack *SlackChannel `json:"slack,omitempty"`
	// Webhook sends an HTTP request.
	// +optional
	Webhook *WebhookChannel `json:"webhook,omitempty"`
	// Template of the message, instead of ark's own.
	// +kubebuilder:validation:MaxLength=65536
	// +optional
	Template string `json:"template,omitempty"`
}

// ChannelType is a kind of channel.
// +kubebuilder:validation:Enum=slack;webhook
type ChannelType string

const (
	ChannelSlack   ChannelType = "slack"
	ChannelWebhook ChannelType = "webhook"
)

// SlackChannel posts to an incoming webhook of Slack.
// +kubebuilder:validation:XValidation:rule="has(self.webhookURLFrom) != has(self.webhookUrlSecretRef)",message="slack needs exactly one of webhookURLFrom and webhookUrlSecretRef"
type SlackChannel struct {
	// WebhookURLFrom names the Secret and the key that hold the webhook's URL.
	// +optional
	WebhookURLFrom *KeyReference `json:"webhookURLFrom,omitempty"`
	// WebhookURLSecretRef is another way to write webhookURLFrom.
	// +optional
	WebhookURLSecretRef *KeyReference `json:"webhookUrlSecretRef,omitempty"`
}

// Secret returns where the webhook's URL is, whichever way that was written, or nil.
func (c *SlackChannel) Secret() *KeyReference {
	if c.WebhookURLSecretRef != nil {
		return c.WebhookURLSecretRef
	}
	return c.WebhookURLFrom
}

// WebhookChannel sends an HTTP request.
// +kubebuilder:validation:XValidation:rule="has(self.url) != has(self.urlFrom)",message="webhook needs exactly one of url and urlFrom"
type WebhookChannel struct {
	// URL that is called.
	// +kubebuilder:validation:MaxLength=2048
	// +kubebuilder:validation:Pattern=`^https?://.`
	// +optional
	URL string `json:"url,omitempty"`
	// URLFrom names the Secret and the key that hold the URL.
	// +optional
	URLFrom *KeyReference `json:"urlFrom,omitempty"`
	// Method of the request.
	// +kubebuilder:default=POST
	// +optional
	Method HTTPMethod `json:"method,omitempty"`
	// Headers that are sent with it.
	// +kubebuilder:validation:MaxItems=32
	// +listType=map
	// +listMapKey=name
	// +optional
	Headers []Header `json:"headers,omitempty"`
}

// ArkNotifyStatus is what was last told.
type ArkNotifyStatus struct {
	// ObservedGeneration is the generation of the spec that the status is about.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions of the notifier: Ready.
	// +kubebuilder:validation:MaxItems=16
	// +listType=map
	// +listMapKey=type
	// +optional
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// ChannelCount is the number of channels.
	// +optional
	ChannelCount int32 `json:"channelCount"`
	// LastDispatches are the newest messages, newest first.
	// +kubebuilder:validation:MaxItems=20
	// +listType=atomic
	// +optional
	LastDispatches []Dispatch `json:"lastDispatches,omitempty"`
}

// Dispatch is a message that was sent, or could not be.
type Dispatch struct {
	// Event that was told.
	Event NotifyEvent `json:"event"`
	// Subject is the team or agent that it is about.
	// +kubebuilder:validation:MaxLength=63
	// +optional
	Subject string `json:"subject,omitempty"`
	// Channel is the number of the channel in the list, from 0.
	// +optional
	Channel int32 `json:"channel"`
	// Time of the last attempt.
	// +optional
	Time *metav1.Time `json:"time,omitempty"`
	// Succeeded says whether it was delivered.
	// +optional
	Succeeded bool `json:"succeeded"`
	// Message says why it was not.
	// +kubebuilder:validation:MaxLength=1024
	// +optional
	Message string `json:"message,omitempty"`
}

// Tells says whether the event is told.
func (s *ArkNotifySpec) Tells(event NotifyEvent) bool {
	named := slices.Concat(s.On, s.OnUnquoted)
	for _, rule := range s.Events {
		named = append(named, rule.Type)
	}
	return len(named) == 0 || slices.Contains(named, event)
}

// AllChannels returns the channels, whichever way they were written.
func (s *ArkNotifySpec) AllChannels() []NotifyChannel {
	if s.Channel != nil {
		return []NotifyChannel{*s.Channel}
	}
	return s.Channels
}
