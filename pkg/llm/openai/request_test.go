package openai_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/llm/openai"
	"arkonis.dev/ark/pkg/task"
)

// sent makes a call and returns what the server got.
func sent(t *testing.T, req llm.Request) string {
	t.Helper()
	s, p := serve(t, modelserver.Config{})
	_, err := p.Chat(t.Context(), req, nil)
	require.NoError(t, err)
	calls, err := s.Wait(t.Context(), 1)
	require.NoError(t, err)
	return string(calls[0].Body)
}

var weather = llm.Tool{
	Name: "weather", Description: "Weather of a city",
	Schema: json.RawMessage(`{"type":"object","properties":{"z":{"type":"integer","maximum":9007199254740993},"city":{"type":"string"}},"required":["city"]}`),
}

const tail = `,"model":"m","max_tokens":100,"stream_options":{"include_usage":true},"stream":true}`

func TestRequestWithTools(t *testing.T) {
	t.Parallel()
	req := ask("Weather in Lisbon?")
	zero, half := 0.0, 0.5
	req.Tools, req.Temperature, req.TopP = []llm.Tool{weather}, &zero, &half
	req.Messages = append(req.Messages,
		llm.Message{Role: llm.RoleAssistant, Text: "Let me see.", Reasoning: "never sent back", ToolCalls: []llm.ToolCall{
			{ID: "a", Name: "weather", Arguments: `{"city": "Lisbon"}`},
			{ID: "b", Name: "what is this?", Arguments: `{"cut`},
		}},
		llm.Message{Role: llm.RoleTool, ToolID: "a", ToolName: "weather", Text: "<sunny> & 25°"},
		llm.Message{Role: llm.RoleTool, ToolID: "b", ToolName: "what is this?", Text: "no such tool", IsError: true},
		llm.Message{Role: llm.RoleAssistant, ToolCalls: []llm.ToolCall{{ID: "c", Name: "", Arguments: ""}}},
		llm.Message{Role: llm.RoleTool, ToolID: "c", Text: ""},
		llm.Message{Role: llm.RoleAssistant},
	)
	want := `{"messages":[{"content":"be brief","role":"system"},{"content":"Weather in Lisbon?","role":"user"},` +
		`{"content":"Let me see.","tool_calls":[{"id":"a","function":{"arguments":"{\"city\": \"Lisbon\"}","name":"weather"},"type":"function"},` +
		`{"id":"b","function":{"arguments":"{\"invalid_arguments\":\"{\\\"cut\"}","name":"what_is_this_"},"type":"function"}],"role":"assistant"},` +
		`{"content":"<sunny> & 25°","tool_call_id":"a","role":"tool"},{"content":"no such tool","tool_call_id":"b","role":"tool"},` +
		`{"tool_calls":[{"id":"c","function":{"arguments":"{}","name":"unknown"},"type":"function"}],"role":"assistant"},` +
		`{"content":"","tool_call_id":"c","role":"tool"},{"content":"","role":"assistant"}],` +
		`"model":"m","max_tokens":100,"temperature":0,"top_p":0.5,"stream_options":{"include_usage":true},` +
		`"tools":[{"function":{"name":"weather","description":"Weather of a city","parameters":{"properties":{"z":{"type":"integer","maximum":9007199254740993},"city":{"type":"string"}},"required":["city"],"type":"object"}},"type":"function"}],"stream":true}`
	require.Equal(t, want, sent(t, req))
}

