package modelserver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// messagesAPI is Anthropic's protocol. It refuses what Anthropic refuses and a client gets wrong easily: a header or
// max_tokens that is missing, an empty text, a tool_use without its tool_result, more than four cache_controls.
func messagesAPI() protocol {
	return protocol{
		api:    APIMessages,
		decode: messagesDecode,
		key:    func(h http.Header) string { return h.Get("X-Api-Key") },
		refusal: func(feature string) Reply {
			return Reply{Status: http.StatusBadRequest, Error: feature + ": Extra inputs are not permitted"}
		},
		plain:    messagesPlain,
		streamed: messagesStreamed,
		failure:  messagesFailure,
		opening: messagesEvent("message_start", map[string]any{"message": map[string]any{}}) +
			messagesEvent("content_block_start", map[string]any{"index": 0, "content_block": map[string]any{"type": "text", "text": ""}}),
		endless: func(text string) string {
			return messagesEvent("content_block_delta", map[string]any{"index": 0, "delta": map[string]any{"type": "text_delta", "text": text}})
		},
		line: "event: content_block_delta\ndata: " + `{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"`,
	}
}

type messagesRequest struct {
	Model     string          `json:"model"`
	System    json.RawMessage `json:"system"`
	Messages  []messagesEntry `json:"messages"`
	Tools     []messagesTool  `json:"tools"`
	Output    json.RawMessage `json:"output_config"`
	Stream    bool            `json:"stream"`
	MaxTokens *int64          `json:"max_tokens"`
}

type messagesTool struct {
	Name        string          `json:"name"`
	Description string          `json:"description"`
	Schema      json.RawMessage `json:"input_schema"`
}

type messagesEntry struct {
	Role    string         `json:"role"`
	Content messagesBlocks `json:"content"`
}

type messagesBlocks []messagesBlock

type messagesBlock struct {
	Type      string          `json:"type"`
	Text      string          `json:"text"`
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	Input     json.RawMessage `json:"input"`
	ToolUseID string          `json:"tool_use_id"`
	Content   json.RawMessage `json:"content"`
}

// UnmarshalJSON accepts a text in the place of blocks.
func (m *messagesBlocks) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '"' {
		*m = messagesBlocks{{Type: "text"}}
		return json.Unmarshal(b, &(*m)[0].Text)
	}
	return json.Unmarshal(b, (*[]messagesBlock)(m))
}

func messagesDecode(h http.Header, body []byte) (Request, error) {
	var w messagesRequest
	if err := unmarshal(body, &w); err != nil {
		return Request{}, err
	}
	r := Request{
		Model: w.Model, Stream: w.Stream, MaxTokens: w.MaxTokens, ResponseFormat: w.Output,
		marked: bytes.Count(body, []byte(`"cache_control":`)),
	}
	system, err := textOf(w.System)
	if err != nil {
		return r, fmt.Errorf("system: %w", err)
	}
	if system != "" {
		r.Messages = append(r.Messages, Message{Role: "system", Content: system})
	}
	for _, t := range w.Tools {
		var tool Tool
		tool.Function.Name, tool.Function.Description, tool.Function.Parameters = t.Name, t.Description, t.Schema
		r.Tools = append(r.Tools, tool)
	}
	for i, m := range w.Messages {
		if err := r.entry(m); err != nil {
			return r, fmt.Errorf("messages.%d.%w", i, err)
		}
	}
	switch {
	case h.Get("anthropic-version") == "":
		return r, errors.New("anthropic-version: header is required")
	case w.MaxTokens == nil:
		return r, errors.New("max_tokens: Field required")
	case len(w.Messages) == 0:
		return r, errors.New("messages: at least one message is required")
	case r.marked > 4:
		return r, fmt.Errorf("A maximum of 4 blocks with cache_control may be provided. Found %d.", r.marked) //nolint:revive,staticcheck // the server's own words
	}
	return r, unanswered(w.Messages)
}

// entry adds a message: what one holds of results and of text becomes messages of their own.
func (r *Request) entry(m messagesEntry) error {
	said := Message{Role: m.Role}
	texts := 0
	for i, b := range m.Content {
		switch b.Type {
		case "text":
			if strings.TrimSpace(b.Text) == "" {
				return fmt.Errorf("content.%d: text content blocks must contain non-whitespace text", i)
			}
			said.Content += b.Text
			texts++
		case "tool_use":
			said.ToolCalls = append(said.ToolCalls, ToolCall{ID: b.ID, Type: "function", Function: Function{Name: b.Name, Arguments: string(b.Input)}})
		case "tool_result":
			text, err := textOf(b.Content)
			if err != nil {
				return fmt.Errorf("content.%d: %w", i, err)
			}
			r.Messages = append(r.Messages, Message{Role: "tool", ToolCallID: b.ToolUseID, Content: text})
		case "thinking", "redacted_thinking":
			r.thinking = true
		default:
			return fmt.Errorf("content.%d: Input tag %q found using 'type' does not match any of the expected tags", i, b.Type)
		}
	}
	if texts > 0 || len(said.ToolCalls) > 0 {
		r.Messages = append(r.Messages, said)
	}
	return nil
}

// unanswered finds a call that the next message does not answer.
func unanswered(msgs []messagesEntry) error {
	for i, m := range msgs {
		for _, b := range m.Content {
			if b.Type != "tool_use" {
				continue
			}
			if i+1 == len(msgs) || !msgs[i+1].answers(b.ID) {
				return fmt.Errorf("messages.%d: `tool_use` ids were found without `tool_result` blocks immediately after: %s", i, b.ID)
			}
		}
	}
	return nil
}

