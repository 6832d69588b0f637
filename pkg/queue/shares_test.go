package queue_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
)

func TestShares(t *testing.T) {
	t.Parallel()
	s := queue.NewShares(2, 100)
	first, ok := s.Take("ark.work.default.writer.append", 90)
	require.True(t, ok)
	_, ok = s.Take("ark.work.default.writer.await", 11)
	require.False(t, ok, "too many bytes")
	second, ok := s.Take("ark.work.default.writer.await", 10)
	require.True(t, ok)
	_, ok = s.Take("ark.work.default.writer.await", 0)
	require.False(t, ok, "too many requests")
	_, ok = s.Take("ark.work.default.writer2.await", 1000)
	require.True(t, ok, "another agent's share is its own, and one request always fits")
	first()
	second()
	_, ok = s.Take("ark.work.default.writer.append", 100)
	require.True(t, ok)
}
