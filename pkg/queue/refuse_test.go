package queue_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// Tasks that are refused fail, but for those that a process holds: they do when it has handed them back.
func TestRefusedTasks(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	cause := task.Errorf(task.CodeBudgetExceeded, "nothing is left")
	n, err := q.RefuseTasks(t.Context(), "default", "writer", cause)
	require.NoError(t, err)
	require.Zero(t, n, "an agent that never had a task")

	for i := range 3 {
		require.NoError(t, q.Submit(t.Context(), newTask(i)))
	}
	tasks := takeTasks(t, q, queue.TasksConfig{Slots: 1, AckWait: time.Hour})
	held := next(t, tasks)
	require.NoError(t, tasks.Stop(t.Context()))
	require.Eventually(t, func() bool { // the process may have been given one more, which it hands back
		more, err := q.RefuseTasks(t.Context(), "default", "writer", cause)
		require.NoError(t, err)
		n += more
		return n == 2
	}, patience, 10*time.Millisecond)
	_, err = q.Result(t.Context(), held.Key())
	require.ErrorIs(t, err, queue.ErrNoResult)
	backlog, err := q.Backlog(t.Context(), "default", "writer")
	require.NoError(t, err)
	require.Equal(t, queue.Backlog{Held: 1}, backlog)

	require.NoError(t, held.Nak(0))
	require.Eventually(t, func() bool {
		more, err := q.RefuseTasks(t.Context(), "default", "writer", cause)
		require.NoError(t, err)
		return more == 1
	}, patience, 10*time.Millisecond)
	backlog, err = q.Backlog(t.Context(), "default", "writer")
	require.NoError(t, err)
	require.Equal(t, queue.Backlog{}, backlog)
	for i := range 3 {
		r, err := q.Result(t.Context(), queue.KeyOf(newTask(i)))
		require.NoError(t, err)
		require.Equal(t, task.Failed, r.Status)
		require.Equal(t, cause, r.Error)
	}
}
