package template

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// toJSON writes a value as compact JSON with sorted keys.
func (r *run) toJSON(v any) (string, error) {
	b, err := r.appendJSON(nil, v, 0)
	return string(b), err
}

func (r *run) appendJSON(b []byte, v any, depth int) ([]byte, error) {
	if err := r.charge(1); err != nil {
		return nil, err
	}
	if depth > MaxDepth {
		return nil, &LimitError{What: "the depth of a JSON value", Limit: MaxDepth, Unit: "levels"}
	}
	v, err := plain(v)
	if err != nil {
		return nil, err
	}
	switch v := v.(type) {
	case nil:
		b = append(b, "null"...)
	case bool:
		b = strconv.AppendBool(b, v)
	case string:
		if err := r.chargeText(len(b) + len(v)); err != nil {
			return nil, err
		}
		b = appendQuoted(b, v)
	case json.Number:
		if _, ok := parseDecimal(string(v)); !ok {
			return nil, errorf("%q is not a number", shorten(string(v), 40))
		}
		b = append(b, v...)
	case int64:
		b = strconv.AppendInt(b, v, 10)
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return nil, errorf("%v has no form in JSON", v)
		}
		b = append(b, formatFloat(v)...)
	case []any:
		b, err = r.appendList(b, v, depth)
	case map[string]any:
		b, err = r.appendObject(b, v, depth)
	case *Large:
		err = v.fault()
	}
	if err == nil && len(b) > MaxOutput {
		err = errTooLong()
	}
	return b, err
}

func (r *run) appendList(b []byte, list []any, depth int) ([]byte, error) {
	b = append(b, '[')
	for i, e := range list {
		if i > 0 {
			b = append(b, ',')
		}
		var err error
		if b, err = r.appendJSON(b, e, depth+1); err != nil {
			return nil, err
		}
	}
	return append(b, ']'), nil
}

func (r *run) appendObject(b []byte, m map[string]any, depth int) ([]byte, error) {
	if err := r.charge(len(m)); err != nil {
		return nil, err
	}
	b = append(b, '{')
	for i, k := range slices.Sorted(maps.Keys(m)) {
		if i > 0 {
			b = append(b, ',')
		}
		if err := r.chargeText(len(k)); err != nil {
			return nil, err
		}
		b = append(appendQuoted(b, k), ':')
		var err error
		if b, err = r.appendJSON(b, m[k], depth+1); err != nil {
			return nil, err
		}
	}
	return append(b, '}'), nil
}

// appendQuoted writes a text as JSON; unlike encoding/json it leaves <, > and & readable.
func appendQuoted(b []byte, s string) []byte {
	b = append(b, '"')
	for _, c := range s {
		switch {
		case c == '"' || c == '\\':
			b = append(b, '\\', byte(c))
		case c == '\n':
			b = append(b, '\\', 'n')
		case c == '\r':
			b = append(b, '\\', 'r')
		case c == '\t':
			b = append(b, '\\', 't')
		case c < 0x20:
			b = fmt.Appendf(b, `\u%04x`, c)
		default:
			b = utf8.AppendRune(b, c)
		}
	}
	return append(b, '"')
}

// fromJSON reads a JSON text. Its values are counted before they are made.
func (r *run) fromJSON(text string) (any, error) {
	if err := r.chargeText(len(text)); err != nil {
		return nil, err
	}
	nodes, depth := measureJSON(text)
	if depth > MaxDepth {
		return nil, &LimitError{What: "the depth of a JSON value", Limit: MaxDepth, Unit: "levels"}
	}
	if err := r.charge(nodes); err != nil {
		return nil, err
	}
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var v any
	err := dec.Decode(&v)
	if err == nil {
		if _, err = dec.Token(); err == nil || !errors.Is(err, io.EOF) {
			err = errors.New("something stands behind the value")
		} else {
			err = nil
		}
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("the text is empty")
	}
	if err != nil {
		return nil, errorf("not JSON: %w: %q", err, shorten(strings.TrimSpace(text), 40))
	}
	return v, nil
}

// measureJSON counts the values of a JSON text from above, and its depth.
func measureJSON(text string) (nodes, deepest int) {
	depth, quoted := 0, false
	nodes = 1
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
			nodes++
		case c == ']' || c == '}':
			depth--
		case c == ',' || c == ':':
			nodes++
		}
	}
	return nodes, deepest
}
