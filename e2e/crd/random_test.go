package crd

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
)

// TestRandomDocuments makes documents from the schemas, which name every field sooner or later: ark's own schema check
// accepts them, the Go types take them without a loss, and whatever breaks one of them - a wrong type, a value out of
// bounds, an unknown field, a repeated key, a missing one - is refused by the API server and by ark at the same place.
func TestRandomDocuments(t *testing.T) {
	t.Parallel()
	const documents, faults = 60, 12
	for name, k := range newServer(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := k.crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties["spec"]
			for seed := range uint64(documents) {
				g := &generator{Rand: rand.New(rand.NewPCG(seed, 1))}
				doc := jsonCopy(t, map[string]any{
					"apiVersion": "arkonis.dev/v1alpha1", "kind": name,
					"metadata": map[string]any{"name": "x", "namespace": "demo"}, "spec": g.object(&spec, 0),
				})
				require.Empty(t, schemaProblems(k, doc), "seed %d: %s", seed, pretty(doc))
				require.Empty(t, v1alpha1.ValidateDocument(name, doc), "seed %d: %s", seed, pretty(doc))
				requireRoundTrip(t, name, doc)
				for range faults {
					broken := jsonCopy(t, doc)
					fault := g.breakOne(&spec, broken["spec"].(map[string]any), "spec")
					if fault == "" {
						continue
					}
					broken = jsonCopy(t, broken)
					require.NotEmpty(t, schemaProblems(k, broken), "the API server accepts %s (seed %d)", fault, seed)
					require.NotEmpty(t, v1alpha1.ValidateDocument(name, broken), "ark accepts %s (seed %d)", fault, seed)
				}
			}
		})
	}
}

// schemaProblems is what the API server says about a document, but for the rules that span fields.
func schemaProblems(k *kind, doc map[string]any) []string {
	_, problems := k.create(doc)
	messages := map[string]bool{}
	eachSchema("", k.crd.Spec.Versions[0].Schema.OpenAPIV3Schema, func(_ string, s *apiextensionsv1.JSONSchemaProps) {
		for _, rule := range s.XValidations {
			messages[rule.Message] = true
		}
	})
	return slices.DeleteFunc(problems, func(p string) bool {
		for message := range messages {
			if strings.HasSuffix(p, message) {
				return true
			}
		}
		return false
	})
}

// requireRoundTrip wants a document to come out of the Go type as it went in.
func requireRoundTrip(t *testing.T, name string, doc map[string]any) {
	t.Helper()
	text, err := json.Marshal(typed(t, name, doc))
	require.NoError(t, err)
	var again map[string]any
	require.NoError(t, utiljson.Unmarshal(text, &again))
	if again["spec"] == nil {
		again["spec"] = map[string]any{} // an empty spec is left out
	}
	require.Equal(t, doc["spec"], again["spec"])
}

