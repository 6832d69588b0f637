package schema

import (
	"encoding/json"
	"errors"
	"slices"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// Minimal makes a small document that fits the schema: what a model could answer. Where the schema names values (const,
// default, examples, enum), the first that fits is taken; objects have their required properties, or all that are
// declared when the schema requires none. The document has been checked against the schema; the error says that none
// was found, which does not mean that there is none.
func (s *Schema) Minimal() (json.RawMessage, error) {
	left := mostWork
	b := builder{steps: maxSteps, valid: func(sch *jsonschema.Schema, v any) bool {
		fits, used := s.fits(sch, v, min(baseWork, left))
		left -= used
		return fits
	}}
	v, ok := b.build([]*jsonschema.Schema{s.compiled}, 0)
	if !ok {
		return nil, errors.New("found no small document that fits the schema")
	}
	text, err := encode(v)
	if err != nil {
		return nil, err
	}
	if len(text) > maxMinimal {
		return nil, errors.New("every document that fits the schema is large")
	}
	_, vs, err := s.ValidateJSON(text)
	if err != nil || len(vs) > 0 {
		return nil, errors.New("found no small document that fits the schema")
	}
	return text, nil
}

const (
	maxSteps   = 5000     // values that are tried for one document
	maxMinimal = 64 << 10 // bytes of it
	maxNesting = 32       // levels of it
)

// fits checks a value against a part of the schema with a bounded amount of work, and says how much was used.
func (s *Schema) fits(sch *jsonschema.Schema, v any, bound int) (fits bool, used int) {
	if bound <= 0 {
		return false, 0
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.work = work{left: bound}
	err := sch.Validate(v)
	return err == nil && s.work.left >= 0, bound - s.work.left
}

// builder looks for a value. It is done with one document in at most maxSteps tries.
type builder struct {
	steps int
	size  int                  // of what was made, in rough bytes
	open  []*jsonschema.Schema // of the objects that are being made
	valid func(*jsonschema.Schema, any) bool
}

// build makes a value that fits all of the schemas.
func (b *builder) build(parts []*jsonschema.Schema, depth int) (any, bool) {
	if depth > maxNesting {
		return nil, false
	}
	var flat []*jsonschema.Schema
	var choices [][]*jsonschema.Schema
	for _, p := range parts {
		flatten(p, &flat, &choices)
	}
	return b.choose(flat, choices, depth)
}

// flatten gathers the schemas that must all hold for the same value, and the choices among them.
func flatten(sch *jsonschema.Schema, flat *[]*jsonschema.Schema, choices *[][]*jsonschema.Schema) {
	if sch == nil || slices.Contains(*flat, sch) {
		return
	}
	*flat = append(*flat, sch)
	flatten(sch.Ref, flat, choices)
	for _, c := range sch.AllOf {
		flatten(c, flat, choices)
	}
	for _, alternatives := range [][]*jsonschema.Schema{sch.AnyOf, sch.OneOf} {
		if len(alternatives) > 0 {
			*choices = append(*choices, alternatives)
		}
	}
	if sch.If != nil {
		*choices = append(*choices, []*jsonschema.Schema{nil, sch.Then, sch.Else})
	}
	for _, name := range sortedKeys(sch.DependentSchemas) {
		*choices = append(*choices, []*jsonschema.Schema{nil, sch.DependentSchemas[name]})
	}
}

// choose tries the alternatives of the first open choice, until one leads to a value.
func (b *builder) choose(flat []*jsonschema.Schema, choices [][]*jsonschema.Schema, depth int) (any, bool) {
	if b.steps--; b.steps < 0 {
		return nil, false
	}
	if len(choices) == 0 {
		return b.fill(flat, depth)
	}
	for _, option := range choices[0] {
		more, rest := slices.Clone(flat), slices.Clone(choices[1:])
		flatten(option, &more, &rest)
		if v, ok := b.choose(more, rest, depth); ok {
			return v, true
		}
	}
	return nil, false
}

// fill makes a value for schemas that leave no choice.
func (b *builder) fill(flat []*jsonschema.Schema, depth int) (any, bool) {
	for _, p := range flat {
		if p.Bool != nil && !*p.Bool {
			return nil, false
		}
	}
	for _, v := range named(flat) {
		if b.accept(flat, v) {
			return v, true
		}
	}
	for _, t := range types(flat) {
		var v any
		ok := true
		switch t {
		case "string":
			v, ok = b.text(flat)
		case "integer", "number":
			v, ok = b.number(flat, t == "integer")
		case "boolean":
			if v = false; !b.accept(flat, v) {
				v = true
			}
		case "array":
			v, ok = b.array(flat, depth)
		case "object":
			v, ok = b.object(flat, depth)
		}
		if ok && b.accept(flat, v) {
			return v, true
		}
	}
	return nil, false
}

func (b *builder) accept(flat []*jsonschema.Schema, v any) bool {
	if b.steps--; b.steps < 0 {
		return false
	}
	for _, p := range flat {
		if !b.valid(p, v) {
			return false
		}
	}
	return true
}

// named are the values that the schemas name.
func named(flat []*jsonschema.Schema) []any {
	var values []any
	for _, p := range flat {
		if p.Const != nil {
			values = append(values, *p.Const)
		}
	}
	for _, p := range flat {
		if p.Default != nil {
			values = append(values, *p.Default)
		}
		values = append(values, p.Examples...)
	}
	for _, p := range flat {
		if p.Enum != nil {
			values = append(values, p.Enum.Values...)
		}
	}
	return values
}

// types are the types that all schemas allow, or those that their keywords speak of, the likely ones first.
func types(flat []*jsonschema.Schema) []string {
	all := []string{"object", "array", "string", "integer", "number", "boolean", "null"}
	allowed, constrained := all, false
	for _, p := range flat {
		if p.Types == nil || p.Types.IsEmpty() {
			continue
		}
		constrained = true
		set := p.Types.ToStrings()
		allowed = slices.DeleteFunc(slices.Clone(allowed), func(t string) bool {
			return !slices.Contains(set, t) && (t != "integer" || !slices.Contains(set, "number"))
		})
	}
	if constrained {
		return allowed
	}
	likely := hinted(flat)
	return append(likely, slices.DeleteFunc(slices.Clone(all), func(t string) bool { return slices.Contains(likely, t) })...)
}

// hinted are the types that keywords speak of when no type is given.
func hinted(flat []*jsonschema.Schema) []string {
	var likely []string
	hint := func(t string, speaks bool) {
		if speaks && !slices.Contains(likely, t) {
			likely = append(likely, t)
		}
	}
	for _, p := range flat {
		hint("object", len(p.Properties) > 0 || len(p.Required) > 0 || p.AdditionalProperties != nil || p.MinProperties != nil)
		hint("array", p.Items2020 != nil || len(p.PrefixItems) > 0 || p.MinItems != nil || p.Contains != nil || p.Items != nil)
		hint("integer", p.Minimum != nil || p.Maximum != nil || p.ExclusiveMinimum != nil || p.ExclusiveMaximum != nil || p.MultipleOf != nil)
	}
	if len(likely) == 0 {
		likely = []string{"string"}
	}
	return likely
}

// encode writes a value as compact JSON with sorted keys.
func encode(v any) (json.RawMessage, error) {
	b, err := json.Marshal(v)
	return b, err
}
