package openai

import (
	"encoding/json"
	"strings"

	"arkonis.dev/ark/pkg/llm/exchange"
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
	Content          text            `json:"content"`
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

// text is what textOf reads, without a copy of the JSON: it may be large.
type text string

// UnmarshalJSON reads whatever a server wrote.
func (t *text) UnmarshalJSON(b []byte) error {
	*t = text(textOf(b))
	return nil
}

// textOf is a text that came as a string or as a list of parts.
func textOf(raw json.RawMessage) string {
	if len(raw) == 0 || raw[0] != '[' {
		return exchange.Text(raw)
	}
	var parts []struct {
		Text json.RawMessage `json:"text"`
	}
	if json.Unmarshal(raw, &parts) != nil {
		return ""
	}
	var b strings.Builder
	for _, p := range parts {
		b.WriteString(exchange.Text(p.Text))
	}
	return b.String()
}

// argumentsOf are arguments that came as a string, or as the object itself.
func argumentsOf(raw json.RawMessage) string {
	switch {
	case exchange.Null(raw):
		return ""
	case raw[0] == '"':
		return exchange.Text(raw)
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
	if exchange.Null(raw) || json.Unmarshal(raw, &w) != nil || !believable(w.Prompt) || !believable(w.Completion) || w.Prompt == 0 {
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

func believable(n float64) bool {
	_, ok := exchange.Tokens(n)
	return ok
}
