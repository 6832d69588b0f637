package anthropic_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/anthropic"
	"arkonis.dev/ark/pkg/llm/exchange"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/task"
)

// An answer may have as much text as the limit says, streamed or in one object, with room for it and not without. Room is asked
// for once, and only for a large one.
func TestLargeAnswers(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("a \"line\" é\n", exchange.MaxAnswer/12+1)
	for _, c := range []struct {
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
	} {
		want := strings.ToValidUTF8(text[:c.size], "?")
		_, p := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{Text: want, Plain: c.plain, ChunkSize: c.size / 100}}}})
		rooms := 0
		req := ask("much")
		req.Room = func(context.Context) error { rooms++; return nil }
		res, err := p.Chat(t.Context(), req, nil)
		require.Equal(t, c.rooms, rooms, "%d %t", c.size, c.plain)
		if c.says != "" {
			require.ErrorContains(t, err, c.says)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, sha256.Sum256([]byte(want)), sha256.Sum256([]byte(res.Message.Text)), "%d of %d bytes", len(res.Message.Text), c.size)
	}
}

// A call that waits for room does not take its server for a silent one, and ends with its own context.
func TestWaitingForRoom(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{Text: strings.Repeat("x", 9<<20), ChunkSize: 64 << 10}}}})
	req := ask("much")
	// On a busy machine a server may well be silent for a while: it gets more time then, and the wait is longer too.
	for idle := 200 * time.Millisecond; ; idle *= 4 {
		p := provider(t, anthropic.Config{BaseURL: s.URL(), IdleTimeout: idle})
		req.Room = func(context.Context) error {
			<-time.After(2 * idle)
			return nil
		}
		res, err := p.Chat(t.Context(), req, nil)
		if err != nil && idle < 10*time.Second {
			continue
		}
		require.NoError(t, err)
		require.Len(t, res.Message.Text, 9<<20)
		break
	}

	p := provider(t, anthropic.Config{BaseURL: s.URL()})
	ctx, cancel := context.WithCancel(t.Context())
	req.Room = func(ctx context.Context) error {
		cancel()
		<-ctx.Done()
		return context.Cause(ctx)
	}
	_, err := p.Chat(ctx, req, nil)
	failure, ok := errors.AsType[*llm.Error](err)
	require.True(t, ok)
	require.Equal(t, task.CodeCancelled, failure.Code)
	require.True(t, failure.Unknown, "it is charged in full")
}
