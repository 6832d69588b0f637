package crd

import (
	"bytes"
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	utiljson "k8s.io/apimachinery/pkg/util/json"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
)

// caseFile is a table of objects of one kind: a base, and what becomes of it with a patch (RFC 7386).
type caseFile struct {
	Base  json.RawMessage `json:"base"`
	Cases []struct {
		Name  string          `json:"name"`
		Patch json.RawMessage `json:"patch"`
		// Want is in the error of the API server and in ark's own. Server and Code are in one of them.
		Want   string `json:"want"`
		Server string `json:"server"`
		Code   string `json:"code"`
	} `json:"cases"`
}

// object is what every kind can do.
type object interface {
	runtime.Object
	SetDefaults()
	Validate() field.ErrorList
}

// TestCases shows for each object of the tables what the API server says and what ark itself says: they accept the
// same objects, and where a rule spans fields they refuse them in the same words.
func TestCases(t *testing.T) {
	t.Parallel()
	for name, k := range newServer(t) {
		file := caseFile{}
		readYAML(t, "testdata/cases/"+name+".yaml", &file)
		for _, c := range file.Cases {
			t.Run(name+"/"+c.Name, func(t *testing.T) {
				doc := patched(t, file.Base, c.Patch)
				_, server := k.create(doc)
				requireProblem(t, "API server", server, c.Want+c.Server)
				requireProblem(t, "ark", ownProblems(t, name, doc), c.Want+c.Code)
			})
		}
	}
}

// Every rule of the CRDs is broken by an object of the tables.
func TestCasesBreakEveryRule(t *testing.T) {
	t.Parallel()
	for name, k := range newServer(t) {
		file := caseFile{}
		readYAML(t, "testdata/cases/"+name+".yaml", &file)
		broken := map[string]bool{}
		for _, c := range file.Cases {
			broken[c.Want] = true
		}
		root := k.crd.Spec.Versions[0].Schema.OpenAPIV3Schema
		spec := root.Properties["spec"]
		root = &apiextensionsv1.JSONSchemaProps{XValidations: root.XValidations, Properties: map[string]apiextensionsv1.JSONSchemaProps{"spec": spec}}
		missing := map[string]bool{}
		eachSchema("", root, func(_ string, s *apiextensionsv1.JSONSchemaProps) {
			for _, rule := range s.XValidations {
				missing[rule.Message] = !broken[rule.Message] && !strings.Contains(rule.Rule, "oldSelf")
			}
		})
		maps.DeleteFunc(missing, func(_ string, m bool) bool { return !m })
		// What agents and inline roles share is broken once, as an agent.
		if name == "ArkTeam" {
			agent := caseFile{}
			readYAML(t, "testdata/cases/ArkAgent.yaml", &agent)
			for _, c := range agent.Cases {
				delete(missing, c.Want)
			}
		}
		require.Empty(t, slices.Sorted(maps.Keys(missing)), name)
	}
}

// The code fills in the same defaults as the API server.
func TestDefaultsAreTheSame(t *testing.T) {
	t.Parallel()
	for name, k := range newServer(t) {
		file := caseFile{}
		readYAML(t, "testdata/cases/"+name+".yaml", &file)
		for _, c := range file.Cases {
			if c.Want+c.Server+c.Code != "" {
				continue
			}
			t.Run(name+"/"+c.Name, func(t *testing.T) {
				doc := patched(t, file.Base, c.Patch)
				stored, _ := k.create(doc)
				server, own := typed(t, name, stored.Object), typed(t, name, doc)
				own.SetDefaults()
				require.Empty(t, diff(server, own))
				again := own.DeepCopyObject().(object)
				again.SetDefaults()
				require.Empty(t, diff(own, again), "defaults are the same the second time")
				require.Empty(t, own.Validate(), "defaults are valid")
			})
		}
	}
}

// The defaults by name, as they are documented.
func TestDefaults(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	var docs []struct {
		Kind string         `json:"kind"`
		Spec map[string]any `json:"spec"`
		Want map[string]any `json:"want"`
	}
	readYAML(t, "testdata/defaults.yaml", &docs)
	for _, d := range docs {
		doc := map[string]any{
			"apiVersion": "arkonis.dev/v1alpha1", "kind": d.Kind, "metadata": map[string]any{"name": "x", "namespace": "demo"}, "spec": d.Spec,
		}
		stored, problems := s[d.Kind].create(jsonCopy(t, doc))
		require.Empty(t, problems, d.Kind)
		require.Equal(t, jsonCopy(t, d.Want), stored.Object["spec"], d.Kind)
	}
}

// Input takes any JSON, and comes out as it went in.
func TestInputIsPreserved(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	file := caseFile{}
	readYAML(t, "testdata/cases/ArkRun.yaml", &file)
	doc := patched(t, file.Base, nil)
	stored, problems := s["ArkRun"].create(doc)
	require.Empty(t, problems)
	require.Equal(t, doc["spec"], stored.Object["spec"])

	run := typed(t, "ArkRun", stored.Object).(*v1alpha1.ArkRun)
	input, err := run.Spec.Input.Decode()
	require.NoError(t, err)
	require.Equal(t, map[string]any{
		"topic":   "otters",
		"deep":    map[string]any{"er": []any{json.Number("1"), json.Number("2.5"), nil, map[string]any{"x": "z"}}},
		"size":    json.Number("12345678901234567000"), // the API server reads it as a float
		"nothing": nil,
	}, input)
}

