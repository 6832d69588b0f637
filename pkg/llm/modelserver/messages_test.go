package modelserver_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/modelserver"
)

// postMessages sends a request of the messages API and returns the status and the body.
func postMessages(t *testing.T, s *modelserver.Server, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/messages", strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("X-Api-Key", "right")
	req.Header.Set("anthropic-version", "2023-06-01")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(b)
}

const hi = `{"model":"m","max_tokens":9,"system":[{"type":"text","text":"s"}],"messages":[{"role":"user","content":"hello"}`

func TestMessagesPlainEcho(t *testing.T) {
	t.Parallel()
	s := start(t, modelserver.Config{Key: "right"})
	status, body := postMessages(t, s, hi+`]}`)
	require.Equal(t, http.StatusOK, status)
	require.JSONEq(t, `{"id":"msg_2","type":"message","role":"assistant","model":"m","content":[{"type":"text","text":"echo: hello"}],
		"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":3,"output_tokens":3,"cache_read_input_tokens":0,
		"cache_creation_input_tokens":0,"output_tokens_details":{"thinking_tokens":0}}}`, body)
	require.Equal(t, modelserver.APIMessages, s.Calls()[0].API)

	s = start(t, modelserver.Config{Key: "another"})
	status, body = postMessages(t, s, hi+`]}`)
	require.Equal(t, http.StatusUnauthorized, status)
	require.JSONEq(t, `{"type":"error","request_id":"req_1","error":{"type":"authentication_error","message":"Incorrect API key provided."}}`, body)
}

func TestMessagesStream(t *testing.T) {
	t.Parallel()
	s := start(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{
		Text: "ab", ChunkSize: 1, Reasoning: "r", Signature: "sig", Finish: "length",
		Tools: []modelserver.Use{{Name: "f", Arguments: `{"x":1}`}, {ID: "none", Name: "g"}},
		Usage: &modelserver.Usage{Prompt: 10, Cached: 5, CacheWrite: 2, Completion: 4, Reasoning: 1},
	}}}})
	_, body := postMessages(t, s, hi+`],"stream":true}`)
	var kinds, data []string
	for line := range strings.Lines(body) {
		if kind, ok := strings.CutPrefix(strings.TrimSpace(line), "event: "); ok {
			kinds = append(kinds, kind)
		}
		if d, ok := strings.CutPrefix(strings.TrimSpace(line), "data: "); ok {
			require.Contains(t, d, `"type":"`+kinds[len(kinds)-1]+`"`)
			data = append(data, d)
		}
	}
	require.Equal(t, []string{
		`{"message":{"content":[],"id":"msg_2","model":"m","role":"assistant","stop_reason":null,"stop_sequence":null,"type":"message","usage":{"cache_creation_input_tokens":2,"cache_read_input_tokens":5,"input_tokens":3,"output_tokens":1,"output_tokens_details":{"thinking_tokens":1}}},"type":"message_start"}`,
		`{"type":"ping"}`,
		`{"content_block":{"signature":"","thinking":"","type":"thinking"},"index":0,"type":"content_block_start"}`,
		`{"delta":{"thinking":"r","type":"thinking_delta"},"index":0,"type":"content_block_delta"}`,
		`{"delta":{"signature":"sig","type":"signature_delta"},"index":0,"type":"content_block_delta"}`,
		`{"index":0,"type":"content_block_stop"}`,
		`{"content_block":{"text":"","type":"text"},"index":1,"type":"content_block_start"}`,
		`{"delta":{"text":"a","type":"text_delta"},"index":1,"type":"content_block_delta"}`,
		`{"delta":{"text":"b","type":"text_delta"},"index":1,"type":"content_block_delta"}`,
		`{"index":1,"type":"content_block_stop"}`,
		`{"content_block":{"id":"toolu_2_0","input":{},"name":"f","type":"tool_use"},"index":2,"type":"content_block_start"}`,
		`{"delta":{"partial_json":"{\"x","type":"input_json_delta"},"index":2,"type":"content_block_delta"}`,
		`{"delta":{"partial_json":"\":1}","type":"input_json_delta"},"index":2,"type":"content_block_delta"}`,
		`{"index":2,"type":"content_block_stop"}`,
		`{"content_block":{"id":"","input":{},"name":"g","type":"tool_use"},"index":3,"type":"content_block_start"}`,
		`{"index":3,"type":"content_block_stop"}`,
		`{"delta":{"stop_reason":"max_tokens","stop_sequence":null},"type":"message_delta","usage":{"cache_creation_input_tokens":2,"cache_read_input_tokens":5,"input_tokens":3,"output_tokens":4,"output_tokens_details":{"thinking_tokens":1}}}`,
		`{"type":"message_stop"}`,
	}, data)
}

