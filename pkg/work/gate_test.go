package work_test

import (
	"bytes"
	"context"
	"net"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// gate is a connection on which messages to some subjects are held back, while others pass.
type gate struct {
	net.Conn

	mu      sync.Mutex
	holds   []*barrier
	passed  []string // subjects of messages
	partial []byte   // of a command that is not complete
}

// barrier holds messages to some subjects back.
type barrier struct {
	g        *gate
	tb       testing.TB
	subjects *regexp.Regexp
	reached  chan struct{} // closed with the first message
	held     []byte
}

// hold begins to hold messages back whose subjects match.
func (g *gate) hold(tb testing.TB, subjects string) *barrier {
	tb.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	b := &barrier{g: g, tb: tb, subjects: regexp.MustCompile(subjects), reached: make(chan struct{})}
	g.holds, g.passed = append(g.holds, b), nil
	return b
}

// open lets everything through.
func (b *barrier) open() {
	b.tb.Helper()
	b.g.mu.Lock()
	defer b.g.mu.Unlock()
	_, err := b.g.Conn.Write(b.held)
	require.NoError(b.tb, err)
	b.g.holds = slices.DeleteFunc(b.g.holds, func(other *barrier) bool { return other == b })
}

// awaits returns when a message is held back, and messages to other subjects have passed since the last hold.
func (b *barrier) awaits(others ...string) {
	b.tb.Helper()
	select {
	case <-b.reached:
	case <-time.After(time.Minute):
		require.FailNow(b.tb, "no message is held back")
	}
	for _, other := range others {
		pattern := regexp.MustCompile(other)
		require.Eventually(b.tb, func() bool {
			b.g.mu.Lock()
			defer b.g.mu.Unlock()
			return slices.ContainsFunc(b.g.passed, pattern.MatchString)
		}, time.Minute, time.Millisecond)
	}
}

func (g *gate) Write(data []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.partial = append(g.partial, data...)
	var pass []byte
	for {
		n, subject := command(g.partial)
		if n == 0 {
			break
		}
		i := slices.IndexFunc(g.holds, func(b *barrier) bool { return subject != "" && b.subjects.MatchString(subject) })
		if i < 0 {
			g.passed = append(g.passed, subject)
			pass = append(pass, g.partial[:n]...)
		} else {
			g.holds[i].hold(g.partial[:n])
		}
		g.partial = g.partial[n:]
	}
	if _, err := g.Conn.Write(pass); err != nil {
		return 0, err
	}
	return len(data), nil
}

func (b *barrier) hold(message []byte) {
	if len(b.held) == 0 {
		close(b.reached)
	}
	b.held = append(b.held, message...)
}

// command is how long the first command of a client is, 0 while it is not complete, and the subject that it publishes to.
func command(data []byte) (n int, subject string) {
	end := bytes.Index(data, []byte("\r\n"))
	if end < 0 {
		return 0, ""
	}
	n = end + 2
	fields := bytes.Fields(data[:end])
	if verb := string(fields[0]); verb != "PUB" && verb != "HPUB" {
		return n, ""
	}
	size, err := strconv.Atoi(string(fields[len(fields)-1]))
	if err != nil || len(data) < n+size+2 {
		return 0, ""
	}
	return n + size + 2, string(fields[1])
}

// InProcessConn implements nats.InProcessConnProvider.
func (g *gate) InProcessConn() (net.Conn, error) { return g, nil }

// serveGated starts a service whose way to the streams is a gate.
func (w *world) serveGated() *gate {
	w.tb.Helper()
	conn, err := w.raw.InProcessConn()
	require.NoError(w.tb, err)
	g := &gate{Conn: conn}
	nc, err := nats.Connect("", nats.InProcessServer(g), nats.NoReconnect())
	require.NoError(w.tb, err)
	w.tb.Cleanup(nc.Close)
	q, err := queue.Open(w.tb.Context(), nc, queue.Config{Storage: w.storage, Logger: quiet(), Timeout: time.Minute})
	require.NoError(w.tb, err)
	w.serveOn(q)
	return g
}

// read returns when nobody reads the journal of a task any more.
func (w *world) read(t *task.Task) {
	w.tb.Helper()
	require.Eventually(w.tb, func() bool { return !work.Reads(w.service, queue.KeyOf(t)) }, time.Minute, time.Millisecond)
}

// knows returns when the last service has heard that a task has a result.
func (w *world) knows(t *task.Task) {
	w.tb.Helper()
	require.Eventually(w.tb, func() bool { return work.Knows(w.service, queue.KeyOf(t)) }, time.Minute, time.Millisecond)
}

// Looks at what is stored of a task.
const (
	lookUpOfTask   = `^\$JS\.API\.(DIRECT|STREAM\.MSG)\.GET\.ARK_TASKS`
	lookUpOfResult = `^\$JS\.API\.(DIRECT|STREAM\.MSG)\.GET\.ARK_RESULTS`
	lookUpOfRecord = `^\$JS\.API\.(DIRECT|STREAM\.MSG)\.GET\.ARK_LEDGER`
	writeOfRecord  = `^ark\.ledger\.log$`
)

// account is what Account returned.
type account struct {
	usage task.Usage
	err   error
}

func (w *world) account(t *task.Task) <-chan account {
	accounts := make(chan account, 1)
	go func() {
		usage, err := w.service.Account(w.tb.Context(), queue.KeyOf(t))
		accounts <- account{usage, err}
	}()
	return accounts
}

// A journal is read while its last call ends and its task gets its result. What was read is older than what the service
// knew: it must not take its place, with a call that seems to be open, or the end of the run waits for that.
func TestJournalThatWasReadBeforeItsEnd(t *testing.T) {
	t.Parallel()
	for name, stored := range map[string]bool{"end is stored": true, "end is on its way": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newRawWorld(t, work.Config{SettleAfter: time.Hour})
			g := w.serveGated()
			work.SetPatience(w.service, time.Hour)
			tk := w.task(runBudget(100))
			s := w.take(tk)
			appends(t, s, intent(1, 60))
			look := g.hold(t, lookUpOfTask)
			accounts := w.account(tk)
			look.awaits(lookUpOfRecord, lookUpOfResult)
			write := g.hold(t, writeOfRecord)
			done := make(chan error, 1)
			go func() { done <- s.Append(t.Context(), answer(1, 40)) }()
			write.awaits()
			if stored {
				write.open()
				granted(t, done)
			}
			w.result(tk, task.Cancelled)
			w.knows(tk)
			look.open()
			if !stored {
				w.read(tk)
				write.open()
				granted(t, done)
			}
			select {
			case a := <-accounts:
				require.Equal(t, account{usage: task.Usage{OutputTokens: 40}}, a)
			case <-time.After(time.Minute):
				require.FailNow(t, "it waits for a call that has ended")
			}
			w.stands("run.run-1", 40, 0)
		})
	}
}

