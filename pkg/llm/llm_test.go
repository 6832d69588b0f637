package llm_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm"
)

func TestDetect(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ provider, model, want string }{
		{"", "claude-sonnet-4", llm.Anthropic},
		{"auto", "Claude-opus", llm.Anthropic},
		{"auto", "mock", llm.Mock},
		{"", "mock-large", llm.Mock},
		{"auto", "gpt-5", llm.OpenAI},
		{"", "qwen3:8b", llm.OpenAI},
		{"", "anthropic/claude-sonnet", llm.OpenAI}, // a router's name for it
		{"openai", "claude-sonnet-4", llm.OpenAI},
		{" Mock ", "gpt-5", llm.Mock},
		{"other", "gpt-5", "other"},
	} {
		require.Equal(t, c.want, llm.Detect(c.provider, c.model), "%q %q", c.provider, c.model)
	}
}

// The bound counts everything that reaches the server, and nothing grows without growing it.
func TestInputBound(t *testing.T) {
	t.Parallel()
	base := llm.Request{Messages: []llm.Message{{Role: llm.RoleUser, Text: "hello"}}}
	require.Equal(t, int64(64+32+5), llm.InputBound(base))

	for name, c := range map[string]struct {
		change func(*llm.Request)
		more   int64
	}{
		"text":    {func(r *llm.Request) { r.Messages[0].Text += "\nyou" }, 4},
		"message": {func(r *llm.Request) { r.Messages = append(r.Messages, llm.Message{Role: llm.RoleAssistant}) }, 32},
		"signed reasoning": {func(r *llm.Request) {
			r.Messages[0].Reasoning, r.Messages[0].Signed = "sent back", json.RawMessage(`{"x":1}`)
		}, 9 + 7},
		"reasoning": {func(r *llm.Request) { r.Messages[0].Reasoning = "never sent" }, 0},
		"tool result": {func(r *llm.Request) {
			r.Messages[0] = llm.Message{Role: llm.RoleTool, ToolID: "i", ToolName: "n", Text: "a\"\n\x00é"}
		}, 1 + 1 + 1 + 2 + 2 + 6 + 2 - 5},
		"tool call": {func(r *llm.Request) {
			r.Messages[0].ToolCalls = []llm.ToolCall{{ID: "i", Name: "n", Arguments: `{"a":1}`}}
		}, 32 + 2 + 9},
		"tool": {func(r *llm.Request) {
			r.Tools = []llm.Tool{{Name: "n", Description: "d", Schema: json.RawMessage(`{}`)}}
		}, 64 + 2 + 4},
		"schema": {func(r *llm.Request) { r.Schema = json.RawMessage(`{}`) }, 256 + 2},
	} {
		req := base
		req.Messages = append([]llm.Message(nil), base.Messages...)
		c.change(&req)
		require.Equal(t, llm.InputBound(base)+c.more, llm.InputBound(req), name)
	}
	require.Less(t, len(llm.SchemaInstruction(nil)), 256)
}

// Claude is told about tools and schemas in words of its server's own, which count.
func TestInputBoundOfClaude(t *testing.T) {
	t.Parallel()
	req := llm.Request{Model: "m", Messages: []llm.Message{{Role: llm.RoleUser, Text: "hello"}}}
	more := func(change func(*llm.Request)) int64 {
		other := req
		change(&other)
		claude := other
		claude.Model = "anthropic/Claude-x"
		return llm.InputBound(claude) - llm.InputBound(other)
	}
	require.Zero(t, more(func(*llm.Request) {}))
	require.Equal(t, int64(1024), more(func(r *llm.Request) { r.Tools = []llm.Tool{{Name: "n"}} }))
	require.Equal(t, int64(1024), more(func(r *llm.Request) { r.Schema = json.RawMessage(`{}`) }))
}
