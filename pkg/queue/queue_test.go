package queue_test

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
)

// quiet drops what the server and the queue log: the tests provoke it.
func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// startServer starts a server that ends with the test, in memory if dir is empty.
func startServer(t testing.TB, dir string) *queue.Server {
	t.Helper()
	s, err := queue.StartServer(t.Context(), queue.ServerConfig{StoreDir: dir, Logger: quiet()})
	require.NoError(t, err)
	t.Cleanup(s.Shutdown)
	return s
}

func connect(t testing.TB, s *queue.Server) *nats.Conn {
	t.Helper()
	nc, err := s.Connect("test")
	require.NoError(t, err)
	return nc
}

func open(t testing.TB, s *queue.Server, cfg queue.Config) *queue.Queue {
	t.Helper()
	cfg.Logger = quiet()
	q, err := queue.Open(t.Context(), connect(t, s), cfg)
	require.NoError(t, err)
	return q
}

func inMemory(t testing.TB) *queue.Queue {
	t.Helper()
	return open(t, startServer(t, ""), queue.Config{Storage: jetstream.MemoryStorage})
}

func newTask(n int) *task.Task {
	at := time.Date(2026, 11, 24, 10, 0, 0, 0, time.UTC)
	return &task.Task{
		Version: task.Version, ID: task.ID(task.KindStep, "run-1", fmt.Sprint("step-", n), 0, 0, 0), Kind: task.KindStep,
		Namespace: "default", Agent: "writer", Run: task.Run{UID: "run-1", Name: "first"},
		Step: fmt.Sprint("step-", n), Prompt: task.Text{Inline: "write"}, Deadline: at.Add(time.Hour), Created: at,
	}
}

func newResult(t *task.Task, output string) *task.Result {
	return &task.Result{Version: task.Version, TaskID: t.ID, Status: task.Succeeded, Output: task.Text{Inline: output}}
}

func takeTasks(t testing.TB, q *queue.Queue, cfg queue.TasksConfig) *queue.Tasks {
	t.Helper()
	tasks, err := q.Tasks(t.Context(), "default", "writer", cfg)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), 5*time.Second)
		defer cancel()
		_ = tasks.Stop(ctx)
	})
	return tasks
}

func next(t testing.TB, tasks *queue.Tasks) *queue.Delivery {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	d, err := tasks.Next(ctx)
	require.NoError(t, err)
	return d
}

// nothing shows that no task comes within a short time.
func nothing(t testing.TB, tasks *queue.Tasks) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	d, err := tasks.Next(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded, "%+v", d)
}

func TestTaskIsDeliveredOnceAndAcknowledged(t *testing.T) {
	t.Parallel()
	q := inMemory(t)
	want := newTask(1)
	require.NoError(t, q.Submit(t.Context(), want))
	require.NoError(t, q.Submit(t.Context(), want), "a task that is there already is fine")

	tasks := takeTasks(t, q, queue.TasksConfig{Slots: 2})
	d := next(t, tasks)
	require.Equal(t, want, d.Task)
	require.Equal(t, queue.KeyOf(want), d.Key())
	require.Equal(t, 1, d.Deliveries)
	require.WithinDuration(t, time.Now(), d.Stored, 5*time.Second)
	nothing(t, tasks)
	require.NoError(t, d.InProgress())
	require.NoError(t, d.Ack(t.Context()))
	nothing(t, tasks)
}
