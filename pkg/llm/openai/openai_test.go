package openai_test

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/llm/openai"
	"arkonis.dev/ark/pkg/task"
)

// serve starts a model server, and a provider that talks to it with short times.
func serve(t *testing.T, c modelserver.Config) (*modelserver.Server, *openai.Provider) {
	t.Helper()
	s, err := modelserver.Start(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s, provider(t, openai.Config{BaseURL: s.URL(), APIKey: "sk-test-secret"})
}

func provider(t *testing.T, c openai.Config) *openai.Provider {
	t.Helper()
	if c.HTTPClient == nil {
		transport := &http.Transport{MaxResponseHeaderBytes: 256 << 10, MaxIdleConnsPerHost: 8}
		t.Cleanup(transport.CloseIdleConnections)
		c.HTTPClient = &http.Client{Transport: transport}
	}
	p, err := openai.New(c)
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
	s, p := serve(t, modelserver.Config{})
	var heard string
	res, err := p.Chat(t.Context(), ask("hello"), func(c llm.Chunk) { heard += c.Text })
	require.NoError(t, err)
	require.Equal(t, &llm.Response{
		Message: llm.Message{Role: llm.RoleAssistant, Text: "echo: hello"},
		Usage:   task.Usage{InputTokens: 4, OutputTokens: 3},
		Finish:  llm.FinishStop,
		Model:   "m",
		ID:      "chatcmpl-2",
	}, res)
	require.Equal(t, "echo: hello", heard)

	calls, err := s.Wait(t.Context(), 1)
	require.NoError(t, err)
	require.Len(t, calls, 1)
	require.Equal(t, "task-1", calls[0].Key)
	require.Equal(t, "Bearer sk-test-secret", calls[0].Header.Get("Authorization"))
	require.Equal(t, http.StatusOK, calls[0].Status)
	require.True(t, calls[0].Whole)
	require.WithinRange(t, calls[0].Answered, calls[0].In, time.Now())
	requireJSON(t, `{"messages":[{"content":"be brief","role":"system"},{"content":"hello","role":"user"}],"model":"m","max_tokens":100,"stream_options":{"include_usage":true},"stream":true}`, calls[0].Body)
}

// requireJSON compares byte by byte.
func requireJSON(t *testing.T, want string, got json.RawMessage) {
	t.Helper()
	require.Equal(t, want, string(got))
}

// Connections are kept: each whole answer is read to its end, whatever form it has.
func TestConnectionsAreKept(t *testing.T) {
	t.Parallel()
	s := modelserver.New(modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		// With a delay, the end of the body arrives after the last chunk.
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
	p := provider(t, openai.Config{BaseURL: ts.URL})
	for range 20 {
		_, err := p.Chat(t.Context(), ask("hello"), nil)
		require.NoError(t, err)
	}
	require.Equal(t, int32(1), opened.Load())
}

// Calls in parallel do not wait for each other.
func TestCallsOverlap(t *testing.T) {
	t.Parallel()
	const n = 16
	var in sync.WaitGroup
	in.Add(n)
	_, p := serve(t, modelserver.Config{Answer: func(modelserver.Call) *modelserver.Reply {
		in.Done()
		in.Wait() // nobody is answered before all are there
		return nil
	}})
	var calls sync.WaitGroup
	for range n {
		calls.Go(func() {
			_, err := p.Chat(t.Context(), ask("hello"), nil)
			assert.NoError(t, err)
		})
	}
	calls.Wait()
}

func TestTraceGoesOn(t *testing.T) {
	t.Parallel()
	s, p := serve(t, modelserver.Config{})
	span := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	_, err := p.Chat(trace.ContextWithSpanContext(t.Context(), span), ask("hello"), nil)
	require.NoError(t, err)
	_, err = p.Chat(t.Context(), ask("hello"), nil)
	require.NoError(t, err)
	calls := s.Calls()
	require.Equal(t, "00-01000000000000000000000000000000-0200000000000000-01", calls[0].Header.Get("traceparent"))
	require.Empty(t, calls[1].Header.Get("traceparent"))
}

// BenchmarkChat is one streamed answer over a kept connection, the server's part included.
func BenchmarkChat(b *testing.B) {
	s, err := modelserver.Start(b.Context(), modelserver.Config{})
	require.NoError(b, err)
	defer func() { _ = s.Close() }()
	p, err := openai.New(openai.Config{BaseURL: s.URL()})
	require.NoError(b, err)
	req := ask("hello")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := p.Chat(b.Context(), req, nil); err != nil {
			b.Fatal(err)
		}
	}
}
