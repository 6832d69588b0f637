package anthropic_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/modelserver"
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

const (
	mark        = `"cache_control":{"type":"ephemeral"},`
	weatherSent = `"tools":[{"input_schema":{"type":"object","properties":{"z":{"type":"integer","maximum":9007199254740993},"city":{"type":"string"}},"required":["city"]},` +
		`"name":"weather","description":"Weather of a city","cache_control":{"type":"ephemeral"}}]`
	brief = `"system":[{"text":"be brief",` + mark + `"type":"text"}]`
)

func text(marked, s string) string { return `{"text":` + s + `,` + marked + `"type":"text"}` }

func TestRequestWithTools(t *testing.T) {
	t.Parallel()
	req := ask("Weather in Lisbon?")
	zero, half := 0.0, 0.5
	req.Tools, req.Temperature, req.TopP = []llm.Tool{weather}, &zero, &half
	req.Messages = append(req.Messages,
		llm.Message{Role: llm.RoleAssistant, Text: "Let me see.", Reasoning: "unsigned, so not sent back", ToolCalls: []llm.ToolCall{
			{ID: "a", Name: "weather", Arguments: `{"city": "Lisbon"}`},
			{ID: "functions.b:0", Name: "what is this?", Arguments: `{"cut`},
		}},
		llm.Message{Role: llm.RoleTool, ToolID: "a", ToolName: "weather", Text: "sunny, 25°"},
		llm.Message{Role: llm.RoleTool, ToolID: "functions.b:0", ToolName: "what is this?", Text: "no such tool", IsError: true},
		llm.Message{Role: llm.RoleAssistant, Text: " \n", ToolCalls: []llm.ToolCall{{ID: "c", Name: "", Arguments: ""}}},
		llm.Message{Role: llm.RoleTool, ToolID: "c", Text: ""},
		llm.Message{Role: llm.RoleAssistant},
		llm.Message{Role: llm.RoleUser, Text: "and?"},
	)
	want := `{"max_tokens":100,"messages":[` +
		`{"content":[` + text("", `"Weather in Lisbon?"`) + `],"role":"user"},` +
		`{"content":[` + text("", `"Let me see."`) + `,{"id":"a","input":{"city":"Lisbon"},"name":"weather","type":"tool_use"},` +
		`{"id":"functions_b_0","input":{"invalid_arguments":"{\"cut"},"name":"what_is_this_","type":"tool_use"}],"role":"assistant"},` +
		`{"content":[{"tool_use_id":"a","content":[` + text("", `"sunny, 25°"`) + `],"type":"tool_result"},` +
		`{"tool_use_id":"functions_b_0","is_error":true,` + mark + `"content":[` + text("", `"no such tool"`) + `],"type":"tool_result"}],"role":"user"},` +
		`{"content":[{"id":"c","input":{},"name":"unknown","type":"tool_use"}],"role":"assistant"},` +
		`{"content":[{"tool_use_id":"c","type":"tool_result"},` + text(mark, `"and?"`) + `],"role":"user"}],` +
		`"model":"m","temperature":0,"top_p":0.5,` + brief + `,` + weatherSent + `,"stream":true}`
	require.Equal(t, want, sent(t, req))
}

