package template

import (
	"fmt"
	"math/big"
	"strings"
	"unicode/utf8"
)

// maxWidth bounds width and precision of one verb.
const maxWidth = 1000

// printf formats like fmt.Sprintf, with the verbs that fit a template's values: s v q for text, d b o x X c for whole
// numbers (x and X for text too), e E f F g G for numbers, t for booleans. A verb that does not fit its argument, and
// an argument too many or too few, is an error instead of a text such as %!d(string=x).
func printf(r *run, args []any) (any, error) {
	format, ok := args[0].(string)
	if !ok {
		return nil, errorf("the format must be text, not %s", describe(args[0]))
	}
	if err := r.chargeText(len(format)); err != nil {
		return nil, err
	}
	rest := args[1:]
	var b strings.Builder
	for {
		text, after, found := strings.Cut(format, "%")
		b.WriteString(text)
		if !found {
			break
		}
		v, size, err := parseVerb(after)
		if err != nil {
			return nil, err
		}
		format = after[size:]
		if v.char == '%' {
			b.WriteByte('%')
			continue
		}
		if len(rest) == 0 {
			return nil, errorf("%%%c has no argument", v.char)
		}
		out, err := r.format(v, rest[0])
		if err != nil {
			return nil, err
		}
		rest = rest[1:]
		if err := r.chargeText(b.Len()/16 + len(out)); err != nil {
			return nil, err
		}
		if b.WriteString(out); b.Len() > MaxOutput {
			return nil, errTooLong()
		}
	}
	if len(rest) > 0 {
		return nil, errorf("the format has no verb for %s", plural(len(rest), "argument"))
	}
	return b.String(), nil
}

type verb struct {
	char      rune
	flags     string
	width     int // -1: none
	precision int // -1: none
}

// spec writes the verb for package fmt.
func (v verb) spec(char rune) string {
	s := "%" + v.flags
	if v.width >= 0 {
		s += fmt.Sprint(v.width)
	}
	if v.precision >= 0 {
		s += "." + fmt.Sprint(v.precision)
	}
	return s + string(char)
}

// parseVerb reads what follows a percent sign, and says how long it is.
func parseVerb(s string) (verb, int, error) {
	v := verb{width: -1, precision: -1}
	i := 0
	for i < len(s) && strings.IndexByte("+-# 0", s[i]) >= 0 {
		i++
	}
	if i > 5 {
		return v, 0, errorf("a verb has too many flags")
	}
	v.flags = s[:i]
	var err error
	if v.width, i, err = parseWidth(s, i); err != nil {
		return v, 0, err
	}
	if i < len(s) && s[i] == '.' {
		if v.precision, i, err = parseWidth(s, i+1); err != nil {
			return v, 0, err
		}
		v.precision = max(v.precision, 0)
	}
	if i >= len(s) {
		return v, 0, errorf("the format ends inside a verb; %%%% writes a percent sign")
	}
	c, size := utf8.DecodeRuneInString(s[i:])
	v.char = c
	return v, i + size, nil
}

func parseWidth(s string, i int) (width, next int, err error) {
	width = -1
	for ; i < len(s) && s[i] >= '0' && s[i] <= '9'; i++ {
		if width = max(width, 0)*10 + int(s[i]-'0'); width > maxWidth {
			return 0, 0, &LimitError{What: "width and precision of printf", Limit: maxWidth, Unit: "characters"}
		}
	}
	return width, i, nil
}

func (r *run) format(v verb, arg any) (string, error) {
	switch v.char {
	case 's', 'v', 'q':
		text, err := r.text(arg)
		if err != nil {
			return "", err
		}
		if err := r.chargeText(len(text)); err != nil {
			return "", err
		}
		if v.char == 'v' {
			v.char = 's'
		}
		v.flags = strings.NewReplacer("+", "", "#", "", " ", "").Replace(v.flags)
		return fmt.Sprintf(v.spec(v.char), text), nil
	case 'd', 'b', 'o', 'x', 'X', 'c':
		return r.formatWhole(v, arg)
	case 'e', 'E', 'f', 'F', 'g', 'G':
		f, ok := asFloat(arg)
		if !ok {
			return "", errorf("%%%c needs a number, not %s", v.char, describe(arg))
		}
		return fmt.Sprintf(v.spec(v.char), f), nil
	case 't':
		b, ok := arg.(bool)
		if !ok {
			return "", errorf("%%t needs a boolean, not %s", describe(arg))
		}
		return fmt.Sprintf(v.spec('t'), b), nil
	}
	return "", errorf("%%%c is not a verb that a template knows: s v q d b o x X c e E f F g G t", v.char)
}

func (r *run) formatWhole(v verb, arg any) (string, error) {
	if text, ok := arg.(string); ok && (v.char == 'x' || v.char == 'X') {
		if err := r.chargeText(3 * len(text)); err != nil {
			return "", err
		}
		return fmt.Sprintf(v.spec(v.char), text), nil
	}
	if n, ok := asInt(arg); ok {
		return fmt.Sprintf(v.spec(v.char), n), nil
	}
	d, ok, err := r.decimal(arg)
	if err != nil {
		return "", err
	}
	if ok && d.whole() && v.char != 'c' {
		if text, ok := d.integer(); ok {
			n, _ := new(big.Int).SetString(text, 10)
			return fmt.Sprintf(v.spec(v.char), n), nil
		}
	}
	return "", errorf("%%%c needs a whole number, not %s; int makes one", v.char, describe(arg))
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
