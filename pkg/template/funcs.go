package template

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// function is one function of the fixed list. A negative max means any number of arguments. call gets the arguments in
// the order written, the piped one last.
type function struct {
	min, max int
	call     func(r *run, args []any) (any, error)
}

// Functions are the names that a template may call, sorted.
func Functions() []string {
	return []string{
		"and", "default", "eq", "first", "float64", "fromJson", "ge", "gt", "indent", "index", "int", "join", "last", "le",
		"len", "lower", "lt", "ne", "not", "or", "printf", "split", "toJson", "trim", "truncate", "upper",
	}
}

func lookup(name string) (function, bool) {
	switch name {
	case "and", "or":
		return function{1, -1, nil}, true // evaluated by run.logic, which stops at the operand that decides
	case "not":
		return function{1, 1, func(_ *run, a []any) (any, error) { return !truth(a[0]), nil }}, true
	case "eq":
		return function{2, -1, equalsAny}, true
	case "ne":
		return function{2, 2, func(r *run, a []any) (any, error) {
			same, err := equals(r, a[0], a[1])
			return !same, err
		}}, true
	case "lt", "le", "gt", "ge":
		return function{2, 2, ordering(name)}, true
	case "default":
		return function{2, 2, func(_ *run, a []any) (any, error) {
			if truth(a[1]) {
				return a[1], nil
			}
			return a[0], nil
		}}, true
	case "index":
		return function{2, -1, index}, true
	case "len":
		return function{1, 1, length}, true
	case "first", "last":
		return function{1, 1, end(name == "last")}, true
	case "int":
		return function{1, 1, toInt}, true
	case "float64":
		return function{1, 1, toFloat}, true
	case "printf":
		return function{1, -1, printf}, true
	}
	return lookupText(name)
}

// lookupText knows the functions that give texts, and those that read them.
func lookupText(name string) (function, bool) {
	switch name {
	case "toJson":
		return function{1, 1, func(r *run, a []any) (any, error) { return r.toJSON(a[0]) }}, true
	case "fromJson":
		return function{1, 1, func(r *run, a []any) (any, error) {
			text, err := r.textArg(a[0])
			if err != nil {
				return nil, err
			}
			return r.fromJSON(text)
		}}, true
	case "trim":
		return function{1, 1, onText(strings.TrimSpace)}, true
	case "lower":
		return function{1, 1, onText(strings.ToLower)}, true
	case "upper":
		return function{1, 1, onText(strings.ToUpper)}, true
	case "join":
		return function{2, 2, join}, true
	case "split":
		return function{2, 2, split}, true
	case "truncate":
		return function{2, 2, truncate}, true
	case "indent":
		return function{2, 2, indent}, true
	}
	return function{}, false
}

// textArg gives an argument that must be text; numbers and booleans are taken as they print.
func (r *run) textArg(v any) (string, error) {
	switch v.(type) {
	case []any, map[string]any, nil:
		return "", errorf("needs text, not %s", describe(v))
	}
	text, err := r.text(v)
	if err != nil {
		return "", err
	}
	return text, r.chargeText(len(text))
}

func onText(f func(string) string) func(*run, []any) (any, error) {
	return func(r *run, a []any) (any, error) {
		if a[0] == nil {
			return "", nil
		}
		text, err := r.textArg(a[0])
		if err != nil {
			return nil, err
		}
		return f(text), nil
	}
}

func equalsAny(r *run, a []any) (any, error) {
	for _, b := range a[1:] {
		same, err := equals(r, a[0], b)
		if err != nil || same {
			return same, err
		}
	}
	return false, nil
}

// equals compares simple values; null equals only null.
func equals(r *run, a, b any) (bool, error) {
	if a == nil || b == nil {
		return a == nil && b == nil, nil
	}
	if y, ok := b.(*Large); ok {
		return y.equals(a)
	}
	switch x := a.(type) {
	case *Large:
		return x.equals(b)
	case string:
		if y, ok := b.(string); ok {
			return x == y, r.charge(min(len(x), len(y)) / 64)
		}
	case bool:
		if y, ok := b.(bool); ok {
			return x == y, nil
		}
	}
	x, ok1, err := r.decimal(a)
	if err != nil {
		return false, err
	}
	y, ok2, err := r.decimal(b)
	if err != nil {
		return false, err
	}
	if !ok1 || !ok2 {
		return false, errorf("cannot compare %s with %s", describe(a), describe(b))
	}
	return x.compare(y) == 0, nil
}

