package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
)

var (
	call  = queue.CallSubject(queue.KeyOf(newTask(1)))
	state = queue.BudgetSubject("default", "run.run-1")
	daily = queue.BudgetSubject("default", "agent.writer")
)

func write(subject, body string, expect *uint64) queue.Write {
	return queue.Write{Subject: subject, Body: []byte(body), Expect: expect}
}

// bodies returns what a subject of the ledger holds.
func bodies(t testing.TB, q *queue.Queue, subject string) []string {
	t.Helper()
	all, err := q.History(t.Context(), subject)
	require.NoError(t, err)
	got := []string{}
	for i, s := range all {
		require.Equal(t, subject, s.Subject)
		require.False(t, s.At.IsZero())
		if i > 0 {
			require.Greater(t, s.Seq, all[i-1].Seq)
		}
		got = append(got, string(s.Body))
	}
	last, ok, err := q.Last(t.Context(), subject)
	require.NoError(t, err)
	require.Equal(t, len(all) > 0, ok)
	if ok {
		require.Equal(t, all[len(all)-1], last)
	}
	return got
}

// Heads sees what another process has written, and what it has not.
func TestHeads(t *testing.T) {
	t.Parallel()
	server, cfg := startServer(t, ""), queue.Config{Storage: jetstream.MemoryStorage}
	writer, reader := open(t, server, cfg), open(t, server, cfg)
	seqs, err := writer.Batch(t.Context(), write(call, "intent", nil), write(state, "100", nil), write(call, "answer", nil))
	require.NoError(t, err)
	heads, err := reader.Heads(t.Context(), []string{call, state, daily})
	require.NoError(t, err)
	require.Equal(t, []uint64{seqs[2], seqs[1], 0}, heads)
}

func TestBatchStoresAllOrNothing(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	require.Empty(t, bodies(t, q, call))
	first, err := q.Batch(t.Context(), write(call, "intent", new(uint64(0))), write(call, "note", nil),
		queue.Write{Subject: state, Body: []byte("100"), Expect: new(uint64(0)), Rollup: true})
	require.NoError(t, err)
	require.Len(t, first, 3)
	require.IsIncreasing(t, first)

	for name, stale := range map[string][]queue.Write{
		"single":       {write(call, "late", new(first[0]))},
		"none is none": {write(call, "late", new(uint64(0)))},
		"one of many":  {write(daily, "1", nil), write(call, "x", new(first[1])), write(state, "90", new(first[0]))},
	} {
		_, err = q.Batch(t.Context(), stale...)
		require.ErrorIs(t, err, queue.ErrStale, name)
	}
	require.Equal(t, []string{"intent", "note"}, bodies(t, q, call))
	require.Empty(t, bodies(t, q, daily))

	second, err := q.Batch(t.Context(), write(call, "answer", &first[1]),
		queue.Write{Subject: state, Body: []byte("90"), Expect: &first[2], Rollup: true})
	require.NoError(t, err)
	require.Greater(t, second[0], first[2])
	require.Equal(t, []string{"intent", "note", "answer"}, bodies(t, q, call))
	require.Equal(t, []string{"90"}, bodies(t, q, state))
}

func TestBatchThatMakesNoSenseIsRefused(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	for says, writes := range map[string][]queue.Write{
		"nothing to write": {},
		"first write":      {write(call, "", nil), write(call, "", new(uint64(1)))},
		"too long":         {write(string(make([]byte, 5000)), "", nil)},
	} {
		_, err := q.Batch(t.Context(), writes...)
		require.ErrorContains(t, err, says)
	}
	_, err := q.Batch(t.Context(), make([]queue.Write, queue.MaxBatch+1)...)
	require.ErrorIs(t, err, queue.ErrTooLarge)
	_, err = q.Batch(t.Context(), write(call, string(make([]byte, 2<<20)), nil))
	require.ErrorIs(t, err, queue.ErrTooLarge)
	_, err = q.Batch(t.Context(), write(call, "", nil), write(call, string(make([]byte, 2<<20)), nil))
	require.ErrorIs(t, err, queue.ErrTooLarge)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = q.Batch(ctx, write(call, "", nil))
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, queue.ErrUnknownOutcome)
	require.Empty(t, bodies(t, q, call))
}

