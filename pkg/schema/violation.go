package schema

import (
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/santhosh-tekuri/jsonschema/v6/kind"
)

// root is the path of the document itself.
const root = "(root)"

// maxViolations bounds what one check reports.
const maxViolations = 100

// Violation is one thing that is wrong with a document.
type Violation struct {
	Path    string // of the value: items[2].name, or (root)
	Message string // a sentence without a subject: must be a string, not a number
}

func (v Violation) String() string { return v.Path + " " + v.Message }

// violations flattens what the library found: the leaves of its tree, in the order of their paths.
func violations(verr *jsonschema.ValidationError) []Violation {
	var out []Violation
	collect(verr, &out)
	slices.SortFunc(out, func(a, b Violation) int {
		if a.Path != b.Path {
			return comparePaths(a.Path, b.Path)
		}
		return strings.Compare(a.Message, b.Message)
	})
	out = slices.Compact(out)
	if n := len(out); n > maxViolations {
		out = append(out[:maxViolations], Violation{root, fmt.Sprintf("has %d more faults", n-maxViolations)})
	}
	return out
}

// comparePaths puts the document before its parts.
func comparePaths(a, b string) int {
	if (a == root) != (b == root) {
		if a == root {
			return -1
		}
		return 1
	}
	return strings.Compare(a, b)
}

const maxCollected = 10_000

func collect(e *jsonschema.ValidationError, out *[]Violation) {
	if len(*out) >= maxCollected {
		return
	}
	switch k := e.ErrorKind.(type) {
	case *kind.AnyOf, *kind.OneOf:
		if one, ok := k.(*kind.OneOf); ok && len(one.Subschemas) > 0 {
			break
		}
		*out = append(*out, alternatives(e))
		return
	case *kind.PropertyNames:
		*out = append(*out, Violation{pathString(e.InstanceLocation), fmt.Sprintf("must not have a key named %q", clip(k.Property))})
		return
	case *kind.Contains, *kind.MinContains:
		*out = append(*out, Violation{pathString(e.InstanceLocation), sentence(e)})
		return
	}
	if len(e.Causes) == 0 {
		for _, message := range sentences(e) {
			*out = append(*out, Violation{pathString(e.InstanceLocation), message})
		}
		return
	}
	for _, c := range e.Causes {
		collect(c, out)
	}
}

// alternatives words a value that fits none of several schemas: by the one that it came closest to, or by the types
// that are possible.
func alternatives(e *jsonschema.ValidationError) Violation {
	path := pathString(e.InstanceLocation)
	var options []string
	var wants []string
	onlyTypes := true
	for _, c := range e.Causes {
		var vs []Violation
		collect(c, &vs)
		leaf := c
		for len(leaf.Causes) == 1 {
			leaf = leaf.Causes[0]
		}
		if t, ok := leaf.ErrorKind.(*kind.Type); ok && len(leaf.InstanceLocation) == len(e.InstanceLocation) {
			wants = append(wants, t.Want...)
		} else {
			onlyTypes = false
		}
		var parts []string
		for _, v := range vs {
			if len(parts) == 3 {
				parts = append(parts, "...")
				break
			}
			if v.Path == path {
				parts = append(parts, v.Message)
			} else {
				parts = append(parts, v.String())
			}
		}
		options = append(options, strings.Join(parts, " and "))
	}
	if onlyTypes && len(wants) > 0 {
		got := ""
		if leaf, ok := deepest(e).ErrorKind.(*kind.Type); ok {
			got = ", not " + article(leaf.Got)
		}
		return Violation{path, "must be " + list(wants, article) + got}
	}
	options = slices.Compact(options)
	if len(options) > 4 {
		options = append(options[:4], fmt.Sprintf("(%d more)", len(options)-4))
	}
	return Violation{path, "fits none of the alternatives: " + strings.Join(options, "; or ")}
}

func deepest(e *jsonschema.ValidationError) *jsonschema.ValidationError {
	for len(e.Causes) > 0 {
		e = e.Causes[0]
	}
	return e
}

// sentences words a leaf; one that names several properties becomes several.
func sentences(e *jsonschema.ValidationError) []string {
	var out []string
	switch k := e.ErrorKind.(type) {
	case *kind.Required:
		for _, name := range k.Missing {
			out = append(out, fmt.Sprintf("must have %q", name))
		}
	case *kind.AdditionalProperties:
		for _, name := range k.Properties {
			out = append(out, fmt.Sprintf("must not have %q", clip(name)))
		}
	case *kind.DependentRequired:
		for _, name := range k.Missing {
			out = append(out, fmt.Sprintf("must have %q because it has %q", name, k.Prop))
		}
	case *kind.Dependency:
		for _, name := range k.Missing {
			out = append(out, fmt.Sprintf("must have %q because it has %q", name, k.Prop))
		}
	default:
		out = append(out, sentence(e))
	}
	return out
}

