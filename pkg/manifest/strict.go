package manifest

import (
	"encoding"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// strict compares the fields and types of an object with those of its Go type: the whole object of a core kind, the
// metadata of one of ark's, whose other fields are checked by the API's own schema.
func (p *placed) strict(object any) bool {
	before := len(p.l.findings)
	t := reflect.TypeOf(object).Elem()
	if !slices.Contains(arkKinds(), p.kind) {
		p.compare("", p.root, t)
		return len(p.l.findings) == before
	}
	if m := p.root.get("metadata"); m != nil {
		f, _ := t.FieldByName("ObjectMeta")
		p.compare("metadata", m, f.Type)
	} else {
		p.report("metadata", "is missing", nameHint)
	}
	return len(p.l.findings) == before
}

// compare reports what does not fit a type.
func (p *placed) compare(path string, n *node, t reflect.Type) {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if n.kind == scalarNode && n.value == nil {
		return // null is as good as absent
	}
	switch {
	case t == reflect.TypeFor[[]byte]():
		p.compareBytes(path, n)
	case decodesItself(t):
		if n.kind != scalarNode && t.Name() == "Time" {
			p.wrong(path, n, "a time")
		}
	case t.Kind() == reflect.Struct:
		p.compareStruct(path, n, t)
	case t.Kind() == reflect.Map:
		if p.expect(path, n, objectNode, "an object") {
			for _, f := range n.fields {
				p.compare(join(path, f.key), f.node, t.Elem())
			}
		}
	case t.Kind() == reflect.Slice:
		if p.expect(path, n, listNode, "a list") {
			for i, e := range n.items {
				p.compare(fmt.Sprintf("%s[%d]", path, i), e, t.Elem())
			}
		}
	case t.Kind() == reflect.String:
		if _, ok := n.value.(string); !ok {
			p.wrong(path, n, "a string")
		}
	case t.Kind() == reflect.Bool:
		if _, ok := n.value.(bool); !ok {
			p.wrong(path, n, "a boolean")
		}
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		if v, ok := n.value.(json.Number); !ok || strings.ContainsAny(v.String(), ".eE") {
			p.wrong(path, n, "an integer")
		}
	}
}

func decodesItself(t reflect.Type) bool {
	return reflect.PointerTo(t).Implements(reflect.TypeFor[json.Unmarshaler]()) ||
		reflect.PointerTo(t).Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

func (p *placed) compareBytes(path string, n *node) {
	text, ok := n.value.(string)
	if !ok {
		p.wrong(path, n, "a string")
		return
	}
	if _, err := base64.StdEncoding.DecodeString(text); err != nil {
		p.report(path, "must be base64", "plain text goes under stringData")
	}
}

func (p *placed) compareStruct(path string, n *node, t reflect.Type) {
	if !p.expect(path, n, objectNode, "an object") {
		return
	}
	fields := jsonFields(t)
	for _, f := range n.fields {
		if ft, ok := fields[f.key]; ok {
			p.compare(join(path, f.key), f.node, ft)
			continue
		}
		p.report(join(path, f.key), "unknown field", namesHint(f.key, t))
	}
}

func (p *placed) expect(path string, n *node, kind nodeKind, what string) bool {
	if n.kind != kind {
		p.wrong(path, n, what)
		return false
	}
	return true
}

// wrong reports a value of a wrong type. Values of Secrets are not shown.
func (p *placed) wrong(path string, n *node, what string) {
	is := n.describe()
	if p.kind == "Secret" && n.kind == scalarNode {
		is, _, _ = strings.Cut(strings.TrimPrefix(is, "the "), " ")
		is = article(is)
	}
	hint := ""
	if what == "a string" && n.source != "" {
		hint = "put it in quotes"
	}
	p.report(path, "must be "+what+", not "+is, hint)
}

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

// jsonFields are the fields of a struct by their name in JSON, those of embedded structs among them.
func jsonFields(t reflect.Type) map[string]reflect.Type {
	fields := map[string]reflect.Type{}
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case f.Anonymous && name == "":
			maps.Copy(fields, jsonFields(f.Type))
		case name != "" && name != "-":
			fields[name] = f.Type
		}
	}
	return fields
}

// namesHint says which field was probably meant, or which there are.
func namesHint(name string, t reflect.Type) string {
	var names []string
	for k := range jsonFields(t) {
		names = append(names, k)
	}
	slices.Sort(names)
	if c := closest(name, names); c != "" {
		return "did you mean " + c + "?"
	}
	if len(names) > 12 {
		return ""
	}
	return "there are " + strings.Join(names, ", ")
}

// fieldHint is namesHint for the path of an unknown field of ark's.
func (p *placed) fieldHint(path string) string {
	t := arkType(p.kind)
	name := path
	if i := strings.LastIndexByte(path, '.'); i >= 0 {
		name = path[i+1:]
		t = typeAt(t, path[:i])
	}
	if t == nil || t.Kind() != reflect.Struct {
		return ""
	}
	return namesHint(name, t)
}

// typeAt follows a field path through Go types.
func typeAt(t reflect.Type, path string) reflect.Type {
	for part := range strings.SplitSeq(path, ".") {
		name, index, indexed := strings.Cut(part, "[")
		if t == nil || t.Kind() != reflect.Struct {
			return nil
		}
		if t = jsonFields(t)[name]; t == nil {
			return nil
		}
		t = elem(t)
		if indexed && strings.HasSuffix(index, "]") {
			if t.Kind() != reflect.Slice && t.Kind() != reflect.Map {
				return nil
			}
			t = elem(t.Elem())
		}
	}
	return t
}

func elem(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}
