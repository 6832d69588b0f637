// Package template evaluates the templates of ark's pipelines: the syntax of Go's text/template, run by an evaluator
// of its own that can always be stopped.
//
// A template is data from a user and works on data from a model, so nothing in it is trusted. Its source, nesting,
// work and output are bounded (see the Max constants), it calls no methods, it defines no templates, and it knows a
// fixed list of functions (see Functions). The same template over the same data gives the same text: maps are walked
// in the order of their keys, numbers keep their digits.
//
// Three things differ from text/template:
//   - A reference to something that does not exist is an error (ReferenceError) that says what there is. Only the
//     function default accepts a missing value, below the first segment of a path.
//   - The segments of a path may hold hyphens and may begin with a digit: .steps.data-analyst.output.
//   - Lists and objects print as JSON; null prints as nothing.
//
// The data is what encoding/json decodes: map[string]any, []any, string, bool, nil, and numbers as json.Number,
// float64 or a Go integer, or a *Large text. It is read and never changed.
package template

import (
	"encoding/json"
	"strings"
	"text/template/parse"
)

// The limits of one template. Work counts evaluated nodes; functions that handle long texts count one more for each
// 64 bytes.
const (
	MaxSource    = 64 << 10 // bytes
	MaxNesting   = 32       // of if, range, with and parentheses together
	MaxBranches  = 256      // else-ifs of one if
	MaxVariables = 100      // declared in one template
	MaxWork      = 100_000  // nodes
	MaxOutput    = 1 << 20  // bytes, of the output and of every text made on the way
	MaxDepth     = 200      // of a JSON value that is read or written
)

// Template is a parsed template. It is immutable and safe for concurrent use.
type Template struct {
	name   string
	source string
	root   *parse.ListNode
	single *parse.PipeNode // set when the template is one action and white space
}

// Parse reads a template. The name stands in errors, which are of type *Error.
func Parse(name, source string) (*Template, error) {
	t := &Template{name: name, source: source}
	if len(source) > MaxSource {
		return nil, t.fault(0, &LimitError{What: "source", Limit: MaxSource, Unit: "bytes"})
	}
	s := scanner{src: source}
	if err := s.scan(); err != nil {
		return nil, t.fault(s.errAt, err)
	}
	root, err := s.parse()
	if err != nil {
		return nil, t.fault(s.errAt, err)
	}
	t.root = root
	c := checker{}
	if err := c.list(root); err != nil {
		return nil, t.fault(c.errAt, err)
	}
	t.single = single(root)
	return t, nil
}

// Name is the name that was given to Parse.
func (t *Template) Name() string { return t.name }

// Source is the text that was given to Parse.
func (t *Template) Source() string { return t.source }

// Execute gives the text of the template over the data. Errors are of type *Error; errors.As finds a *ReferenceError,
// a *LimitError or a *LargeError in them.
func (t *Template) Execute(data map[string]any) (string, error) {
	r := newRun(t, data)
	if _, err := r.list(r.root, t.root); err != nil {
		return "", r.fault(err)
	}
	return r.out.String(), nil
}

// Value gives the value of a template that is one single action (white space around it does not count) with its
// type: nil, bool, string, json.Number, int64, float64, []any, map[string]any or *Large. The value may share memory with the
// data. Of any other template it gives the text.
func (t *Template) Value(data map[string]any) (any, error) {
	if t.single == nil {
		return t.Execute(data)
	}
	r := newRun(t, data)
	v, err := r.pipe(r.root, t.single)
	if err != nil {
		return nil, r.fault(err)
	}
	if v, err = plain(v); err != nil {
		return nil, r.fault(err)
	}
	return v, nil
}

// single returns the pipeline of a template that is one action, or nil.
func single(root *parse.ListNode) *parse.PipeNode {
	var found *parse.PipeNode
	for _, n := range root.Nodes {
		switch n := n.(type) {
		case *parse.TextNode:
			if strings.TrimSpace(string(n.Text)) != "" {
				return nil
			}
		case *parse.ActionNode:
			if found != nil || len(n.Pipe.Decl) > 0 {
				return nil
			}
			found = n.Pipe
		default:
			return nil
		}
	}
	return found
}

// plain brings the numbers that Go code may have put into the data to int64 and float64.
func plain(v any) (any, error) {
	switch v := v.(type) {
	case nil, bool, string, json.Number, int64, float64, []any, map[string]any, *Large:
		return v, nil
	case int:
		return int64(v), nil
	case int32:
		return int64(v), nil
	case float32:
		return float64(v), nil
	case []string:
		list := make([]any, len(v))
		for i, s := range v {
			list[i] = s
		}
		return list, nil
	}
	return nil, errorf("a value of type %T cannot be used in a template", v)
}
