package queue_test

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// patience is how long a test waits for what merely has to happen, on a machine that is busy with other things too.
const patience = 2 * time.Minute

// quiet drops what the server and the queue log: the tests provoke it.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// startServer starts a server that ends with the test, in memory if dir is empty.
func startServer(t testing.TB, dir string) *queue.Server {
	t.Helper()
	s, err := queue.StartServer(t.Context(), queue.ServerConfig{StoreDir: dir, Logger: quiet()})
	require.NoError(t, err)
	t.Cleanup(s.Shutdown)
	return s
}

func connect(t testing.TB, s *queue.Server) *nats.Conn {
	t.Helper()
	nc, err := s.Connect("test")
	require.NoError(t, err)
	return nc
}

func open(t testing.TB, s *queue.Server, cfg queue.Config) *queue.Queue {
	t.Helper()
	cfg.Logger, cfg.Timeout = quiet(), cmp.Or(cfg.Timeout, patience)
	q, err := queue.Open(t.Context(), connect(t, s), cfg)
	require.NoError(t, err)
	return q
}

func inMemory(t testing.TB) *queue.Queue {
	t.Helper()
	return open(t, startServer(t, ""), queue.Config{Storage: jetstream.MemoryStorage})
}

func newTask(n int) *task.Task {
	at := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	return &task.Task{
		Version: task.Version, ID: task.ID(task.KindStep, "run-1", fmt.Sprint("step-", n), 0, 0, 0), Kind: task.KindStep,
		Namespace: "default", Agent: "writer", Run: task.Run{UID: "run-1", Name: "first"},
		Step: fmt.Sprint("step-", n), Prompt: task.Text{Inline: "write"}, Deadline: at.Add(time.Hour), Created: at,
	}
}

func newResult(t *task.Task, output string) *task.Result {
	return &task.Result{Version: task.Version, TaskID: t.ID, Status: task.Succeeded, Output: task.Text{Inline: output}}
}

func takeTasks(t testing.TB, q *queue.Queue, cfg queue.TasksConfig) *queue.Tasks {
	t.Helper()
	tasks, err := q.Tasks(t.Context(), "default", "writer", cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Second)
		defer cancel()
		_ = tasks.Stop(ctx)
	})
	return tasks
}

func next(t testing.TB, tasks *queue.Tasks) *queue.Delivery {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	d, err := tasks.Next(ctx)
	require.NoError(t, err)
	return d
}

// nothing shows that no task comes within a short time.
func nothing(t testing.TB, tasks *queue.Tasks) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	d, err := tasks.Next(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded, "%+v", d)
}

func TestTaskIsDeliveredOnceAndAcknowledged(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	want := newTask(1)
	require.NoError(t, q.Submit(t.Context(), want))
	require.NoError(t, q.Submit(t.Context(), want), "a task that is there already is fine")

	tasks := takeTasks(t, q, queue.TasksConfig{Slots: 2})
	d := next(t, tasks)
	require.Equal(t, want, d.Task)
	queued, err := q.Task(t.Context(), want.Namespace, want.Agent, want.ID)
	require.NoError(t, err)
	require.Equal(t, want, queued)
	require.Equal(t, queue.KeyOf(want), d.Key())
	require.Equal(t, 1, d.Deliveries)
	require.WithinDuration(t, time.Now(), d.Stored, patience)
	nothing(t, tasks)
	require.NoError(t, d.InProgress())
	require.NoError(t, d.Ack(t.Context()))
	nothing(t, tasks)
	_, err = q.Task(t.Context(), want.Namespace, want.Agent, want.ID)
	require.ErrorIs(t, err, queue.ErrNoTask)
}

func TestSlotsBoundWhatIsTaken(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	first, second := takeTasks(t, q, queue.TasksConfig{Slots: 2}), takeTasks(t, q, queue.TasksConfig{Slots: 1})
	for i := range 5 {
		require.NoError(t, q.Submit(t.Context(), newTask(i)))
	}
	a, b, c := next(t, first), next(t, first), next(t, second)
	nothing(t, first)
	nothing(t, second)

	b.Release()
	d := next(t, first)
	nothing(t, first)
	require.NoError(t, c.Ack(t.Context()))
	c.Release() // changes nothing: the slot was freed by Ack
	e := next(t, second)
	nothing(t, second)

	got := map[string]int{}
	for _, x := range []*queue.Delivery{a, b, c, d, e} {
		got[x.Task.Step]++
	}
	require.Equal(t, map[string]int{"step-0": 1, "step-1": 1, "step-2": 1, "step-3": 1, "step-4": 1}, got)
}

