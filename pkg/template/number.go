package template

import (
	"cmp"
	"encoding/json"
	"math"
	"strconv"
	"strings"
)

// decimal is an exact number: 0.digits times ten to the exponent. Zero has no digits. It is never expanded, so that a
// number with a huge exponent costs no more than its text.
type decimal struct {
	neg    bool
	digits string // without leading and trailing zeros
	exp    int64
}

// asDecimal reads a number of any of the types that data may hold.
func asDecimal(v any) (decimal, bool) {
	switch v := v.(type) {
	case json.Number:
		return parseDecimal(string(v))
	case int64:
		return parseDecimal(strconv.FormatInt(v, 10))
	case int:
		return parseDecimal(strconv.Itoa(v))
	case int32:
		return parseDecimal(strconv.Itoa(int(v)))
	case float32:
		return asDecimal(float64(v))
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return decimal{}, false
		}
		return parseDecimal(strconv.FormatFloat(v, 'e', -1, 64))
	}
	return decimal{}, false
}

// parseDecimal reads a number as JSON writes it; a sign + and missing digits beside the point are accepted.
func parseDecimal(s string) (decimal, bool) {
	var d decimal
	if s != "" && (s[0] == '-' || s[0] == '+') {
		d.neg = s[0] == '-'
		s = s[1:]
	}
	mantissa := s
	if i := strings.IndexAny(s, "eE"); i >= 0 {
		mantissa = s[:i]
		exp, ok := parseExponent(s[i+1:])
		if !ok {
			return decimal{}, false
		}
		d.exp = exp
	}
	whole, fraction, _ := strings.Cut(mantissa, ".")
	if whole+fraction == "" || !onlyDigits(whole) || !onlyDigits(fraction) {
		return decimal{}, false
	}
	all := whole + fraction
	trimmed := strings.TrimLeft(all, "0")
	d.exp += int64(len(whole) - (len(all) - len(trimmed)))
	d.digits = strings.TrimRight(trimmed, "0")
	if d.digits == "" {
		return decimal{}, true
	}
	return d, true
}

// parseExponent reads an exponent; one beyond any use is cut to a trillion, which keeps its order.
func parseExponent(s string) (int64, bool) {
	neg := strings.HasPrefix(s, "-")
	digits := strings.TrimPrefix(strings.TrimPrefix(s, "-"), "+")
	if digits == "" || !onlyDigits(digits) || len(s)-len(digits) > 1 {
		return 0, false
	}
	const most = 1_000_000_000_000
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n > most {
		n = most
	}
	if neg {
		n = -n
	}
	return n, true
}

func onlyDigits(s string) bool {
	return strings.IndexFunc(s, func(c rune) bool { return c < '0' || c > '9' }) < 0
}

// compare orders two numbers exactly.
func (d decimal) compare(e decimal) int {
	if s := cmp.Compare(d.sign(), e.sign()); s != 0 || d.sign() == 0 {
		return s
	}
	order := cmp.Compare(d.exp, e.exp)
	if order == 0 {
		order = strings.Compare(d.digits, e.digits)
	}
	return order * d.sign()
}

func (d decimal) sign() int {
	switch {
	case d.digits == "":
		return 0
	case d.neg:
		return -1
	}
	return 1
}

// maxDigits bounds integers that are written out.
const maxDigits = 400

// integer gives the whole part of a number as text.
func (d decimal) integer() (string, bool) {
	switch {
	case d.exp <= 0 || d.digits == "":
		return "0", true
	case d.exp > maxDigits:
		return "", false
	}
	whole := d.digits
	if n := int(d.exp); n < len(whole) {
		whole = whole[:n]
	} else {
		whole += strings.Repeat("0", n-len(whole))
	}
	if d.neg {
		whole = "-" + whole
	}
	return whole, true
}

// whole says whether a number has no fraction.
func (d decimal) whole() bool { return int64(len(d.digits)) <= d.exp || d.digits == "" }

// asInt gives a number without fraction that fits an int64.
func asInt(v any) (int64, bool) {
	if n, ok := v.(int64); ok {
		return n, true
	}
	d, ok := asDecimal(v)
	if !ok || !d.whole() {
		return 0, false
	}
	text, ok := d.integer()
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return n, err == nil
}

// asFloat gives the nearest float64 of a number, if it is finite.
func asFloat(v any) (float64, bool) {
	switch v := v.(type) {
	case int64:
		return float64(v), true
	case float64:
		return v, !math.IsNaN(v) && !math.IsInf(v, 0)
	case json.Number:
		if _, ok := parseDecimal(string(v)); !ok {
			return 0, false
		}
		f, err := strconv.ParseFloat(string(v), 64)
		return f, err == nil
	}
	return 0, false
}

// formatFloat writes a number as JSON does: without an exponent between 1e-6 and 1e21.
func formatFloat(f float64) string {
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return strconv.FormatFloat(f, 'g', -1, 64)
	}
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	return strconv.FormatFloat(f, 'f', -1, 64)
}