// A task gets its result while a service reads its journal, which had none when it looked: no call is made any more.
func TestResultWhileTheJournalIsRead(t *testing.T) {
	t.Parallel()
	w := newRawWorld(t, work.Config{})
	w.serve()
	tk := w.task(runBudget(100))
	s := w.take(tk)
	g := w.serveGated()
	second := w.service
	look := g.hold(t, lookUpOfTask)
	there := work.NewSwitchedClient(func() *work.Service { return second }, time.Minute)
	done := make(chan error, 1)
	go func() { done <- s.Through(there).Append(t.Context(), intent(1, 60)) }()
	look.awaits(lookUpOfResult)
	w.result(tk, task.Cancelled)
	w.knows(tk)
	look.open()
	require.ErrorIs(t, <-done, work.ErrDone)
	w.stands("run.run-1", 0, 0)
}

// An append is given up through one service while it waits at another, which must not grant it then: nobody would make the
// call, and whoever stands behind it would wait for its end.
func TestGivenUpElsewhere(t *testing.T) {
	t.Parallel()
	w, ask := twoServices(t, work.Config{})
	holder, giving, behind, refused := w.take(w.task(runBudget(100))), w.take(w.task(runBudget(100))), w.take(w.task(runBudget(100))), w.take(w.task(runBudget(100)))
	ask(true)
	appends(t, holder, intent(1, 90))
	ask(false)
	ctx, giveUp := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- giving.Append(ctx, intent(1, 50)) }()
	waitingAt(t, w.services[0], 1)
	ask(true)
	giveUp()
	require.ErrorIs(t, <-done, context.Canceled)
	appends(t, holder, answer(1, 0))
	ask(false)
	var budget *work.BudgetError
	require.ErrorAs(t, refused.Append(t.Context(), intent(1, 101)), &budget, "the first service learns of what is free")
	waitingAt(t, w.services[0], 0)
	go func() { done <- behind.Append(t.Context(), intent(1, 60)) }()
	granted(t, done)
	w.stands("run.run-1", 0, 60)
	appends(t, behind, answer(1, 0))
	appends(t, giving, intent(1, 30))
	w.stands("run.run-1", 0, 30)
}