func TestTaskComesAgainAfterAckWait(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	tasks := takeTasks(t, q, queue.TasksConfig{Slots: 2, AckWait: 300 * time.Millisecond})
	require.NoError(t, q.Submit(t.Context(), newTask(1)))
	lost := next(t, tasks)
	again := next(t, tasks)
	require.Equal(t, lost.Task, again.Task)
	require.Equal(t, 2, again.Deliveries)
	require.NoError(t, again.Ack(t.Context()))
	require.NoError(t, lost.Ack(t.Context()), "an acknowledgement that is late is no error")
}

func TestInProgressKeepsATask(t *testing.T) {
	t.Parallel()
	// A process that gets no time to say so in time says nothing about the queue: with more of it, it says so in time.
	for wait, last := 400*time.Millisecond, false; !last; wait *= 4 {
		late := keep(t, wait)
		last = late < wait/2 || wait > 20*time.Second
	}
}

// keep keeps a task for more than twice the AckWait and shows that it stays as long. It returns the longest time between two
// signs of life; where that is too long, it shows nothing.
func keep(t *testing.T, wait time.Duration) (late time.Duration) {
	t.Helper()
	q := inMemory(t)
	tasks := takeTasks(t, q, queue.TasksConfig{Slots: 2, AckWait: wait})
	require.NoError(t, q.Submit(t.Context(), newTask(1)))
	d := next(t, tasks)
	begin := time.Now()
	beat := time.NewTicker(wait / 4)
	defer beat.Stop()
	last := begin
	for time.Since(begin) < 2*wait {
		<-beat.C
		require.NoError(t, d.InProgress())
		late, last = max(late, time.Since(last)), time.Now()
	}
	again := next(t, tasks)
	late = max(late, time.Since(last)-wait)
	if late < wait/2 || wait > 20*time.Second {
		require.Greater(t, time.Since(begin), 2*wait+wait/2, "it came back while it was kept")
		require.Equal(t, 2, again.Deliveries)
	}
	return late
}

func TestNakHandsBackAfterTheDelay(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	tasks := takeTasks(t, q, queue.TasksConfig{})
	require.NoError(t, q.Submit(t.Context(), newTask(1)))
	require.NoError(t, next(t, tasks).Nak(0))
	d := next(t, tasks)
	require.Equal(t, 2, d.Deliveries)
	begin := time.Now()
	require.NoError(t, d.Nak(300*time.Millisecond))
	require.Equal(t, 3, next(t, tasks).Deliveries)
	require.Greater(t, time.Since(begin), 250*time.Millisecond)
}

func TestStopHandsBackWhatNobodyTook(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	for i := range 4 {
		require.NoError(t, q.Submit(t.Context(), newTask(i)))
	}
	leaving := takeTasks(t, q, queue.TasksConfig{Slots: 4})
	kept := next(t, leaving)
	require.NoError(t, leaving.Stop(t.Context()))
	_, err := leaving.Next(t.Context())
	require.ErrorIs(t, err, queue.ErrStopped)

	staying := takeTasks(t, q, queue.TasksConfig{Slots: 4})
	steps := map[string]bool{}
	for range 3 {
		steps[next(t, staying).Task.Step] = true
	}
	require.Len(t, steps, 3)
	require.NotContains(t, steps, kept.Task.Step)
	require.NoError(t, kept.Ack(t.Context()), "what was returned before stays valid")
}

// The server says that a consumer is gone only to a pull that waits on it. Otherwise two missed heartbeats tell, so
// they come fast here.
func TestSubscriptionComesBackWhenTheConsumerIsLost(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	tasks := takeTasks(t, q, queue.TasksConfig{Heartbeat: 500 * time.Millisecond})
	js, err := jetstream.New(q.Conn())
	require.NoError(t, err)
	require.NoError(t, js.DeleteConsumer(t.Context(), queue.StreamTasks, "default__writer"))
	require.NoError(t, q.Submit(t.Context(), newTask(1)))
	require.NoError(t, next(t, tasks).Ack(t.Context()))
}

func TestTermPutsATaskAway(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	tasks := takeTasks(t, q, queue.TasksConfig{AckWait: 300 * time.Millisecond})
	poison := newTask(1)
	require.NoError(t, q.Submit(t.Context(), poison))
	require.NoError(t, next(t, tasks).Term(t.Context(), "killed\r\nthree pods"))
	require.NoError(t, q.Submit(t.Context(), newTask(2)))
	require.Equal(t, "step-2", next(t, tasks).Task.Step)

	dead := dead(t, q)
	require.Len(t, dead, 1)
	require.Equal(t, "ark.dead.default.writer."+poison.ID+".task", dead[0].Subject)
	require.Equal(t, "killed  three pods", dead[0].Header.Get("Ark-Reason"))
	copied, err := task.Decode[task.Task](dead[0].Data)
	require.NoError(t, err)
	require.Equal(t, poison, copied)
}