func TestRequestWithSchema(t *testing.T) {
	t.Parallel()
	const system, user = `{"messages":[{"content":"be brief%s","role":"system"},{"content":"hello","role":"user"}]`, ""
	native := func(strict bool, schema string) string {
		return fmt.Sprintf(`,"response_format":{"json_schema":{"name":"answer","strict":%v,"schema":%s},"type":"json_schema"},"stream":true}`, strict, schema)
	}
	inWords := func(schema string) string {
		b, err := json.Marshal("\n\n" + llm.SchemaInstruction([]byte(schema)))
		require.NoError(t, err)
		return strings.Trim(string(b), `"`)
	}
	start := strings.TrimSuffix(tail, `,"stream":true}`)
	for name, c := range map[string]struct {
		schema string
		tools  bool
		sent   string // the schema as sent natively, "" for none
		strict bool
		words  bool
	}{
		"strict as it is": {
			schema: `{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"array","items":{"type":"number"}}},"required":["a","b"],"additionalProperties":false}`,
			sent:   `{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"array","items":{"type":"number"}}},"required":["a","b"],"additionalProperties":false}`,
			strict: true,
		},
		"closed on the way": {
			schema: `{"type":"object","required":["why","n"],"properties":{"why":{"type":"string"},"n":{"anyOf":[{"type":"object","properties":{"x":{"$ref":"#/$defs/x"}},"required":["x"]},{"type":"null"}]}},"$defs":{"x":{"type":"object","properties":{},"required":[]}}}`,
			sent:   `{"type":"object","required":["why","n"],"properties":{"why":{"type":"string"},"n":{"anyOf":[{"type":"object","properties":{"x":{"$ref":"#/$defs/x"}},"required":["x"],"additionalProperties":false},{"type":"null"}]}},"$defs":{"x":{"type":"object","properties":{},"required":[],"additionalProperties":false}},"additionalProperties":false}`,
			strict: true,
		},
		"optional property": {
			schema: `{"type":"object","properties":{"a":{"type":"string"}}}`,
			sent:   `{"type":"object","properties":{"a":{"type":"string"}}}`,
			words:  true,
		},
		"open object": {
			schema: `{"type":"object","properties":{"a":{"type":"object"}},"required":["a"]}`,
			sent:   `{"type":"object","properties":{"a":{"type":"object"}},"required":["a"]}`,
			words:  true,
		},
		"keyword that it does not know": {schema: `{"type":"object","properties":{"a":{"not":{}}},"required":["a"]}`, words: true},
		"no object":                     {schema: `{"type":"array","items":{"type":"string"}}`, words: true},
		"truth value":                   {schema: `true`, words: true},
		"too deep":                      {schema: strings.Repeat(`{"type":"object","properties":{"a":`, 12) + `{"type":"string"}` + strings.Repeat(`},"required":["a"]}`, 12), words: true},
		"tools on offer":                {schema: `{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}`, tools: true, words: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := ask("hello")
			req.Schema = json.RawMessage(c.schema)
			if c.tools {
				req.Tools = []llm.Tool{weather}
			}
			words := ""
			if c.words {
				words = inWords(c.schema)
			}
			got := sent(t, req)
			require.True(t, strings.HasPrefix(got, fmt.Sprintf(system, words)+start), "%s", got)
			switch {
			case c.tools:
				require.NotContains(t, got, "response_format")
			case c.sent == "":
				require.Equal(t, fmt.Sprintf(system, words)+tail+user, got)
			default:
				require.Equal(t, fmt.Sprintf(system, words)+start+native(c.strict, c.sent), got)
			}
		})
	}
}

func TestInstructionWithoutSystemMessage(t *testing.T) {
	t.Parallel()
	req := ask("hello")
	req.Messages = req.Messages[1:]
	req.Schema = json.RawMessage(`{"type":"string"}`)
	require.Contains(t, sent(t, req), `{"messages":[{"content":"When you give your final answer`)
}

