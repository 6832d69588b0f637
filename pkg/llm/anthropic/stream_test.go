package anthropic_test

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
	"arkonis.dev/ark/pkg/llm/anthropic"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/task"
)

var update = flag.Bool("update", false, "write what the streams in testdata give")

// canned answers every request with the same bytes.
type canned struct {
	status int
	body   []byte
}

func (c canned) RoundTrip(r *http.Request) (*http.Response, error) {
	_, _ = io.Copy(io.Discard, r.Body)
	_ = r.Body.Close()
	return &http.Response{
		Status: http.StatusText(c.status), StatusCode: c.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"text/event-stream"}}, Body: io.NopCloser(bytes.NewReader(c.body)), Request: r,
	}, nil
}

func (c canned) provider(t testing.TB) *anthropic.Provider {
	t.Helper()
	p, err := anthropic.New(anthropic.Config{BaseURL: "http://server", APIKey: "sk-ant-test-secret", HTTPClient: &http.Client{Transport: c}})
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

func hear(t testing.TB, p *anthropic.Provider, req llm.Request) heard {
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
			h := hear(t, canned{200, a.Files[0].Data}.provider(t), ask("hello"))
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

// full is an answer with everything in it.
var full = modelserver.Reply{
	Text: "Let me see: é", Reasoning: "hm", Signature: "c2ln", ChunkSize: 5,
	Usage: &modelserver.Usage{Prompt: 9, Completion: 5, Cached: 3, CacheWrite: 2, Reasoning: 1},
	Tools: []modelserver.Use{{Name: "weather", Arguments: `{"city":"Lisbon"}`}, {ID: "none", Name: "time"}},
}

// TestCutAtEveryByte cuts a stream at each of its bytes, with a connection that breaks and with a body that merely
// ends. Before the stop reason that is an error of unknown outcome, charged in full because the beginning tells only
// the input; from then on it is the whole answer, with its usage.
func TestCutAtEveryByte(t *testing.T) {
	t.Parallel()
	req := ask("hello")
	req.Tools = []llm.Tool{weather}
	var body []byte
	ref, _ := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: full}}})
	tee := &http.Client{Transport: teeTransport{&body}}
	want := hear(t, provider(t, anthropic.Config{BaseURL: ref.URL(), HTTPClient: tee}), req)
	require.NotNil(t, want.Response)
	require.Len(t, want.Response.Message.ToolCalls, 2)
	stop := bytes.Index(body, []byte(`"stop_reason":"tool_use"`))
	stop += bytes.IndexByte(body[stop:], '\n') // the piece is whole with its last brace

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
				if n < stop {
					require.Nil(t, h.Response, "%d", n)
					require.Equal(t, task.CodeProviderFailed, h.Error.Code, "%d", n)
					require.True(t, h.Error.Unknown && h.Error.Retry && !h.Error.Fallback, "%d", n)
					require.Nil(t, h.Error.Usage, "%d", n)
				} else {
					require.Nil(t, h.Error, "%d", n)
					require.Equal(t, want.Response, h.Response, "%d", n)
				}
				require.True(t, strings.HasPrefix(want.Text, h.Text), "%d", n)
			}
		})
	}
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
	var got []heard
	for _, plain := range []bool{false, true} {
		reply := full
		reply.Plain = plain
		_, p := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: reply}}})
		got = append(got, hear(t, p, ask("hello")))
	}
	require.Equal(t, got[0], got[1])
	second := got[0].Response.Message.ToolCalls[1].ID
	require.NotEmpty(t, second)
	require.Equal(t, &llm.Response{
		Message: llm.Message{
			Role: llm.RoleAssistant, Text: "Let me see: é", Reasoning: "hm",
			ToolCalls: []llm.ToolCall{{ID: "toolu_2_0", Name: "weather", Arguments: `{"city":"Lisbon"}`}, {ID: second, Name: "time", Arguments: "{}"}},
			Signed: json.RawMessage(`{"model":"m","blocks":[{"kind":"thinking","bytes":2,"signed":"c2ln"},{"kind":"text","bytes":14},` +
				`{"kind":"tool_use"},{"kind":"tool_use"}]}`),
		},
		Usage:  task.Usage{InputTokens: 9, OutputTokens: 5, CachedTokens: 3, ReasoningTokens: 1},
		Finish: llm.FinishToolCalls, Model: "m", ID: "msg_2",
	}, got[0].Response)
}

// FuzzAnswer feeds answers of any kind: there is a whole response or an error, and never a panic, a secret or a delay;
// and a response can always go back.
func FuzzAnswer(f *testing.F) {
	files, err := filepath.Glob("testdata/streams/*.txtar")
	require.NoError(f, err)
	for _, file := range files {
		a, err := txtar.ParseFile(file)
		require.NoError(f, err)
		f.Add(uint16(0), a.Files[0].Data)
	}
	f.Add(uint16(229), []byte(`{"type":"error","error":{"message":"slow down","type":"rate_limit_error"}}`))
	f.Add(uint16(200), []byte(`{"type":"error","error":{"message":"system.0.cache_control: Extra inputs are not permitted"}}`))
	f.Add(uint16(222), []byte(`{"detail":[{"loc":["body","tools",0],"msg":"x","type":"y"}]}`))
	f.Add(uint16(329), []byte(`sk-ant-test-secret`))
	req := ask("hello")
	req.Tools = []llm.Tool{weather}
	f.Fuzz(func(t *testing.T, status uint16, body []byte) {
		start := time.Now()
		p := canned{int(200 + status%400), body}.provider(t)
		h := hear(t, p, req)
		if d := time.Since(start); d > 10*time.Second {
			t.Fatalf("%d bytes took %s", len(body), d)
		}
		require.NotEqual(t, h.Response == nil, h.Error == nil)
		if h.Error != nil {
			require.NotContains(t, h.Error.Message, "sk-ant-test-secret")
			require.Less(t, len(h.Error.Message), 2000)
			require.NotEmpty(t, h.Error.Code)
			return
		}
		require.NotEmpty(t, h.Response.Finish)
		require.GreaterOrEqual(t, h.Response.Usage.InputTokens, int64(1))
		require.GreaterOrEqual(t, h.Response.Usage.OutputTokens, int64(0))
		require.LessOrEqual(t, h.Response.Usage.CachedTokens, h.Response.Usage.InputTokens)
		again := req
		again.Messages = append(again.Messages[:2:2], h.Response.Message)
		ids := map[string]bool{}
		for _, c := range h.Response.Message.ToolCalls {
			require.NotEmpty(t, c.ID)
			require.False(t, ids[c.ID], "ids are unique")
			ids[c.ID] = true
			again.Messages = append(again.Messages, llm.Message{Role: llm.RoleTool, ToolID: c.ID, Text: "x"})
		}
		_ = hear(t, p, again)
	})
}
