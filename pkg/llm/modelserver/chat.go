package modelserver

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// chatCompletions is OpenAI's protocol.
func chatCompletions() protocol {
	return protocol{
		api: APIChat,
		decode: func(_ http.Header, body []byte) (r Request, err error) {
			return r, unmarshal(body, &r)
		},
		key: func(h http.Header) string { return strings.TrimPrefix(h.Get("Authorization"), "Bearer ") },
		refusal: func(feature string) Reply {
			return Reply{
				Status: http.StatusBadRequest,
				Error:  fmt.Sprintf("Unsupported parameter: '%s' is not supported with this model.", feature),
				Code:   "unsupported_parameter",
				Param:  feature,
			}
		},
		plain:    chatPlain,
		streamed: chatStreamed,
		failure:  chatFailure,
		endless: func(text string) string {
			return chatEvent(map[string]any{"choices": []any{chatDelta(map[string]any{"content": text}, nil)}})
		},
		line: `data: {"choices":[{"index":0,"delta":{"content":"`,
	}
}

// UnmarshalJSON accepts a content that is a text, a list of parts, or missing.
func (m *Message) UnmarshalJSON(b []byte) error {
	type plain Message
	var w struct {
		plain
		Content json.RawMessage `json:"content"`
	}
	if err := json.Unmarshal(b, &w); err != nil {
		return err
	}
	*m = Message(w.plain)
	text, err := textOf(w.Content)
	m.Content = text
	return err
}

// textOf is a text that comes as one, as a list of parts, or not at all.
func textOf(raw json.RawMessage) (string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", nil
	}
	var s string
	if raw[0] == '"' {
		err := json.Unmarshal(raw, &s)
		return s, err
	}
	var parts []struct {
		Text string `json:"text"`
	}
	if err := json.Unmarshal(raw, &parts); err != nil {
		return "", errors.New("content is neither a text nor a list of parts")
	}
	for _, p := range parts {
		s += p.Text
	}
	return s, nil
}

func chatFailure(r Reply) string {
	return marshal(map[string]any{"error": map[string]any{
		"message": or(r.Error, http.StatusText(r.Status)), "type": or(r.Type, "invalid_request_error"),
		"param": nullable(r.Param), "code": nullable(r.Code),
	}})
}

func chatUsage(u *Usage) any {
	return map[string]any{
		"prompt_tokens": u.Prompt, "completion_tokens": u.Completion, "total_tokens": u.Prompt + u.Completion,
		"prompt_tokens_details":     map[string]any{"cached_tokens": u.Cached},
		"completion_tokens_details": map[string]any{"reasoning_tokens": u.Reasoning},
	}
}

func chatPlain(req Request, r Reply) string {
	a := fill(req, r, "call")
	msg := map[string]any{"role": "assistant", "content": r.Text}
	if r.Reasoning != "" {
		msg["reasoning_content"] = r.Reasoning
	}
	if len(a.calls) > 0 {
		msg["tool_calls"] = a.calls
	}
	out := chatFrame(req, "chat.completion", map[string]any{"index": 0, "message": msg, "finish_reason": nullable(a.finish)})
	if a.usage != nil {
		out["usage"] = chatUsage(a.usage)
	}
	return marshal(out)
}

func chatStreamed(req Request, r Reply) []string {
	a := fill(req, r, "call")
	chunk := func(d map[string]any, finish any) string {
		return chatEvent(chatFrame(req, "chat.completion.chunk", chatDelta(d, finish)))
	}
	parts := []string{chunk(map[string]any{"role": "assistant", "content": ""}, nil)}
	for _, s := range split(r.Reasoning, r.ChunkSize) {
		parts = append(parts, chunk(map[string]any{"reasoning_content": s}, nil))
	}
	for _, s := range split(r.Text, r.ChunkSize) {
		parts = append(parts, chunk(map[string]any{"content": s}, nil))
	}
	for i, c := range a.calls {
		parts = append(parts, chatCall(chunk, i, c)...)
	}
	parts = append(parts, chunk(map[string]any{}, nullable(a.finish)))
	if a.usage != nil && req.StreamOptions != nil && req.StreamOptions.IncludeUsage {
		last := chatFrame(req, "chat.completion.chunk", nil)
		last["choices"], last["usage"] = []any{}, chatUsage(a.usage)
		parts = append(parts, chatEvent(last))
	}
	return append(parts, "data: [DONE]\n\n")
}

// chatCall streams a tool call: the id and the name first, then the arguments in two halves.
func chatCall(chunk func(map[string]any, any) string, i int, c ToolCall) []string {
	fragment := func(f map[string]any) string {
		return chunk(map[string]any{"tool_calls": []any{f}}, nil)
	}
	first := map[string]any{"index": i, "type": "function", "function": map[string]any{"name": c.Function.Name, "arguments": ""}}
	if c.ID != "" {
		first["id"] = c.ID
	}
	parts := []string{fragment(first)}
	for _, s := range halves(c.Function.Arguments) {
		parts = append(parts, fragment(map[string]any{"index": i, "function": map[string]any{"arguments": s}}))
	}
	return parts
}

func chatDelta(d map[string]any, finish any) map[string]any {
	return map[string]any{"index": 0, "delta": d, "finish_reason": finish}
}

func chatFrame(req Request, object string, choice map[string]any) map[string]any {
	return map[string]any{
		"id": "chatcmpl-" + strconv.Itoa(len(req.Messages)), "object": object, "created": 0, "model": req.Model,
		"choices": []any{choice},
	}
}

func chatEvent(v any) string { return "data: " + marshal(v) + "\n\n" }