func TestBatchMayBeLargerThanAMessage(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	var writes []queue.Write
	want := make([]string, 100)
	for i := range want {
		want[i] = strconv.Itoa(i) + string(bytes.Repeat([]byte{byte(i)}, 100<<10))
		writes = append(writes, write(call, want[i], nil))
	}
	seqs, err := q.Batch(t.Context(), writes...)
	require.NoError(t, err)
	require.IsIncreasing(t, seqs)
	require.Len(t, seqs, len(want))
	require.Equal(t, want, bodies(t, q, call))
	writes[0].Expect = new(seqs[0])
	_, err = q.Batch(t.Context(), writes...)
	require.ErrorIs(t, err, queue.ErrStale)

	other := open(t, startServer(t, ""), queue.Config{Storage: jetstream.MemoryStorage, Limits: queue.LimitsOf(20 << 20)})
	writes[0].Expect = nil
	_, err = other.Batch(t.Context(), writes...)
	require.ErrorIs(t, err, queue.ErrFull)
	require.Empty(t, bodies(t, other, call))
}

// TestWritersDoNotOverwriteEachOther lets writers with their own view of the log count together.
func TestWritersDoNotOverwriteEachOther(t *testing.T) {
	t.Parallel()
	s := startServer(t, "")
	const writers, each = 4, 25
	var wg sync.WaitGroup
	for range writers {
		q := open(t, s, queue.Config{Storage: jetstream.MemoryStorage})
		wg.Go(func() {
			for done := 0; done < each; {
				last, ok, err := q.Last(t.Context(), state)
				n := 0
				if ok {
					n, err = strconv.Atoi(string(last.Body))
				}
				if err != nil {
					t.Error(err)
					return
				}
				_, err = q.Batch(t.Context(), write(call, "added", nil),
					queue.Write{Subject: state, Body: []byte(strconv.Itoa(n + 1)), Expect: &last.Seq, Rollup: true})
				switch {
				case err == nil:
					done++
				case !errors.Is(err, queue.ErrStale) && !errors.Is(err, queue.ErrUnavailable):
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	q := open(t, s, queue.Config{Storage: jetstream.MemoryStorage})
	require.Equal(t, []string{strconv.Itoa(writers * each)}, bodies(t, q, state))
	require.Len(t, bodies(t, q, call), writers*each)
}

func TestLedgerKeepsOnlyWhatIsNeeded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir)
	q := open(t, s, queue.Config{})
	reader := open(t, s, queue.Config{})
	for i := range 50 {
		_, err := q.Batch(t.Context(), write(call, fmt.Sprint(i), nil),
			queue.Write{Subject: state, Body: []byte(fmt.Sprint(i)), Rollup: true},
			queue.Write{Subject: daily, Body: []byte(fmt.Sprint(i)), Rollup: true})
		require.NoError(t, err)
	}
	require.Len(t, bodies(t, reader, call), 50)
	require.Equal(t, uint64(50), stored(t, q, queue.StreamLedger))
	_, err := q.PurgeRun(t.Context(), "run-1")
	require.NoError(t, err)
	require.Equal(t, uint64(2), stored(t, q, queue.StreamLedger), "the daily budget's state, and that the run is forgotten")

	check := func(q *queue.Queue) {
		t.Helper()
		require.Empty(t, bodies(t, q, call))
		require.Empty(t, bodies(t, q, state))
		require.Equal(t, []string{"49"}, bodies(t, q, daily))
	}
	check(q)
	check(reader)
	s.Shutdown()
	q = open(t, startServer(t, dir), queue.Config{})
	check(q)
	_, err = q.Batch(t.Context(), queue.Write{Subject: daily, Body: []byte("next day"), Rollup: true})
	require.NoError(t, err)
	_, err = q.PurgeRun(t.Context(), "another")
	require.NoError(t, err)
	require.Equal(t, uint64(1), stored(t, q, queue.StreamLedger))
}

func TestLedgerStartsAnewWhenItsStreamIsLost(t *testing.T) {
	t.Parallel()
	s := startServer(t, "")
	q := open(t, s, queue.Config{Storage: jetstream.MemoryStorage})
	for range 3 {
		_, err := q.Batch(t.Context(), write(call, "before", nil))
		require.NoError(t, err)
	}
	js, err := jetstream.New(q.Conn())
	require.NoError(t, err)
	require.NoError(t, js.DeleteStream(t.Context(), queue.StreamLedger))
	_, err = q.Batch(t.Context(), write(call, "nowhere", nil))
	require.ErrorIs(t, err, queue.ErrUnavailable)

	open(t, s, queue.Config{Storage: jetstream.MemoryStorage})
	_, err = q.Batch(t.Context(), write(call, "after", new(uint64(0))))
	require.NoError(t, err)
	require.Equal(t, []string{"after"}, bodies(t, q, call))
}

func TestLedgerRemovesReplacedStatesOnItsOwn(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	for range 2000 {
		_, err := q.Batch(t.Context(), queue.Write{Subject: daily, Body: []byte("state"), Rollup: true})
		require.NoError(t, err)
	}
	require.Less(t, stored(t, q, queue.StreamLedger), uint64(600))
}
