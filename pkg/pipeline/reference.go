package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/template"
)

// scope is what a template may name.
type scope struct {
	step      int    // that the template belongs to; outputScope for the run's output
	self      bool   // also itself: the step is looped
	iteration bool   // .iteration
	item      string // the name of the forEach item
}

const outputScope = -1

// stepFields are the fields that every step has in templates, beside data.
func stepFields() []string { return []string{"output", "rawOutput", "status", "iteration"} }

// checkTemplate parses a template and looks at everything that it names.
func (s *subject) checkTemplate(path, source string, in scope) []Finding {
	if source == "" {
		return nil
	}
	t, err := template.Parse("", source)
	if err != nil {
		return []Finding{templateFailure(path, err)}
	}
	var findings []Finding
	for _, ref := range t.References() {
		f, ok := s.checkReference(ref, in)
		if ok || slices.ContainsFunc(findings, func(g Finding) bool { return strings.HasSuffix(g.Message, f.Message) }) {
			continue
		}
		f.Path, f.Severity = path, SeverityError
		f.Message = fmt.Sprintf("line %d, column %d: %s", ref.Line, ref.Column, f.Message)
		findings = append(findings, f)
	}
	return findings
}

func templateFailure(path string, err error) Finding {
	if at, ok := errors.AsType[*template.Error](err); ok {
		return failure(path, "line %d, column %d: %v", at.Line, at.Column, at.Err)
	}
	return failure(path, "%v", err)
}

// checkReference says whether what a template names exists, as far as that can be known.
func (s *subject) checkReference(ref template.Ref, in scope) (Finding, bool) {
	if len(ref.Path) == 0 {
		return Finding{}, true
	}
	root, rest := ref.Path[0], ref.Path[1:]
	switch {
	case root == "steps":
		return s.checkStepReference(rest, in)
	case root == "input":
		return s.checkInputReference(rest, ref.Optional)
	case root == "run":
		return checkRunReference(rest)
	case root == "iteration" && in.iteration, in.item != "" && root == in.item:
		return Finding{}, true
	}
	exist := []string{".input", ".run", ".steps"}
	if in.iteration {
		exist = append(exist, ".iteration")
	}
	if in.item != "" {
		exist = append(exist, "."+in.item)
	}
	return Finding{Message: fmt.Sprintf("%s does not exist", dotted(ref.Path)), Hint: "a template here knows " + strings.Join(exist, ", ")}, false
}

func checkRunReference(rest []string) (Finding, bool) {
	if len(rest) == 0 || len(rest) == 1 && (rest[0] == "name" || rest[0] == "namespace") {
		return Finding{}, true
	}
	return Finding{Message: dotted(append([]string{"run"}, rest...)) + " does not exist", Hint: ".run has name and namespace"}, false
}

func (s *subject) checkInputReference(rest []string, optional bool) (Finding, bool) {
	if s.inputs == nil || len(rest) == 0 {
		return Finding{}, true
	}
	kind, ok := s.inputs[rest[0]]
	switch {
	case !ok && optional:
		return Finding{}, true
	case !ok:
		return Finding{
			Message: fmt.Sprintf(".input.%s is not declared", rest[0]),
			Hint:    oneOf("declared inputs", rest[0], sortedKeys(s.inputs)) + "; declare it in spec.inputs if it is meant",
		}, false
	case len(rest) > 1 && kind != v1alpha1.InputObject && kind != anyType:
		return Finding{Message: fmt.Sprintf(".input.%s is declared as %s: it has no fields", rest[0], kind)}, false
	}
	return Finding{}, true
}

func (s *subject) checkStepReference(rest []string, in scope) (Finding, bool) {
	if len(rest) == 0 {
		return Finding{}, true
	}
	name := rest[0]
	target, ok := s.graph.index[name]
	switch {
	case !ok && len(s.steps) == 0:
		// A run of one step is named by its mode; its output template may name that step.
		return s.checkSingleStep(rest)
	case !ok:
		return Finding{
			Message: fmt.Sprintf(".steps.%s does not exist: there is no step %q", name, name),
			Hint:    oneOf("steps", name, s.graph.names),
		}, false
	case target == in.step && !in.self:
		return Finding{
			Message: fmt.Sprintf(".steps.%s is the step itself: it has no output yet", name),
			Hint:    "only a step with a loop can see its own last output, in inputs, forEach.items and loop.condition",
		}, false
	case in.step != outputScope && target != in.step && !s.graph.before[in.step].has(target):
		return Finding{
			Message: fmt.Sprintf(".steps.%s is not done before this step", name),
			Hint:    fmt.Sprintf("add %q to dependsOn", name),
		}, false
	}
	return s.checkField(target, rest)
}