// What Anthropic refuses is refused here, so that a client that passes here passes there.
func TestMessagesRefusals(t *testing.T) {
	t.Parallel()
	s := start(t, modelserver.Config{Refuse: []string{"tools", "output_config", "cache_control", "thinking"}})
	for part, want := range map[string]string{
		`],"tools":[{"name":"f"}]`:  "tools: Extra inputs are not permitted",
		`],"output_config":{"a":1}`: "output_config: Extra inputs are not permitted",
		`,{"role":"user","content":[{"type":"text","text":"x","cache_control":{}}]}]`:                                 "cache_control: Extra inputs are not permitted",
		`,{"role":"assistant","content":[{"type":"thinking"}]}]`:                                                      "thinking: Extra inputs are not permitted",
		`,{"role":"user","content":" "}]`:                                                                             "messages.1.content.0: text content blocks must contain non-whitespace text",
		`,{"role":"user","content":[{"type":"x"}]}]`:                                                                  `messages.1.content.0: Input tag "x" found using 'type' does not match any of the expected tags`,
		`,{"role":"user","content":[{"type":"tool_result","content":5}]}]`:                                            "messages.1.content.0: content is neither a text nor a list of parts",
		`,{"role":"assistant","content":[{"type":"tool_use","id":"a"}]}]`:                                             "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: a",
		`,{"role":"assistant","content":[{"type":"tool_use","id":"a"}]},{"role":"user","content":"b"}]`:               "messages.1: `tool_use` ids were found without `tool_result` blocks immediately after: a",
		`],"x":[{"cache_control":1},{"cache_control":1},{"cache_control":1},{"cache_control":1},{"cache_control":1}]`: "A maximum of 4 blocks with cache_control may be provided. Found 5.",
		`,5]`: "the body is no request: json: cannot unmarshal number into Go struct field messagesRequest.messages of type modelserver.messagesEntry",
	} {
		status, body := postMessages(t, s, hi+part+`}`)
		require.Equal(t, http.StatusBadRequest, status, part)
		require.JSONEq(t, `{"type":"error","request_id":"req_1","error":{"type":"invalid_request_error","message":`+quoted(want)+`}}`, body)
	}
	status, body := postMessages(t, s, `{"model":"m","max_tokens":9,"messages":[]}`)
	require.Equal(t, http.StatusBadRequest, status)
	require.Contains(t, body, "messages: at least one message is required")
	status, body = postMessages(t, s, `{"model":"m","messages":[{"role":"user","content":"x"}]}`)
	require.Equal(t, http.StatusBadRequest, status)
	require.Contains(t, body, "max_tokens: Field required")
	res, err := http.Post(s.URL()+"/messages", "application/json", strings.NewReader(hi+`]}`)) //nolint:noctx // no header, on purpose
	require.NoError(t, err)
	require.NoError(t, res.Body.Close())
	require.Equal(t, http.StatusBadRequest, res.StatusCode)
}

func quoted(s string) string { return `"` + strings.ReplaceAll(s, `"`, `\"`) + `"` }

// One script serves both protocols: rules see the same conversation.
func TestMessagesScript(t *testing.T) {
	t.Parallel()
	rules, err := modelserver.ParseScript([]byte(`
- {when: {call: 1}, reply: {status: 529, retryAfter: "2", error: Overloaded}}
- {when: {tool: sunny}, reply: {text: by tool}}
- {when: {system: ^s$, prompt: hel+o}, times: 1, reply: {text: by text, signature: x}}
- reply: {toolLoop: true}
`))
	require.NoError(t, err)
	s := start(t, modelserver.Config{Rules: rules})
	status, body := postMessages(t, s, hi+`]}`)
	require.Equal(t, 529, status)
	require.Contains(t, body, `"type":"overloaded_error"`)
	_, body = postMessages(t, s, hi+`]}`)
	require.Contains(t, body, `"content":[{"signature":"x","thinking":"","type":"thinking"},{"text":"by text","type":"text"}]`)
	_, body = postMessages(t, s, hi+`,{"role":"assistant","content":[{"type":"tool_use","id":"a","name":"f","input":{}}]},`+
		`{"role":"user","content":[{"type":"tool_result","tool_use_id":"a","content":[{"type":"text","text":"sunny"}]}]}]}`)
	require.Contains(t, body, `by tool`)
	_, body = postMessages(t, s, hi+`],"tools":[{"name":"f","input_schema":{}}]}`)
	require.Contains(t, body, `"content":[{"id":"toolu_2_0","input":{},"name":"f","type":"tool_use"}]`)
	require.Contains(t, body, `"stop_reason":"tool_use"`)
}
