package work_test

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/ledger"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// patience is how long a test waits for what merely has to happen, on a machine that is busy with other things too.
const patience = 2 * time.Minute

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// world is a queue on a real server, and the services and clients on it.
type world struct {
	tb      testing.TB
	server  *queue.Server
	raw     *server.Server // instead of server, see newRawWorld
	storage jetstream.StorageType
	queue   *queue.Queue
	client  *work.Client
	config  work.Config
	steps   int
	service *work.Service // the last one that was started

	services []*work.Service
}

func newWorld(tb testing.TB, config work.Config) *world {
	tb.Helper()
	return newWorldOn(tb, config, jetstream.MemoryStorage)
}

func newWorldOn(tb testing.TB, config work.Config, storage jetstream.StorageType) *world {
	tb.Helper()
	dir := ""
	if storage == jetstream.FileStorage {
		dir = tb.TempDir()
	}
	s, err := queue.StartServer(tb.Context(), queue.ServerConfig{StoreDir: dir, Logger: quiet()})
	require.NoError(tb, err)
	tb.Cleanup(s.Shutdown)
	config.Logger = quiet()
	w := &world{tb: tb, server: s, storage: storage, config: config}
	w.queue = w.open()
	w.client = work.NewClient(w.connect())
	return w
}

// newRawWorld is a world on a server that connections can be made to in other ways.
func newRawWorld(tb testing.TB, config work.Config) *world {
	tb.Helper()
	ns, err := server.NewServer(&server.Options{DontListen: true, NoSigs: true, JetStream: true, JetStreamMaxStore: 1 << 40, StoreDir: tb.TempDir()})
	require.NoError(tb, err)
	ns.Start()
	tb.Cleanup(func() { ns.Shutdown(); ns.WaitForShutdown() })
	require.True(tb, ns.ReadyForConnections(time.Minute))
	config.Logger = quiet()
	w := &world{tb: tb, raw: ns, storage: jetstream.MemoryStorage, config: config}
	w.queue = w.open()
	w.client = work.NewClient(w.connect())
	return w
}

func (w *world) connect() *nats.Conn {
	w.tb.Helper()
	if w.raw != nil {
		nc, err := nats.Connect("", nats.InProcessServer(w.raw), nats.NoReconnect())
		require.NoError(w.tb, err)
		w.tb.Cleanup(nc.Close)
		return nc
	}
	nc, err := w.server.Connect("test")
	require.NoError(w.tb, err)
	return nc
}

func (w *world) open() *queue.Queue {
	w.tb.Helper()
	q, err := queue.Open(w.tb.Context(), w.connect(), queue.Config{Storage: w.storage, Logger: quiet(), Timeout: time.Minute})
	require.NoError(w.tb, err)
	return q
}

// serve starts a service of its own on connections of its own. stop ends it and waits.
func (w *world) serve() (stop func()) {
	w.tb.Helper()
	return w.serveOn(w.open())
}

func (w *world) serveOn(q *queue.Queue) (stop func()) {
	w.tb.Helper()
	s, err := work.NewService(q, w.connect(), w.config)
	require.NoError(w.tb, err)
	ctx, cancel := context.WithCancel(w.tb.Context())
	w.service = s
	w.services = append(w.services, s)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	require.NoError(w.tb, s.Ready(w.tb.Context()))
	stop = func() {
		cancel()
		if err, ok := <-ended; ok {
			require.NoError(w.tb, err)
			close(ended)
		}
	}
	w.tb.Cleanup(stop)
	return stop
}

// task makes a task of run-1, each one another.
func (w *world) task(budgets ...task.Budget) *task.Task {
	w.steps++
	now := time.Now().UTC()
	step := fmt.Sprint("step-", w.steps)
	return &task.Task{
		Version: task.Version, ID: task.ID(task.KindStep, "run-1", step, 0, 0, 0), Kind: task.KindStep,
		Namespace: "default", Agent: "writer", Run: task.Run{UID: "run-1", Name: "first", Team: "crew"},
		Step: step, Role: "lead", Prompt: task.Text{Inline: "write"}, Budgets: budgets,
		Created: now, Deadline: now.Add(time.Hour),
	}
}

