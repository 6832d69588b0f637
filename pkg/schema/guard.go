package schema

import (
	"errors"
	"fmt"
	"regexp"
	"regexp/syntax"
	"strings"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// The work that one check may do. One unit is about one schema met by one value.
const (
	baseWork    = 20_000
	workPerNode = 200
	mostWork    = 1_000_000
)

// work counts down during one check.
type work struct{ left int }

var errTooMuch = errors.New("too much work")

// guard makes every schema below one count its work, and refuses schemas of other documents: the library knows those
// that describe JSON Schema itself. The library checks a schema's format before it goes on into other schemas, and goes
// no further when the format refuses: that is where the work is counted.
func (s *Schema) guard(top *jsonschema.Schema) error {
	seen := map[*jsonschema.Schema]bool{top: true}
	todo := []*jsonschema.Schema{top}
	for len(todo) > 0 {
		sch := todo[len(todo)-1]
		todo = todo[:len(todo)-1]
		if !strings.HasPrefix(sch.Location, location+"#") {
			url, _, _ := strings.Cut(sch.Location, "#")
			return errOutside(url)
		}
		for _, c := range children(sch) {
			if !seen[c] {
				seen[c] = true
				todo = append(todo, c)
			}
		}
		s.guardOne(sch)
	}
	return nil
}

func (s *Schema) guardOne(sch *jsonschema.Schema) {
	inPlace := 1
	for _, c := range inPlaceChildren(sch) {
		inPlace += ownCost(c)
	}
	inner := sch.Format
	name := "work"
	if inner != nil {
		name = inner.Name
	}
	sch.Format = &jsonschema.Format{Name: name, Validate: func(v any) error {
		s.work.left -= min(inPlace+valueCost(sch, v), mostWork)
		if s.work.left < 0 {
			return errTooMuch
		}
		if inner != nil {
			return inner.Validate(v)
		}
		return nil
	}}
}

// ownCost is what a schema costs that refuses a value at once.
func ownCost(sch *jsonschema.Schema) int {
	n := 1 + len(sch.Required)/8
	if sch.Enum != nil {
		n += len(sch.Enum.Values)
	}
	return n
}

// valueCost is the work of a schema on the parts of a value.
func valueCost(sch *jsonschema.Schema, v any) int {
	n := 0
	switch v := v.(type) {
	case map[string]any:
		n = len(v) * (1 + len(sch.PatternProperties))
		for k := range v {
			if p := sch.Properties[k]; p != nil {
				n += ownCost(p)
			}
		}
		for _, d := range sch.DependentRequired {
			n += 1 + len(d)/8
		}
		for _, p := range sch.PatternProperties {
			n += len(v) * ownCost(p)
		}
		if p, ok := sch.AdditionalProperties.(*jsonschema.Schema); ok {
			n += len(v) * ownCost(p)
		}
		n += len(v) * optionalCost(sch.PropertyNames) * 2
		n += len(v) * optionalCost(sch.UnevaluatedProperties)
	case []any:
		n = len(v)
		n += len(v) * (optionalCost(sch.Items2020) + optionalCost(sch.Contains) + optionalCost(sch.UnevaluatedItems))
		for _, p := range sch.PrefixItems {
			n += ownCost(p)
		}
		if p, ok := sch.Items.(*jsonschema.Schema); ok {
			n += len(v) * ownCost(p)
		}
		if sch.UniqueItems {
			n += 20 * len(v)
		}
	case string:
		n = len(v) / 1024
		if p, ok := sch.Pattern.(*pattern); ok {
			n += 1 + len(v)*p.size/64
		}
	}
	return n
}

func optionalCost(sch *jsonschema.Schema) int {
	if sch == nil {
		return 0
	}
	return ownCost(sch)
}

// inPlaceChildren are the schemas that look at the same value.
func inPlaceChildren(sch *jsonschema.Schema) []*jsonschema.Schema {
	var out []*jsonschema.Schema
	for _, c := range []*jsonschema.Schema{sch.Ref, sch.Not, sch.If, sch.Then, sch.Else} {
		if c != nil {
			out = append(out, c)
		}
	}
	out = append(out, sch.AllOf...)
	out = append(out, sch.AnyOf...)
	out = append(out, sch.OneOf...)
	for _, c := range sch.DependentSchemas {
		out = append(out, c)
	}
	for _, d := range sch.Dependencies {
		if c, ok := d.(*jsonschema.Schema); ok {
			out = append(out, c)
		}
	}
	return out
}

// children are all schemas directly below one.
func children(sch *jsonschema.Schema) []*jsonschema.Schema {
	out := inPlaceChildren(sch)
	for _, c := range []*jsonschema.Schema{
		sch.PropertyNames, sch.UnevaluatedProperties, sch.Contains, sch.Items2020, sch.UnevaluatedItems, sch.ContentSchema,
	} {
		if c != nil {
			out = append(out, c)
		}
	}
	for _, c := range sch.Properties {
		out = append(out, c)
	}
	for _, c := range sch.PatternProperties {
		out = append(out, c)
	}
	out = append(out, sch.PrefixItems...)
	for _, any := range []any{sch.AdditionalProperties, sch.Items, sch.AdditionalItems} {
		switch c := any.(type) {
		case *jsonschema.Schema:
			out = append(out, c)
		case []*jsonschema.Schema:
			out = append(out, c...)
		}
	}
	return out
}

// patternBudget compiles regular expressions (RE2) as long as their states are bounded.
type patternBudget struct{ left int }

// pattern is a compiled regular expression that knows its size.
type pattern struct {
	*regexp.Regexp
	size int
}

func (b *patternBudget) compile(text string) (jsonschema.Regexp, error) {
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return nil, fmt.Errorf("%w (RE2 syntax: no look-around, no back-references)", err)
	}
	size := states(parsed)
	if b.left -= size; b.left < 0 {
		return nil, fmt.Errorf("the regular expressions of the schema have more than %d states together", MaxPatternSize)
	}
	re, err := regexp.Compile(text)
	if err != nil {
		return nil, err
	}
	return &pattern{re, size}, nil
}

// states counts what a regular expression is expanded to.
func states(re *syntax.Regexp) int {
	n := 1
	if re.Op == syntax.OpLiteral {
		n = len(re.Rune)
	}
	for _, sub := range re.Sub {
		n += states(sub)
	}
	if re.Op == syntax.OpRepeat {
		n *= max(re.Min, re.Max, 1)
	}
	return min(n, 10*MaxPatternSize)
}
