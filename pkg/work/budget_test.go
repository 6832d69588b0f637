package work_test

import (
	"context"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

func TestBudgetRefusesAndSaysWhen(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	w := newWorld(t, work.Config{
		Now: func() time.Time { return now },
		Daily: func(_, agent, team string) []task.Budget {
			return []task.Budget{{Scope: "agent." + agent, Limit: 500, Window: 86400}, {Scope: "team." + team, Limit: 9000, Window: 86400}}
		},
	})
	w.serve()
	tk := w.task(runBudget(1000))
	tk.Deadline = now.Add(time.Hour)
	s := w.take(tk)
	appends(t, s, intent(1, 400), toolEnd("x", ""))
	appends(t, s, answer(1, 300))
	err := s.Append(t.Context(), toolEnd("y", ""), intent(2, 201))
	var refused *work.BudgetError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, &work.BudgetError{
		Scope: "agent.writer", Limit: 500, Spent: 300, Asked: 201, FreesAt: now.Add(24*time.Hour + 30*time.Minute),
	}, refused)
	require.Contains(t, err.Error(), `maxDailyTokens of agent "writer" is 500 tokens: 300 are spent, and the next call may use up to 201; enough of it is free again at 2026-03-02T12:30:00Z`)
	require.Equal(t, int64(300), w.budget("run.run-1").Spent(now))
	state, err := w.service.Budget(t.Context(), "default", task.Budget{Scope: "agent.writer", Limit: 500, Window: 86400}, 1)
	require.NoError(t, err)
	require.Equal(t, work.BudgetState{Spent: 300, Output: 300}, state)
	state, err = w.service.Budget(t.Context(), "default", task.Budget{Scope: "agent.writer", Limit: 300, Window: 86400}, 1)
	require.NoError(t, err)
	require.Equal(t, work.BudgetState{Spent: 300, Output: 300, ResetsAt: refused.FreesAt}, state, "it is used up")
	state, err = w.service.Budget(t.Context(), "default", task.Budget{Scope: "agent.nobody", Limit: 300, Window: 86400}, 1)
	require.NoError(t, err)
	require.Equal(t, work.BudgetState{}, state)
	require.Equal(t, int64(0), w.budget("run.run-1").Reserved(), "one budget's refusal leaves no trace in the others")
	appends(t, s, toolEnd("y", ""), intent(2, 200))
	require.Equal(t, int64(200), w.budget("team.crew").Reserved())

	other := w.take(func() *task.Task { o := w.task(runBudget(1000)); o.Deadline = tk.Deadline; return o }())
	require.ErrorAs(t, other.Append(t.Context(), intent(1, 5000)), &refused)
	require.Equal(t, &work.BudgetError{Scope: "run.run-1", Limit: 1000, Spent: 300, Reserved: 200, Asked: 5000}, refused)
	require.Contains(t, refused.Error(), "maxTokens of the run is 1000 tokens: 300 are spent and 200 reserved by other calls")
}

// A server that used more than it may is charged, and nothing more is granted.
func TestOverdrawnIsChargedAndNoted(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	tk := w.task(runBudget(100))
	s := w.take(tk)
	appends(t, s, intent(1, 60))
	appends(t, s, answer(1, 150))
	w.stands("run.run-1", 150, 0)
	var refused *work.BudgetError
	require.ErrorAs(t, s.Append(t.Context(), intent(2, 1)), &refused)
	again, err := w.takeAgain(tk)
	require.NoError(t, err)
	require.Contains(t, again.Journal()[2].Note, "call 1 used 150 tokens, more than the 60 that were reserved")
}

func TestReservationsWaitTheirTurn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	holder := w.take(w.task(runBudget(100)))
	appends(t, holder, intent(1, 90))

	type granted struct {
		name string
		err  error
	}
	order := make(chan granted, 3)
	ask := func(name string, reserve int64) *work.Session {
		s := w.take(w.task(runBudget(100)))
		go func() {
			order <- granted{name, s.Append(t.Context(), intent(1, reserve))}
		}()
		return s
	}
	// A small one would fit beside the holder, but a large one came first.
	large := ask("large", 50)
	w.waiting(1)
	small := ask("small", 10)
	w.waiting(2)
	w.stands("run.run-1", 0, 90)
	appends(t, holder, answer(1, 40))
	require.ElementsMatch(t, []granted{{"large", nil}, {"small", nil}}, []granted{<-order, <-order})
	w.stands("run.run-1", 40, 60)
	appends(t, large, failed(1, 0))
	appends(t, small, failed(1, 0))
}

func TestWaitingEndsWithTheContext(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	holder, s := w.take(w.task(runBudget(100))), w.take(w.task(runBudget(100)))
	appends(t, holder, intent(1, 90))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	err := s.Append(ctx, toolEnd("a", "b"), intent(1, 50))
	require.ErrorIs(t, err, context.DeadlineExceeded)
	appends(t, holder, answer(1, 90))
	w.stands("run.run-1", 90, 0)
	appends(t, s, toolEnd("a", "b"))
	appends(t, s, toolEnd("c", "d"), intent(1, 10))
	w.stands("run.run-1", 90, 10)
}

