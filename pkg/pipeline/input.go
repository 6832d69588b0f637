package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/chars"
)

// ResolveInput makes the input of a run of the given values: it fills in defaults, converts texts to the declared
// types, gives optional inputs without a value the empty value of their type, and checks what is required and allowed.
// A value counts in this order: given, spec.input, the declared default; null counts as not given. Values that nobody
// declared pass through, with a warning when the team declares inputs. The findings' paths are input.<name>. The
// numbers of the result are json.Number.
func ResolveInput(team *v1alpha1.ArkTeam, values map[string]any) (map[string]any, []Finding) {
	spec := &team.Spec
	given, err := spec.Input.Decode()
	if err != nil {
		return nil, []Finding{failure("spec.input", "is not JSON: %v", err)}
	}
	var findings []Finding
	declared := declaredInputs(spec)
	for _, key := range sortedKeys(values) {
		v, err := normal(values[key])
		switch {
		case err != nil:
			findings = append(findings, failure("input."+key, "is not a JSON value: %v", err))
			continue
		case v != nil:
			given[key] = v
		}
		if _, ok := declared[key]; !ok && len(spec.Inputs) > 0 {
			f := failure("input."+key, "the team %q does not declare this input; it is passed on as it is", team.Name)
			f.Severity, f.Hint = SeverityWarning, oneOf("declared inputs", key, sortedKeys(declared))
			findings = append(findings, f)
		}
	}
	for i := range spec.Inputs {
		in := &spec.Inputs[i]
		v, f, ok := resolveOne(in, given[in.Name])
		if !ok {
			findings = append(findings, f)
			continue
		}
		given[in.Name] = v
	}
	return given, findings
}

func resolveOne(in *v1alpha1.Input, v any) (any, Finding, bool) {
	path := "input." + in.Name
	if v == nil && in.Default != nil {
		decoded, err := in.Default.Decode()
		if err != nil {
			return nil, failure(path, "its default is not JSON: %v", err), false
		}
		v = decoded
	}
	if v == nil {
		if in.Required {
			f := failure(path, "is required and has no value")
			f.Hint = "give it a value of type " + string(typeOf(in))
			if in.Description != "" {
				f.Hint += ": " + in.Description
			}
			return nil, f, false
		}
		return emptyValue(typeOf(in)), Finding{}, true
	}
	v, err := coerce(typeOf(in), v)
	if err != nil {
		return nil, failure(path, "%v", err), false
	}
	if allowed, ok := allows(in, v); !ok {
		f := failure(path, "%s is not allowed", jsonText(v))
		f.Hint = "allowed are " + strings.Join(allowed, ", ")
		return nil, f, false
	}
	return v, Finding{}, true
}

func typeOf(in *v1alpha1.Input) v1alpha1.InputType {
	if in.Type == "" {
		return v1alpha1.InputString
	}
	return in.Type
}

// declaredInputs are the declared inputs and the keys of the default input, with their types.
func declaredInputs(spec *v1alpha1.ArkTeamSpec) map[string]v1alpha1.InputType {
	out := make(map[string]v1alpha1.InputType, len(spec.Inputs)+len(spec.Input))
	for key := range spec.Input {
		out[key] = anyType
	}
	for i := range spec.Inputs {
		out[spec.Inputs[i].Name] = typeOf(&spec.Inputs[i])
	}
	return out
}

// checkInputs looks at the declarations, and at the values in the team against them.
func checkInputs(spec *v1alpha1.ArkTeamSpec) []Finding {
	var findings []Finding
	first := map[string]int{}
	for i := range spec.Inputs {
		in, path := &spec.Inputs[i], listPath("spec.inputs", i)
		if at, twice := first[in.Name]; twice {
			findings = append(findings, failure(path+".name", "the input %q is declared already: it is spec.inputs[%d]", in.Name, at))
			continue
		}
		first[in.Name] = i
		findings = append(findings, checkInput(path, in)...)
		if v, ok := spec.Input[in.Name]; ok {
			findings = append(findings, checkInputValue("spec.input."+in.Name, in, v)...)
		}
	}
	return findings
}

