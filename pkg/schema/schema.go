// Package schema checks JSON against JSON Schema (2020-12, and older drafts when $schema names one), with bounds.
//
// Schemas come from users and documents from models; neither is trusted. A schema is bounded in size, depth, number of
// objects, numbers and regular expressions (see the Max constants); it refers to nothing outside itself, so that
// compiling one never reads a file or the network; $dynamicRef and $recursiveRef are refused. Checking a document
// counts its work, so that a schema whose references multiply ends in a violation instead of running for ever.
//
// The formats of strings (date, email and so on) are annotations, as 2020-12 says: they are not checked.
package schema

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The limits of schemas and documents.
const (
	MaxSchemaSize   = 256 << 10 // bytes
	MaxSchemaDepth  = 64        // levels of the schema's JSON
	MaxSchemaNodes  = 1000      // objects in the schema
	MaxPatternSize  = 2000      // states of all regular expressions of a schema together
	MaxDocumentSize = 8 << 20   // bytes
	MaxDepth        = 200       // levels of a document
	MaxNumber       = 400       // characters of a number, and its exponent
)

// Schema is a compiled schema. It is safe for concurrent use; checks with the same Schema run one after another.
type Schema struct {
	compiled *jsonschema.Schema

	mu   sync.Mutex // held during a check, for work
	work work
}

// Compile reads a schema. The error says where in the schema the fault is.
func Compile(text []byte) (*Schema, error) {
	if len(text) > MaxSchemaSize {
		return nil, fmt.Errorf("the schema has %d bytes; at most %d are allowed", len(text), MaxSchemaSize)
	}
	doc, m, err := decode(text, MaxSchemaDepth)
	if err != nil {
		return nil, fmt.Errorf("the schema is not valid JSON: %w", err)
	}
	if m.objects > MaxSchemaNodes {
		return nil, fmt.Errorf("the schema has %d objects; at most %d are allowed", m.objects, MaxSchemaNodes)
	}
	switch doc.(type) {
	case bool, map[string]any:
	default:
		return nil, fmt.Errorf("a schema is a JSON object, or true or false, not %s", typeName(doc))
	}
	if v := checkNumbers(doc, nil); v != nil {
		return nil, fmt.Errorf("at %s: %s", v.Path, v.Message)
	}
	if err := refuseDynamic(doc, nil); err != nil {
		return nil, err
	}
	compiled, err := compile(doc)
	if err != nil {
		return nil, err
	}
	s := &Schema{compiled: compiled}
	if err := s.guard(compiled); err != nil {
		return nil, err
	}
	return s, nil
}

// location is the address that a schema is known under while it is compiled; nothing is read from it.
const location = "urn:ark:schema"

func compile(doc any) (*jsonschema.Schema, error) {
	patterns := &patternBudget{left: MaxPatternSize}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	c.UseLoader(noLoader{})
	c.UseRegexpEngine(patterns.compile)
	if err := c.AddResource(location, doc); err != nil {
		return nil, fmt.Errorf("read the schema: %w", err)
	}
	compiled, err := c.Compile(location)
	if err != nil {
		return nil, explain(err)
	}
	return compiled, nil
}

// noLoader refuses every reference to a document that is not the schema itself.
type noLoader struct{}

func (noLoader) Load(url string) (any, error) {
	return nil, errOutside(url)
}

func errOutside(url string) error {
	return fmt.Errorf("%s is outside the schema: only references within it (#/$defs/name) are allowed", url)
}

// explain words the compiler's errors for the author of the schema.
func explain(err error) error {
	var load *jsonschema.LoadURLError
	var regex *jsonschema.InvalidRegexError
	var pointer *jsonschema.JSONPointerNotFoundError
	var anchor *jsonschema.AnchorNotFoundError
	var invalid *jsonschema.SchemaValidationError
	var verr *jsonschema.ValidationError
	switch {
	case errors.As(err, &load):
		return load.Err
	case errors.As(err, &regex):
		return fmt.Errorf("at %s: the regular expression %q does not compile: %w", fragment(regex.URL), clip(regex.Regex), regex.Err)
	case errors.As(err, &pointer):
		return fmt.Errorf("the reference %s points at nothing in the schema", fragment(pointer.URL))
	case errors.As(err, &anchor):
		return fmt.Errorf("the reference %s points at nothing in the schema", fragment(anchor.Reference))
	case errors.As(err, &invalid) && errors.As(invalid.Err, &verr):
		vs := violations(verr)
		lines := make([]string, 0, len(vs))
		for _, v := range vs {
			lines = append(lines, v.String())
		}
		return fmt.Errorf("not a JSON Schema: %s", strings.Join(lines, "; "))
	}
	return errors.New(strings.ReplaceAll(err.Error(), location, ""))
}

func fragment(url string) string { return strings.TrimPrefix(url, location) }

// refuseDynamic refuses the keywords whose target depends on how a schema was reached.
func refuseDynamic(doc any, path []string) error {
	switch v := doc.(type) {
	case map[string]any:
		for _, k := range sortedKeys(v) {
			if _, text := v[k].(string); text && (k == "$dynamicRef" || k == "$recursiveRef" || k == "$dynamicAnchor") {
				return fmt.Errorf("at %s: %s is not supported: use $ref and $anchor", pathString(path), k)
			}
			if err := refuseDynamic(v[k], append(path, k)); err != nil {
				return err
			}
		}
	case []any:
		for i, e := range v {
			if err := refuseDynamic(e, append(path, fmt.Sprint(i))); err != nil {
				return err
			}
		}
	}
	return nil
}

// Validate checks a document, as encoding/json decodes it with UseNumber. It returns what is wrong, sorted by path; a
// document that fits has no violations.
func (s *Schema) Validate(doc any) []Violation {
	m := measure{}
	m.count(doc, 1)
	if m.depth > MaxDepth {
		return []Violation{{Path: root, Message: fmt.Sprintf("must not be nested deeper than %d levels", MaxDepth)}}
	}
	if v := checkNumbers(doc, nil); v != nil {
		return []Violation{*v}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.work = work{left: baseWork + workPerNode*m.nodes}
	err := s.compiled.Validate(doc)
	if s.work.left < 0 {
		return []Violation{{Path: root, Message: "cannot be checked: the references of the schema multiply beyond all bounds"}}
	}
	if verr, ok := errors.AsType[*jsonschema.ValidationError](err); ok {
		return violations(verr)
	}
	return nil
}

// ValidateJSON decodes a document, with numbers as json.Number, and checks it. The error says why the text is no JSON
// document, or too large a one.
func (s *Schema) ValidateJSON(text []byte) (any, []Violation, error) {
	if len(text) > MaxDocumentSize {
		return nil, nil, fmt.Errorf("the document has %d bytes; at most %d are allowed", len(text), MaxDocumentSize)
	}
	doc, _, err := decode(text, MaxDepth)
	if err != nil {
		return nil, nil, err
	}
	return doc, s.Validate(doc), nil
}