func sentence(e *jsonschema.ValidationError) string {
	switch k := e.ErrorKind.(type) {
	case *kind.Type:
		return fmt.Sprintf("must be %s, not %s", list(k.Want, article), article(k.Got))
	case *kind.Enum:
		return "must be " + list(k.Want, literal) + ", not " + literal(k.Got)
	case *kind.Const:
		return "must be " + literal(k.Want) + ", not " + literal(k.Got)
	case *kind.FalseSchema:
		return "must not be there"
	case *kind.Format:
		return "must be a valid " + k.Want
	case *kind.Not:
		return "must not fit the schema under not"
	case *kind.OneOf:
		return fmt.Sprintf("must fit exactly one alternative, but fits number %d and number %d", k.Subschemas[0]+1, k.Subschemas[1]+1)
	case *kind.UniqueItems:
		return fmt.Sprintf("must have no equal items, but items %d and %d are", k.Duplicates[0], k.Duplicates[1])
	case *kind.Contains:
		return "must hold an item that fits the schema under contains"
	case *kind.MinContains:
		return fmt.Sprintf("must hold at least %s that fit the schema under contains, but has %d", count(k.Want, "item"), len(k.Got))
	case *kind.MaxContains:
		return fmt.Sprintf("must hold at most %s that fit the schema under contains, but has %d", count(k.Want, "item"), len(k.Got))
	case *kind.RefCycle:
		return "cannot be checked: the schema refers to itself without end"
	case *kind.InvalidJsonValue:
		return fmt.Sprintf("is no JSON value but a %T", k.Value)
	}
	if s := size(e.ErrorKind); s != "" {
		return s
	}
	return "does not fit " + strings.Join(e.ErrorKind.KeywordPath(), "/")
}

// size words the violations of bounds.
func size(k jsonschema.ErrorKind) string {
	switch k := k.(type) {
	case *kind.MinProperties:
		return fmt.Sprintf("must have at least %s, but has %d", count(k.Want, "entry"), k.Got)
	case *kind.MaxProperties:
		return fmt.Sprintf("must have at most %s, but has %d", count(k.Want, "entry"), k.Got)
	case *kind.MinItems:
		return fmt.Sprintf("must have at least %s, but has %d", count(k.Want, "item"), k.Got)
	case *kind.MaxItems:
		return fmt.Sprintf("must have at most %s, but has %d", count(k.Want, "item"), k.Got)
	case *kind.AdditionalItems:
		return fmt.Sprintf("has %s too many", count(k.Count, "item"))
	case *kind.MinLength:
		return fmt.Sprintf("must have at least %s, but has %d", count(k.Want, "character"), k.Got)
	case *kind.MaxLength:
		return fmt.Sprintf("must have at most %s, but has %d", count(k.Want, "character"), k.Got)
	case *kind.Pattern:
		return fmt.Sprintf("must match %s, but is %s", k.Want, literal(k.Got))
	case *kind.Minimum:
		return fmt.Sprintf("must be at least %s, but is %s", decimal(k.Want), decimal(k.Got))
	case *kind.Maximum:
		return fmt.Sprintf("must be at most %s, but is %s", decimal(k.Want), decimal(k.Got))
	case *kind.ExclusiveMinimum:
		return fmt.Sprintf("must be more than %s, but is %s", decimal(k.Want), decimal(k.Got))
	case *kind.ExclusiveMaximum:
		return fmt.Sprintf("must be less than %s, but is %s", decimal(k.Want), decimal(k.Got))
	case *kind.MultipleOf:
		return fmt.Sprintf("must be a multiple of %s, but is %s", decimal(k.Want), decimal(k.Got))
	}
	return ""
}

func article(jsonType string) string {
	switch jsonType {
	case "null":
		return "null"
	case "array", "integer", "object":
		return "an " + jsonType
	}
	return "a " + jsonType
}

// list joins alternatives: a, b or c. At most ten are named.
func list[T any](values []T, word func(T) string) string {
	var words []string
	for i, v := range values {
		if i == 10 {
			words = append(words, fmt.Sprintf("%d others", len(values)-i))
			break
		}
		if w := word(v); !slices.Contains(words, w) {
			words = append(words, w)
		}
	}
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

func count(n int, noun string) string {
	switch {
	case n == 1:
		return "1 " + noun
	case noun == "entry":
		return strconv.Itoa(n) + " entries"
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// literal writes a value in a sentence.
func literal(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return typeName(v)
	}
	return clip(string(b))
}

// decimal writes a number without a fraction bar.
func decimal(r *big.Rat) string {
	if r.IsInt() {
		return clip(r.Num().String())
	}
	return strings.TrimRight(r.FloatString(12), "0")
}

// clip cuts a text in a sentence.
func clip(s string) string {
	n := 0
	for i := range s {
		if n == 80 {
			return s[:i] + "..."
		}
		n++
	}
	return s
}

// pathString writes a path as a.b[2]["odd key"].
func pathString(tokens []string) string {
	if len(tokens) == 0 {
		return root
	}
	var b strings.Builder
	for _, t := range tokens {
		switch _, err := strconv.ParseUint(t, 10, 32); {
		case err == nil:
			b.WriteString("[" + t + "]")
		case !plain(t):
			b.WriteString("[" + strconv.Quote(clip(t)) + "]")
		default:
			if b.Len() > 0 {
				b.WriteByte('.')
			}
			b.WriteString(t)
		}
	}
	return b.String()
}

// plain says whether a key needs no quotes in a path.
func plain(key string) bool {
	return key != "" && strings.IndexFunc(key, func(c rune) bool {
		return c != '_' && c != '-' && c != '$' && !unicode.IsLetter(c) && !unicode.IsDigit(c)
	}) < 0
}
