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
	require.JSONEq(t, `{"waiting":true}`, string(ask().Data))
	done := make(chan error, 1)
	behind := w.take(w.task(runBudget(100)))
	go func() { done <- behind.Append(t.Context(), intent(1, 5)) }()
	granted(t, done)
	w.stands("run.run-1", 0, 95)
	require.JSONEq(t, `{"waiting":true}`, string(ask().Data))
	appends(t, holder, answer(1, 0))
	require.Eventually(t, func() bool { return string(ask().Data) == "{}" }, time.Minute, time.Millisecond)
	w.stands("run.run-1", 0, 55)
}
