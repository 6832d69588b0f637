package runtime_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/task"
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
