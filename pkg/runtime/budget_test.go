package runtime_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// 50 tasks at once on a budget that runs out on the way: what was used never passes it, and nobody calls without a
// reservation.
func TestBudgetIsNeverPassed(t *testing.T) {
	t.Parallel()
	const n, limit = 50, 20_000
	w := newWorld(t, modelserver.Config{Rules: reply(modelserver.Reply{Text: "x", Usage: &modelserver.Usage{Prompt: 100, Completion: 500}})})
	w.agent("writer", func(c *runtime.Config) {
		c.Limits.MaxConcurrentTasks, c.Limits.MaxTokensPerCall = n, 600
	})
	all := make([]*task.Task, n)
	for i := range all {
		all[i] = w.task("writer", "x")
		all[i].Budgets = []task.Budget{{Scope: "run." + runUID, Limit: limit}}
	}
	w.submit(all...)
	var used int64
	succeeded := 0
	for _, tk := range all {
		r := w.result(tk.ID)
		used += r.Usage.Total()
		if r.Status == task.Succeeded {
			succeeded++
			continue
		}
		require.Equal(t, task.CodeBudgetExceeded, r.Error.Code)
		require.Zero(t, r.ModelCalls)
	}
	require.LessOrEqual(t, used, int64(limit))
	require.Len(t, w.models.Calls(), succeeded)
	require.Greater(t, succeeded, 10, "a refusal that is due to open reservations waits for them")
}

// A task that waits for its budget is handed back until the budget frees. The wait does not count as the task's own
// time, and no call is made without a reservation.
func TestWaitingForABudget(t *testing.T) {
	t.Parallel()
	const limit = 2_000
	window := 0 // s
	waited := func(r *task.Result) bool { return r.Status == task.Succeeded && len(r.Notes) == 1 }
	var calls []modelserver.Call
	r := patiently(waited, func(scale int) *task.Result {
		window = 3 * scale
		daily := func(string, string, string) []task.Budget {
			return []task.Budget{{Scope: "agent.writer", Limit: limit, Window: int64(3 * scale)}}
		}
		w := newWorldWith(t, modelserver.Config{
			Rules: reply(modelserver.Reply{Text: "x", Usage: &modelserver.Usage{Prompt: 400, Completion: 1000}}),
		}, work.Config{Daily: daily, Logger: quiet()})
		w.agent("writer", func(c *runtime.Config) {
			c.Limits.MaxTokensPerCall, c.Limits.WaitForBudget = 1200, true
		})
		require.Equal(t, task.Succeeded, w.do(w.task("writer", "x")).Status)
		patient := w.task("writer", "y")
		patient.TimeoutSeconds = int64(scale)
		r := w.do(patient)
		calls = w.models.Calls()
		return r
	})
	require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
	require.Equal(t, 1, r.ModelCalls)
	require.Len(t, r.Notes, 1)
	require.Contains(t, r.Notes[0], "waited for its budget until ")
	require.Len(t, calls, 2)
	require.Greater(t, calls[1].In.Sub(calls[0].In), time.Duration(window-1)*time.Second)
}

func TestRefusedBudgetFailsTheTask(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{})
	w.agent("writer", nil)
	tk := w.task("writer", "x")
	tk.Budgets = []task.Budget{{Scope: "run." + runUID, Limit: 100}}
	r := w.do(tk)
	require.Equal(t, task.CodeBudgetExceeded, r.Error.Code)
	require.Contains(t, r.Error.Message, "maxTokens of the run is 100 tokens")
	require.Empty(t, w.models.Calls())
}