func (w *world) submit(t *task.Task) *task.Task {
	w.tb.Helper()
	require.NoError(w.tb, w.queue.Submit(w.tb.Context(), t))
	return t
}

// take submits a task and takes it over.
func (w *world) take(t *task.Task) *work.Session {
	w.tb.Helper()
	s, err := w.takeAgain(w.submit(t))
	require.NoError(w.tb, err)
	return s
}

func (w *world) takeAgain(t *task.Task) (*work.Session, error) {
	w.tb.Helper()
	ctx, cancel := context.WithTimeout(w.tb.Context(), patience)
	defer cancel()
	return w.client.TakeOver(ctx, queue.KeyOf(t), "pod-0", 0)
}

func (w *world) result(t *task.Task, status task.Status) {
	w.tb.Helper()
	r := &task.Result{Version: task.Version, TaskID: t.ID, Status: status, Output: task.Text{Inline: "done"}}
	if status != task.Succeeded {
		r.Error = task.Errorf(task.CodeCancelled, "withdrawn")
	}
	_, err := w.queue.PublishResult(w.tb.Context(), queue.KeyOf(t), r)
	require.NoError(w.tb, err)
}

// lose takes a task out of the queue and leaves nothing in its place.
func (w *world) lose(t *task.Task) {
	w.tb.Helper()
	js, err := jetstream.New(w.connect())
	require.NoError(w.tb, err)
	tasks, err := js.Stream(w.tb.Context(), queue.StreamTasks)
	require.NoError(w.tb, err)
	subject := "ark.task." + queue.Token(t.Namespace) + "." + queue.Token(t.Agent) + "." + t.ID
	require.NoError(w.tb, tasks.Purge(w.tb.Context(), jetstream.WithPurgeSubject(subject)))
}

// budget is the stored state of a budget.
func (w *world) budget(scope string) *ledger.State {
	w.tb.Helper()
	last, ok, err := w.queue.Last(w.tb.Context(), queue.BudgetSubject("default", scope))
	require.NoError(w.tb, err)
	if !ok {
		return new(ledger.State)
	}
	b, err := work.DecodeBudget(last.Body)
	require.NoError(w.tb, err)
	require.Equal(w.tb, scope, b.Scope)
	return b.State
}

// stands checks what is spent and reserved.
func (w *world) stands(scope string, spent, reserved int64) {
	w.tb.Helper()
	b := w.budget(scope)
	require.Equal(w.tb, []int64{spent, reserved}, []int64{b.Spent(time.Now()), b.Reserved()}, "spent and reserved of %s", scope)
}

func runBudget(limit int64) task.Budget { return task.Budget{Scope: "run.run-1", Limit: limit} }

func intent(call int, reserve int64) work.Entry {
	return work.Entry{Intent: &work.Intent{Call: call, Reserve: reserve, Model: "m-1"}}
}

func answer(call int, used int64) work.Entry {
	return work.Entry{Answer: &work.Answer{
		Call: call, Response: json.RawMessage(fmt.Sprintf(`{"text":"answer %d"}`, call)), Usage: task.Usage{OutputTokens: used},
	}}
}

func failed(call int, charged int64) work.Entry {
	return work.Entry{Failed: &work.CallFailed{Call: call, Code: task.CodeProviderFailed, Message: "500", Charged: charged}}
}

func toolEnd(id, text string) work.Entry {
	return work.Entry{ToolEnd: &work.ToolEnd{ID: id, Text: text}}
}

func started(id string) work.Entry {
	return work.Entry{ToolStart: &work.ToolStart{ID: id, Name: "tool"}}
}

