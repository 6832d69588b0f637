package work_test

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

func remember(t *testing.T, s *work.Session, l work.MemoryLimits, texts ...string) {
	t.Helper()
	for _, text := range texts {
		require.NoError(t, s.Remember(t.Context(), work.Remembered{ID: "id of " + text, Kind: "note", Text: text}, l))
	}
}

func recall(t *testing.T, s *work.Session, n int, l work.MemoryLimits) []string {
	t.Helper()
	entries, err := s.Recall(t.Context(), n, l)
	require.NoError(t, err)
	texts := []string{}
	for _, e := range entries {
		require.Equal(t, "id of "+e.Text, e.ID)
		require.Equal(t, "note", e.Kind)
		require.False(t, e.At.IsZero())
		texts = append(texts, e.Text)
	}
	return texts
}

func TestMemoryIsSharedByTheTasksOfASession(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	first := w.take(w.task())
	remember(t, first, work.MemoryLimits{}, "one", "two")

	next := w.task()
	next.Run = task.Run{UID: "run-2", Name: "second", Team: "crew"}
	second := w.take(next)
	remember(t, second, work.MemoryLimits{}, "three")
	require.Equal(t, []string{"three", "two", "one"}, recall(t, second, 10, work.MemoryLimits{}))
	require.Equal(t, []string{"three", "two"}, recall(t, first, 2, work.MemoryLimits{}))
	require.Empty(t, recall(t, first, 0, work.MemoryLimits{}))

	for name, change := range map[string]func(*task.Task){
		"another agent":        func(o *task.Task) { o.Agent = "reader" },
		"another namespace":    func(o *task.Task) { o.Namespace = "other" },
		"another team":         func(o *task.Task) { o.Run.Team = "rivals" },
		"no team":              func(o *task.Task) { o.Run.Team = "" },
		"another conversation": func(o *task.Task) { o.Run.Session = "chat-1" },
	} {
		other := w.task()
		change(other)
		require.Empty(t, recall(t, w.take(other), 10, work.MemoryLimits{}), name)
	}
}

func TestMemoryKeepsAnEntryOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	s := w.take(w.task())
	remember(t, s, work.MemoryLimits{}, "one", "two", "one")
	require.Equal(t, []string{"two", "one"}, recall(t, s, 10, work.MemoryLimits{}), "repeating a call changes nothing")

	require.NoError(t, s.Remember(t.Context(), work.Remembered{ID: "id of one", Text: "ONE"}, work.MemoryLimits{}))
	entries, err := s.Recall(t.Context(), 10, work.MemoryLimits{})
	require.NoError(t, err)
	require.Len(t, entries, 2)
	require.Equal(t, "ONE", entries[0].Text)
}

func TestMemoryIsOnlyForWhoeverHoldsTheTask(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	lead := w.task()
	s := w.take(lead)
	remember(t, s, work.MemoryLimits{}, "one")
	later, err := w.takeAgain(lead)
	require.NoError(t, err)
	require.ErrorIs(t, s.Remember(t.Context(), work.Remembered{ID: "x", Text: "x"}, work.MemoryLimits{}), work.ErrFenced)
	_, err = s.Recall(t.Context(), 1, work.MemoryLimits{})
	require.ErrorIs(t, err, work.ErrFenced)
	require.Equal(t, []string{"one"}, recall(t, later, 10, work.MemoryLimits{}))

	w.result(lead, task.Succeeded)
	remember(t, later, work.MemoryLimits{}, "after the result")
}