func (s *subject) checkSingleStep(rest []string) (Finding, bool) {
	only := s.entry
	if s.routing {
		only = RouteStep
	}
	if s.agent || rest[0] == only && (len(rest) == 1 || slices.Contains(stepFields(), rest[1])) {
		return Finding{}, true
	}
	return Finding{Message: dotted(append([]string{"steps"}, rest...)) + " does not exist", Hint: fmt.Sprintf("the only step is %q", only)}, false
}

// checkField looks at what is named of a step: .steps.<name>.<field>...
func (s *subject) checkField(target int, rest []string) (Finding, bool) {
	if len(rest) == 1 {
		return Finding{}, true
	}
	name, field := rest[0], rest[1]
	path := dotted(append([]string{"steps"}, rest...))
	shape := s.schemas[target]
	switch {
	case slices.Contains(stepFields(), field) && len(rest) > 2:
		hint := "give the step an outputSchema and use .steps." + name + ".data"
		return Finding{Message: fmt.Sprintf("%s does not exist: .steps.%s.%s is not an object", path, name, field), Hint: hint}, false
	case slices.Contains(stepFields(), field):
		return Finding{}, true
	case field != "data":
		return Finding{
			Message: fmt.Sprintf("%s does not exist", path),
			Hint:    fmt.Sprintf(".steps.%s has %s", name, strings.Join(append(stepFields(), "data (with an outputSchema)"), ", ")),
		}, false
	case !shape.known:
		return Finding{Message: fmt.Sprintf("%s does not exist: the step %q has no outputSchema", path, name), Hint: "give the step one"}, false
	case s.steps[target].ForEach != nil && len(rest) > 2:
		return Finding{Message: fmt.Sprintf("%s does not exist: the data of a step with forEach is a list", path), Hint: "range over it"}, false
	}
	return shape.checkPath(".steps."+name+".data", rest[2:])
}

func dotted(path []string) string { return "." + strings.Join(path, ".") }

// anyType stands for an input whose type nobody declared.
const anyType v1alpha1.InputType = ""

// schemaShape is what can be said of the fields that a JSON Schema allows, without the rules of the language.
type schemaShape struct {
	known bool // there is a schema
	doc   map[string]any
}

func shapeOf(text string) schemaShape {
	if text == "" {
		return schemaShape{}
	}
	var doc map[string]any
	if json.Unmarshal([]byte(text), &doc) != nil {
		doc = nil // true, false, or not a schema at all: nothing is known of its fields
	}
	return schemaShape{known: true, doc: doc}
}

// properties are the declared fields; closed is false when there may be others than those.
func (s schemaShape) properties() (map[string]any, bool) {
	properties, _ := s.doc["properties"].(map[string]any)
	open := []string{"$ref", "$dynamicRef", "allOf", "anyOf", "oneOf", "if", "patternProperties", "dependentSchemas"}
	closed := properties != nil && !slices.ContainsFunc(open, func(k string) bool { return s.doc[k] != nil })
	return properties, closed
}

// checkPath says whether a path can exist in a document that fits the schema.
func (s schemaShape) checkPath(at string, path []string) (Finding, bool) {
	if len(path) == 0 || s.doc == nil {
		return Finding{}, true
	}
	if kinds := s.types(); len(kinds) > 0 && !slices.Contains(kinds, "object") {
		return Finding{Message: fmt.Sprintf("%s.%s does not exist: %s is of type %s", at, path[0], at, strings.Join(kinds, " or "))}, false
	}
	properties, closed := s.properties()
	field, ok := properties[path[0]]
	if !ok {
		if !closed {
			return Finding{}, true
		}
		return Finding{
			Message: fmt.Sprintf("%s.%s does not exist in the outputSchema", at, path[0]),
			Hint:    oneOf("its fields", path[0], sortedKeys(properties)),
		}, false
	}
	doc, _ := field.(map[string]any)
	return schemaShape{known: true, doc: doc}.checkPath(at+"."+path[0], path[1:])
}

func (s schemaShape) types() []string {
	switch t := s.doc["type"].(type) {
	case string:
		return []string{t}
	case []any:
		var out []string
		for _, v := range t {
			if name, ok := v.(string); ok {
				out = append(out, name)
			}
		}
		return out
	}
	return nil
}

// emptyData is what .data is as long as there is none: each declared field without a value.
func emptyData(schema string) map[string]any {
	properties, _ := shapeOf(schema).properties()
	out := make(map[string]any, len(properties))
	for name := range properties {
		out[name] = nil
	}
	return out
}