// The API wants an object at the root of a tool's schema, and nothing beside it that chooses between schemas.
func TestToolSchemas(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{}`: `{"type":"object"}`,
		`{"properties":{"a":{}},"oneOf":[{"required":["a"]}],"anyOf":[],"allOf":[],"additionalProperties":false}`: `{"type":"object","properties":{"a":{}},"additionalProperties":false}`,
		`{"$defs":{"x":{"oneOf":[{}]}},"type":["object","null"]}`:                                                 `{"type":"object","$defs":{"x":{"oneOf":[{}]}}}`,
	} {
		req := ask("hello")
		req.Tools = []llm.Tool{{Name: "x", Schema: json.RawMessage(in)}}
		require.Contains(t, sent(t, req), `"tools":[{"input_schema":`+want+`,"name":"x",`)
	}
}

// The marks are on the tools, the system prompt, and the ends of this turn and the one before, never on more: the API
// takes four.
func TestCacheMarks(t *testing.T) {
	t.Parallel()
	req := ask("hello")
	req.Tools = []llm.Tool{{Name: "other", Schema: json.RawMessage(`{}`)}, weather}
	for n := range 5 {
		id := strconv.Itoa(n)
		req.Messages = append(req.Messages,
			llm.Message{Role: llm.RoleAssistant, ToolCalls: []llm.ToolCall{{ID: id, Name: "weather", Arguments: "{}"}}},
			llm.Message{Role: llm.RoleTool, ToolID: id, ToolName: "weather", Text: "result " + id},
		)
		got := sent(t, req)
		require.Equal(t, 4, strings.Count(got, "cache_control"))
		require.Contains(t, got, `{"tool_use_id":"`+id+`",`+mark)
		if n > 0 {
			require.Contains(t, got, `{"tool_use_id":"`+strconv.Itoa(n-1)+`",`+mark)
		}
		require.Contains(t, got, brief)
		require.Contains(t, got, `"description":"Weather of a city","cache_control"`)
	}
	// Nothing follows a call without tools: only what others share is worth a place in the cache.
	req.Tools = nil
	require.Equal(t, 1, strings.Count(sent(t, req), "cache_control"))
	req.Messages = []llm.Message{{Role: llm.RoleUser, Text: "hello"}}
	require.Zero(t, strings.Count(sent(t, req), "cache_control"))
}

func TestRequestWithSchema(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		schema string
		tools  bool
		sent   string // the schema as sent natively, "" for none
		words  bool
	}{
		"as it is": {
			schema: `{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"array","items":{"type":"number"}}},"required":["b"],"additionalProperties":false}`,
			sent:   `{"type":"object","properties":{"b":{"type":"string"},"a":{"type":"array","items":{"type":"number"}}},"required":["b"],"additionalProperties":false}`,
		},
		"closed on the way": {
			schema: `{"$schema":"x","type":"object","properties":{"why":{"type":"string","default":"","examples":[]},"n":{"anyOf":[{"type":"object","properties":{"x":{"$ref":"#/$defs/x"}}},{"type":"null"}]}},"$defs":{"x":{"type":"object","properties":{}}}}`,
			sent:   `{"type":"object","properties":{"why":{"type":"string"},"n":{"anyOf":[{"type":"object","properties":{"x":{"$ref":"#/$defs/x"}},"additionalProperties":false},{"type":"null"}]}},"$defs":{"x":{"type":"object","properties":{},"additionalProperties":false}},"additionalProperties":false}`,
		},
		"limits are for words": {
			schema: `{"type":"object","properties":{"a":{"type":"string","minLength":1,"pattern":"^x","format":"email"},"n":{"type":"array","minItems":2,"items":{"type":"integer","minimum":0}}}}`,
			sent:   `{"type":"object","properties":{"a":{"type":"string"},"n":{"type":"array","items":{"type":"integer"}}},"additionalProperties":false}`,
			words:  true,
		},
		"open object":                   {schema: `{"type":"object","properties":{"a":{"type":"object"}},"required":["a"]}`, words: true},
		"open on purpose":               {schema: `{"type":"object","properties":{"a":{"type":"string"}},"additionalProperties":true}`, words: true},
		"keyword that it does not know": {schema: `{"type":"object","properties":{"a":{"oneOf":[{}]}}}`, words: true},
		"no object":                     {schema: `{"type":"array","items":{"type":"string"}}`, words: true},
		"truth value":                   {schema: `true`, words: true},
		"too deep":                      {schema: strings.Repeat(`{"type":"object","properties":{"a":`, 20) + `{"type":"string"}` + strings.Repeat(`}}`, 20), words: true},
		"tools on offer":                {schema: `{"type":"object","properties":{"a":{"type":"string"}}}`, tools: true, words: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			req := ask("hello")
			req.Schema = json.RawMessage(c.schema)
			user, offered, output := text("", `"hello"`), "", ""
			if c.tools {
				req.Tools = []llm.Tool{weather}
				user, offered = text(mark, `"hello"`), ","+weatherSent
			}
			if c.sent != "" {
				output = `"output_config":{"format":{"type":"json_schema","schema":` + c.sent + `}},`
			}
			system := `"system":[` + text(mark, `"be brief"`)
			if c.words {
				// The instruction stands behind the mark.
				b, err := json.Marshal(llm.SchemaInstruction([]byte(c.schema)))
				require.NoError(t, err)
				system += `,` + text("", string(b))
			}
			require.Equal(t, fmt.Sprintf(`{"max_tokens":100,"messages":[{"content":[%s],"role":"user"}],"model":"m",%s%s]%s,"stream":true}`,
				user, output, system, offered), sent(t, req))
		})
	}
}

// Reasoning goes back where it came from: the blocks as they were, to the model that signed them and to no other.
func TestReasoningGoesBack(t *testing.T) {
	t.Parallel()
	body := strings.Join([]string{
		`{"type":"message_start","message":{"id":"x","model":"m-2","usage":{"input_tokens":9,"output_tokens":1}}}`,
		`{"type":"content_block_start","index":0,"content_block":{"type":"thinking","thinking":"","signature":""}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"Lisbon, "}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"thinking_delta","thinking":"é?"}}`,
		`{"type":"content_block_delta","index":0,"delta":{"type":"signature_delta","signature":"sig1"}}`,
		`{"type":"content_block_start","index":1,"content_block":{"type":"redacted_thinking","data":"dark"}}`,
		`{"type":"content_block_start","index":2,"content_block":{"type":"text","text":"Let me"}}`,
		`{"type":"content_block_delta","index":2,"delta":{"type":"text_delta","text":" see."}}`,
		`{"type":"content_block_start","index":3,"content_block":{"type":"tool_use","id":"a","name":"weather","input":{}}}`,
		`{"type":"content_block_delta","index":3,"delta":{"type":"input_json_delta","partial_json":"{\"city\":\"Lisbon\"}"}}`,
		`{"type":"content_block_start","index":4,"content_block":{"type":"thinking","thinking":"And Porto","signature":"sig2"}}`,
		`{"type":"content_block_start","index":5,"content_block":{"type":"tool_use","id":"b","name":"weather","input":{"city":"Porto"}}}`,
		`{"type":"message_delta","delta":{"stop_reason":"tool_use"},"usage":{"output_tokens":30}}`,
		`{"type":"message_stop"}`,
	}, "\n\ndata: ")
	req := ask("Weather in Lisbon?")
	req.Tools = []llm.Tool{weather}
	s, p := serve(t, modelserver.Config{Refuse: []string{"thinking"}, Rules: []modelserver.Rule{{Reply: modelserver.Reply{Body: "data: " + body + "\n\n"}}}})
	res, err := p.Chat(t.Context(), req, nil)
	require.NoError(t, err)
	require.Equal(t, "Lisbon, é?And Porto", res.Message.Reasoning)
	require.Equal(t, "Let me see.", res.Message.Text)

	// As the journal keeps it.
	kept, err := json.Marshal(res)
	require.NoError(t, err)
	var again llm.Response
	require.NoError(t, json.Unmarshal(kept, &again))
	req.Messages = append(req.Messages, again.Message,
		llm.Message{Role: llm.RoleTool, ToolID: "a", Text: "sunny"}, llm.Message{Role: llm.RoleTool, ToolID: "b", Text: "rain"})
	calls := `{"id":"a","input":{"city":"Lisbon"},"name":"weather","type":"tool_use"}`
	second := `{"id":"b","input":{"city":"Porto"},"name":"weather","type":"tool_use"}`
	whole := `{"content":[{"signature":"sig1","thinking":"Lisbon, é?","type":"thinking"},{"data":"dark","type":"redacted_thinking"},` +
		text("", `"Let me see."`) + `,` + calls + `,{"signature":"sig2","thinking":"And Porto","type":"thinking"},` + second + `],"role":"assistant"}`
	without := `{"content":[` + text("", `"Let me see."`) + `,` + calls + `,` + second + `],"role":"assistant"}`
	require.Contains(t, sent(t, req), whole)

	other := req
	other.Model = "other"
	require.Contains(t, sent(t, other), without)

	// What was changed on the way does not fit its layout any more.
	for _, change := range []func(*llm.Message){
		func(m *llm.Message) { m.Text += "!" },
		func(m *llm.Message) { m.Text = "L" },
		func(m *llm.Message) { m.Reasoning = "" },
		func(m *llm.Message) {
			m.Signed = json.RawMessage(`{"model":"m","blocks":[{"kind":"text","bytes":-1}]}`)
		},
		func(m *llm.Message) { m.Signed = json.RawMessage(`[]`) },
	} {
		changed := req
		changed.Messages = append([]llm.Message(nil), req.Messages...)
		change(&changed.Messages[2])
		require.NotContains(t, sent(t, changed), "signature")
	}

	// A server that does not take it gets on without, and says so.
	_, err = p.Chat(t.Context(), req, nil)
	var e *llm.Error
	require.ErrorAs(t, err, &e)
	require.True(t, e.Fallback && e.Retry)
	note := "model m at " + address(s) + " does not accept its own reasoning back: it goes on without it"
	require.Equal(t, note, e.Note)
	res, err = p.Chat(t.Context(), req, nil)
	require.NoError(t, err)
	require.Equal(t, []string{note}, res.Notes)
	require.Contains(t, string(s.Calls()[2].Body), without)
}

// What a server refuses is left out from the next call on, and every later answer says so.
func TestFallbacks(t *testing.T) {
	t.Parallel()
	schema := json.RawMessage(`{"type":"object","properties":{"a":{"type":"string"}}}`)
	withTools := func(r *llm.Request) { r.Tools = []llm.Tool{weather} }
	withSchema := func(r *llm.Request) { r.Schema = schema }
	toolsNote := "model m at SERVER does not accept tools: the agent goes on without them"
	formatNote := "model m at SERVER does not accept output_config: the schema is asked for in words"
	for name, c := range map[string]struct {
		refuse []string
		reply  *modelserver.Reply // the refusal in another's words
		change func(*llm.Request)
		note   string
		gone   string // what the second request is without
	}{
		"tools":                        {refuse: []string{"tools"}, change: withTools, note: toolsNote, gone: `"tools"`},
		"tools, as Ollama says":        {reply: &modelserver.Reply{Status: 400, Error: "registry.ollama.ai/library/m:latest does not support tools"}, change: withTools, note: toolsNote, gone: `"tools"`},
		"output_config":                {refuse: []string{"output_config"}, change: withSchema, note: formatNote, gone: `"output_config"`},
		"output_config of a model":     {reply: &modelserver.Reply{Status: 400, Error: "'m' does not support output format."}, change: withSchema, note: formatNote, gone: `"output_config"`},
		"a schema that it cannot take": {reply: &modelserver.Reply{Status: 400, Error: "output_config.format.schema: Schema is too complex."}, change: withSchema, note: formatNote, gone: `"output_config"`},
		"cache_control": {
			refuse: []string{"cache_control"}, gone: `"cache_control"`,
			note: "model m at SERVER does not accept cache_control: nothing is read from a prompt cache",
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
			note := strings.ReplaceAll(c.note, "SERVER", address(s))
			require.Equal(t, llm.Error{
				Code: task.CodeProviderRefused, Message: e.Message, Status: 400, Retry: true, Fallback: true, Note: note,
			}, *e)
			require.Contains(t, e.Message, "; the next call goes without it")
			for range 2 {
				res, err = p.Chat(t.Context(), req, nil)
				require.NoError(t, err)
				require.Equal(t, "echo: hello", res.Message.Text)
				require.Equal(t, []string{note}, res.Notes)
			}
			calls, err := s.Wait(t.Context(), 3)
			require.NoError(t, err)
			require.Len(t, calls, 3)
			require.Contains(t, string(calls[0].Body), c.gone)
			require.NotContains(t, string(calls[1].Body), c.gone)
			require.Equal(t, calls[1].Body, calls[2].Body)
			if strings.Contains(c.gone, "output_config") {
				require.Contains(t, string(calls[1].Body), "answer with one JSON value")
			}

			// Another model of the same server may well know it.
			req.Model = "other"
			_, _ = p.Chat(t.Context(), req, nil)
			require.Equal(t, string(calls[0].Body), strings.Replace(string(s.Calls()[3].Body), `"other"`, `"m"`, 1))
		})
	}
}

// A mistake in one tool or one message is no refusal of tools: going on without them would hide it.
func TestWrongToolIsNoFallback(t *testing.T) {
	t.Parallel()
	for _, said := range []string{
		"tools.0.custom.input_schema: JSON schema is invalid: 'format' is not supported",
		"tools.0.custom.name: unexpected value",
		"messages.2: `tool_use` ids were found without `tool_result` blocks immediately after: a; unexpected end",
		"messages.1.content.0: unexpected `tool_use_id` found in `tool_result` blocks",
		"temperature: not supported with this model",
		"max_tokens: 100 > 64, which is the maximum allowed number of output tokens for m",
	} {
		_, p := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{Status: 400, Error: said}}}})
		req := ask("hello")
		req.Tools = []llm.Tool{weather}
		_, err := p.Chat(t.Context(), req, nil)
		var e *llm.Error
		require.ErrorAs(t, err, &e)
		require.False(t, e.Fallback || e.Retry, e.Message)
		require.Equal(t, task.CodeProviderRefused, e.Code)
	}
}

// Only who refuses a request refuses a feature: a proxy that is busy, or wants another key, may name one as well.
func TestOtherStatusIsNoFallback(t *testing.T) {
	t.Parallel()
	for _, status := range []int{401, 403, 429, 503, 529} {
		_, p := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{Status: status, Error: "cache_control is not supported"}}}})
		_, err := p.Chat(t.Context(), ask("hello"), nil)
		var e *llm.Error
		require.ErrorAs(t, err, &e)
		require.False(t, e.Fallback, "%d", status)
	}
}

// Each feature is given up once; a server that refuses all ends in an answer or in a final error, never in a loop.
func TestEverythingRefused(t *testing.T) {
	t.Parallel()
	s, p := serve(t, modelserver.Config{Refuse: []string{"cache_control", "thinking", "tools", "output_config"}, Rules: []modelserver.Rule{
		{Reply: modelserver.Reply{Status: 400, Error: "tools, cache_control, thinking, schema: not supported"}},
	}})
	req := ask("hello")
	req.Tools, req.Schema = []llm.Tool{weather}, json.RawMessage(`{"type":"object","properties":{}}`)
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
	require.Len(t, s.Calls(), 4)
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
	require.Equal(t, `{"max_tokens":100,"messages":[{"content":[`+text("", `"hello"`)+`],"role":"user"},`+
		`{"content":[`+text("", `"Let me see.\nCalled tool weather with {}"`)+`],"role":"assistant"},`+
		`{"content":[`+text("", `"Result of tool weather:\nsunny"`)+`],"role":"user"}],"model":"m",`+brief+`,"stream":true}`, string(calls[1].Body))
}

func TestWrongUseIsNoCall(t *testing.T) {
	t.Parallel()
	s, p := serve(t, modelserver.Config{})
	for code, reqs := range map[task.Code][]llm.Request{
		task.CodeInternal: {{}, {Model: "m", MaxTokens: 1}},
		task.CodeBadTask: {
			{Model: "m", MaxTokens: 1, Messages: ask("x").Messages, Tools: []llm.Tool{{Name: "x", Schema: json.RawMessage(`[]`)}}},
			{Model: "m", MaxTokens: 1, Messages: ask("x").Messages, Tools: []llm.Tool{{Name: "x", Schema: json.RawMessage(`null`)}}},
		},
	} {
		for _, req := range reqs {
			_, err := p.Chat(t.Context(), req, nil)
			var e *llm.Error
			require.True(t, errors.As(err, &e))
			require.Equal(t, code, e.Code)
			require.False(t, e.Retry || e.Unknown)
		}
	}
	require.Empty(t, s.Calls())
}
