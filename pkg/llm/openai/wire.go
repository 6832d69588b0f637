package openai

import (
	"encoding/json"
	"math"
	"strings"

	"arkonis.dev/ark/pkg/task"
)

// piece is one chunk of a stream, or a whole answer that did not stream. Fields that servers fill differently stay
// raw until they are looked at.
type piece struct {
	ID      json.RawMessage `json:"id"`
	Model   json.RawMessage `json:"model"`
	Choices []choice        `json:"choices"`
	Usage   json.RawMessage `json:"usage"`
	Error   json.RawMessage `json:"error"`
	// An error object at the top level, as vLLM writes it.
	Object  json.RawMessage `json:"object"`
	Message json.RawMessage `json:"message"`
}

type choice struct {
	Index        int             `json:"index"`
	Delta        *content        `json:"delta"`
	Message      *content        `json:"message"`
	FinishReason json.RawMessage `json:"finish_reason"`
	Error        json.RawMessage `json:"error"` // with the finish reason "error"
}

type content struct {
	Content          json.RawMessage `json:"content"`
	Refusal          json.RawMessage `json:"refusal"`
	ReasoningContent json.RawMessage `json:"reasoning_content"`
	Reasoning        json.RawMessage `json:"reasoning"`
	ToolCalls        []toolFragment  `json:"tool_calls"`
}

type toolFragment struct {
	Index    *int            `json:"index"`
	ID       json.RawMessage `json:"id"`
	Function struct {
		Name      json.RawMessage `json:"name"`
		Arguments json.RawMessage `json:"arguments"`
	} `json:"function"`
}

// null says that a raw field is not there.
func null(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// str is a raw field as a string; what is no string is "".
func str(raw json.RawMessage) string {
	var s string
	if len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// textOf is a text that came as a string or as a list of parts.
func textOf(raw json.RawMessage) string {
	if len(raw) == 0 || raw[0] != '[' {
		return str(raw)
	}
	var parts []struct {
		Text json.RawMessage `json:"text"`
	}
	if json.Unmarshal(raw, &parts) != nil {
		return ""
	}
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(str(p.Text))
	}
	return b.String()
}

// argumentsOf are arguments that came as a string, or as the object itself.
func argumentsOf(raw json.RawMessage) string {
	switch {
	case null(raw):
		return ""
	case raw[0] == '"':
		return str(raw)
	default:
		return string(raw)
	}
}

func (c *content) reasoning() string {
	if s := textOf(c.ReasoningContent); s != "" {
		return s
	}
	return textOf(c.Reasoning)
}

// usageWire is what servers tell about tokens.
type usageWire struct {
	Prompt        float64 `json:"prompt_tokens"`
	Completion    float64 `json:"completion_tokens"`
	Total         float64 `json:"total_tokens"`
	CacheHit      float64 `json:"prompt_cache_hit_tokens"`
	PromptDetails struct {
		Cached float64 `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
	CompletionDetails struct {
		Reasoning float64 `json:"reasoning_tokens"`
	} `json:"completion_tokens_details"`
}

// usageOf reads a usage. ok is false where there is none that can be believed: no prompt is free, and no model reads
// a thousand billion tokens. Tokens that only the total knows are output, as reasoning that a server counts apart.
func usageOf(raw json.RawMessage) (u task.Usage, ok bool) {
	var w usageWire
	if null(raw) || json.Unmarshal(raw, &w) != nil || !believable(w.Prompt) || !believable(w.Completion) || w.Prompt == 0 {
		return task.Usage{}, false
	}
	u = task.Usage{InputTokens: int64(w.Prompt), OutputTokens: int64(w.Completion)}
	if believable(w.Total) {
		u.OutputTokens = max(u.OutputTokens, int64(w.Total)-u.InputTokens)
	}
	if cached := max(w.PromptDetails.Cached, w.CacheHit); believable(cached) {
		u.CachedTokens = min(int64(cached), u.InputTokens)
	}
	if believable(w.CompletionDetails.Reasoning) {
		u.ReasoningTokens = min(int64(w.CompletionDetails.Reasoning), u.OutputTokens)
	}
	return u, true
}

func believable(n float64) bool { return !math.IsNaN(n) && n >= 0 && n < 1e12 }

// serverError is what a server says about a failure, whatever form it chose.
type serverError struct {
	Message string
	Code    string
	Type    string
	Param   string
	Number  int // a code that is a number, often an HTTP status
}

// parseError reads an error from a body: {"error": {...}}, {"error": "..."}, {"object": "error", "message": ...},
// {"detail": ...} or plain text.
func parseError(b []byte) serverError {
	var top struct {
		Error   json.RawMessage `json:"error"`
		Detail  json.RawMessage `json:"detail"`
		Message json.RawMessage `json:"message"`
	}
	if json.Unmarshal(b, &top) != nil {
		return serverError{Message: string(b)}
	}
	switch {
	case !null(top.Error):
		return errorOf(top.Error)
	case !null(top.Detail):
		return detailOf(top.Detail)
	case !null(top.Message):
		return errorOf(b)
	default:
		return serverError{Message: string(b)}
	}
}

func errorOf(raw json.RawMessage) serverError {
	if null(raw) {
		return serverError{Message: "an error without a word about it"}
	}
	if s := str(raw); s != "" {
		return serverError{Message: s}
	}
	var w struct {
		Message json.RawMessage `json:"message"`
		Code    json.RawMessage `json:"code"`
		Type    json.RawMessage `json:"type"`
		Param   json.RawMessage `json:"param"`
	}
	if json.Unmarshal(raw, &w) != nil {
		return serverError{Message: string(raw)}
	}
	se := serverError{Message: str(w.Message), Code: str(w.Code), Type: str(w.Type), Param: str(w.Param)}
	if json.Unmarshal(w.Code, &se.Number) != nil {
		se.Number = 0
	}
	if se.Message == "" {
		se.Message = string(raw)
	}
	return se
}

// detailOf reads the errors of FastAPI: a text, or a list of what is wrong where.
func detailOf(raw json.RawMessage) serverError {
	if s := str(raw); s != "" {
		return serverError{Message: s}
	}
	var list []struct {
		Loc  []any  `json:"loc"`
		Msg  string `json:"msg"`
		Type string `json:"type"`
	}
	if json.Unmarshal(raw, &list) != nil || len(list) == 0 {
		return serverError{Message: string(raw)}
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
	return serverError{Message: where + ": " + list[0].Msg, Type: list[0].Type, Param: where}
}