func pretty(doc any) string {
	text, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// generator makes values that a schema allows, never the zero value of their type.
type generator struct{ *rand.Rand }

func (g *generator) value(s *apiextensionsv1.JSONSchemaProps, depth int) any {
	switch {
	case s.XIntOrString:
		return fmt.Sprint(1 + g.IntN(9))
	case s.Type == "object":
		return g.object(s, depth)
	case s.Type == "array":
		return g.list(s, depth)
	case s.Type == "string":
		return g.text(s)
	case s.Type == "integer", s.Type == "number":
		return g.number(s)
	case s.Type == "boolean":
		return true
	}
	return []any{map[string]any{"any": []any{"thing", 1.5, true}}, "text", 7, true, []any{}}[g.IntN(5)]
}

func (g *generator) object(s *apiextensionsv1.JSONSchemaProps, depth int) map[string]any {
	out := map[string]any{}
	if s.AdditionalProperties != nil {
		for i := range 1 + g.IntN(2) {
			out[fmt.Sprintf("key%d", i)] = g.value(s.AdditionalProperties.Schema, depth+1)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Properties)) {
		child := s.Properties[name]
		wanted := slices.Contains(s.Required, name) || g.IntN(1+depth) == 0 && g.IntN(3) == 0
		if wanted {
			value := g.value(&child, depth+1)
			if m, ok := value.(map[string]any); ok && len(m) == 0 && !slices.Contains(s.Required, name) {
				continue // omitted when it is a plain struct
			}
			out[name] = value
		}
	}
	return out
}

func (g *generator) list(s *apiextensionsv1.JSONSchemaProps, depth int) []any {
	n := 1
	if s.XListType == nil || *s.XListType == "atomic" {
		n += g.IntN(2)
	}
	out := make([]any, n)
	for i := range out {
		out[i] = g.value(s.Items.Schema, depth+1)
	}
	return out
}

func (g *generator) text(s *apiextensionsv1.JSONSchemaProps) string {
	if len(s.Enum) > 0 {
		var text string
		if err := json.Unmarshal(s.Enum[g.IntN(len(s.Enum))].Raw, &text); err != nil {
			return err.Error()
		}
		return text
	}
	if s.Format == "date-time" {
		return "2026-01-02T03:04:05.000001Z"
	}
	for _, fits := range []string{"abc", "https://example.com/x", "0 8 * * 1", "0.5", "72h"} {
		if s.Pattern == "" || matches(s.Pattern, fits) {
			return fits
		}
	}
	return "no text for " + s.Pattern
}

func (g *generator) number(s *apiextensionsv1.JSONSchemaProps) float64 {
	low, high := 1.0, 1000.0
	if s.Minimum != nil {
		low = max(low, *s.Minimum)
	}
	if s.Maximum != nil {
		high = min(high, *s.Maximum)
	}
	return math.Trunc(low + g.Float64()*(high-low))
}

// breakOne breaks one thing somewhere in a value and says what and where; "" when there was nothing to break.
func (g *generator) breakOne(s *apiextensionsv1.JSONSchemaProps, object map[string]any, path string) string {
	names := slices.Sorted(maps.Keys(object))
	if len(names) == 0 || g.IntN(8) == 0 {
		return g.breakObject(s, object, path)
	}
	name := names[g.IntN(len(names))]
	var child *apiextensionsv1.JSONSchemaProps
	if p, ok := s.Properties[name]; ok {
		child = &p
	} else if s.AdditionalProperties != nil {
		child = s.AdditionalProperties.Schema
	} else {
		return ""
	}
	path += "." + name
	switch value := object[name].(type) {
	case map[string]any:
		if child.XPreserveUnknownFields == nil && g.IntN(5) > 0 {
			return g.breakOne(child, value, path)
		}
	case []any:
		if child.Items == nil {
			return ""
		}
		if item, ok := value[0].(map[string]any); ok && g.IntN(5) > 0 {
			return g.breakOne(child.Items.Schema, item, path+"[0]")
		}
	}
	return g.breakValue(child, object, name, path)
}

func (g *generator) breakObject(s *apiextensionsv1.JSONSchemaProps, object map[string]any, path string) string {
	if s.AdditionalProperties != nil {
		return ""
	}
	if len(s.Required) > 0 && g.IntN(2) == 0 {
		name := s.Required[g.IntN(len(s.Required))]
		if child := s.Properties[name]; child.Default == nil {
			delete(object, name)
			return path + " without " + name
		}
	}
	object["surelyUnknown"] = "x"
	return path + " with an unknown field"
}

// breakValue puts something that the schema does not allow in place of a value.
func (g *generator) breakValue(s *apiextensionsv1.JSONSchemaProps, object map[string]any, name, path string) string {
	var bad []any
	switch {
	case s.Format == "date-time":
		bad = []any{"yesterday", "2026-13-01T00:00:00Z"} // the API server lets some other types pass here
	case s.XIntOrString:
		bad = []any{true, []any{}, 1.5}
	case s.Type == "string":
		bad = []any{1, true, []any{"x"}, map[string]any{"x": "y"}}
		if len(s.Enum) > 0 {
			bad = append(bad, "surely-not-one-of-them")
		}
		if s.MinLength != nil && *s.MinLength > 0 {
			bad = append(bad, "")
		}
		if s.MaxLength != nil && s.Format == "" {
			bad = append(bad, strings.Repeat("é", int(*s.MaxLength)+1))
		}
		if s.Pattern != "" && !matches(s.Pattern, " ;;; ") {
			bad = append(bad, " ;;; ")
		}
	case s.Type == "integer", s.Type == "number":
		bad = []any{"1", true, []any{1}, 1.5}
		if s.Minimum != nil {
			bad = append(bad, int64(*s.Minimum)-1)
		}
		if s.Maximum != nil {
			bad = append(bad, int64(*s.Maximum)+1)
		}
		if s.Format == "int32" {
			bad = append(bad, int64(math.MaxInt32)+1)
		}
	case s.Type == "boolean":
		bad = []any{"true", 1}
	case s.Type == "array":
		bad = []any{"x", map[string]any{"x": "y"}, slices.Repeat(object[name].([]any), int(*s.MaxItems)+1)}
		if s.XListType != nil && *s.XListType != "atomic" {
			bad = append(bad, slices.Repeat(object[name].([]any), 2))
		}
	case s.Type == "object":
		bad = []any{"x", []any{"x"}, 1}
	default:
		return ""
	}
	choice := bad[g.IntN(len(bad))]
	object[name] = choice
	text := pretty(choice)
	return fmt.Sprintf("%s: %s", path, text[:min(len(text), 100)])
}

func matches(pattern, text string) bool {
	ok, err := regexp.MatchString(pattern, text)
	return ok && err == nil
}
