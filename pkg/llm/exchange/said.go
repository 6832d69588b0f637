package exchange

import (
	"encoding/json"
	"strings"
	"unicode/utf8"
)

// Said is what a server says about a failure, whatever form it chose.
type Said struct {
	Message string
	Code    string
	Type    string
	Param   string
	Number  int // an HTTP status, or another code that is a number
}

func (s *Said) Error() string { return s.Message }

// ParseError reads an error from a body: {"error": {...}}, {"error": "..."}, {"object": "error", "message": ...},
// {"detail": ...} or plain text.
func ParseError(b []byte) Said {
	var top struct {
		Error   json.RawMessage `json:"error"`
		Detail  json.RawMessage `json:"detail"`
		Message json.RawMessage `json:"message"`
	}
	if json.Unmarshal(b, &top) != nil {
		return Said{Message: string(b)}
	}
	switch {
	case !Null(top.Error):
		return ErrorOf(top.Error)
	case !Null(top.Detail):
		return detailOf(top.Detail)
	case !Null(top.Message):
		return ErrorOf(b)
	default:
		return Said{Message: string(b)}
	}
}

// ErrorOf reads an error from its own value: a text, or an object with a message.
func ErrorOf(raw json.RawMessage) Said {
	if Null(raw) {
		return Said{Message: "an error without a word about it"}
	}
	if s := Text(raw); s != "" {
		return Said{Message: s}
	}
	var w struct {
		Message json.RawMessage `json:"message"`
		Code    json.RawMessage `json:"code"`
		Type    json.RawMessage `json:"type"`
		Param   json.RawMessage `json:"param"`
	}
	if json.Unmarshal(raw, &w) != nil {
		return Said{Message: string(raw)}
	}
	said := Said{Message: Text(w.Message), Code: Text(w.Code), Type: Text(w.Type), Param: Text(w.Param)}
	if json.Unmarshal(w.Code, &said.Number) != nil {
		said.Number = 0
	}
	if said.Message == "" {
		said.Message = string(raw)
	}
	return said
}

// detailOf reads the errors of FastAPI: a text, or a list of what is wrong where.
func detailOf(raw json.RawMessage) Said {
	if s := Text(raw); s != "" {
		return Said{Message: s}
	}
	var list []struct {
		Loc  []any  `json:"loc"`
		Msg  string `json:"msg"`
		Type string `json:"type"`
	}
	if json.Unmarshal(raw, &list) != nil || len(list) == 0 {
		return Said{Message: string(raw)}
	}
	var path []string
	for _, l := range list[0].Loc {
		if s, ok := l.(string); ok && s != "body" {
			path = append(path, s)
		} else if !ok {
			path = append(path, "[]")
		}
	}
	where := strings.Join(path, ".")
	return Said{Message: where + ": " + list[0].Msg, Type: list[0].Type, Param: where}
}

// Null says that a raw field is not there.
func Null(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// Text is a raw field as a string; what is no string is "".
func Text(raw json.RawMessage) string {
	if len(raw) == 0 || raw[0] != '"' {
		return ""
	}
	if len(raw) > longText {
		return unquoted(raw)
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// longText is the size in bytes above which a text is read in parts: at once, it would be held three times.
const longText = 64 << 10

// unquoted is a long text, whose JSON was found to be valid.
func unquoted(raw json.RawMessage) string {
	inner := raw[1 : len(raw)-1]
	var text strings.Builder
	text.Grow(len(inner))
	part := make([]byte, 0, longText+64)
	for len(inner) > 0 {
		n := cutJSON(inner, longText)
		part = append(append(append(part[:0], '"'), inner[:n]...), '"')
		var s string
		if json.Unmarshal(part, &s) != nil {
			return ""
		}
		text.WriteString(s)
		inner = inner[n:]
	}
	return text.String()
}

// cutJSON is where the inside of a JSON string can be cut, at limit or soon after it: between two characters, and not
// behind an escape that is the first half of one.
func cutJSON(inner []byte, limit int) int {
	i := 0
	for i < len(inner) {
		half := false
		switch {
		case inner[i] != '\\':
			i++
		case i+5 < len(inner) && inner[i+1] == 'u':
			half = (inner[i+2]|0x20) == 'd' && strings.IndexByte("89abAB", inner[i+3]) >= 0
			i += 6
		default:
			i += 2
		}
		if i >= limit && !half && i < len(inner) && utf8.RuneStart(inner[i]) {
			return i
		}
	}
	return len(inner)
}

// Name is a raw field as a string, cut to what a name that a server makes up may cost.
func Name(raw json.RawMessage) string {
	s := Text(raw)
	return s[:min(len(s), 256)]
}

// Tokens is a number of tokens that a server tells; ok is false for one that cannot be believed: no model reads or
// writes a thousand billion.
func Tokens(n float64) (tokens int64, ok bool) {
	if !(n >= 0 && n < 1e12) {
		return 0, false
	}
	return int64(n), true
}