// Two calls that each end and ask for more must not wait for each other.
func TestWhatIsEndedIsFreeForOthersWhileOneWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	tk := w.task(runBudget(140))
	a, b := w.take(tk), w.take(w.task(runBudget(140)))
	appends(t, a, intent(1, 50))
	appends(t, b, intent(1, 50))
	done := make(chan error, 1)
	go func() { done <- a.Append(t.Context(), toolEnd("x", "y"), failed(1, 0), intent(2, 100)) }()
	w.waiting(1)
	w.stands("run.run-1", 0, 50)
	appends(t, b, failed(1, 0), intent(2, 20))
	require.NoError(t, <-done)
	w.stands("run.run-1", 0, 120)
	again, err := w.takeAgain(tk)
	require.NoError(t, err)
	require.Equal(t, []work.Entry{intent(1, 50), toolEnd("x", "y"), failed(1, 0), intent(2, 100)}, again.Journal()[:4])
}

// A reservation whose task ended in the meantime is not granted any more, and what its calls used is charged.
func TestEndedTaskMakesNoCalls(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{SettleAfter: 20 * time.Millisecond})
	w.serve()
	holding, waiting := w.task(runBudget(100)), w.task(runBudget(100))
	a, b := w.take(holding), w.take(waiting)
	appends(t, a, intent(1, 90))
	done := make(chan error, 1)
	go func() { done <- b.Append(t.Context(), intent(1, 50)) }()
	w.waiting(1)
	w.result(waiting, task.Cancelled)
	require.ErrorIs(t, <-done, work.ErrDone)
	require.ErrorIs(t, b.Append(t.Context(), intent(1, 5)), work.ErrDone)

	third := w.take(w.task(runBudget(100)))
	go func() { done <- third.Append(t.Context(), intent(1, 10), toolEnd("x", "")) }()
	require.NoError(t, <-done)
	go func() { done <- third.Append(t.Context(), failed(1, 0), intent(2, 11)) }()
	w.waiting(1)
	w.result(holding, task.Cancelled)
	var refused *work.BudgetError
	require.ErrorAs(t, <-done, &refused, "the call of the cancelled task is charged in full")
	require.Equal(t, int64(90), refused.Spent)
	require.ErrorIs(t, a.Append(t.Context(), answer(1, 3)), work.ErrDone)
	w.stands("run.run-1", 90, 0)
}

// What a cancelled task used is charged as it was when it is told in time.
func TestEndedTaskTellsWhatItUsed(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{SettleAfter: time.Hour})
	w.serve()
	tk := w.task(runBudget(100))
	s := w.take(tk)
	appends(t, s, intent(1, 90))
	w.result(tk, task.Cancelled)
	appends(t, s, answer(1, 33))
	w.stands("run.run-1", 33, 0)
}

// A task may end while no service runs; the next one finds its open call when it reads the budget.
func TestStrayReservationsAreFound(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{SettleAfter: time.Millisecond})
	stop := w.serve()
	ended, alive := w.task(runBudget(100)), w.task(runBudget(100))
	a, b := w.take(ended), w.take(alive)
	appends(t, a, intent(1, 60))
	appends(t, b, intent(1, 20))
	stop()
	w.result(ended, task.Cancelled)
	w.serve()
	s := w.take(w.task(runBudget(100)))
	// It waits for the 60 to be settled, and then does not fit any more beside them.
	var refused *work.BudgetError
	require.ErrorAs(t, s.Append(t.Context(), intent(1, 41)), &refused)
	require.Equal(t, []int64{60, 20}, []int64{refused.Spent, refused.Reserved}, "the task that is alive keeps its reservation")
}

// A task may be out of the queue for a moment, while a process that goes on with a run queues it again. Its calls are not
// charged under the hands of whoever takes it then.
func TestTaskThatComesBackKeepsItsCalls(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{SettleAfter: 200 * time.Millisecond})
	stop := w.serve()
	tk := w.task(runBudget(1000))
	appends(t, w.take(tk), intent(1, 60))
	stop()
	js, err := jetstream.New(w.connect())
	require.NoError(t, err)
	require.NoError(t, js.DeleteStream(t.Context(), queue.StreamTasks))
	w.queue = w.open()
	w.serve()
	appends(t, w.take(w.task(runBudget(1000))), intent(1, 1)) // the budget is read now
	again := w.take(tk)
	appends(t, again, intent(2, 100))
	timer := time.NewTimer(500 * time.Millisecond)
	defer timer.Stop()
	<-timer.C
	w.stands("run.run-1", 60, 101)
	appends(t, again, answer(2, 5))
	w.stands("run.run-1", 65, 1)
}

// The lower of two limits on one scope counts, and a task's budgets are bounded.
func TestBudgetsOfATask(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{Daily: func(string, string, string) []task.Budget { return []task.Budget{{Scope: "run.run-1", Limit: 10}} }})
	w.serve()
	var refused *work.BudgetError
	require.ErrorAs(t, w.take(w.task(runBudget(100))).Append(t.Context(), intent(1, 11)), &refused)
	require.Equal(t, int64(10), refused.Limit)
	_, err := w.takeAgain(w.submit(w.task(make([]task.Budget, 17)...)))
	var failure *task.Error
	require.ErrorAs(t, err, &failure)
	require.Equal(t, task.CodeBadTask, failure.Code)
}

func TestBudgetErrorNamesTheLimit(t *testing.T) {
	t.Parallel()
	for scope, want := range map[string]string{
		"run.uid":       "maxTokens of the run is",
		"step.uid.a.b":  `maxTokens of step "a.b" is`,
		"step.uid":      "maxTokens of the step is",
		"team.crew":     `maxDailyTokens of team "crew" is`,
		"something.new": `the limit of budget "something.new" is`,
	} {
		require.Contains(t, (&work.BudgetError{Scope: scope}).Error(), want)
	}
}