func TestMemoryLimits(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	clock.Store(time.Now().UnixNano())
	w := newWorld(t, work.Config{Now: func() time.Time { return time.Unix(0, clock.Load()) }})
	w.serve()
	s := w.take(w.task())
	l := work.MemoryLimits{TTL: time.Hour, MaxEntries: 2}
	remember(t, s, l, "one", "two", "three")
	require.Equal(t, []string{"three", "two"}, recall(t, s, 10, l))
	require.Equal(t, []string{"three"}, recall(t, s, 10, work.MemoryLimits{MaxEntries: 1}), "a lower limit holds for what is there")

	clock.Add(int64(30 * time.Minute))
	remember(t, s, l, "four")
	clock.Add(int64(30 * time.Minute))
	require.Equal(t, []string{"four"}, recall(t, s, 10, l))
	clock.Add(int64(30 * time.Minute))
	require.Empty(t, recall(t, s, 10, l))

	var refused *work.RefusedError
	require.ErrorAs(t, s.Remember(t.Context(), work.Remembered{ID: "x", Text: strings.Repeat("x", work.RememberLimit)}, l), &refused)
	require.ErrorAs(t, s.Remember(t.Context(), work.Remembered{ID: "x"}, l), &refused)
	require.ErrorAs(t, s.Remember(t.Context(), work.Remembered{Text: "x"}, l), &refused)
}

func TestMemoryDropsTheOldestWhenItIsFull(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	s := w.take(w.task())
	for i := range 80 {
		e := work.Remembered{ID: fmt.Sprint(i), Text: strings.Repeat("\x01", 2<<10)} // six bytes each in JSON
		require.NoError(t, s.Remember(t.Context(), e, work.MemoryLimits{}))
	}
	entries, err := s.Recall(t.Context(), 1000, work.MemoryLimits{})
	require.NoError(t, err)
	require.Greater(t, len(entries), 30)
	require.Less(t, len(entries), 80)
	for i, e := range entries {
		require.Equal(t, fmt.Sprint(79-i), e.ID)
	}
}

func TestMemoryLosesNothingWhenManyWriteAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	w.serve() // requests go to both
	const tasks, each = 8, 8
	var sessions []*work.Session
	for range tasks {
		sessions = append(sessions, w.take(w.task()))
	}
	var g errgroup.Group
	for i, s := range sessions {
		g.Go(func() error {
			for n := range each {
				if err := s.Remember(t.Context(), work.Remembered{ID: fmt.Sprintf("%d-%d", i, n), Text: "x"}, work.MemoryLimits{}); err != nil {
					return err
				}
			}
			return nil
		})
	}
	require.NoError(t, g.Wait())
	entries, err := sessions[0].Recall(t.Context(), 1000, work.MemoryLimits{})
	require.NoError(t, err)
	seen := map[string]bool{}
	for _, e := range entries {
		seen[e.ID] = true
	}
	require.Len(t, seen, tasks*each)
}

func TestMemoryOutlivesTheService(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	stop := w.serve()
	s := w.take(w.task())
	remember(t, s, work.MemoryLimits{}, "one")
	stop()
	short, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err := s.Recall(short, 10, work.MemoryLimits{})
	require.ErrorIs(t, err, work.ErrUnavailable)
	w.serve()
	require.Equal(t, []string{"one"}, recall(t, s, 10, work.MemoryLimits{}))
}

func TestMemoryOfAnotherVersionIsLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	s := w.take(w.task())
	bucket := w.queue.Bucket(queue.BucketMemory)
	require.NoError(t, bucket.Put(t.Context(), "default.writer.team_2ecrew", []byte(`{"v":2,"entries":{}}`), 0, 0))
	_, err := s.Recall(t.Context(), 10, work.MemoryLimits{})
	require.ErrorIs(t, err, work.ErrUnavailable)
	require.ErrorIs(t, s.Remember(t.Context(), work.Remembered{ID: "x", Text: "x"}, work.MemoryLimits{}), work.ErrUnavailable)
	v, err := bucket.Get(t.Context(), "default.writer.team_2ecrew")
	require.NoError(t, err)
	require.JSONEq(t, `{"v":2,"entries":{}}`, string(v.Data))
}

func BenchmarkRemember(b *testing.B) {
	w := newWorld(b, work.Config{})
	w.serve()
	s := w.take(w.task())
	for n := 0; b.Loop(); n++ {
		e := work.Remembered{ID: fmt.Sprint(n), Text: strings.Repeat("x", 1000)}
		require.NoError(b, s.Remember(b.Context(), e, work.MemoryLimits{MaxEntries: 100}))
	}
}