// decimal reads a number, counting the work on a long one.
func (r *run) decimal(v any) (decimal, bool, error) {
	if n, ok := v.(json.Number); ok {
		if err := r.chargeText(len(n)); err != nil {
			return decimal{}, false, err
		}
	}
	d, ok := asDecimal(v)
	return d, ok, nil
}

func ordering(name string) func(*run, []any) (any, error) {
	return func(r *run, args []any) (any, error) {
		order, err := compare(r, args[0], args[1])
		if err != nil {
			return nil, err
		}
		switch name {
		case "lt":
			return order < 0, nil
		case "le":
			return order <= 0, nil
		case "gt":
			return order > 0, nil
		}
		return order >= 0, nil
	}
}

func compare(r *run, a, b any) (int, error) {
	x, ok1 := a.(string)
	y, ok2 := b.(string)
	if ok1 && ok2 {
		return strings.Compare(x, y), r.charge(min(len(x), len(y)) / 64)
	}
	m, ok1, err := r.decimal(a)
	if err != nil {
		return 0, err
	}
	n, ok2, err := r.decimal(b)
	if err != nil {
		return 0, err
	}
	if !ok1 || !ok2 {
		return 0, errorf("cannot order %s and %s; int and float64 make numbers of text", describe(a), describe(b))
	}
	return m.compare(n), nil
}

// index follows keys and positions into a value.
func index(r *run, args []any) (any, error) {
	v := args[0]
	path := unnamed
	for _, key := range args[1:] {
		if err := r.charge(1); err != nil {
			return nil, err
		}
		name, err := r.textArg(key)
		if err != nil {
			return nil, err
		}
		parent := path
		path += "." + shorten(name, 63)
		switch x := v.(type) {
		case map[string]any:
			next, ok := x[name]
			if !ok {
				return nil, missing(path, name, x)
			}
			v = next
		case []any:
			i, ok := asInt(key)
			if !ok {
				return nil, errorf("the position in a list must be a whole number, not %s", describe(key))
			}
			if i < 0 || i >= int64(len(x)) {
				return nil, &ReferenceError{Path: path, Missing: name, Reason: "the list has " + plural(len(x), "element")}
			}
			v = x[i]
		default:
			return nil, &ReferenceError{Path: path, Missing: name, Reason: parent + " is " + describe(v)}
		}
		if v, err = plain(v); err != nil {
			return nil, err
		}
	}
	return v, nil
}

// length counts elements, keys, or the characters of a text.
func length(r *run, args []any) (any, error) {
	switch v := args[0].(type) {
	case string:
		return int64(utf8.RuneCountInString(v)), r.charge(len(v) / 64)
	case []any:
		return int64(len(v)), nil
	case map[string]any:
		return int64(len(v)), nil
	}
	return nil, errorf("needs text, a list or an object, not %s", describe(args[0]))
}

func end(last bool) func(*run, []any) (any, error) {
	return func(_ *run, args []any) (any, error) {
		list, ok := args[0].([]any)
		switch {
		case !ok:
			return nil, errorf("needs a list, not %s", describe(args[0]))
		case len(list) == 0:
			return nil, errorf("the list is empty")
		case last:
			return list[len(list)-1], nil
		}
		return list[0], nil
	}
}

// toInt cuts a number, or a text that holds one, to its whole part.
func toInt(r *run, args []any) (any, error) {
	d, err := numberArg(r, args[0])
	if err != nil {
		return nil, err
	}
	text, ok := d.integer()
	if !ok {
		return nil, errorf("the number has more than %d digits", maxDigits)
	}
	n := json.Number(text)
	if i, err := n.Int64(); err == nil {
		return i, nil
	}
	return n, nil
}

func toFloat(r *run, args []any) (any, error) {
	if _, err := numberArg(r, args[0]); err != nil {
		return nil, err
	}
	v := args[0]
	if text, ok := v.(string); ok {
		v = json.Number(strings.TrimSpace(text))
	}
	f, ok := asFloat(v)
	if !ok {
		return nil, errorf("the number is too large")
	}
	return f, nil
}

