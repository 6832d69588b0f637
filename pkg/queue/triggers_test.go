package queue_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
)

// A trigger may be accepted before anybody follows them. What came first for its key is what counts.
func TestATriggerIsAcceptedOnce(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	for range 2 {
		for _, body := range []string{"one", "two"} {
			accepted, err := q.AcceptTrigger(t.Context(), "ns", "event", "key", []byte(body))
			require.NoError(t, err)
			require.Equal(t, "one", string(accepted))
		}
	}
	_, err := q.AcceptTrigger(t.Context(), "ns", "event", "last", []byte("three"))
	require.NoError(t, err)

	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	fired := make(chan string, 10)
	followed := make(chan error, 1)
	go func() {
		followed <- q.FollowTriggers(ctx, func(_ context.Context, body []byte) error {
			fired <- string(body)
			return nil
		})
	}()
	require.ElementsMatch(t, []string{"one", "three"}, []string{nextFired(ctx, t, fired), nextFired(ctx, t, fired)})
	stop()
	require.ErrorIs(t, <-followed, context.Canceled)
	require.Empty(t, fired)
}

func nextFired(ctx context.Context, t *testing.T, from <-chan string) string {
	t.Helper()
	select {
	case s := <-from:
		return s
	case <-ctx.Done():
		require.NoError(t, ctx.Err())
		return ""
	}
}

// The streams of triggers are made once, not looked at with every trigger.
func TestATriggerAsksForNoStream(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	_, err := q.AcceptTrigger(t.Context(), "ns", "event", "first", []byte("one"))
	require.NoError(t, err)
	asked, err := q.Conn().SubscribeSync("$JS.API.STREAM.>")
	require.NoError(t, err)
	_, err = q.AcceptTrigger(t.Context(), "ns", "event", "second", []byte("two"))
	require.NoError(t, err)
	require.NoError(t, q.Conn().Publish("$JS.API.STREAM.last", nil))
	m, err := asked.NextMsg(patience)
	require.NoError(t, err)
	require.Equal(t, "$JS.API.STREAM.last", m.Subject)
}
