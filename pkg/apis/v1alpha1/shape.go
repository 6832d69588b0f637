package v1alpha1

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidateDocument checks a decoded document - what encoding/json or a YAML library makes of an object, with nil, bool,
// string, any kind of number, []any and map[string]any - against the schema of its kind: types, required and unknown
// fields, bounds, patterns, enumerations, unique keys. It is what the API server checks before any rule that spans
// fields; those are checked by the Validate methods. An unknown kind gives one error.
func ValidateDocument(kind string, doc map[string]any) field.ErrorList {
	text := schemaText(kind)
	if text == "" {
		return field.ErrorList{field.Invalid(field.NewPath("kind"), kind, "is not a kind of "+GroupName+"/"+Version)}
	}
	root := &shape{}
	if err := json.Unmarshal([]byte(text), root); err != nil {
		return field.ErrorList{field.InternalError(field.NewPath("kind"), fmt.Errorf("decode schema of %s: %w", kind, err))}
	}
	root.Properties["apiVersion"] = &shape{Type: "string"}
	root.Properties["kind"] = &shape{Type: "string"}
	root.Properties["metadata"] = &shape{Type: "object", Preserve: true}
	root.Properties["status"] = &shape{Type: "object", Preserve: true}
	return root.check(nil, doc)
}

// shape is the part of a CRD's schema that says what is allowed.
type shape struct {
	Type                 string            `json:"type"`
	Required             []string          `json:"required"`
	Enum                 []string          `json:"enum"`
	Minimum              *float64          `json:"minimum"`
	Maximum              *float64          `json:"maximum"`
	MinLength            *int              `json:"minLength"`
	MaxLength            *int              `json:"maxLength"`
	Pattern              string            `json:"pattern"`
	Format               string            `json:"format"`
	MinItems             *int              `json:"minItems"`
	MaxItems             *int              `json:"maxItems"`
	MinProperties        *int              `json:"minProperties"`
	MaxProperties        *int              `json:"maxProperties"`
	Properties           map[string]*shape `json:"properties"`
	Items                *shape            `json:"items"`
	AdditionalProperties *shape            `json:"additionalProperties"`
	Preserve             bool              `json:"x-kubernetes-preserve-unknown-fields"`
	IntOrString          bool              `json:"x-kubernetes-int-or-string"`
	ListType             string            `json:"x-kubernetes-list-type"`
	ListMapKeys          []string          `json:"x-kubernetes-list-map-keys"`
}

// check returns what is wrong with a value, in the order of its fields.
func (s *shape) check(path *field.Path, value any) field.ErrorList {
	if s.IntOrString {
		return s.checkIntOrString(path, value)
	}
	switch s.Type {
	case "object":
		if object, ok := value.(map[string]any); ok {
			return s.checkObject(path, object)
		}
	case "array":
		if list, ok := value.([]any); ok {
			return s.checkList(path, list)
		}
	case "string":
		if text, ok := value.(string); ok {
			return s.checkString(path, text)
		}
	case "integer", "number":
		if n, ok := number(value); ok && (s.Type == "number" || n == math.Trunc(n)) {
			return s.checkNumber(path, value, n)
		}
	case "boolean":
		if _, ok := value.(bool); ok {
			return nil
		}
	default: // any value
		return nil
	}
	return field.ErrorList{field.TypeInvalid(path, value, "must be "+article(s.Type))}
}

func (s *shape) checkIntOrString(path *field.Path, value any) field.ErrorList {
	if text, ok := value.(string); ok {
		return s.checkString(path, text)
	}
	if n, ok := number(value); ok && n == math.Trunc(n) {
		return nil
	}
	return field.ErrorList{field.TypeInvalid(path, value, "must be an integer or a string")}
}

