package queue_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

var errDone = errors.New("done")

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return b
}

// dead returns what StreamDead holds.
func dead(t testing.TB, q *queue.Queue) []*jetstream.RawStreamMsg {
	t.Helper()
	js, err := jetstream.New(q.Conn())
	require.NoError(t, err)
	s, err := js.Stream(t.Context(), queue.StreamDead)
	require.NoError(t, err)
	var all []*jetstream.RawStreamMsg
	for seq := uint64(1); ; seq++ {
		m, err := s.GetMsg(t.Context(), seq, jetstream.WithGetMsgSubject("ark.dead.>"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return all
		}
		require.NoError(t, err)
		all, seq = append(all, m), m.Sequence
	}
}

func TestFirstResultWins(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	done := newTask(1)
	key := queue.KeyOf(done)
	_, err := q.Result(t.Context(), key)
	require.ErrorIs(t, err, queue.ErrNoResult)

	const writers = 16
	won := make([]bool, writers)
	var wg sync.WaitGroup
	for i := range writers {
		wg.Go(func() {
			var err error
			won[i], err = q.PublishResult(t.Context(), key, newResult(done, fmt.Sprint("answer ", i)))
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	winner := -1
	for i, w := range won {
		if w {
			require.Equal(t, -1, winner, "two writers think that they won")
			winner = i
		}
	}
	require.NotEqual(t, -1, winner)
	stored, err := q.Result(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, newResult(done, fmt.Sprint("answer ", winner)), stored)

	again, err := q.PublishResult(t.Context(), key, stored)
	require.NoError(t, err)
	require.True(t, again, "the winner may publish again, after an outcome that it does not know")
}

func TestResultOfAnotherTaskIsRefused(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	_, err := q.PublishResult(t.Context(), queue.KeyOf(newTask(1)), newResult(newTask(2), ""))
	require.ErrorContains(t, err, "it is of task")
}

func TestResultWithoutAServerHasAKnownEnd(t *testing.T) {
	t.Parallel()
	s := startServer(t, "")
	q := open(t, s, queue.Config{Storage: jetstream.MemoryStorage})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := q.PublishResult(ctx, queue.KeyOf(newTask(1)), newResult(newTask(1), ""))
	require.ErrorIs(t, err, context.Canceled)
	require.NotErrorIs(t, err, queue.ErrUnknownOutcome, "nothing was sent")
	_, err = q.Result(t.Context(), queue.KeyOf(newTask(1)))
	require.ErrorIs(t, err, queue.ErrNoResult)
}

func TestSilenceIsAnUnknownOutcomeAndNobodyIsAKnownOne(t *testing.T) {
	t.Parallel()
	q := open(t, startServer(t, ""), queue.Config{Storage: jetstream.MemoryStorage, Timeout: 5 * time.Second})
	js, err := jetstream.New(q.Conn())
	require.NoError(t, err)
	require.NoError(t, q.Submit(t.Context(), newTask(0))) // makes the agent's consumer
	for _, stream := range []string{queue.StreamTasks, queue.StreamResults, queue.StreamLedger} {
		require.NoError(t, js.DeleteStream(t.Context(), stream))
	}
	done := newTask(1)
	outcomes := func(want error) {
		t.Helper()
		require.ErrorIs(t, q.Submit(t.Context(), done), want)
		_, err := q.PublishResult(t.Context(), queue.KeyOf(done), newResult(done, ""))
		require.ErrorIs(t, err, want)
	}
	outcomes(queue.ErrUnavailable)
	for _, subject := range []string{"ark.task.>", "ark.result.>"} {
		_, err = q.Conn().Subscribe(subject, func(*nats.Msg) {}) // takes the message and does not answer
		require.NoError(t, err)
	}
	outcomes(queue.ErrUnknownOutcome)
	_, err = q.Result(t.Context(), queue.KeyOf(done))
	require.ErrorIs(t, err, queue.ErrUnavailable, "that is not the same as no result")
}

// follow reads the results of a run until it has n records, then returns them and how many came before the signal.
func follow(t *testing.T, q *queue.Queue, run string, n int) (records []queue.Record, before int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	before = -1
	check := func() error {
		if len(records) >= n && before >= 0 {
			return errDone
		}
		return nil
	}
	err := q.Results(ctx, run,
		func(r queue.Record) error { records = append(records, r); return check() },
		func() error { before = len(records); return check() })
	require.ErrorIs(t, err, errDone)
	return records, before
}

func TestReaderPassesAllRecordsInOrderAndSaysWhenItHasCaughtUp(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	none, before := follow(t, q, "run-1", 0)
	require.Empty(t, none)
	require.Zero(t, before, "an empty stream is caught up with at once")

	publish := func(n int) {
		done := newTask(n)
		_, err := q.PublishResult(t.Context(), queue.KeyOf(done), newResult(done, fmt.Sprint(n)))
		require.NoError(t, err)
	}
	foreign := newTask(100)
	foreign.Run.UID = "run-2"
	for i := range 20 {
		publish(i)
	}
	_, err := q.PublishResult(t.Context(), queue.KeyOf(foreign), newResult(foreign, ""))
	require.NoError(t, err)
	child := newTask(50)
	delegated := &task.Delegated{Version: 1, Parent: newTask(1).ID, Child: child.ID, Role: "editor", Agent: child.Agent}
	require.NoError(t, q.PublishDelegated(t.Context(), child, delegated))
	require.NoError(t, q.PublishDelegated(t.Context(), child, delegated), "recording it twice is fine")

	records, before := follow(t, q, "run-1", 21)
	require.Equal(t, 21, before)
	require.Len(t, records, 21)
	for i, r := range records[:20] {
		require.Equal(t, queue.KeyOf(newTask(i)), r.Key)
		require.Equal(t, newResult(newTask(i), fmt.Sprint(i)), r.Result)
		require.Equal(t, uint64(i+1), r.Seq)
		require.WithinDuration(t, time.Now(), r.At, patience)
	}
	require.Equal(t, delegated, records[20].Delegated)
	require.Equal(t, queue.KeyOf(child), records[20].Key)

	everything, _ := follow(t, q, "", 22)
	require.Len(t, everything, 22)

	late := make(chan struct{})
	go func() {
		defer close(late)
		publish(30)
	}()
	records, _ = follow(t, q, "run-1", 22)
	<-late
	require.Equal(t, newTask(30).ID, records[21].Result.TaskID)
}

func TestReaderSurvivesTheLossOfItsConsumer(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	js, err := jetstream.New(q.Conn())
	require.NoError(t, err)
	stream, err := js.Stream(t.Context(), queue.StreamResults)
	require.NoError(t, err)
	publish := func(n int) {
		done := newTask(n)
		_, err := q.PublishResult(t.Context(), queue.KeyOf(done), newResult(done, fmt.Sprint(n)))
		require.NoError(t, err)
	}
	publish(0)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var got []string
	err = q.Results(ctx, "run-1", func(r queue.Record) error {
		got = append(got, r.Result.Output.Inline)
		if len(got) == 3 {
			return errDone
		}
		return nil
	}, func() error {
		for info := range stream.ListConsumers(t.Context()).Info() {
			require.NoError(t, stream.DeleteConsumer(t.Context(), info.Name))
		}
		publish(1)
		publish(2)
		return nil
	})
	require.ErrorIs(t, err, errDone)
	require.Equal(t, []string{"0", "1", "2"}, got)
}

func TestResultThatCannotBeReadIsAFailedOne(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	key := queue.Key{Namespace: "default", Agent: "writer", RunUID: "run-1", TaskID: "t1"}
	_, err := q.Conn().Request("ark.result.default.writer.run-1.t1", []byte("{}}"), patience)
	require.NoError(t, err)
	_, err = q.Conn().Request("ark.delegated.default.writer.run-1.t2", []byte("7"), patience)
	require.NoError(t, err)
	last := newTask(1)
	_, err = q.PublishResult(t.Context(), queue.KeyOf(last), newResult(last, ""))
	require.NoError(t, err)

	records, _ := follow(t, q, "run-1", 2)
	require.Equal(t, key, records[0].Key)
	require.Equal(t, task.Failed, records[0].Result.Status)
	require.Equal(t, task.CodeInternal, records[0].Result.Error.Code)
	require.Equal(t, last.ID, records[1].Key.TaskID, "a delegated record that cannot be read is left out")
	r, err := q.Result(t.Context(), key)
	require.NoError(t, err)
	require.Equal(t, records[0].Result, r)

	follow(t, q, "run-1", 2)
	require.Len(t, dead(t, q), 2, "one copy each, however often they are read")
}

func TestTraceTravelsWithTasksAndResults(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	state, err := trace.ParseTraceState("vendor=1")
	require.NoError(t, err)
	span := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{1, 2}, SpanID: trace.SpanID{3}, TraceFlags: trace.FlagsSampled, TraceState: state, Remote: true,
	})
	ctx := trace.ContextWithSpanContext(t.Context(), span)
	require.NoError(t, q.Submit(ctx, newTask(1)))
	d := next(t, takeTasks(t, q, queue.TasksConfig{}))
	require.Equal(t, span, trace.SpanContextFromContext(d.Context(t.Context())))

	_, err = q.PublishResult(ctx, d.Key(), newResult(d.Task, ""))
	require.NoError(t, err)
	records, _ := follow(t, q, "run-1", 1)
	require.Equal(t, span, trace.SpanContextFromContext(records[0].Context(t.Context())))
}

func TestHintsReachWhoeverLooksOn(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	key := queue.KeyOf(newTask(1))
	other := key
	other.RunUID = "run-2"
	got := make(chan string, 10)
	watch := func(stop func(), err error) {
		t.Helper()
		require.NoError(t, err)
		t.Cleanup(stop)
	}
	watch(q.WatchCancel("default", "writer", func(id, reason string) { got <- id + " " + reason }))
	watch(q.WatchChunks("run-1", func(k queue.Key, c queue.Chunk) { got <- fmt.Sprint(k == key, c) }))
	watch(q.WatchProgress("", func(k queue.Key, p queue.Progress) { got <- k.RunUID + " " + p.Tool }))

	require.NoError(t, q.HintCancel(key, "enough"))
	require.Equal(t, key.TaskID+" enough", <-got)
	require.NoError(t, q.HintRemoved("default", "reader", "gone"))
	require.NoError(t, q.HintRemoved("default", "writer", "gone"))
	require.Equal(t, " gone", <-got)
	require.NoError(t, q.HintChunk(other, queue.Chunk{Text: "not looked at"}))
	require.NoError(t, q.HintChunk(key, queue.Chunk{Call: 2, Text: "Once"}))
	require.Equal(t, "true { 2 Once}", <-got)
	require.NoError(t, q.HintProgress(other, queue.Progress{Event: queue.EventTool, Tool: "search"}))
	require.Equal(t, "run-2 search", <-got)
}

// A reader of what is new sees the records of every run, from the moment on at which it is ready, and none before.
func TestNewResultsBeginWhenReady(t *testing.T) {
	t.Parallel()
	q := open(t, startServer(t, ""), queue.Config{Storage: jetstream.MemoryStorage})
	publish := func(n int) {
		tk := newTask(n)
		tk.Run.UID = fmt.Sprint("run", n)
		_, err := q.PublishResult(t.Context(), queue.KeyOf(tk), newResult(tk, "x"))
		require.NoError(t, err)
	}
	publish(1)
	enough := errors.New("enough")
	var seen []string
	err := q.NewResults(t.Context(), func(r queue.Record) error {
		if seen = append(seen, r.Key.RunUID); len(seen) == 2 {
			return enough
		}
		return nil
	}, func() {
		publish(2)
		publish(3)
	})
	require.ErrorIs(t, err, enough)
	require.Equal(t, []string{"run2", "run3"}, seen)
}