// A run's spec never changes, not even where any JSON is allowed; the rest of the object may.
func TestRunSpecNeverChanges(t *testing.T) {
	t.Parallel()
	k := newServer(t)["ArkRun"]
	file := caseFile{}
	readYAML(t, "testdata/cases/ArkRun.yaml", &file)
	for _, c := range []struct{ name, patch, want string }{
		{"a label", `{"metadata": {"labels": {"a": "b"}}}`, ""},
		{"the status", `{"status": {"phase": "Running"}}`, ""},
		{"the team", `{"spec": {"teamRef": {"name": "other"}}}`, "the spec of a run never changes: create a new run"},
		{"a new field", `{"spec": {"maxTokens": 1}}`, "the spec of a run never changes: create a new run"},
		{"a value of the input", `{"spec": {"input": {"topic": "badgers"}}}`, "the spec of a run never changes: create a new run"},
		{"deep in the input", `{"spec": {"input": {"deep": {"er": [2]}}}}`, "the spec of a run never changes: create a new run"},
		{"one more input", `{"spec": {"input": {"more": 1}}}`, "the spec of a run never changes: create a new run"},
	} {
		before, problems := k.create(patched(t, file.Base, []byte(`{"metadata": {"resourceVersion": "1"}}`)))
		require.Empty(t, problems)
		text, err := json.Marshal(before.Object)
		require.NoError(t, err)
		after, unknown := k.decode(patched(t, text, []byte(c.patch)))
		require.Empty(t, unknown)
		var messages []string
		for _, err := range k.validate(after, before) {
			messages = append(messages, err.Error())
		}
		requireProblem(t, c.name, messages, c.want)
	}
}

// patched returns a base with a merge patch, decoded as the API server does it.
func patched(t *testing.T, base, patch json.RawMessage) map[string]any {
	t.Helper()
	var doc map[string]any
	require.NoError(t, utiljson.Unmarshal(base, &doc))
	if len(patch) > 0 {
		var p map[string]any
		require.NoError(t, utiljson.Unmarshal(patch, &p))
		merge(doc, p)
	}
	return doc
}

func merge(doc, patch map[string]any) {
	for key, value := range patch {
		next, isMap := value.(map[string]any)
		current, wasMap := doc[key].(map[string]any)
		switch {
		case value == nil:
			delete(doc, key)
		case isMap && wasMap:
			merge(current, next)
		default:
			doc[key] = value
		}
	}
}

// ownProblems is everything that ark itself says about a document.
func ownProblems(t *testing.T, kind string, doc map[string]any) []string {
	t.Helper()
	var problems []string
	for _, err := range v1alpha1.ValidateDocument(kind, doc) {
		problems = append(problems, err.Error())
	}
	text, err := json.Marshal(doc)
	require.NoError(t, err)
	obj := newObject(t, kind)
	if err := json.Unmarshal(text, obj); err != nil {
		require.NotEmpty(t, problems, "the document cannot be decoded, and its schema does not say why")
		return problems
	}
	for _, err := range obj.Validate() {
		problems = append(problems, err.Error())
	}
	return problems
}

func newObject(t *testing.T, kind string) object {
	t.Helper()
	for _, k := range v1alpha1.Kinds() {
		if reflect.TypeOf(k.Object).Elem().Name() == kind {
			return k.Object.(object)
		}
	}
	t.Fatalf("no kind %s", kind)
	return nil
}

// typed decodes a document strictly.
func typed(t *testing.T, kind string, doc map[string]any) object {
	t.Helper()
	text, err := json.Marshal(doc)
	require.NoError(t, err)
	obj := newObject(t, kind)
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	require.NoError(t, dec.Decode(obj))
	return obj
}

func diff(a, b object) string {
	if equality.Semantic.DeepEqual(a, b) {
		return ""
	}
	return cmp.Diff(a, b)
}

// jsonCopy gives numbers the types that the API server gives them.
func jsonCopy(t *testing.T, v map[string]any) map[string]any {
	t.Helper()
	text, err := json.Marshal(v)
	require.NoError(t, err)
	var out map[string]any
	require.NoError(t, utiljson.Unmarshal(text, &out))
	return out
}

// requireProblem wants one of the problems to hold a text, or, with the empty text, that there is no problem.
func requireProblem(t *testing.T, who string, problems []string, want string) {
	t.Helper()
	if want == "" {
		require.Empty(t, problems, who)
		return
	}
	found := slices.ContainsFunc(problems, func(p string) bool { return strings.Contains(p, want) })
	require.True(t, found, "%s does not say %q but %q", who, want, problems)
}