// What an append has ended before its reservation waited is stored, also when the reservation is refused in the end. It can
// be appended again without it.
func TestRefusedAfterWaiting(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	tk := w.task(runBudget(100))
	s, other := w.take(tk), w.take(w.task(runBudget(100)))
	appends(t, s, intent(1, 40))
	appends(t, other, intent(1, 60))
	done := make(chan error, 1)
	go func() { done <- s.Append(t.Context(), toolEnd("x", "y"), failed(1, 10), intent(2, 80)) }()
	w.waiting(1)
	appends(t, other, answer(1, 60))
	var refused *work.BudgetError
	require.ErrorAs(t, <-done, &refused)
	appends(t, s, toolEnd("x", "y"), failed(1, 10), work.Entry{Note: "no more"})
	appends(t, s, intent(2, 30))
	again, err := w.takeAgain(tk)
	require.NoError(t, err)
	require.Equal(t, []work.Entry{intent(1, 40), toolEnd("x", "y"), failed(1, 10), {Note: "no more"}, intent(2, 30)}, again.Journal()[:5])
	w.stands("run.run-1", 100, 0)
}

// A run is removed while calls of it are open. What they have reserved in budgets that outlive it is charged all the same:
// others would wait for ever for it.
func TestRemovedRunLeavesNoReservation(t *testing.T) {
	t.Parallel()
	w := newRawWorld(t, work.Config{
		SettleAfter: 50 * time.Millisecond,
		Daily: func(string, string, string) []task.Budget {
			return []task.Budget{{Scope: "team.crew", Limit: 100, Window: 86400}}
		},
	})
	g := w.serveGated()
	tk := w.task()
	appends(t, w.take(tk), intent(1, 60))
	next := w.task()
	next.Run.UID, next.Agent = "run-2", "critic"
	s := w.take(next)
	look := g.hold(t, lookUpOfResult) // the service takes its time to look whether it may charge the call
	done := make(chan error, 1)
	go func() { done <- s.Append(t.Context(), intent(1, 50)) }()
	w.waiting(1)
	_, err := w.queue.RemoveAgent(t.Context(), "default", "writer", task.Errorf(task.CodeCancelled, "gone"))
	require.NoError(t, err)
	look.awaits()
	waiting, err := w.queue.PurgeRun(t.Context(), "run-1")
	require.NoError(t, err)
	require.Zero(t, waiting)
	look.open()
	var refused *work.BudgetError
	select {
	case err := <-done:
		require.ErrorAs(t, err, &refused)
	case <-time.After(time.Minute):
		require.FailNow(t, "it waits for a call of a run that is gone")
	}
	w.stands("team.crew", 60, 0)
}

// A task that left the queue without a result, and that its service has not heard of for long, holds nobody up.
func TestForgottenTaskLeavesNoReservation(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{SettleAfter: 50 * time.Millisecond})
	w.serve()
	tk := w.task(runBudget(100))
	appends(t, w.take(tk), intent(1, 60))
	s := w.take(w.task(runBudget(100)))
	done := make(chan error, 1)
	go func() { done <- s.Append(t.Context(), intent(1, 50)) }()
	w.waiting(1)
	work.Tidy(w.service, time.Hour)
	w.lose(tk)
	var refused *work.BudgetError
	select {
	case err := <-done:
		require.ErrorAs(t, err, &refused)
	case <-time.After(time.Minute):
		require.FailNow(t, "it waits for a call of a task that is gone")
	}
	w.stands("run.run-1", 60, 0)
}