func numberArg(r *run, v any) (decimal, error) {
	if text, ok := v.(string); ok {
		if err := r.chargeText(len(text)); err != nil {
			return decimal{}, err
		}
		d, ok := parseDecimal(strings.TrimSpace(text))
		if !ok {
			return decimal{}, errorf("%q is not a number", shorten(text, 40))
		}
		return d, nil
	}
	d, ok, err := r.decimal(v)
	if err == nil && !ok {
		err = errorf("needs a number, not %s", describe(v))
	}
	return d, err
}

// join puts the elements of a list together: join ", " list, and also join list ", ".
func join(r *run, args []any) (any, error) {
	list, ok := args[1].([]any)
	separator := args[0]
	if !ok {
		if list, ok = args[0].([]any); !ok {
			return nil, errorf("needs a separator and a list, not %s and %s", describe(args[0]), describe(args[1]))
		}
		separator = args[1]
	}
	sep, ok := separator.(string)
	if !ok {
		return nil, errorf("the separator must be text, not %s", describe(separator))
	}
	var b strings.Builder
	for i, e := range list {
		if err := r.charge(1); err != nil {
			return nil, err
		}
		text, err := r.text(e)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			text = sep + text
		}
		if err := r.chargeText(len(text)); err != nil {
			return nil, err
		}
		if b.Len()+len(text) > MaxOutput {
			return nil, errTooLong()
		}
		b.WriteString(text)
	}
	return b.String(), nil
}

// split cuts a text at a separator: split "," text. An empty text has no parts.
func split(r *run, args []any) (any, error) {
	sep, err := r.textArg(args[0])
	if err != nil {
		return nil, err
	}
	text, err := r.textArg(args[1])
	switch {
	case err != nil:
		return nil, err
	case sep == "":
		return nil, errorf("the separator is empty")
	case text == "":
		return []any{}, nil
	}
	n := 1 + strings.Count(text, sep)
	if err := r.charge(n); err != nil {
		return nil, err
	}
	list := make([]any, 0, n)
	for part := range strings.SplitSeq(text, sep) {
		list = append(list, part)
	}
	return list, nil
}

// truncate keeps the first n characters: truncate n text, and also truncate text n.
func truncate(r *run, args []any) (any, error) {
	if n, v, err := numberAndValue(args); err == nil {
		if large, ok := v.(*Large); ok {
			return large.truncate(r, n)
		}
	}
	n, text, err := numberAndText(r, args)
	if err != nil {
		return nil, err
	}
	for i := range text {
		if n == 0 {
			return text[:i], nil
		}
		n--
	}
	return text, nil
}

// indent puts n spaces before each line: indent n text, and also indent text n.
func indent(r *run, args []any) (any, error) {
	n, text, err := numberAndText(r, args)
	if err != nil {
		return nil, err
	}
	lines := int64(1 + strings.Count(text, "\n"))
	if n > MaxOutput || lines*n+int64(len(text)) > MaxOutput {
		return nil, errTooLong()
	}
	if err := r.chargeText(int(lines*n) + len(text)); err != nil {
		return nil, err
	}
	pad := strings.Repeat(" ", int(n))
	return pad + strings.ReplaceAll(text, "\n", "\n"+pad), nil
}

func numberAndText(r *run, args []any) (int64, string, error) {
	n, text, err := numberAndValue(args)
	if err != nil {
		return 0, "", err
	}
	if text == nil {
		return n, "", nil
	}
	s, err := r.textArg(text)
	return n, s, err
}

// numberAndValue finds the number among two arguments, whichever it is.
func numberAndValue(args []any) (int64, any, error) {
	number, value := args[0], args[1]
	if _, ok := asInt(number); !ok {
		number, value = value, number
	}
	n, ok := asInt(number)
	if !ok {
		return 0, nil, errorf("needs a whole number and a text, not %s and %s", describe(args[0]), describe(args[1]))
	}
	if n < 0 {
		return 0, nil, errorf("the number must not be negative")
	}
	return n, value, nil
}
