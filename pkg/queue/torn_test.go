package queue_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
)

// A process that is killed while it makes a consumer leaves half of one behind. What the half remembers of deliveries
// must not keep a task from the next process.
func TestHalfAConsumerKeepsNoTaskBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir)
	q := open(t, s, queue.Config{})
	want := newTask(1)
	require.NoError(t, q.Submit(t.Context(), want))
	tasks, err := q.Tasks(t.Context(), want.Namespace, want.Agent, queue.TasksConfig{AckWait: time.Hour})
	require.NoError(t, err)
	_, err = tasks.Next(t.Context())
	require.NoError(t, err)
	s.Shutdown()
	sums, err := filepath.Glob(filepath.Join(dir, "jetstream", "*", "streams", queue.StreamTasks, "obs", "*", "meta.sum"))
	require.NoError(t, err)
	require.Len(t, sums, 1)
	require.NoError(t, os.Remove(sums[0]))

	q = open(t, startServer(t, dir), queue.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tasks, err = q.Tasks(ctx, want.Namespace, want.Agent, queue.TasksConfig{AckWait: time.Hour})
	require.NoError(t, err)
	started := time.Now()
	d, err := tasks.Next(ctx)
	require.NoError(t, err, "waited %s", time.Since(started))
	require.Equal(t, want.ID, d.Task.ID)
}
