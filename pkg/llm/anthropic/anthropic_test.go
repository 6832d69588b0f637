package anthropic_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/anthropic"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/task"
)

// serve starts a model server, and a provider that talks to it.
func serve(t *testing.T, c modelserver.Config) (*modelserver.Server, *anthropic.Provider) {
	t.Helper()
	s, err := modelserver.Start(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s, provider(t, anthropic.Config{BaseURL: s.URL(), APIKey: "sk-ant-test-secret"})
}

// address is a server as the provider names it.
func address(s *modelserver.Server) string { return strings.TrimSuffix(s.URL(), "/v1") }

func provider(t *testing.T, c anthropic.Config) *anthropic.Provider {
	t.Helper()
	if c.HTTPClient == nil {
		transport := &http.Transport{MaxResponseHeaderBytes: 256 << 10, MaxIdleConnsPerHost: 8}
		t.Cleanup(transport.CloseIdleConnections)
		c.HTTPClient = &http.Client{Transport: transport}
	}
	p, err := anthropic.New(c)
	require.NoError(t, err)
	return p
}

func ask(prompt string) llm.Request {
	return llm.Request{
		Model: "m", MaxTokens: 100, Key: "task-1",
		Messages: []llm.Message{{Role: llm.RoleSystem, Text: "be brief"}, {Role: llm.RoleUser, Text: prompt}},
	}
}

func TestAnswerStreams(t *testing.T) {
	t.Parallel()
	s, p := serve(t, modelserver.Config{Key: "sk-ant-test-secret"})
	require.Equal(t, llm.Anthropic, p.Name())
	var heard string
	res, err := p.Chat(t.Context(), ask("hello"), func(c llm.Chunk) { heard += c.Text })
	require.NoError(t, err)
	require.Equal(t, &llm.Response{
		Message: llm.Message{Role: llm.RoleAssistant, Text: "echo: hello"},
		Usage:   task.Usage{InputTokens: 4, OutputTokens: 3},
		Finish:  llm.FinishStop,
		Model:   "m",
		ID:      "msg_2",
	}, res)
	require.Equal(t, "echo: hello", heard)

	calls, err := s.Wait(t.Context(), 1)
	require.NoError(t, err)
	require.Len(t, calls, 1)
	require.Equal(t, modelserver.APIMessages, calls[0].API)
	require.Equal(t, "/v1/messages", calls[0].URL)
	require.Equal(t, "task-1", calls[0].Key)
	require.Equal(t, "2023-06-01", calls[0].Header.Get("anthropic-version"))
	require.Equal(t, "identity", calls[0].Header.Get("Accept-Encoding"))
	require.Equal(t, http.StatusOK, calls[0].Status)
	require.True(t, calls[0].Whole)
	require.Equal(t, `{"max_tokens":100,"messages":[{"content":[{"text":"hello","type":"text"}],"role":"user"}],"model":"m",`+
		`"system":[{"text":"be brief","cache_control":{"type":"ephemeral"},"type":"text"}],"stream":true}`, string(calls[0].Body))
}

// What was read from the cache, and what was written to it, is input too.
func TestCachedTokens(t *testing.T) {
	t.Parallel()
	for _, plain := range []bool{false, true} {
		_, p := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{
			Text: "hi", Plain: plain, Usage: &modelserver.Usage{Prompt: 1000, Cached: 700, CacheWrite: 200, Completion: 9, Reasoning: 4},
		}}}})
		res, err := p.Chat(t.Context(), ask("hello"), nil)
		require.NoError(t, err)
		require.Equal(t, task.Usage{InputTokens: 1000, CachedTokens: 700, OutputTokens: 9, ReasoningTokens: 4}, res.Usage)
	}
}

// Connections are kept: each whole answer is read to its end, whatever form it has.
func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	s := modelserver.New(modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		return &modelserver.Reply{Text: "hi", Plain: c.N%3 == 0, ChunkDelay: time.Duration(c.N%2) * time.Millisecond}
	}})
	ts := httptest.NewUnstartedServer(s)
	var opened atomic.Int32
	ts.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	ts.Start()
	t.Cleanup(ts.Close)
	p := provider(t, anthropic.Config{BaseURL: ts.URL})
	for range 20 {
		_, err := p.Chat(t.Context(), ask("hello"), nil)
		require.NoError(t, err)
	}
	require.Equal(t, int32(1), opened.Load())
}

func TestTraceGoesOn(t *testing.T) {
	t.Parallel()
	s, p := serve(t, modelserver.Config{})
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	_, err := p.Chat(trace.ContextWithSpanContext(t.Context(), span), ask("hello"), nil)
	require.NoError(t, err)
	require.Equal(t, "00-01000000000000000000000000000000-0200000000000000-01", s.Calls()[0].Header.Get("traceparent"))
}

// A base URL may end where its user thinks that it should, and the environment of the process changes nothing.
func TestBaseURLAndHeaders(t *testing.T) {
	t.Setenv("ANTHROPIC_API_KEY", "from-the-environment")
	t.Setenv("ANTHROPIC_AUTH_TOKEN", "from-the-environment")
	t.Setenv("ANTHROPIC_BASE_URL", "http://nowhere.invalid")
	s, _ := serve(t, modelserver.Config{})
	for _, end := range []string{"", "/", "/v1", "/v1/", "/v1/messages", "/v1/messages?api-version=1&x=a&x=b"} {
		p := provider(t, anthropic.Config{BaseURL: address(s) + end, Headers: map[string]string{"Authorization": "Bearer red"}})
		_, err := p.Chat(t.Context(), ask("hello"), nil)
		require.NoError(t, err)
	}
	calls := s.Calls()
	for _, c := range calls[:5] {
		require.Equal(t, "/v1/messages", c.URL)
	}
	require.Equal(t, "/v1/messages?api-version=1&x=a&x=b", calls[5].URL)
	require.Equal(t, "Bearer red", calls[0].Header.Get("Authorization"))
	require.Empty(t, calls[0].Header.Get("X-Api-Key"))
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"ftp://user:password1@x": `base URL of the model server "ftp://user:xxxxx@x": want http or https and a host, such as https://api.anthropic.com`,
		"localhost:11434":        `base URL of the model server "localhost:11434": want http or https and a host, such as https://api.anthropic.com`,
		"http://[::1":            `base URL of the model server does not parse: want one such as https://api.anthropic.com`,
	} {
		_, err := anthropic.New(anthropic.Config{BaseURL: in})
		require.EqualError(t, err, want)
	}
	_, err := anthropic.New(anthropic.Config{})
	require.NoError(t, err)
}

// BenchmarkChat is one streamed answer over a kept connection, the server's part included.
func BenchmarkChat(b *testing.B) {
	s, err := modelserver.Start(b.Context(), modelserver.Config{})
	require.NoError(b, err)
	defer func() { _ = s.Close() }()
	p, err := anthropic.New(anthropic.Config{BaseURL: s.URL()})
	require.NoError(b, err)
	req := ask("hello")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Chat(b.Context(), req, nil); err != nil {
			b.Fatal(err)
		}
	}
}
