package manifest

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// scalar gives the value of a scalar as kubectl reads it, but numbers in JSON's form keep their digits.
func scalar(y *yaml.Node) (any, error) {
	if y.Style&yaml.TaggedStyle != 0 {
		return tagged(y)
	}
	if y.Style != 0 { // quoted, or a block
		return y.Value, nil
	}
	return plainScalar(y.Value)
}

func plainScalar(text string) (any, error) {
	switch {
	case slices.Contains([]string{"", "~", "null", "Null", "NULL"}, text):
		return nil, nil
	case isBool(text):
		return isTrue(text), nil
	case isJSONNumber(text):
		return json.Number(strings.TrimPrefix(text, "+")), nil
	case !strings.ContainsAny(text[:1], "+-.0123456789"):
		return text, nil
	}
	return looseNumber(text)
}

// looseNumber reads numbers in YAML's other forms: octal, hexadecimal, binary, with underscores, with a bare point. Any
// other text - a date, a version, an expression - is text.
func looseNumber(text string) (any, error) {
	switch strings.ToLower(strings.TrimLeft(text, "+-")) {
	case ".inf", ".nan":
		return nil, fmt.Errorf("the value %s has no form in JSON; put it in quotes if it is text", text)
	}
	digits := strings.ReplaceAll(text, "_", "")
	if n, err := strconv.ParseInt(digits, 0, 64); err == nil {
		return json.Number(strconv.FormatInt(n, 10)), nil
	}
	if n, err := strconv.ParseUint(digits, 0, 64); err == nil {
		return json.Number(strconv.FormatUint(n, 10)), nil
	}
	if strings.Trim(digits, "+-.0123456789eE") != "" {
		return text, nil
	}
	f, err := strconv.ParseFloat(digits, 64)
	if err != nil {
		return text, nil
	}
	out, err := json.Marshal(f)
	return json.Number(out), err
}

func tagged(y *yaml.Node) (any, error) {
	switch y.Tag {
	case "!!str", "!!timestamp":
		return y.Value, nil
	case "!!binary":
		out, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(y.Value), ""))
		if err != nil {
			return nil, fmt.Errorf("the value after !!binary is not base64")
		}
		return string(out), nil
	case "!!int", "!!float", "!!bool", "!!null":
		v, err := plainScalar(y.Value)
		if _, text := v.(string); err == nil && text {
			err = fmt.Errorf("the value %q is not %s", clip(y.Value), strings.TrimPrefix(y.Tag, "!!"))
		}
		return v, err
	}
	return nil, fmt.Errorf("the tag %s is not known", clip(y.Tag))
}

func isBool(text string) bool {
	switch strings.ToLower(text) {
	case "y", "yes", "true", "on", "n", "no", "false", "off":
		lower, upper := strings.ToLower(text), strings.ToUpper(text)
		return text == lower || text == upper || text == upper[:1]+lower[1:]
	}
	return false
}

func isTrue(text string) bool {
	return slices.Contains([]string{"y", "yes", "true", "on"}, strings.ToLower(text))
}

// isJSONNumber says whether a text is a number in JSON's form; a leading plus is let through.
func isJSONNumber(text string) bool {
	rest := strings.TrimPrefix(text, "-")
	if unsigned, ok := strings.CutPrefix(text, "+"); ok {
		text, rest = unsigned, unsigned
	}
	if rest == "" || rest[0] < '0' || rest[0] > '9' {
		return false
	}
	return json.Valid([]byte(text))
}
