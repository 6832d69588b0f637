package v1alpha1

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Value is any JSON value, kept as it was written: numbers keep their digits. The zero Value is null.
//
// +kubebuilder:validation:Type=""
// +kubebuilder:validation:XPreserveUnknownFields
type Value struct {
	// Raw is the JSON text without insignificant white space.
	Raw json.RawMessage `json:"-"`
}

// NewValue makes a Value of what encoding/json can encode.
func NewValue(v any) (Value, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return Value{}, fmt.Errorf("encode value: %w", err)
	}
	return Value{Raw: raw}, nil
}

// Decode returns the value as nil, bool, json.Number, string, []any or map[string]any.
func (v Value) Decode() (any, error) {
	if len(v.Raw) == 0 {
		return nil, nil
	}
	dec := json.NewDecoder(bytes.NewReader(v.Raw))
	dec.UseNumber()
	var out any
	if err := dec.Decode(&out); err != nil {
		return nil, fmt.Errorf("decode value: %w", err)
	}
	return out, nil
}

// IsNull says whether the value is null or absent.
func (v Value) IsNull() bool { return len(v.Raw) == 0 || string(v.Raw) == "null" }

// MarshalJSON writes the value as it is.
func (v Value) MarshalJSON() ([]byte, error) {
	if len(v.Raw) == 0 {
		return []byte("null"), nil
	}
	return v.Raw, nil
}

// UnmarshalJSON keeps the value as it is, without insignificant white space.
func (v *Value) UnmarshalJSON(text []byte) error {
	var buf bytes.Buffer
	if err := json.Compact(&buf, text); err != nil {
		return fmt.Errorf("decode value: %w", err)
	}
	v.Raw = buf.Bytes()
	return nil
}

// Values are JSON values by name.
type Values map[string]Value

// NewValues makes Values of a decoded JSON object; of a nil map it makes nil.
func NewValues(m map[string]any) (Values, error) {
	if m == nil {
		return nil, nil
	}
	out := make(Values, len(m))
	for k, v := range m {
		value, err := NewValue(v)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
		out[k] = value
	}
	return out, nil
}

// Decode returns the values as in Value.Decode; of nil Values it returns an empty map.
func (v Values) Decode() (map[string]any, error) {
	out := make(map[string]any, len(v))
	for k, value := range v {
		decoded, err := value.Decode()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", k, err)
		}
		out[k] = decoded
	}
	return out, nil
}

// Input declares one input of a team.
type Input struct {
	// Name of the input.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[A-Za-z_][A-Za-z0-9_-]*$`
	Name string `json:"name"`
	// Type of the input. A text that is given for another type is converted if it can be.
	// +kubebuilder:default=string
	// +optional
	Type InputType `json:"type,omitempty"`
	// Description of the input for people.
	// +kubebuilder:validation:MaxLength=4096
	// +optional
	Description string `json:"description,omitempty"`
	// Required refuses a run that has no value for the input.
	// +optional
	Required bool `json:"required,omitempty"`
	// Default is the value when none is given.
	// +optional
	Default *Value `json:"default,omitempty"`
	// Enum lists the only values that are allowed.
	// +kubebuilder:validation:MaxItems=256
	// +listType=atomic
	// +optional
	Enum []Value `json:"enum,omitempty"`
}

// InputType is the type of an input.
// +kubebuilder:validation:Enum=string;number;boolean;object;array
type InputType string

const (
	InputString  InputType = "string"
	InputNumber  InputType = "number"
	InputBoolean InputType = "boolean"
	InputObject  InputType = "object"
	InputArray   InputType = "array"
)

// Reference names another ark object in the same namespace.
type Reference struct {
	// Name of the object.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
}

// SecretReference names a Secret in the same namespace; which keys are read is said where it is used.
type SecretReference struct {
	// Name of the Secret.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// KeyReference names one key of a Secret or a ConfigMap in the same namespace.
type KeyReference struct {
	// Name of the Secret or ConfigMap.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Key in it.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Key string `json:"key"`
}

// SecretSource takes a value from a Secret.
type SecretSource struct {
	// SecretKeyRef names the Secret and the key that holds the value.
	SecretKeyRef KeyReference `json:"secretKeyRef"`
}

// Header is one HTTP header. Its value comes from exactly one place.
// +kubebuilder:validation:XValidation:rule="has(self.value) ? !has(self.secretKeyRef) && !has(self.valueFrom) : has(self.secretKeyRef) != has(self.valueFrom)",message="a header takes its value from exactly one of value, secretKeyRef and valueFrom"
type Header struct {
	// Name of the header.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=256
	// +kubebuilder:validation:Pattern=`^[!#$%&'*+.^_|~0-9A-Za-z-]+$`
	Name string `json:"name"`
	// Value in plain text; it is not for secrets.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=8192
	// +optional
	Value string `json:"value,omitempty"`
	// SecretKeyRef takes the value from a Secret.
	// +optional
	SecretKeyRef *KeyReference `json:"secretKeyRef,omitempty"`
	// ValueFrom is another way to write secretKeyRef.
	// +optional
	ValueFrom *SecretSource `json:"valueFrom,omitempty"`
}

// Secret returns where the header's value comes from when it is in a Secret, whichever way that was written, or nil.
func (h *Header) Secret() *KeyReference {
	if h.ValueFrom != nil {
		return &h.ValueFrom.SecretKeyRef
	}
	return h.SecretKeyRef
}

// PayloadRef points at a body in the payload store.
type PayloadRef struct {
	// Key in the payload store: <run uid>/<sha256>.
	// +kubebuilder:validation:MaxLength=256
	Key string `json:"key"`
	// Size in bytes.
	// +optional
	Size int64 `json:"size,omitempty"`
	// SHA256 of the body, in hex.
	// +kubebuilder:validation:MaxLength=64
	// +optional
	SHA256 string `json:"sha256,omitempty"`
}

// TokenUsage counts tokens.
type TokenUsage struct {
	// InputTokens that the model read.
	// +optional
	InputTokens int64 `json:"inputTokens"`
	// OutputTokens that the model wrote.
	// +optional
	OutputTokens int64 `json:"outputTokens"`
	// CachedTokens are the part of the input tokens that the provider took from its cache.
	// +optional
	CachedTokens int64 `json:"cachedTokens,omitempty"`
	// TotalTokens are what budgets were charged: input and output tokens, and what calls of unknown outcome cost.
	// +optional
	TotalTokens int64 `json:"totalTokens"`
	// UnknownCalls is the number of model calls whose outcome nobody knows, because a process died or a connection
	// broke in the middle. Budgets are charged for them in full, which only the total counts.
	// +optional
	UnknownCalls int64 `json:"unknownCalls,omitempty"`
}
