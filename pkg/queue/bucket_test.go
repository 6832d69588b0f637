package queue_test

import (
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
)

func TestBucketChangesByCompareAndSwap(t *testing.T) {
	t.Parallel()
	b := inMemory(t).Bucket("notes")

	none, err := b.Get(t.Context(), "team.writer")
	require.NoError(t, err)
	require.Equal(t, queue.Value{}, none)

	require.NoError(t, b.Put(t.Context(), "team.writer", []byte("one"), none.Revision, 0))
	require.ErrorIs(t, b.Put(t.Context(), "team.writer", []byte("two"), none.Revision, 0), queue.ErrStale)
	one, err := b.Get(t.Context(), "team.writer")
	require.NoError(t, err)
	require.Equal(t, "one", string(one.Data))

	require.NoError(t, b.Put(t.Context(), "team.writer", []byte("two"), one.Revision, 0))
	require.ErrorIs(t, b.Put(t.Context(), "team.writer", []byte("three"), one.Revision, 0), queue.ErrStale)
	two, err := b.Get(t.Context(), "team.writer")
	require.NoError(t, err)
	require.Equal(t, "two", string(two.Data))
}

func TestBucketIsOneThatKeyValueClientsRead(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	b := q.Bucket("notes")
	require.NoError(t, b.Put(t.Context(), "a", []byte("one"), 0, 0))
	js, err := jetstream.New(q.Conn())
	require.NoError(t, err)
	kv, err := js.KeyValue(t.Context(), "notes")
	require.NoError(t, err)
	e, err := kv.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, "one", string(e.Value()))

	require.NoError(t, kv.Delete(t.Context(), "a"))
	gone, err := b.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Empty(t, gone.Data)
	require.NoError(t, b.Put(t.Context(), "a", []byte("again"), gone.Revision, 0))
}

func TestBucketForgetsAfterTheTTL(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	b := q.Bucket("notes")
	require.NoError(t, b.Put(t.Context(), "a", []byte("one"), 0, time.Millisecond))
	js, err := jetstream.New(q.Conn())
	require.NoError(t, err)
	s, err := js.Stream(t.Context(), "KV_notes")
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		info, err := s.Info(t.Context())
		return err == nil && info.State.Msgs == 0
	}, patience, 100*time.Millisecond, "the server removes it by itself, and tells nobody when")
	v, err := b.Get(t.Context(), "a")
	require.NoError(t, err)
	require.Equal(t, queue.Value{}, v)
	require.NoError(t, b.Put(t.Context(), "a", []byte("two"), v.Revision, 0))
}

func TestBucketSaysWhenItIsFullOrGone(t *testing.T) {
	t.Parallel()
	server := startServer(t, "")
	q := open(t, server, queue.Config{Storage: jetstream.MemoryStorage, Limits: queue.LimitsOf(64 << 10)})
	b := q.Bucket("notes")
	require.ErrorIs(t, b.Put(t.Context(), "a", []byte(strings.Repeat("x", 8<<10)), 0, 0), queue.ErrFull)
	require.NoError(t, b.Put(t.Context(), "a", []byte("fits"), 0, 0))

	js, err := jetstream.New(q.Conn())
	require.NoError(t, err)
	require.NoError(t, js.DeleteStream(t.Context(), "KV_notes"))
	_, err = b.Get(t.Context(), "a")
	require.ErrorIs(t, err, queue.ErrUnavailable)
	v, err := b.Get(t.Context(), "a")
	require.NoError(t, err, "it is made again")
	require.Equal(t, queue.Value{}, v)
}