func appends(tb testing.TB, s *work.Session, entries ...work.Entry) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	require.NoError(tb, s.Append(ctx, entries...))
}

// waiting returns when n reservations wait for others.
func (w *world) waiting(n int) {
	w.tb.Helper()
	require.Eventually(w.tb, func() bool { return work.Waiting(w.service) == n }, patience, time.Millisecond)
}

func TestTakeOverOfAFreshTask(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	tk := w.task()
	s := w.take(tk)
	require.Equal(t, tk, s.Task(), "the task as it is stored")
	require.Empty(t, s.Journal())
	require.Equal(t, 1, s.TakeOvers())
	require.WithinDuration(t, time.Now(), s.TakenAt(), patience)
}

// A client in the process of the service does without the server between them.
func TestClientInProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	service, err := work.NewService(w.queue, w.connect(), work.Config{Logger: quiet()})
	require.NoError(t, err)
	w.client = service.Client()
	early, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = w.client.TakeOver(early, queue.KeyOf(w.task()), "pod", 0)
	require.ErrorIs(t, err, context.DeadlineExceeded, "nobody runs it")

	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- service.Run(ctx) }()
	s := w.take(w.task(runBudget(100)))
	appends(t, s, intent(1, 60))
	var refused *work.BudgetError
	require.ErrorAs(t, s.Append(t.Context(), intent(2, 101)), &refused)
	body, err := s.PutPayload(t.Context(), string(noise(1<<20)))
	require.NoError(t, err)
	part, err := s.GetPayload(t.Context(), *body.Ref, 1<<20-10, 100)
	require.NoError(t, err)
	require.Equal(t, noise(1 << 20)[1<<20-10:], part)
	stop()
	require.NoError(t, <-ended)
	require.ErrorIs(t, s.Append(t.Context(), answer(1, 10)), work.ErrUnavailable)
}

func TestJournalIsReplayed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	tk := w.task(runBudget(1000))
	first := w.take(tk)
	appends(t, first, intent(1, 100))
	appends(t, first, answer(1, 60), started("1.0"), started("1.1"))
	appends(t, first, toolEnd("1.0", "a"), intent(2, 200))
	w.stands("run.run-1", 60, 200)
	appends(t, first, failed(2, 10), work.Entry{Note: "it failed once"}, intent(3, 300))
	w.stands("run.run-1", 70, 300)

	second, err := w.takeAgain(tk)
	require.NoError(t, err)
	require.Equal(t, []work.Entry{
		intent(1, 100), answer(1, 60), started("1.0"), started("1.1"), toolEnd("1.0", "a"), intent(2, 200),
		failed(2, 10),
		{Note: "it failed once"},
		intent(3, 300), second.Journal()[9],
	}, second.Journal())
	unknown := second.Journal()[9].Failed
	require.True(t, unknown.Unknown)
	require.Equal(t, 3, unknown.Call)
	require.Equal(t, int64(300), unknown.Charged)
	w.stands("run.run-1", 370, 0)
	require.Equal(t, 2, second.TakeOvers())
	require.Equal(t, first.TakenAt(), second.TakenAt())

	require.ErrorIs(t, first.Append(t.Context(), answer(3, 5)), work.ErrFenced)
	require.ErrorIs(t, first.Release(t.Context()), work.ErrFenced)
	_, err = first.Delegate(t.Context(), "1.1", "writer", "x")
	require.ErrorIs(t, err, work.ErrFenced)
	w.stands("run.run-1", 370, 0)
	appends(t, second, intent(4, 630))
}

