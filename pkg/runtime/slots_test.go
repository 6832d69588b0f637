package runtime

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestBackoff(t *testing.T) {
	t.Parallel()
	b := Backoff{Base: 100 * time.Millisecond, Max: time.Second}
	for _, c := range []struct {
		failed int
		asked  time.Duration
		jitter float64
		want   time.Duration
	}{
		{failed: 1, want: 50 * time.Millisecond},
		{failed: 1, jitter: 1, want: 100 * time.Millisecond},
		{failed: 3, jitter: 1, want: 400 * time.Millisecond},
		{failed: 3, jitter: 0.5, want: 300 * time.Millisecond},
		{failed: 1000, jitter: 1, want: time.Second},
		{failed: 1, asked: 700 * time.Millisecond, want: 700 * time.Millisecond},
		{failed: 1, asked: 365 * 24 * time.Hour, want: time.Second},
	} {
		require.Equal(t, c.want, b.wait(c.failed, c.asked, c.jitter), "%+v", c)
	}
}

// Whoever comes back from waiting gets the place before a new task does.
func TestReturningTasksGoFirst(t *testing.T) {
	t.Parallel()
	s := newSlots(1)
	require.True(t, s.try())
	yields, resumes := 0, 0
	p := newPlace(s, func() { yields++ }, func() { resumes++ })
	p.begin(2)
	yielded, back := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(back)
		_ = p.wait(t.Context(), func(context.Context) error { <-yielded; return nil })
		p.end()
	}()
	p.end() // the other call ended: all that run wait
	require.Eventually(t, s.try, time.Minute, time.Millisecond, "the place is given up")
	close(yielded)
	require.Eventually(t, func() bool { s.mu.Lock(); defer s.mu.Unlock(); return len(s.returning) == 1 }, time.Minute, time.Millisecond)
	s.release()
	require.False(t, s.try())
	<-back
	p.close()
	require.True(t, s.try())
	require.Equal(t, 1, yields)
	require.Equal(t, 1, resumes)
}

func TestReturningStopsWithItsTask(t *testing.T) {
	t.Parallel()
	s := newSlots(1)
	require.True(t, s.try())
	p := newPlace(s, func() {}, func() {})
	p.begin(1)
	ctx, cancel := context.WithCancelCause(t.Context())
	cancelled := errors.New("cancelled")
	err := p.wait(ctx, func(context.Context) error {
		require.True(t, s.try(), "somebody else takes the place")
		cancel(cancelled)
		return nil
	})
	require.ErrorIs(t, err, cancelled)
	p.end()
	p.close()
	require.False(t, s.try(), "the place is the other task's")
	s.release()
	require.True(t, s.try())
}