func checkInput(path string, in *v1alpha1.Input) []Finding {
	var findings []Finding
	for k := range in.Enum {
		plain := *in
		plain.Enum = nil
		findings = append(findings, checkInputValue(listPath(path+".enum", k), &plain, in.Enum[k])...)
	}
	if in.Default != nil && len(findings) == 0 {
		findings = append(findings, checkInputValue(path+".default", in, *in.Default)...)
	}
	return findings
}

func checkInputValue(path string, in *v1alpha1.Input, v v1alpha1.Value) []Finding {
	decoded, err := v.Decode()
	if err != nil {
		return []Finding{failure(path, "is not JSON: %v", err)}
	}
	if decoded == nil {
		return nil
	}
	if _, f, ok := resolveOne(in, decoded); !ok {
		f.Path = path
		return []Finding{f}
	}
	return nil
}

func emptyValue(t v1alpha1.InputType) any {
	switch t {
	case v1alpha1.InputNumber:
		return json.Number("0")
	case v1alpha1.InputBoolean:
		return false
	case v1alpha1.InputObject:
		return map[string]any{}
	case v1alpha1.InputArray:
		return []any{}
	default:
		return ""
	}
}

// coerce brings a value to a type. Texts are read as JSON where the type is not text; numbers and booleans are written
// where it is.
func coerce(t v1alpha1.InputType, v any) (any, error) {
	if text, ok := v.(string); ok && t != v1alpha1.InputString {
		return coerceText(t, text)
	}
	ok := false
	switch v := v.(type) {
	case string:
		return v, nil
	case json.Number:
		if t == v1alpha1.InputString {
			return v.String(), nil
		}
		ok = t == v1alpha1.InputNumber
	case bool:
		if t == v1alpha1.InputString {
			return jsonText(v), nil
		}
		ok = t == v1alpha1.InputBoolean
	case map[string]any:
		ok = t == v1alpha1.InputObject
	case []any:
		ok = t == v1alpha1.InputArray
	}
	if !ok {
		return nil, fmt.Errorf("must be of type %s, and is %s", t, describe(v))
	}
	return v, nil
}

func coerceText(t v1alpha1.InputType, text string) (any, error) {
	trimmed := strings.TrimSpace(text)
	if t == v1alpha1.InputBoolean {
		trimmed = strings.ToLower(trimmed)
	}
	v, err := decodeJSON([]byte(trimmed))
	if err == nil {
		if _, again := v.(string); !again && v != nil {
			if v, err = coerce(t, v); err == nil {
				return v, nil
			}
		}
	}
	return nil, fmt.Errorf("must be of type %s, and is the text %q", t, chars.Head(text, 60))
}

// allows says whether an input's enum holds a value, and lists the enum.
func allows(in *v1alpha1.Input, v any) ([]string, bool) {
	if len(in.Enum) == 0 {
		return nil, true
	}
	want := jsonText(v)
	var allowed []string
	for i := range in.Enum {
		decoded, err := in.Enum[i].Decode()
		if err != nil {
			continue
		}
		if decoded, err = coerce(typeOf(in), decoded); err != nil {
			continue
		}
		allowed = append(allowed, jsonText(decoded))
	}
	return allowed, slices.Contains(allowed, want)
}

// normal brings a value to what JSON decodes to, with json.Number.
func normal(v any) (any, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return decodeJSON(text)
}

// decodeJSON reads exactly one JSON value; numbers become json.Number.
func decodeJSON(text []byte) (any, error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		return nil, err
	}
	if dec.More() {
		return nil, fmt.Errorf("there is more after the value")
	}
	return v, nil
}

// wholeJSON is the JSON of an answer that is nothing else.
func wholeJSON(answer string) (json.RawMessage, error) {
	text := strings.TrimSpace(answer)
	if _, err := decodeJSON([]byte(text)); err != nil {
		return nil, fmt.Errorf("the answer is not JSON: %w", err)
	}
	return json.RawMessage(text), nil
}

// jsonText writes a decoded JSON value without escaping what HTML would need.
func jsonText(v any) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Sprint(v)
	}
	return strings.TrimSuffix(b.String(), "\n")
}

func describe(v any) string {
	switch v := v.(type) {
	case string:
		return fmt.Sprintf("the text %q", chars.Head(v, 60))
	case json.Number:
		return "the number " + chars.Head(v.String(), 60)
	case bool:
		return jsonText(v)
	case map[string]any:
		return "an object"
	case []any:
		return "a list"
	default:
		return "null"
	}
}