func TestWhoIsNotGivenATask(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{Retries: func(string, string) int { return 2 }})
	w.serve()

	_, err := w.takeAgain(w.task())
	require.ErrorIs(t, err, work.ErrGone, "it is not in the queue")

	done := w.submit(w.task())
	w.result(done, task.Succeeded)
	_, err = w.takeAgain(done)
	require.ErrorIs(t, err, work.ErrDone)

	late := w.task()
	late.Deadline = time.Now().Add(-time.Second).UTC()
	_, err = w.takeAgain(w.submit(late))
	var failure *task.Error
	require.ErrorAs(t, err, &failure)
	require.Equal(t, task.CodeDeadline, failure.Code)

	poison := w.submit(w.task(runBudget(1000)))
	for range 3 {
		w.client = w.service.Client() // of another process
		for range 3 {
			s, err := w.takeAgain(poison) // this one has not died
			require.NoError(t, err)
			appends(t, s, intent(len(s.Journal())/2+1, 10))
		}
	}
	for range 2 {
		w.client = w.service.Client()
		_, err = w.takeAgain(poison)
		require.ErrorAs(t, err, &failure)
		require.Equal(t, task.CodePoison, failure.Code)
		require.Contains(t, failure.Message, "limits.retries (2)")
	}
	w.stands("run.run-1", 90, 0)
}

// A request whose answer was lost is answered again in the same way; one that comes when somebody else has the task
// takes it from nobody.
func TestTakeOverAskedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	tk := w.submit(w.task())
	nc := w.connect()
	ask := func() *nats.Msg {
		m, err := nc.Request(queue.WorkSubject("default", "writer", "takeover"), []byte(`{"task":"`+tk.ID+`","pod":"p","id":"x","patience":10000}`), patience)
		require.NoError(t, err)
		return m
	}
	first, second := ask(), ask()
	require.Empty(t, first.Header.Get("Ark-Work-Failure"))
	require.JSONEq(t, string(first.Data), string(second.Data))
	s, err := w.takeAgain(tk)
	require.NoError(t, err)
	require.Equal(t, 2, s.TakeOvers())
	require.Contains(t, ask().Header.Get("Ark-Work-Failure"), "fenced")
	appends(t, s, intent(1, 1))
}

func TestHandingBackIsNoCrash(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{Retries: func(string, string) int { return 1 }})
	w.serve()
	tk := w.submit(w.task())
	for n := range 5 {
		s, err := w.takeAgain(tk)
		require.NoError(t, err)
		require.Equal(t, n+1, s.TakeOvers())
		require.NoError(t, s.Release(t.Context()))
		require.NoError(t, s.Release(t.Context()))
	}
}

// What the queue gives to another pod too early stays with the one that has just stored something, also when the service
// that knew of it is gone; a pod's own task, and one that was handed back, is taken over at once.
func TestATaskIsNotTakenFromAPodAtWork(t *testing.T) {
	t.Parallel()
	const silence = 10 * time.Second
	var later atomic.Int64
	w := newWorld(t, work.Config{Now: func() time.Time { return time.Now().Add(time.Duration(later.Load())) }})
	stop := w.serve()
	tk := w.submit(w.task(runBudget(1000)))
	s := w.take(tk)
	appends(t, s, intent(1, 100))
	other := func() (*work.Session, error) {
		return w.client.TakeOver(t.Context(), queue.KeyOf(tk), "pod-1", silence)
	}
	_, err := other()
	require.ErrorIs(t, err, work.ErrHeld)
	stop()
	w.serve()
	_, err = other()
	require.ErrorIs(t, err, work.ErrHeld)
	appends(t, s, answer(1, 60))
	w.stands("run.run-1", 60, 0)

	own, err := w.client.TakeOver(t.Context(), queue.KeyOf(tk), "pod-0", silence)
	require.NoError(t, err)
	require.NoError(t, own.Release(t.Context()))
	given, err := other()
	require.NoError(t, err)
	appends(t, given, intent(2, 100))
	later.Store(int64(2 * silence)) // nothing was heard of pod-1 since
	last, err := w.client.TakeOver(t.Context(), queue.KeyOf(tk), "pod-2", silence)
	require.NoError(t, err)
	require.Equal(t, 4, last.TakeOvers())
	require.ErrorIs(t, given.Append(t.Context(), answer(2, 60)), work.ErrFenced)
}
