package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// measure is the size of a document.
type measure struct{ nodes, objects, depth int }

func (m *measure) count(v any, depth int) {
	m.nodes++
	m.depth = max(m.depth, depth)
	if depth > MaxDepth {
		return
	}
	switch v := v.(type) {
	case map[string]any:
		m.objects++
		for _, e := range v {
			m.count(e, depth+1)
		}
	case []any:
		for _, e := range v {
			m.count(e, depth+1)
		}
	case bool:
		if depth > 1 {
			m.objects++ // a schema may be true or false
		}
	}
}

// decode reads one JSON value with numbers as json.Number. The depth is bounded before anything is made.
func decode(text []byte, maxDepth int) (any, measure, error) {
	if textDepth(text) > maxDepth {
		return nil, measure{}, fmt.Errorf("it is nested deeper than %d levels", maxDepth)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	var doc any
	if err := dec.Decode(&doc); err != nil {
		return nil, measure{}, syntaxError(text, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return nil, measure{}, fmt.Errorf("%s: something stands behind the end of the value", position(text, int(dec.InputOffset())))
	}
	var m measure
	m.count(doc, 1)
	return doc, m, nil
}

// textDepth is the depth of a JSON text.
func textDepth(text []byte) int {
	depth, deepest, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '[' || c == '{':
			depth++
			deepest = max(deepest, depth)
		case c == ']' || c == '}':
			depth--
		}
	}
	return deepest
}

// syntaxError puts the decoder's error at its line and column.
func syntaxError(text []byte, err error) error {
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("%s: %w", position(text, int(syntax.Offset)-1), err)
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%s: it ends in the middle", position(text, len(text)))
	case errors.Is(err, io.EOF):
		return errors.New("it is empty")
	}
	return err
}

func position(text []byte, offset int) string {
	before := text[:min(max(offset, 0), len(text))]
	line := 1 + bytes.Count(before, []byte("\n"))
	column := len(before) - bytes.LastIndexByte(before, '\n')
	return fmt.Sprintf("line %d, column %d", line, column)
}

// checkNumbers finds a number that would be expensive to compare exactly.
func checkNumbers(v any, path []string) *Violation {
	switch v := v.(type) {
	case json.Number:
		if !bounded(string(v)) {
			return &Violation{pathString(path), fmt.Sprintf("is a number with more than %d digits or too large an exponent", MaxNumber)}
		}
	case map[string]any:
		for k, e := range v {
			if bad := checkNumbers(e, append(path, k)); bad != nil {
				return bad
			}
		}
	case []any:
		for i, e := range v {
			if bad := checkNumbers(e, append(path, strconv.Itoa(i))); bad != nil {
				return bad
			}
		}
	}
	return nil
}

// bounded says whether a number has a bounded number of digits when it is written out.
func bounded(number string) bool {
	if len(number) > MaxNumber {
		return false
	}
	i := strings.IndexAny(number, "eE")
	if i < 0 {
		return true
	}
	exponent, err := strconv.Atoi(number[i+1:])
	return err == nil && exponent <= MaxNumber && exponent >= -MaxNumber
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// typeName names the type of a value in sentences.
func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a boolean"
	case string:
		return "a string"
	case []any:
		return "an array"
	case map[string]any:
		return "an object"
	}
	return "a number"
}
