package v1alpha1

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
