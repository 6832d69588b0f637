package openai_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/llm/openai"
	"arkonis.dev/ark/pkg/task"
)

var update = flag.Bool("update", false, "write what the streams in testdata give")

// canned answers every request with the same bytes.
type canned struct {
	status      int
	contentType string
	body        []byte
}

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	_, _ = io.Copy(io.Discard, r.Body)
	_ = r.Body.Close()
	return &http.Response{
		Status: http.StatusText(c.status), StatusCode: c.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {c.contentType}}, Body: io.NopCloser(bytes.NewReader(c.body)), Request: r,
	}, nil
}

func (c canned) provider(t testing.TB) *openai.Provider {
	t.Helper()
	p, err := openai.New(openai.Config{BaseURL: "http://server/v1", APIKey: "sk-test-secret", HTTPClient: &http.Client{Transport: c}})
	require.NoError(t, err)
	return p
}

// heard is everything that a call gave, for comparison as JSON.
type heard struct {
	Response *llm.Response `json:"response,omitempty"`
	Error    *llm.Error    `json:"error,omitempty"`
	Text     string        `json:"chunks,omitempty"`
	Thought  string        `json:"reasoningChunks,omitempty"`
}

func hear(t testing.TB, p *openai.Provider, req llm.Request) heard {
	t.Helper()
	var h heard
	res, err := p.Chat(t.Context(), req, func(c llm.Chunk) {
		h.Text += c.Text
		h.Thought += c.Reasoning
	})
	h.Response = res
	if err != nil {
		require.True(t, errors.As(err, &h.Error), "%v", err)
		h.Error.Err = nil
	}
	return h
}

// TestStreams plays what servers send, each in a file of testdata/streams: "body" is the answer, "want" what comes of
// it.
func TestStreams(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/streams/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			a, err := txtar.ParseFile(file)
			require.NoError(t, err)
			require.Len(t, a.Files, 2, "body and want")
			require.Equal(t, "body", a.Files[0].Name)
			h := hear(t, canned{200, "text/event-stream", a.Files[0].Data}.provider(t), ask("hello"))
			got, err := json.MarshalIndent(h, "", "  ")
			require.NoError(t, err)
			got = append(got, '\n')
			if *update {
				a.Files[1].Data = got
				require.NoError(t, os.WriteFile(file, txtar.Format(a), 0o644))
			}
			require.Equal(t, string(a.Files[1].Data), string(got))
		})
	}
}

// TestCutAtEveryByte cuts a stream at each of its bytes, with a connection that breaks and with a body that merely
// ends. Before the finish reason that is an error of unknown outcome, from then on the whole answer.
func TestCutAtEveryByte(t *testing.T) {
	t.Parallel()
	full := modelserver.Reply{
		Text: "Let me see: é", Reasoning: "hm", ChunkSize: 5,
		Tools: []modelserver.Use{{Name: "weather", Arguments: `{"city":"Lisbon"}`}, {ID: "none", Name: "time"}},
	}
	req := ask("hello")
	req.Tools = []llm.Tool{weather}
	var body []byte
	ref, _ := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: full}}})
	tee := &http.Client{Transport: teeTransport{&body}}
	want := hear(t, provider(t, openai.Config{BaseURL: ref.URL(), HTTPClient: tee}), req)
	require.NotNil(t, want.Response)
	require.Len(t, want.Response.Message.ToolCalls, 2)
	finish := bytes.Index(body, []byte(`"finish_reason":"tool_calls"`))
	finish += bytes.IndexByte(body[finish:], '\n') // the piece is whole with its last brace
	usage := bytes.Index(body, []byte("[DONE]")) - len("\n\ndata: ")
	require.Greater(t, usage, finish)

	for _, fault := range []string{modelserver.FaultCut, modelserver.FaultEnd} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			_, p := serve(t, modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
				r := full
				r.Fault, r.After = fault, c.N
				return &r
			}})
			for n := 1; n < len(body); n++ {
				h := hear(t, p, req)
				switch {
				case n < finish:
					require.Nil(t, h.Response, "%d", n)
					require.Equal(t, task.CodeProviderFailed, h.Error.Code, "%d", n)
					require.True(t, h.Error.Unknown && h.Error.Retry && !h.Error.Fallback, "%d", n)
				default:
					require.Nil(t, h.Error, "%d", n)
					got := *h.Response
					require.Equal(t, n < usage, got.UsageMissing, "%d", n)
					if got.UsageMissing {
						require.Equal(t, task.Usage{InputTokens: llm.InputBound(req), OutputTokens: 100}, got.Usage)
						got.UsageMissing, got.Usage = false, want.Response.Usage
					}
					require.Equal(t, *want.Response, got, "%d", n)
				}
				require.True(t, strings.HasPrefix(want.Text, h.Text), "%d", n)
			}
		})
	}
}