// What a server refuses is left out from the next call on, and every later answer says so.
func TestFallbacks(t *testing.T) {
	t.Parallel()
	schema := json.RawMessage(`{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}`)
	for name, c := range map[string]struct {
		refuse  []string
		reply   *modelserver.Reply // the refusal in another's words
		change  func(*llm.Request)
		status  int
		note    string
		keeps   bool // the note comes with every answer
		unknown bool
		second  string // the second request, after the messages
	}{
		"tools": {
			refuse: []string{"tools"}, change: func(r *llm.Request) { r.Tools = []llm.Tool{weather} }, keeps: true,
			note: "model m at SERVER does not accept tools: the agent goes on without them", second: tail,
		},
		"tools, as Ollama says": {
			reply:  &modelserver.Reply{Status: 400, Error: `registry.ollama.ai/library/m:latest does not support tools`, Type: "api_error"},
			change: func(r *llm.Request) { r.Tools = []llm.Tool{weather} }, keeps: true,
			note: "model m at SERVER does not accept tools: the agent goes on without them", second: tail,
		},
		"tools, as vLLM says": {
			reply:  &modelserver.Reply{Status: 400, Body: `{"object":"error","message":"\"auto\" tool choice requires --enable-auto-tool-choice and --tool-call-parser to be set","type":"BadRequestError","param":null,"code":400}`},
			change: func(r *llm.Request) { r.Tools = []llm.Tool{weather} }, keeps: true,
			note: "model m at SERVER does not accept tools: the agent goes on without them", second: tail,
		},
		"tools, as llama.cpp says": {
			reply:  &modelserver.Reply{Status: 500, Error: "tools param requires --jinja flag"},
			change: func(r *llm.Request) { r.Tools = []llm.Tool{weather} }, keeps: true, unknown: true,
			note: "model m at SERVER does not accept tools: the agent goes on without them", second: tail,
		},
		"tools, as FastAPI says": {
			reply:  &modelserver.Reply{Status: 422, Body: `{"detail":[{"loc":["body","tools"],"msg":"Extra inputs are not permitted","type":"extra_forbidden"}]}`},
			change: func(r *llm.Request) { r.Tools = []llm.Tool{weather} }, keeps: true,
			note: "model m at SERVER does not accept tools: the agent goes on without them", second: tail,
		},
		"response_format": {
			refuse: []string{"response_format"}, change: func(r *llm.Request) { r.Schema = schema }, keeps: true,
			note: "model m at SERVER does not accept response_format: the schema is asked for in words", second: tail,
		},
		"a schema that it cannot take": {
			reply:  &modelserver.Reply{Status: 400, Error: "Invalid schema for response_format 'answer': In context=(), 'required' is wrong", Param: "response_format"},
			change: func(r *llm.Request) { r.Schema = schema }, keeps: true,
			note: "model m at SERVER does not accept response_format: the schema is asked for in words", second: tail,
		},
		"stream_options": {
			refuse: []string{"stream_options"}, keeps: true,
			note:   "model m at SERVER does not accept stream_options: calls whose usage it does not tell count in full",
			second: `,"model":"m","max_tokens":100,"stream":true}`,
		},
		"stream": {
			reply: &modelserver.Reply{Status: 400, Error: "Your organization must be verified to stream this model.", Param: "stream", Code: "unsupported_value"}, keeps: true,
			note: "model m at SERVER does not stream: answers arrive in one piece", second: `,"model":"m","max_tokens":100}`,
		},
		"max_tokens": {
			reply:  &modelserver.Reply{Status: 400, Error: "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.", Param: "max_tokens", Code: "unsupported_parameter"},
			note:   "model m at SERVER wants the other name of the token limit (max_tokens, max_completion_tokens)",
			second: `,"model":"m","max_completion_tokens":100,"stream_options":{"include_usage":true},"stream":true}`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := modelserver.Config{Refuse: c.refuse}
			if c.reply != nil {
				config.Rules = []modelserver.Rule{{Times: 1, Reply: *c.reply}}
			}
			s, p := serve(t, config)
			req := ask("hello")
			if c.change != nil {
				c.change(&req)
			}
			res, err := p.Chat(t.Context(), req, nil)
			require.Nil(t, res)
			var e *llm.Error
			require.ErrorAs(t, err, &e)
			note := strings.ReplaceAll(c.note, "SERVER", s.URL())
			require.Equal(t, llm.Error{
				Code: task.CodeProviderRefused, Message: e.Message, Status: e.Status,
				Retry: true, Fallback: true, Note: note, Unknown: c.unknown,
			}, *e)
			require.Contains(t, e.Message, "; the next call goes without it")

			for range 2 {
				res, err = p.Chat(t.Context(), req, nil)
				require.NoError(t, err)
				require.Equal(t, "echo: hello", res.Message.Text)
				if c.keeps {
					require.Equal(t, []string{note}, res.Notes)
				} else {
					require.Empty(t, res.Notes)
				}
			}
			require.Equal(t, name == "stream_options", res.UsageMissing)
			calls, err := s.Wait(t.Context(), 3)
			require.NoError(t, err)
			require.Len(t, calls, 3)
			_, second, _ := strings.Cut(string(calls[1].Body), `"role":"user"}]`)
			require.Equal(t, c.second, second)
			require.Equal(t, calls[1].Body, calls[2].Body)

			// Another model of the same server may well know it.
			req.Model = "other"
			_, _ = p.Chat(t.Context(), req, nil)
			calls, err = s.Wait(t.Context(), 4)
			require.NoError(t, err)
			require.Equal(t, string(calls[0].Body), strings.Replace(string(calls[3].Body), `"other"`, `"m"`, 1))
		})
	}
}

