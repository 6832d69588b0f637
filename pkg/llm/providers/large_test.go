package providers_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/anthropic"
	"arkonis.dev/ark/pkg/llm/exchange"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/llm/openai"
	"arkonis.dev/ark/pkg/task"
)

// makers make each provider that speaks over HTTP, for a server that may be silent for idle; 0 is as long as usual.
var makers = map[string]func(t *testing.T, url string, idle time.Duration) llm.Provider{
	llm.Anthropic: func(t *testing.T, url string, idle time.Duration) llm.Provider {
		t.Helper()
		p, err := anthropic.New(anthropic.Config{BaseURL: url, IdleTimeout: idle, HTTPClient: client(t)})
		require.NoError(t, err)
		return p
	},
	llm.OpenAI: func(t *testing.T, url string, idle time.Duration) llm.Provider {
		t.Helper()
		p, err := openai.New(openai.Config{BaseURL: url, IdleTimeout: idle, HTTPClient: client(t)})
		require.NoError(t, err)
		return p
	},
}

func client(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// serve starts a server that answers every call alike, and returns its address.
func serve(t *testing.T, r modelserver.Reply) string {
	t.Helper()
	s, err := modelserver.Start(t.Context(), modelserver.Config{Rules: []modelserver.Rule{{Reply: r}}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = s.Close() })
	return s.URL()
}

func ask(room func(context.Context) error) llm.Request {
	return llm.Request{
		Model: "m", MaxTokens: 100, Key: "task-1", Room: room,
		Messages: []llm.Message{{Role: llm.RoleSystem, Text: "be brief"}, {Role: llm.RoleUser, Text: "much"}},
	}
}

// An answer may have as much text as the limit says, streamed or in one object, with room for it and not without. Room is asked
// for once, and only for a large one.
func TestLargeAnswers(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("a \"line\" é\n", exchange.MaxAnswer/12+1)
	cases := []struct {
		size  int
		plain bool
		rooms int
		says  string
	}{
		{size: 1 << 20},
		{size: 1 << 20, plain: true},
		{size: exchange.MaxAnswer, rooms: 1},
		{size: exchange.MaxAnswer, plain: true, rooms: 1},
		{size: exchange.MaxAnswer + 1, plain: true, rooms: 1, says: "answered with more than 64 MiB of text, which is the limit"},
	}
	for name, provider := range makers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, c := range cases {
				want := strings.ToValidUTF8(text[:c.size], "?")
				url := serve(t, modelserver.Reply{Text: want, Plain: c.plain, ChunkSize: c.size / 100})
				rooms := 0
				res, err := provider(t, url, 0).Chat(t.Context(), ask(func(context.Context) error { rooms++; return nil }), nil)
				require.Equal(t, c.rooms, rooms, "%d %t", c.size, c.plain)
				if c.says != "" {
					require.ErrorContains(t, err, c.says)
					continue
				}
				require.NoError(t, err)
				require.Equal(t, sha256.Sum256([]byte(want)), sha256.Sum256([]byte(res.Message.Text)), "%d of %d bytes", len(res.Message.Text), c.size)
			}
		})
	}
}

// A call that waits for room does not take its server for a silent one, and ends with its own context.
func TestWaitingForRoom(t *testing.T) {
	t.Parallel()
	for name, provider := range makers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := serve(t, modelserver.Reply{Text: strings.Repeat("x", 9<<20), ChunkSize: 64 << 10})
			// On a busy machine a server may well be silent for a while: it gets more time then, and the wait is longer too.
			for idle := 200 * time.Millisecond; ; idle *= 4 {
				res, err := provider(t, url, idle).Chat(t.Context(), ask(func(context.Context) error {
					<-time.After(2 * idle)
					return nil
				}), nil)
				if err != nil && idle < 10*time.Second {
					continue
				}
				require.NoError(t, err)
				require.Len(t, res.Message.Text, 9<<20)
				break
			}

			ctx, cancel := context.WithCancel(t.Context())
			_, err := provider(t, url, 0).Chat(ctx, ask(func(ctx context.Context) error {
				cancel()
				<-ctx.Done()
				return context.Cause(ctx)
			}), nil)
			failure, ok := errors.AsType[*llm.Error](err)
			require.True(t, ok)
			require.Equal(t, task.CodeCancelled, failure.Code)
			require.True(t, failure.Unknown, "it is charged in full")
		})
	}
}