// A usage that counts along is no usage of a call that was cut: more may have followed, and the call is charged in full.
func TestUsageOfACutCall(t *testing.T) {
	t.Parallel()
	const piece = `data: {"choices":[{"index":0,"delta":{"content":"a"}}],"usage":{"prompt_tokens":10,"completion_tokens":1}}` + "\n\n"
	const apart = `data: {"choices":[],"usage":{"prompt_tokens":10,"completion_tokens":3}}` + "\n\n"
	h := hear(t, canned{200, "text/event-stream", []byte(piece + piece)}.provider(t), ask("hello"))
	require.True(t, h.Error.Unknown)
	require.Nil(t, h.Error.Usage)
	h = hear(t, canned{200, "text/event-stream", []byte(piece + apart)}.provider(t), ask("hello"))
	require.True(t, h.Error.Unknown)
	require.Equal(t, &task.Usage{InputTokens: 10, OutputTokens: 3}, h.Error.Usage)
}

// teeTransport keeps what the server sent.
type teeTransport struct{ body *[]byte }

func (r teeTransport) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = res.Body.Close() }()
	*r.body, err = io.ReadAll(res.Body)
	kept := *res
	kept.Body = io.NopCloser(bytes.NewReader(*r.body))
	return &kept, err
}

// The same answer comes out whether the server streams or not.
func TestPlainAnswerIsTheSame(t *testing.T) {
	t.Parallel()
	reply := modelserver.Reply{
		Text: "Let me see", Reasoning: "hm", Usage: &modelserver.Usage{Prompt: 9, Completion: 5, Cached: 3, Reasoning: 1},
		Tools: []modelserver.Use{{Name: "weather", Arguments: `{"city":"Lisbon"}`}, {ID: "none", Name: "time"}},
	}
	var got []heard
	for _, plain := range []bool{false, true} {
		reply.Plain = plain
		_, p := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: reply}}})
		got = append(got, hear(t, p, ask("hello")))
	}
	require.Equal(t, got[0], got[1])
	require.Equal(t, &llm.Response{
		Message: llm.Message{
			Role: llm.RoleAssistant, Text: "Let me see", Reasoning: "hm",
			ToolCalls: []llm.ToolCall{{ID: "call_2_0", Name: "weather", Arguments: `{"city":"Lisbon"}`}, {ID: got[0].Response.Message.ToolCalls[1].ID, Name: "time", Arguments: "{}"}},
		},
		Usage:  task.Usage{InputTokens: 9, OutputTokens: 5, CachedTokens: 3, ReasoningTokens: 1},
		Finish: llm.FinishToolCalls, Model: "m", ID: "chatcmpl-2",
	}, got[0].Response)
}

// FuzzAnswer feeds answers of any kind: there is a whole response or an error, and never a panic, a secret or a delay.
func FuzzAnswer(f *testing.F) {
	files, err := filepath.Glob("testdata/streams/*.txtar")
	require.NoError(f, err)
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		require.NoError(f, err)
		f.Add(uint16(200), a.Files[0].Data)
	}
	f.Add(uint16(429), []byte(`{"error":{"message":"slow down","code":"rate_limit_exceeded"}}`))
	f.Add(uint16(400), []byte(`{"error":{"message":"'max_tokens' is not supported: use 'max_completion_tokens'","param":"max_tokens"}}`))
	f.Add(uint16(422), []byte(`{"detail":[{"loc":["body","tools",0],"msg":"x","type":"y"}]}`))
	f.Add(uint16(503), []byte(`sk-test-secret`))
	req := ask("hello")
	req.Tools = []llm.Tool{weather}
	f.Fuzz(func(t *testing.T, status uint16, body []byte) {
		status = 200 + status%400
		start := time.Now()
		h := hear(t, canned{int(status), "application/json", body}.provider(t), req)
		if d := time.Since(start); d > 10*time.Second {
			t.Fatalf("%d bytes took %s", len(body), d)
		}
		require.NotEqual(t, h.Response == nil, h.Error == nil)
		if h.Error != nil {
			require.NotContains(t, h.Error.Message, "sk-test-secret")
			require.Less(t, len(h.Error.Message), 2000)
			require.NotEmpty(t, h.Error.Code)
			return
		}
		require.NotEmpty(t, h.Response.Finish)
		require.GreaterOrEqual(t, h.Response.Usage.InputTokens, int64(1))
		require.GreaterOrEqual(t, h.Response.Usage.OutputTokens, int64(0))
		ids := map[string]bool{}
		for _, c := range h.Response.Message.ToolCalls {
			require.NotEmpty(t, c.ID)
			require.False(t, ids[c.ID], "ids are unique")
			ids[c.ID] = true
		}
	})
}
