package work_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/work"
)

// granted waits for the answer to an append for much longer than it can take.
func granted(tb testing.TB, done <-chan error) {
	tb.Helper()
	select {
	case err := <-done:
		require.NoError(tb, err)
	case <-time.After(time.Minute):
		require.FailNow(tb, "nobody is given what is free")
	}
}

// waitingAt returns when n reservations wait at a service.
func waitingAt(tb testing.TB, s *work.Service, n int) {
	tb.Helper()
	require.Eventually(tb, func() bool { return work.Waiting(s) == n }, time.Minute, time.Millisecond)
}

// An append waits at one service and is granted by another. What is left of it at the first one holds nobody up, also
// when the first one has learned of the budget's new state on another occasion than that of those who wait.
func TestGrantedElsewhereHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	first := w.service
	w.serve()
	second := w.service
	at := func(s *work.Service) *work.Client {
		return work.NewSwitchedClient(func() *work.Service { return s }, 3*time.Second)
	}
	var to atomic.Pointer[work.Service]
	to.Store(first)

	w.client = at(second)
	holder := w.take(w.task(runBudget(100)))
	appends(t, holder, intent(1, 90))
	w.client = work.NewSwitchedClient(to.Load, 100*time.Millisecond)
	moving := w.take(w.task(runBudget(100)))
	w.client = at(first)
	behind, refused := w.take(w.task(runBudget(100))), w.take(w.task(runBudget(100)))

	moved, done := make(chan error, 1), make(chan error, 1)
	go func() { moved <- moving.Append(t.Context(), intent(1, 50)) }()
	waitingAt(t, first, 1)
	to.Store(second)
	waitingAt(t, second, 1)
	go func() { done <- behind.Append(t.Context(), intent(1, 20)) }()
	waitingAt(t, first, 2)
	appends(t, holder, answer(1, 0))
	granted(t, moved)
	appends(t, moving, answer(1, 10))

	var budget *work.BudgetError
	require.ErrorAs(t, refused.Append(t.Context(), intent(1, 101)), &budget)
	granted(t, done)
	w.stands("run.run-1", 10, 20)
	waitingAt(t, first, 0)
}

// An append whose client has died without a word stands in nobody's way for long. When it is asked for again after all,
// it waits anew.
func TestNobodyAsksForItAnyMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	holder := w.take(w.task(runBudget(100)))
	appends(t, holder, intent(1, 90))
	tk := w.task(runBudget(100))
	w.take(tk)
	nc := w.connect()
	ask := func() *nats.Msg {
		m, err := nc.Request(queue.WorkSubject("default", "writer", "append"), fmt.Appendf(nil,
			`{"run":"run-1","task":%q,"epoch":1,"n":1,"id":"x","wait":10,"entries":[{"intent":{"call":1,"reserve":50}}]}`, tk.ID), time.Minute)
		require.NoError(t, err)
		return m
	}
	require.Contains(t, string(ask().Data), `"waiting":true`)
	done := make(chan error, 1)
	behind := w.take(w.task(runBudget(100)))
	go func() { done <- behind.Append(t.Context(), intent(1, 5)) }()
	granted(t, done)
	w.stands("run.run-1", 0, 95)
	require.Contains(t, string(ask().Data), `"waiting":true`)
	appends(t, holder, answer(1, 0))
	require.Eventually(t, func() bool { return string(ask().Data) == "{}" }, time.Minute, time.Millisecond)
	w.stands("run.run-1", 0, 55)
}

// A caller that asks for it hears again and again that others' reservations hold up its own, and keeps its turn meanwhile.
func TestReserveTellsThatItWaitsForOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	holder := w.take(w.task(runBudget(100)))
	appends(t, holder, intent(1, 90))
	first, second := w.take(w.task(runBudget(100))), w.take(w.task(runBudget(100)))
	done, overtaken := make(chan error, 1), make(chan error, 1)
	heard := make(chan struct{})
	go func() {
		waits := 0
		done <- first.Reserve(t.Context(), time.Millisecond, func() {
			if waits++; waits == 3 {
				close(heard)
			}
		}, intent(1, 60))
	}()
	waitingAt(t, w.service, 1)
	go func() { overtaken <- second.Append(t.Context(), intent(1, 60)) }()
	waitingAt(t, w.service, 2)
	<-heard
	appends(t, holder, answer(1, 0))
	granted(t, done)
	waitingAt(t, w.service, 1)
	appends(t, first, answer(1, 0))
	granted(t, overtaken)
}

// A service that is slow to store an intent keeps its caller waiting for nobody.
func TestReserveOfASlowService(t *testing.T) {
	t.Parallel()
	w := newRawWorld(t, work.Config{})
	g := w.serveGated()
	asked := make(chan struct{}, 1<<10)
	w.client = work.NewSwitchedClient(func() *work.Service { asked <- struct{}{}; return w.service }, time.Second)
	s := w.take(w.task(runBudget(100)))
	write := g.hold(t, writeOfRecord)
	for len(asked) > 0 {
		<-asked
	}
	done := make(chan error, 1)
	waits := 0
	go func() { done <- s.Reserve(t.Context(), 10*time.Millisecond, func() { waits++ }, intent(1, 60)) }()
	for range 4 {
		<-asked
	}
	write.open()
	granted(t, done)
	require.Zero(t, waits)
}
