package template

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Error is a template that does not parse or cannot be evaluated, with the place in its source.
type Error struct {
	Name   string // of the template
	Line   int    // from 1
	Column int    // in characters, from 1
	Err    error  // the cause: *ReferenceError, *LimitError, or a sentence
}

func (e *Error) Error() string {
	if e.Name == "" {
		return fmt.Sprintf("%d:%d: %v", e.Line, e.Column, e.Err)
	}
	return fmt.Sprintf("%s:%d:%d: %v", e.Name, e.Line, e.Column, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// ReferenceError is a reference to something that does not exist.
type ReferenceError struct {
	Path      string   // as written, up to and with what is missing: ".steps.reserch"
	Missing   string   // the segment that is missing: "reserch"
	Available []string // what stands there instead, sorted; at most 20 names
	More      int      // how many further names there are
	Reason    string   // why there can be nothing, when it is not a missing name: ".input is text"

	root bool // the first segment of a path from the root is missing
}

func (e *ReferenceError) Error() string {
	parent := strings.TrimSuffix(e.Path, e.Missing)
	if e.root {
		parent = "the context"
	}
	if parent = strings.TrimSuffix(parent, "."); parent == "" {
		parent = "the value here"
	}
	switch {
	case e.Reason != "":
		return fmt.Sprintf("%s does not exist: %s", e.Path, e.Reason)
	case len(e.Available) == 0:
		return fmt.Sprintf("%s does not exist: %s is empty", e.Path, parent)
	case e.More > 0:
		return fmt.Sprintf("%s does not exist: %s has %s and %d more", e.Path, parent, strings.Join(e.Available, ", "), e.More)
	}
	return fmt.Sprintf("%s does not exist: %s has %s", e.Path, parent, strings.Join(e.Available, ", "))
}

// LimitError is a template that asks for more than it may have.
type LimitError struct {
	What  string // "source", "nesting", "work", "output" and so on
	Limit int
	Unit  string
}

func (e *LimitError) Error() string {
	return fmt.Sprintf("the template is too large: %s is bounded at %d %s", e.What, e.Limit, e.Unit)
}

func errorf(format string, args ...any) error { return fmt.Errorf(format, args...) }

// fault puts an error at an offset of the source.
func (t *Template) fault(offset int, err error) error {
	offset = min(max(offset, 0), len(t.source))
	before := t.source[:offset]
	line := 1 + strings.Count(before, "\n")
	start := strings.LastIndexByte(before, '\n') + 1
	return &Error{Name: t.name, Line: line, Column: 1 + utf8.RuneCountInString(before[start:]), Err: err}
}

const maxNames = 20

// missing makes the error for a name that a map does not have.
func missing(path, name string, m map[string]any) *ReferenceError {
	names := make([]string, 0, len(m))
	for k := range m {
		names = append(names, k)
	}
	slices.Sort(names)
	e := &ReferenceError{Path: path, Missing: name}
	if len(names) > maxNames {
		e.More = len(names) - maxNames
		names = names[:maxNames]
	}
	for _, n := range names {
		e.Available = append(e.Available, shorten(n, 63))
	}
	return e
}

// shorten cuts a text for an error message to n characters.
func shorten(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i] + "..."
		}
		n--
	}
	return s
}
