package modelserver_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/modelserver"
)

func start(t *testing.T, c modelserver.Config) *modelserver.Server {
	t.Helper()
	s, err := modelserver.Start(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// post sends a request and returns the status and the body.
func post(t *testing.T, s *modelserver.Server, body string) (int, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/chat/completions", strings.NewReader(body))
	require.NoError(t, err)
	req.Header.Set("Idempotency-Key", "k")
	req.Header.Set("Authorization", "Bearer right")
	res, err := http.DefaultClient.Do(req)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return res.StatusCode, string(b)
}

const hello = `{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"hello"}]}]`

func TestPlainEcho(t *testing.T) {
	t.Parallel()
	s := start(t, modelserver.Config{Key: "right"})
	before := time.Now()
	status, body := post(t, s, hello+`}`)
	require.Equal(t, http.StatusOK, status)
	require.JSONEq(t, `{"id":"chatcmpl-2","object":"chat.completion","created":0,"model":"m",
		"choices":[{"index":0,"message":{"role":"assistant","content":"echo: hello"},"finish_reason":"stop"}],
		"usage":{"prompt_tokens":3,"completion_tokens":3,"total_tokens":6,"prompt_tokens_details":{"cached_tokens":0},"completion_tokens_details":{"reasoning_tokens":0}}}`, body)

	calls, err := s.Wait(t.Context(), 1)
	require.NoError(t, err)
	c := calls[0]
	require.WithinRange(t, c.In, before, c.Answered)
	c.In, c.Answered, c.Header, c.Request = time.Time{}, time.Time{}, nil, modelserver.Request{}
	require.Equal(t, modelserver.Call{N: 1, API: "chat", URL: "/v1/chat/completions", Key: "k", Body: json.RawMessage(hello + `}`), Status: 200, Whole: true}, c)
}

func TestStream(t *testing.T) {
	t.Parallel()
	s := start(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{
		Text: "ab", ChunkSize: 1, Tools: []modelserver.Use{{Name: "f", Arguments: `{"x":1}`}},
	}}}})
	_, body := post(t, s, hello+`,"stream":true,"stream_options":{"include_usage":true}}`)
	require.True(t, strings.HasSuffix(body, "\n\ndata: [DONE]\n\n"))
	var deltas []string
	for line := range strings.Lines(body) {
		data, ok := strings.CutPrefix(strings.TrimSpace(line), "data: ")
		if !ok || data == "[DONE]" {
			continue
		}
		var p struct {
			Choices []struct {
				Delta  json.RawMessage `json:"delta"`
				Finish json.RawMessage `json:"finish_reason"`
			} `json:"choices"`
			Usage json.RawMessage `json:"usage"`
		}
		require.NoError(t, json.Unmarshal([]byte(data), &p))
		for _, c := range p.Choices {
			deltas = append(deltas, string(c.Delta)+" "+string(c.Finish))
		}
		if p.Usage != nil {
			deltas = append(deltas, string(p.Usage))
		}
	}
	require.Equal(t, []string{
		`{"content":"","role":"assistant"} null`,
		`{"content":"a"} null`,
		`{"content":"b"} null`,
		`{"tool_calls":[{"function":{"arguments":"","name":"f"},"id":"call_2_0","index":0,"type":"function"}]} null`,
		`{"tool_calls":[{"function":{"arguments":"{\"x"},"index":0}]} null`,
		`{"tool_calls":[{"function":{"arguments":"\":1}"},"index":0}]} null`,
		`{} "tool_calls"`,
		`{"completion_tokens":3,"completion_tokens_details":{"reasoning_tokens":0},"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":0},"total_tokens":6}`,
	}, deltas)
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	s := start(t, modelserver.Config{Refuse: []string{"tools", "response_format", "stream_options", "stream", "max_tokens", "max_completion_tokens"}})
	for feature, field := range map[string]string{
		"tools": `"tools":[{}]`, "response_format": `"response_format":{}`, "stream_options": `"stream_options":{}`,
		"stream": `"stream":true`, "max_tokens": `"max_tokens":1`, "max_completion_tokens": `"max_completion_tokens":1`,
	} {
		status, body := post(t, s, hello+`,`+field+`}`)
		require.Equal(t, http.StatusBadRequest, status)
		require.JSONEq(t, `{"error":{"message":"Unsupported parameter: '`+feature+`' is not supported with this model.","type":"invalid_request_error","param":"`+feature+`","code":"unsupported_parameter"}}`, body)
	}
	status, _ := post(t, s, hello+`}`)
	require.Equal(t, http.StatusOK, status)
	status, body := post(t, s, `{"model":`)
	require.Equal(t, http.StatusBadRequest, status)
	require.Contains(t, body, "the body is no request")
	require.Equal(t, `"{\"model\":"`, string(s.Calls()[7].Body))

	s = start(t, modelserver.Config{Key: "another"})
	status, _ = post(t, s, hello+`}`)
	require.Equal(t, http.StatusUnauthorized, status)
}