func TestTaskThatCannotBeReadIsPutAwayAndFails(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	other := newTask(9)
	for i, body := range []string{"", "{", `{"v":99}`, `{"v":1}`, string(mustJSON(t, other))} {
		m := nats.NewMsg(fmt.Sprint("ark.task.default.writer.bad-", i))
		m.Data = []byte(body)
		m.Header.Set("Ark-Run", "run-1")
		_, err := q.Conn().RequestMsg(m, patience)
		require.NoError(t, err)
	}
	require.NoError(t, q.Submit(t.Context(), newTask(1)))
	tasks := takeTasks(t, q, queue.TasksConfig{})
	d := next(t, tasks)
	require.Equal(t, "step-1", d.Task.Step, "what cannot be read does not stop the others")
	d.Release()

	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	codes := map[string]task.Code{}
	err := q.Results(ctx, "run-1", func(r queue.Record) error {
		codes[r.Key.TaskID] = r.Result.Error.Code
		if len(codes) == 5 {
			return errDone
		}
		return nil
	}, nil)
	require.ErrorIs(t, err, errDone)
	want := map[string]task.Code{}
	for i := range 5 {
		want[fmt.Sprint("bad-", i)] = task.CodeBadTask
	}
	require.Equal(t, want, codes)
	require.Eventually(t, func() bool { return len(dead(t, q)) == 5 }, patience, 10*time.Millisecond)
}

func TestFullStreamIsAnErrorThatSaysSo(t *testing.T) {
	t.Parallel()
	q := open(t, startServer(t, ""), queue.Config{
		Storage: jetstream.MemoryStorage,
		Limits:  queue.Limits{Tasks: 4 << 10, Results: 4 << 10, Ledger: 4 << 10, Payloads: 4 << 10, Dead: 4 << 10},
	})
	ctx := t.Context()
	big := newTask(1)
	big.Prompt.Inline = string(make([]byte, 3<<10))
	require.ErrorIs(t, q.Submit(ctx, big), queue.ErrFull)
	big.Prompt.Inline = ""
	require.NoError(t, q.Submit(ctx, big), "a smaller one still fits")
	var err error
	for i := 2; err == nil; i++ {
		require.Less(t, i, 100)
		err = q.Submit(ctx, newTask(i))
	}
	require.ErrorIs(t, err, queue.ErrFull)
	require.NoError(t, q.Submit(ctx, big), "a task that is there is there, however full the stream is")

	_, err = q.PublishResult(ctx, queue.KeyOf(big), newResult(big, string(make([]byte, 5<<10))))
	require.ErrorIs(t, err, queue.ErrFull)
	_, err = q.Batch(ctx, queue.Write{Subject: "ark.call.a.b.c.d", Body: make([]byte, 5<<10)})
	require.ErrorIs(t, err, queue.ErrFull)
	_, err = q.Batch(ctx,
		queue.Write{Subject: "ark.call.a.b.c.d", Body: []byte("fits")},
		queue.Write{Subject: "ark.call.a.b.c.e", Body: make([]byte, 5<<10)})
	require.ErrorIs(t, err, queue.ErrFull)
	_, err = q.PutText(ctx, "run-1", string(make([]byte, 40<<10)))
	require.ErrorIs(t, err, queue.ErrFull)
	_, err = q.PutText(ctx, "run-1", string(make([]byte, 400<<10)))
	require.ErrorIs(t, err, queue.ErrFull)
}

func TestAnyNameMakesItsOwnSubject(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	names := []string{"", " ", ".", "*", ">", "a.b", "a_b", "a b", "_", "é", "\x00\r\n", "日本", "A", "a"}
	for _, name := range names {
		odd := newTask(1)
		odd.Namespace, odd.Agent, odd.ID, odd.Run.UID = "ns"+name, "agent"+name, "id"+name, "run"+name
		require.NoError(t, q.Submit(t.Context(), odd))
		tasks, err := q.Tasks(t.Context(), odd.Namespace, odd.Agent, queue.TasksConfig{})
		require.NoError(t, err)
		d := next(t, tasks)
		require.Equal(t, odd, d.Task)
		won, err := q.PublishResult(t.Context(), d.Key(), newResult(odd, name))
		require.NoError(t, err)
		require.True(t, won)
		require.NoError(t, d.Ack(t.Context()))
		r, err := q.Result(t.Context(), queue.KeyOf(odd))
		require.NoError(t, err)
		require.Equal(t, newResult(odd, name), r)
		require.NoError(t, tasks.Stop(t.Context()))
	}
}

func TestNameThatIsTooLongIsRefused(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	long := newTask(1)
	long.Agent = string(make([]byte, 5000))
	require.ErrorContains(t, q.Submit(t.Context(), long), "too long")
	require.NoError(t, q.Submit(t.Context(), newTask(1)), "the connection is unharmed")
}