func (s *shape) checkObject(path *field.Path, object map[string]any) field.ErrorList {
	var errs field.ErrorList
	for _, name := range s.Required {
		if object[name] == nil {
			errs = append(errs, field.Required(child(path, name), ""))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(object)) {
		switch {
		case object[name] == nil: // the API server drops it, but for fields that take any value
			if s.Properties[name] == nil && s.AdditionalProperties == nil && !s.Preserve {
				errs = append(errs, field.Invalid(child(path, name), field.OmitValueType{}, s.unknown(name)))
			}
		case s.Properties[name] != nil:
			errs = append(errs, s.Properties[name].check(child(path, name), object[name])...)
		case s.AdditionalProperties != nil:
			errs = append(errs, s.AdditionalProperties.check(path.Key(name), object[name])...)
		case !s.Preserve:
			errs = append(errs, field.Invalid(child(path, name), field.OmitValueType{}, s.unknown(name)))
		}
	}
	if s.MinProperties != nil && len(object) < *s.MinProperties {
		errs = append(errs, field.Invalid(path, len(object), fmt.Sprintf("must have at least %d entries", *s.MinProperties)))
	}
	if s.MaxProperties != nil && len(object) > *s.MaxProperties {
		errs = append(errs, field.TooMany(path, len(object), *s.MaxProperties))
	}
	return errs
}

func (s *shape) checkList(path *field.Path, list []any) field.ErrorList {
	var errs field.ErrorList
	if s.MinItems != nil && len(list) < *s.MinItems {
		errs = append(errs, field.Invalid(path, len(list), fmt.Sprintf("must have at least %d items", *s.MinItems)))
	}
	if s.MaxItems != nil && len(list) > *s.MaxItems {
		return append(errs, field.TooMany(path, len(list), *s.MaxItems))
	}
	seen := map[string]bool{}
	for i, item := range list {
		errs = append(errs, s.Items.check(path.Index(i), item)...)
		key, ok := s.key(item)
		if ok && seen[key] {
			errs = append(errs, field.Duplicate(path.Index(i), key))
		}
		seen[key] = ok
	}
	return errs
}

// key is what an item of the list must not share with another one.
func (s *shape) key(item any) (string, bool) {
	switch s.ListType {
	case "set":
		text, ok := item.(string)
		return text, ok
	case "map":
		object, ok := item.(map[string]any)
		if !ok {
			return "", false
		}
		var key []string
		for _, name := range s.ListMapKeys {
			key = append(key, fmt.Sprint(object[name]))
		}
		return strings.Join(key, "/"), true
	}
	return "", false
}

func (s *shape) checkString(path *field.Path, text string) field.ErrorList {
	var errs field.ErrorList
	if len(s.Enum) > 0 && !slices.Contains(s.Enum, text) {
		return append(errs, field.NotSupported(path, text, s.Enum))
	}
	length := utf8.RuneCountInString(text)
	if s.MinLength != nil && length < *s.MinLength {
		return append(errs, field.Invalid(path, text, fmt.Sprintf("must have at least %d characters", *s.MinLength)))
	}
	if s.MaxLength != nil && length > *s.MaxLength {
		return append(errs, field.Invalid(path, clip(text), fmt.Sprintf("must not have more than %d characters", *s.MaxLength)))
	}
	if s.Format == "date-time" {
		if _, err := time.Parse(time.RFC3339, text); err != nil {
			errs = append(errs, field.Invalid(path, clip(text), "must be a time such as 2026-01-31T12:00:00Z"))
		}
	}
	if s.Pattern != "" {
		if ok, err := regexp.MatchString(s.Pattern, text); err != nil || !ok {
			errs = append(errs, field.Invalid(path, clip(text), "must match "+s.Pattern))
		}
	}
	return errs
}

func (s *shape) checkNumber(path *field.Path, value any, n float64) field.ErrorList {
	limit := float64(math.MaxInt64)
	if s.Format == "int32" {
		limit = math.MaxInt32
	}
	if s.Type == "integer" && math.Abs(n) > limit {
		return field.ErrorList{field.Invalid(path, value, "does not fit "+s.Format)}
	}
	if s.Minimum != nil && n < *s.Minimum {
		return field.ErrorList{field.Invalid(path, value, fmt.Sprintf("must be at least %.0f", *s.Minimum))}
	}
	if s.Maximum != nil && n > *s.Maximum {
		return field.ErrorList{field.Invalid(path, value, fmt.Sprintf("must be at most %.0f", *s.Maximum))}
	}
	return nil
}

// unknown words the error for a field that does not exist, and names the one that was probably meant.
func (s *shape) unknown(name string) string {
	for _, known := range slices.Sorted(maps.Keys(s.Properties)) {
		if similar(name, known) {
			return fmt.Sprintf("unknown field; did you mean %s?", known)
		}
	}
	return "unknown field"
}

// similar says whether one edit (an inserted, missing, swapped or other letter), or letter case alone, lies between
// two names.
func similar(a, b string) bool {
	if len(a) > len(b) {
		a, b = b, a
	}
	x, y := []byte(strings.ToLower(a)), []byte(strings.ToLower(b))
	if len(y)-len(x) > 1 || len(y) < 3 {
		return false
	}
	i := 0
	for i < len(x) && x[i] == y[i] {
		i++
	}
	x, y = x[i:], y[i:]
	if len(x) < len(y) {
		return string(x) == string(y[1:])
	}
	if len(x) < 2 || string(x[1:]) == string(y[1:]) {
		return true
	}
	return x[0] == y[1] && x[1] == y[0] && string(x[2:]) == string(y[2:])
}

func child(path *field.Path, name string) *field.Path {
	if path == nil {
		return field.NewPath(name)
	}
	return path.Child(name)
}

func article(kind string) string {
	switch kind {
	case "object":
		return "an object"
	case "array":
		return "a list"
	case "integer":
		return "an integer"
	default:
		return "a " + kind
	}
}

// number returns what any of the number types of decoders holds.
func number(value any) (float64, bool) {
	switch n := value.(type) {
	case int:
		return float64(n), true
	case int64:
		return float64(n), true
	case uint64:
		return float64(n), true
	case float64:
		return n, true
	case json.Number:
		f, err := n.Float64()
		return f, err == nil
	}
	return 0, false
}

// clip shortens a text for a message.
func clip(text string) string {
	const limit = 64
	if runes := []rune(text); len(runes) > limit {
		return string(runes[:limit]) + "…"
	}
	return text
}
