package manifest

import (
	"encoding/json"
	"strconv"
	"strings"
)

// node is a value with its place: what YAML and JSON have in common.
type node struct {
	line   int
	kind   nodeKind
	value  any      // of a scalar: nil, bool, string or json.Number
	source string   // of a plain YAML scalar: how it is written, for hints
	fields []member // of an object, in the order of the document
	items  []*node  // of a list
}

type nodeKind int

const (
	scalarNode nodeKind = iota
	objectNode
	listNode
)

type member struct {
	key  string
	line int // of the key
	node *node
}

// get returns a field of an object, or nil.
func (n *node) get(key string) *node {
	if n == nil {
		return nil
	}
	for i := range n.fields {
		if n.fields[i].key == key {
			return n.fields[i].node
		}
	}
	return nil
}

// text returns the text of a field, or "".
func (n *node) text(key string) string {
	if f := n.get(key); f != nil {
		if s, ok := f.value.(string); ok {
			return s
		}
	}
	return ""
}

// plain gives the value without places: nil, bool, string, json.Number, []any or map[string]any.
func (n *node) plain() any {
	switch n.kind {
	case objectNode:
		m := make(map[string]any, len(n.fields))
		for _, f := range n.fields {
			m[f.key] = f.node.plain()
		}
		return m
	case listNode:
		list := make([]any, len(n.items))
		for i, e := range n.items {
			list[i] = e.plain()
		}
		return list
	default:
		return n.value
	}
}

// describe names what a node is.
func (n *node) describe() string {
	switch n.kind {
	case objectNode:
		return "an object"
	case listNode:
		return "a list"
	default:
	}
	switch v := n.value.(type) {
	case nil:
		return "null"
	case bool:
		return "the boolean " + strconv.FormatBool(v)
	case json.Number:
		return "the number " + clip(v.String())
	}
	return "text"
}

// find follows a field path such as spec.pipeline[2].inputs.prompt or spec.input[key]. It returns the line of the
// field, or of the nearest thing around it that exists, and the node if it exists.
func (n *node) find(path string) (line int, found *node) {
	line = n.line
	for path != "" {
		switch path[0] {
		case '.':
			path = path[1:]
		case '[':
			key, rest, ok := strings.Cut(path[1:], "]")
			if !ok {
				return line, nil
			}
			i, err := strconv.Atoi(key)
			switch {
			case n.kind == listNode && err == nil && i >= 0 && i < len(n.items):
				n = n.items[i]
				line = n.line
			case n.get(key) != nil:
				line = n.keyLine(key)
				n = n.get(key)
			default:
				return line, nil
			}
			path = rest
		default:
			key := n.longestKey(path)
			if key == "" {
				return line, nil
			}
			line = n.keyLine(key)
			n = n.get(key)
			path = path[len(key):]
		}
	}
	return line, n
}

func (n *node) keyLine(key string) int {
	for i := range n.fields {
		if n.fields[i].key == key {
			return n.fields[i].line
		}
	}
	return n.line
}

// longestKey is the field of an object that a path begins with; keys may hold dots.
func (n *node) longestKey(path string) string {
	best := ""
	for i := range n.fields {
		rest, ok := strings.CutPrefix(path, n.fields[i].key)
		if ok && (rest == "" || rest[0] == '.' || rest[0] == '[') && len(n.fields[i].key) > len(best) {
			best = n.fields[i].key
		}
	}
	return best
}
