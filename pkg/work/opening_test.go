package work_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// Budgets begin with what was spent before, once in a store; what the store knows already stays.
func TestBudgetsAreOpenedOnce(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	w := newWorld(t, work.Config{
		Now: func() time.Time { return now },
		Daily: func(_, agent, _ string) []task.Budget {
			return []task.Budget{{Scope: "agent." + agent, Limit: 500, Window: 86400}}
		},
	})
	w.serve()
	tk := w.task(runBudget(1000))
	tk.Deadline = now.Add(time.Hour)
	s := w.take(tk)
	daily := func(agent string) task.Budget {
		return task.Budget{Scope: "agent." + agent, Limit: 500, Window: 86400}
	}
	spent := func(agent string) work.BudgetState {
		state, err := w.service.Budget(t.Context(), "default", daily(agent), 1)
		require.NoError(t, err)
		return state
	}
	open, err := w.service.Opened(t.Context(), "default")
	require.NoError(t, err)
	require.False(t, open)
	openings := []work.Opening{{Namespace: "default", Budget: daily("writer"), Charges: []work.Charge{
		{At: now.Add(-23 * time.Hour), Tokens: 150, Output: 50}, {At: now, Tokens: 250, Output: 40}, {At: now.Add(-25 * time.Hour), Tokens: 1000},
	}}}
	for i := range 450 { // more than are written at once
		openings = append(openings, work.Opening{Namespace: "default", Budget: daily(fmt.Sprint("other-", i)), Charges: []work.Charge{{At: now, Tokens: 7}}})
	}
	require.NoError(t, w.service.Open(t.Context(), "default", openings))
	open, err = w.service.Opened(t.Context(), "default")
	require.NoError(t, err)
	require.True(t, open)
	require.Equal(t, work.BudgetState{Spent: 400, Output: 90}, spent("writer"))
	require.Equal(t, work.BudgetState{Spent: 7}, spent("other-449"))
	require.ErrorIs(t, w.service.Open(t.Context(), "default", openings), queue.ErrStale, "another operator was faster")
	require.Equal(t, work.BudgetState{Spent: 400, Output: 90}, spent("writer"))

	var refused *work.BudgetError
	require.ErrorAs(t, s.Append(t.Context(), intent(1, 101)), &refused)
	require.Equal(t, now.Add(time.Hour+30*time.Minute), refused.FreesAt.UTC(), "when what was spent 23 hours ago leaves the window")
	appends(t, s, intent(1, 100))
	appends(t, s, answer(1, 60))
	require.NoError(t, w.service.Open(t.Context(), "elsewhere", openings), "another group of the same store")
	require.Equal(t, int64(460), spent("writer").Spent)
}