func TestScript(t *testing.T) {
	t.Parallel()
	rules, err := modelserver.ParseScript([]byte(`
- {when: {call: 1}, reply: {status: 429, retryAfter: "2", error: slow down, code: rate}}
- {when: {model: other}, reply: {text: by model}}
- {when: {system: ^s$, prompt: hel+o}, times: 1, reply: {text: by text, delay: 1ms}}
- {when: {tool: sunny}, reply: {text: by tool}}
- reply: {toolLoop: true, text: again}
`))
	require.NoError(t, err)
	s := start(t, modelserver.Config{Rules: rules})
	status, body := post(t, s, hello+`}`)
	require.Equal(t, http.StatusTooManyRequests, status)
	require.JSONEq(t, `{"error":{"message":"slow down","type":"invalid_request_error","param":null,"code":"rate"}}`, body)
	for _, c := range []struct{ body, want string }{
		{strings.Replace(hello, `"m"`, `"other"`, 1) + `}`, `"content":"by model"`},
		{hello + `}`, `"content":"by text"`},
		{strings.TrimSuffix(hello, "]") + `,{"role":"tool","content":"sunny"}]}`, `"content":"by tool"`},
		{hello + `,"tools":[{"function":{"name":"f"}}]}`, `"tool_calls":[{"id":"call_2_0","type":"function","function":{"name":"f","arguments":"{}"}}]`},
	} {
		_, body := post(t, s, c.body)
		require.Contains(t, body, c.want)
	}

	for src, want := range map[string]string{
		"- {reply: {txt: x}}":     "script of the model server: yaml: unmarshal errors:\n  line 1: field txt not found in type modelserver.Reply",
		"- {when: {prompt: '('}}": "script of the model server: line 1: error parsing regexp: missing closing ): `(`",
	} {
		_, err := modelserver.ParseScript([]byte(src))
		require.EqualError(t, err, want)
	}
}

// Every fault is in the log, and none of them counts as a whole answer.
func TestFaultsAreLogged(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	faults := []string{
		modelserver.FaultReset, modelserver.FaultCut, modelserver.FaultEnd, modelserver.FaultHeaders,
		modelserver.FaultHuge, modelserver.FaultLine, modelserver.FaultBomb,
	}
	s := start(t, modelserver.Config{Log: &log, Answer: func(c modelserver.Call) *modelserver.Reply {
		return &modelserver.Reply{Text: "hello", Fault: faults[c.N-1], After: 10, Size: 1 << 20}
	}})
	for i := range faults {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/chat/completions", strings.NewReader(hello+`}`))
		require.NoError(t, err)
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			_, _ = io.Copy(io.Discard, res.Body)
			_ = res.Body.Close()
		}
		_, err = s.Wait(t.Context(), i+1)
		require.NoError(t, err)
	}
	for i, c := range s.Calls() {
		require.Equal(t, faults[i], c.Fault)
		require.False(t, c.Whole, c.Fault)
	}
	n := 0
	for lines := bufio.NewScanner(&log); lines.Scan(); n++ {
		var c modelserver.Call
		require.NoError(t, json.Unmarshal(lines.Bytes(), &c))
		require.Equal(t, n+1, c.N)
		require.Equal(t, faults[n], c.Fault)
	}
	require.Equal(t, len(faults), n)
}

// A client that goes away is in the log, and a server that ends lets nobody hang.
func TestClientGoesAndServerEnds(t *testing.T) {
	t.Parallel()
	s := start(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{Delay: time.Hour}}}})
	done := make(chan error, 2)
	call := func() {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL()+"/chat/completions", strings.NewReader(hello+`}`))
		if err == nil {
			var res *http.Response
			if res, err = http.DefaultClient.Do(req); err == nil {
				_ = res.Body.Close()
			}
		}
		done <- err
	}
	go call()
	calls, err := s.WaitIn(t.Context(), 1)
	require.NoError(t, err)
	require.True(t, calls[0].Answered.IsZero())
	require.NoError(t, s.Close())
	require.Error(t, <-done)
	calls, err = s.Wait(t.Context(), 1)
	require.NoError(t, err)
	require.False(t, calls[0].Whole)
	require.Zero(t, calls[0].Status)
}

func TestLogAndModelsOverHTTP(t *testing.T) {
	t.Parallel()
	s := start(t, modelserver.Config{})
	post(t, s, hello+`}`)
	_, err := s.Wait(t.Context(), 1)
	require.NoError(t, err)
	for path, want := range map[string]string{"/calls": `"key":"k"`, "/v1/models": `"id":"echo"`} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, strings.TrimSuffix(s.URL(), "/v1")+path, nil)
		require.NoError(t, err)
		res, err := http.DefaultClient.Do(req)
		require.NoError(t, err)
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Contains(t, string(b), want)
	}
}
