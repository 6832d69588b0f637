package schema

import (
	"encoding/json"
	"maps"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// text makes a string.
func (b *builder) text(flat []*jsonschema.Schema) (any, bool) {
	least := 0
	for _, p := range flat {
		if p.MinLength != nil {
			least = max(least, *p.MinLength)
		}
	}
	if !b.grow(least) {
		return nil, false
	}
	for _, candidate := range textCandidates(flat, least) {
		if b.accept(flat, candidate) {
			return candidate, true
		}
	}
	return nil, false
}

func textCandidates(flat []*jsonschema.Schema, least int) []string {
	out := []string{strings.Repeat("x", least)}
	for _, p := range flat {
		if p.Format != nil {
			if sample := formatSample(p.Format.Name); sample != "" {
				out = append([]string{sample}, out...)
			}
		}
	}
	for _, p := range flat {
		re, ok := p.Pattern.(*pattern)
		if !ok {
			continue
		}
		for _, extra := range []int{0, 1, 2, 3, 5, 8, least} {
			if s, ok := matching(re.String(), extra); ok {
				out = append(out, s)
				if n := utf8.RuneCountInString(s); n < least {
					pad := strings.Repeat("x", least-n)
					out = append(out, s+pad, pad+s)
				}
			}
		}
	}
	return out
}

func formatSample(format string) string {
	switch format {
	case "date-time":
		return "2000-01-01T00:00:00Z"
	case "date":
		return "2000-01-01"
	case "time":
		return "00:00:00Z"
	case "duration":
		return "PT1S"
	case "email", "idn-email":
		return "user@example.com"
	case "hostname", "idn-hostname":
		return "example.com"
	case "ipv4":
		return "192.0.2.1"
	case "ipv6":
		return "2001:db8::1"
	case "uri", "iri", "uri-reference", "iri-reference":
		return "https://example.com/"
	case "uuid":
		return "00000000-0000-0000-0000-000000000000"
	}
	return ""
}

// number makes a number: the smallest bound, zero, or a multiple near them.
func (b *builder) number(flat []*jsonschema.Schema, whole bool) (any, bool) {
	one := big.NewRat(1, 1)
	step := one
	candidates := []*big.Rat{new(big.Rat)}
	for _, p := range flat {
		if p.MultipleOf != nil {
			step = p.MultipleOf
		}
	}
	for _, p := range flat {
		for _, bound := range []*big.Rat{p.Minimum, p.ExclusiveMinimum, p.Maximum, p.ExclusiveMaximum} {
			if bound == nil {
				continue
			}
			near := []*big.Rat{bound, multipleBelow(bound, step)}
			for _, d := range []*big.Rat{step, one, big.NewRat(1, 2), big.NewRat(1, 1000)} {
				near = append(near, new(big.Rat).Add(near[1], d), new(big.Rat).Sub(near[1], d), new(big.Rat).Add(bound, d), new(big.Rat).Sub(bound, d))
			}
			candidates = append(candidates, near...)
		}
	}
	for _, c := range candidates {
		if whole && !c.IsInt() {
			continue
		}
		n, ok := numberText(c)
		if ok && b.accept(flat, n) {
			return n, true
		}
	}
	return nil, false
}

// multipleBelow is the largest multiple of a step that is not above a bound.
func multipleBelow(bound, step *big.Rat) *big.Rat {
	if step.Sign() == 0 {
		return bound
	}
	q := new(big.Rat).Quo(bound, step)
	floor := new(big.Int).Div(q.Num(), q.Denom())
	return new(big.Rat).Mul(new(big.Rat).SetInt(floor), step)
}

func numberText(r *big.Rat) (json.Number, bool) {
	text := r.Num().String()
	if !r.IsInt() {
		text = strings.TrimRight(r.FloatString(30), "0")
	}
	return json.Number(text), bounded(text)
}

// array makes an array with as many items as are needed.
func (b *builder) array(flat []*jsonschema.Schema, depth int) (any, bool) {
	least, unique := 0, false
	var contains []*jsonschema.Schema
	for _, p := range flat {
		if p.MinItems != nil {
			least = max(least, *p.MinItems)
		}
		unique = unique || p.UniqueItems
		if p.Contains == nil {
			continue
		}
		n := 1
		if p.MinContains != nil {
			n = *p.MinContains
		}
		if !b.grow(n) {
			return nil, false
		}
		for range n {
			contains = append(contains, p.Contains)
		}
	}
	least = max(least, len(contains))
	if !b.grow(64 * least) {
		return nil, false
	}
	items := make([]any, 0, least)
	taken := map[string]bool{}
	for i := range least {
		parts := itemParts(flat, i)
		if i < len(contains) {
			parts = append(parts, contains[i])
		}
		v, ok := b.build(parts, depth+1)
		if ok && unique {
			v, ok = b.distinct(parts, v, i, taken)
		}
		if !ok {
			return nil, false
		}
		items = append(items, v)
	}
	return items, true
}

// itemParts are the schemas of one item.
func itemParts(flat []*jsonschema.Schema, i int) []*jsonschema.Schema {
	var parts []*jsonschema.Schema
	for _, p := range flat {
		switch items := p.Items.(type) { // drafts before 2020-12
		case *jsonschema.Schema:
			parts = append(parts, items)
		case []*jsonschema.Schema:
			if i < len(items) {
				parts = append(parts, items[i])
			} else if rest, ok := p.AdditionalItems.(*jsonschema.Schema); ok {
				parts = append(parts, rest)
			}
		}
		switch {
		case i < len(p.PrefixItems):
			parts = append(parts, p.PrefixItems[i])
		case p.Items2020 != nil:
			parts = append(parts, p.Items2020)
		case p.UnevaluatedItems != nil && p.UnevaluatedItems.Bool == nil:
			parts = append(parts, p.UnevaluatedItems)
		}
	}
	return parts
}

// distinct changes the i-th item until it equals none of those before, which are taken.
func (b *builder) distinct(parts []*jsonschema.Schema, v any, i int, taken map[string]bool) (any, bool) {
	var flat []*jsonschema.Schema
	var choices [][]*jsonschema.Schema
	for _, p := range parts {
		flatten(p, &flat, &choices)
	}
	candidates := append([]any{v}, varied(v, i)...)
	candidates = append(candidates, named(flat)...)
	for _, c := range candidates {
		if k := key(c); !taken[k] && b.accept(parts, c) {
			taken[k] = true
			return c, true
		}
	}
	return nil, false
}

// varied gives values of the same kind.
func varied(v any, i int) []any {
	switch v := v.(type) {
	case string:
		return []any{v + strconv.Itoa(i), strconv.Itoa(i)}
	case bool:
		return []any{!v}
	case json.Number:
		n, err := v.Int64()
		if err != nil {
			return nil
		}
		return []any{json.Number(strconv.FormatInt(n+int64(i), 10)), json.Number(strconv.FormatInt(n-int64(i), 10))}
	case map[string]any:
		var out []any
		for _, k := range sortedKeys(v) {
			for _, changed := range varied(v[k], i) {
				clone := maps.Clone(v)
				clone[k] = changed
				out = append(out, clone)
			}
		}
		return out
	}
	return []any{strconv.Itoa(i), json.Number(strconv.Itoa(i))}
}

// key is the same for equal values.
func key(v any) string {
	b, err := encode(v)
	if err != nil {
		return ""
	}
	return string(b)
}

// object makes an object with the properties that are needed.
func (b *builder) object(flat []*jsonschema.Schema, depth int) (any, bool) {
	needed, optional := propertyNames(flat)
	object := map[string]any{}
	opened := len(b.open)
	b.open = append(b.open, flat...)
	defer func() { b.open = b.open[:opened] }()
	for i := 0; i < len(needed); i++ { // it grows by what the properties depend on
		name := needed[i]
		v, ok := b.build(propertyParts(flat, name), depth+1)
		if !ok {
			return nil, false
		}
		object[name] = v
		for _, p := range flat {
			for _, d := range p.DependentRequired[name] {
				if !slices.Contains(needed, d) {
					needed = append(needed, d)
				}
			}
		}
	}
	least := 0
	for _, p := range flat {
		if p.MinProperties != nil {
			least = max(least, *p.MinProperties)
		}
	}
	declared := !slices.ContainsFunc(flat, func(p *jsonschema.Schema) bool { return len(p.Required) > 0 })
	for _, name := range optional {
		if !declared && len(object) >= least {
			break
		}
		parts := propertyParts(flat, name)
		if b.recurses(parts) {
			continue
		}
		if v, ok := b.build(parts, depth+1); ok {
			object[name] = v
			if !b.accept(flat, object) && len(object) > least {
				delete(object, name)
			}
		}
	}
	if !b.grow(16 * least) {
		return nil, false
	}
	for i := 1; len(object) < least; i++ {
		name := "key" + strconv.Itoa(i)
		v, ok := b.build(propertyParts(flat, name), depth+1)
		if !ok || i > 2*least {
			return nil, false
		}
		object[name] = v
	}
	return object, true
}

// propertyNames are the required properties and the others that are declared, each sorted.
func propertyNames(flat []*jsonschema.Schema) (needed, optional []string) {
	for _, p := range flat {
		needed = append(needed, p.Required...)
		optional = append(optional, sortedKeys(p.Properties)...)
	}
	slices.Sort(needed)
	needed = slices.Compact(needed)
	slices.Sort(optional)
	optional = slices.DeleteFunc(slices.Compact(optional), func(name string) bool { return slices.Contains(needed, name) })
	return needed, optional
}

// recurses says whether a property leads into an object that is being made.
func (b *builder) recurses(parts []*jsonschema.Schema) bool {
	var flat []*jsonschema.Schema
	var choices [][]*jsonschema.Schema
	for _, p := range parts {
		flatten(p, &flat, &choices)
	}
	return slices.ContainsFunc(flat, func(p *jsonschema.Schema) bool { return slices.Contains(b.open, p) })
}

// propertyParts are the schemas of one property.
func propertyParts(flat []*jsonschema.Schema, name string) []*jsonschema.Schema {
	var parts []*jsonschema.Schema
	for _, p := range flat {
		known := false
		if sub := p.Properties[name]; sub != nil {
			parts, known = append(parts, sub), true
		}
		for re, sub := range p.PatternProperties {
			if re.MatchString(name) {
				parts, known = append(parts, sub), true
			}
		}
		if additional, ok := p.AdditionalProperties.(*jsonschema.Schema); ok && !known {
			parts = append(parts, additional)
		}
	}
	slices.SortStableFunc(parts, func(x, y *jsonschema.Schema) int { return strings.Compare(x.Location, y.Location) })
	return parts
}

// grow counts what is made, so that a minimum of a billion ends here.
func (b *builder) grow(n int) bool {
	if n < 0 || n > maxMinimal-b.size {
		return false
	}
	b.size += n
	return true
}