func (m messagesEntry) answers(id string) bool {
	for _, b := range m.Content {
		if b.Type == "tool_result" && b.ToolUseID == id {
			return true
		}
	}
	return false
}

// messagesErrors are the types that go with a status.
var messagesErrors = map[int]string{
	401: "authentication_error", 402: "billing_error", 403: "permission_error", 404: "not_found_error",
	413: "request_too_large", 429: "rate_limit_error", 500: "api_error", 504: "timeout_error", 529: "overloaded_error",
}

func messagesFailure(r Reply) string {
	kind := or(r.Type, or(messagesErrors[r.Status], "invalid_request_error"))
	return marshal(map[string]any{
		"type": "error", "request_id": "req_1",
		"error": map[string]any{"type": kind, "message": or(r.Error, or(http.StatusText(r.Status), kind))},
	})
}

// messagesStop puts a finish reason into Anthropic's words.
func messagesStop(finish string) any {
	switch finish {
	case "stop":
		return "end_turn"
	case "length":
		return "max_tokens"
	case "tool_calls":
		return "tool_use"
	case "content_filter":
		return "refusal"
	default:
		return nullable(finish)
	}
}

// messagesUsage tells the parts of the input; output is what has been written so far.
func messagesUsage(u *Usage, output int64) map[string]any {
	return map[string]any{
		"input_tokens": u.Prompt - u.Cached - u.CacheWrite, "output_tokens": output,
		"cache_read_input_tokens": u.Cached, "cache_creation_input_tokens": u.CacheWrite,
		"output_tokens_details": map[string]any{"thinking_tokens": min(u.Reasoning, output)},
	}
}

func messagesFrame(req Request) map[string]any {
	return map[string]any{
		"id": "msg_" + strconv.Itoa(len(req.Messages)), "type": "message", "role": "assistant", "model": req.Model,
		"content": []any{}, "stop_reason": nil, "stop_sequence": nil,
	}
}

// messagesContent are the blocks of an answer.
func messagesContent(r Reply, calls []ToolCall) []map[string]any {
	var blocks []map[string]any
	if r.Reasoning != "" || r.Signature != "" {
		blocks = append(blocks, map[string]any{"type": "thinking", "thinking": r.Reasoning, "signature": r.Signature})
	}
	if r.Text != "" || len(calls) == 0 {
		blocks = append(blocks, map[string]any{"type": "text", "text": r.Text})
	}
	for _, c := range calls {
		var input any = json.RawMessage(or(c.Function.Arguments, "{}"))
		if !json.Valid([]byte(c.Function.Arguments)) {
			input = map[string]any{}
		}
		blocks = append(blocks, map[string]any{"type": "tool_use", "id": c.ID, "name": c.Function.Name, "input": input})
	}
	return blocks
}

func messagesPlain(req Request, r Reply) string {
	a := fill(req, r, "toolu")
	out := messagesFrame(req)
	out["content"], out["stop_reason"] = messagesContent(r, a.calls), messagesStop(a.finish)
	if a.usage != nil {
		out["usage"] = messagesUsage(a.usage, a.usage.Completion)
	}
	return marshal(out)
}

func messagesStreamed(req Request, r Reply) []string {
	a := fill(req, r, "toolu")
	first, last := messagesFrame(req), map[string]any{"delta": map[string]any{"stop_reason": messagesStop(a.finish), "stop_sequence": nil}}
	if a.usage != nil {
		first["usage"], last["usage"] = messagesUsage(a.usage, 1), messagesUsage(a.usage, a.usage.Completion)
	}
	parts := []string{messagesEvent("message_start", map[string]any{"message": first}), messagesEvent("ping", map[string]any{})}
	blocks := messagesContent(r, a.calls)
	for i, b := range blocks {
		arguments := ""
		if n := i - (len(blocks) - len(a.calls)); n >= 0 {
			arguments = a.calls[n].Function.Arguments
		}
		parts = append(parts, messagesBlockEvents(i, b, r, arguments)...)
	}
	return append(parts, messagesEvent("message_delta", last), messagesEvent("message_stop", map[string]any{}))
}

// messagesBlockEvents streams one block. The calls of tools are the last blocks.
func messagesBlockEvents(i int, b map[string]any, r Reply, arguments string) []string {
	start := map[string]any{"type": b["type"]}
	var deltas []map[string]any
	add := func(kind, field string, pieces []string) {
		for _, p := range pieces {
			deltas = append(deltas, map[string]any{"type": kind, field: p})
		}
	}
	switch b["type"] {
	case "thinking":
		start["thinking"], start["signature"] = "", ""
		add("thinking_delta", "thinking", split(r.Reasoning, r.ChunkSize))
		if r.Signature != "" {
			add("signature_delta", "signature", []string{r.Signature})
		}
	case "text":
		start["text"] = ""
		add("text_delta", "text", split(r.Text, r.ChunkSize))
	default:
		start["id"], start["name"], start["input"] = b["id"], b["name"], map[string]any{}
		add("input_json_delta", "partial_json", halves(arguments))
	}
	parts := []string{messagesEvent("content_block_start", map[string]any{"index": i, "content_block": start})}
	for _, d := range deltas {
		parts = append(parts, messagesEvent("content_block_delta", map[string]any{"index": i, "delta": d}))
	}
	return append(parts, messagesEvent("content_block_stop", map[string]any{"index": i}))
}

func messagesEvent(kind string, v map[string]any) string {
	v["type"] = kind
	return "event: " + kind + "\ndata: " + marshal(v) + "\n\n"
}
