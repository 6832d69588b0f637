package template

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
)

// fields follows a path from a value; prefix is how the value was written.
func (r *run) fields(v any, prefix string, path []string) (any, error) {
	if err := r.charge(len(path)); err != nil {
		return nil, err
	}
	for i, name := range path {
		m, ok := v.(map[string]any)
		if ok {
			if v, ok = m[name]; ok {
				continue
			}
			e := missing(written(prefix, path[:i+1]), name, m)
			e.root = i == 0 && reflect.ValueOf(m).Pointer() == reflect.ValueOf(r.root).Pointer()
			return nil, e
		}
		parent := written(prefix, path[:i])
		if parent == "" {
			parent = "the value here"
		}
		reason := parent + " is " + describe(v)
		switch v.(type) {
		case string, *Large:
			reason += "; fields of an answer are under .data when the step has an outputSchema, or fromJson reads them"
		case []any:
			reason += "; range or index give its elements"
		}
		return nil, &ReferenceError{Path: written(prefix, path[:i+1]), Missing: name, Reason: reason}
	}
	return v, nil
}

// written gives a path as a user writes it.
func written(prefix string, path []string) string {
	if len(path) == 0 {
		return prefix
	}
	return prefix + "." + strings.Join(path, ".")
}

// truth says what counts as true: everything but null, false, zero, and empty texts, lists and objects.
func truth(v any) bool {
	switch v := v.(type) {
	case nil, absent:
		return false
	case bool:
		return v
	case string:
		return v != ""
	case []any:
		return len(v) > 0
	case map[string]any:
		return len(v) > 0
	}
	d, ok := asDecimal(v)
	return !ok || d.digits != ""
}

// describe names the type of a value for error messages.
func describe(v any) string {
	switch v := v.(type) {
	case nil, absent:
		return "null"
	case bool:
		return "a boolean"
	case string, *Large:
		return "text"
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	case json.Number:
		return "the number " + shorten(string(v), 20)
	case int64, float64, int, int32, float32:
		return "a number"
	}
	return "a value that templates do not know"
}

// text gives a value as it is printed.
func (r *run) text(v any) (string, error) {
	v, err := plain(v)
	if err != nil {
		return "", err
	}
	switch v := v.(type) {
	case nil:
		return "", nil
	case string:
		if !utf8.ValidString(v) {
			v = strings.ToValidUTF8(v, "\uFFFD")
		}
		return v, nil
	case bool:
		return strconv.FormatBool(v), nil
	case json.Number:
		return string(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case float64:
		return formatFloat(v), nil
	case *Large:
		return "", v.fault()
	}
	return r.toJSON(v)
}
