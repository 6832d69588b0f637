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