// A mistake in one tool is no refusal of tools: going on without them would hide it.
func TestWrongToolIsNoFallback(t *testing.T) {
	t.Parallel()
	for _, r := range []modelserver.Reply{
		{Status: 400, Error: "Invalid schema for function 'weather': In context=(), 'format' is not permitted.", Param: "tools[0].function.parameters", Code: "invalid_function_parameters"},
		{Status: 400, Error: "messages with role 'tool' must be a response to a preceding message with 'tool_calls'.", Param: "messages.[3].role"},
		{Status: 400, Error: "Unsupported value: 'temperature' does not support 0.2 with this model.", Param: "temperature", Code: "unsupported_value"},
	} {
		_, p := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: r}}})
		req := ask("hello")
		req.Tools = []llm.Tool{weather}
		_, err := p.Chat(t.Context(), req, nil)
		var e *llm.Error
		require.ErrorAs(t, err, &e)
		require.False(t, e.Fallback, e.Message)
		require.False(t, e.Retry, e.Message)
		require.Equal(t, task.CodeProviderRefused, e.Code)
	}
}

// Each feature is given up once; a server that refuses all ends in an answer or in a final error, never in a loop.
func TestEverythingRefused(t *testing.T) {
	t.Parallel()
	s, p := serve(t, modelserver.Config{Refuse: []string{"tools", "response_format", "stream_options", "stream", "max_tokens", "max_completion_tokens"}})
	req := ask("hello")
	req.Tools = []llm.Tool{weather}
	req.Schema = json.RawMessage(`{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}`)
	var last *llm.Error
	for range 10 {
		_, err := p.Chat(t.Context(), req, nil)
		require.ErrorAs(t, err, &last)
		if !last.Fallback {
			break
		}
	}
	require.False(t, last.Retry)
	require.Equal(t, task.CodeProviderRefused, last.Code)
	require.Len(t, s.Calls(), 6)
}

// A conversation that had tools is told in words to a server that has none.
func TestToolsOfThePastInWords(t *testing.T) {
	t.Parallel()
	s, p := serve(t, modelserver.Config{Refuse: []string{"tools"}})
	req := ask("hello")
	req.Tools = []llm.Tool{weather}
	req.Messages = append(req.Messages,
		llm.Message{Role: llm.RoleAssistant, Text: "Let me see.", ToolCalls: []llm.ToolCall{{ID: "a", Name: "weather", Arguments: `{}`}}},
		llm.Message{Role: llm.RoleTool, ToolID: "a", ToolName: "weather", Text: "sunny"},
	)
	_, err := p.Chat(t.Context(), req, nil)
	require.Error(t, err)
	_, err = p.Chat(t.Context(), req, nil)
	require.NoError(t, err)
	calls, err := s.Wait(t.Context(), 2)
	require.NoError(t, err)
	require.Equal(t, `{"messages":[{"content":"be brief","role":"system"},{"content":"hello","role":"user"},`+
		`{"content":"Let me see.\nCalled tool weather with {}","role":"assistant"},{"content":"Result of tool weather:\nsunny","role":"user"}]`+tail, string(calls[1].Body))
}

func TestBaseURLAndHeaders(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, modelserver.Config{})
	p := provider(t, openai.Config{
		BaseURL: s.URL() + "/chat/completions/?api-version=1&x=a&x=b",
		Headers: map[string]string{"X-Team": "red"},
	})
	_, err := p.Chat(t.Context(), ask("hello"), nil)
	require.NoError(t, err)
	calls := s.Calls()
	require.Equal(t, "/v1/chat/completions?api-version=1&x=a&x=b", calls[0].URL)
	require.Equal(t, "red", calls[0].Header.Get("X-Team"))
	require.Empty(t, calls[0].Header.Get("Authorization"))
	require.Equal(t, "identity", calls[0].Header.Get("Accept-Encoding"))
}

func TestWrongUseIsNoCall(t *testing.T) {
	t.Parallel()
	s, p := serve(t, modelserver.Config{})
	bad := ask("hello")
	bad.Tools = []llm.Tool{{Name: "x", Schema: json.RawMessage(`[]`)}}
	for _, req := range []llm.Request{{}, {Model: "m", MaxTokens: 1}, bad} {
		_, err := p.Chat(t.Context(), req, nil)
		var e *llm.Error
		require.ErrorAs(t, err, &e)
		require.False(t, e.Retry || e.Unknown)
	}
	require.Empty(t, s.Calls())
}
