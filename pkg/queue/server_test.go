package queue_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
)

// childDir tells a copy of the test binary to be the process of a test that kills it.
const childDir = "ARK_QUEUE_TEST_CHILD_DIR"

// roles are the processes that tests start of the test binary itself, by the variable that names their folder.
func roles() map[string]func(ctx context.Context, dir string) error {
	all := map[string]func(ctx context.Context, dir string) error{childDir: child}
	maps.Copy(all, systemRoles())
	return all
}

func TestMain(m *testing.M) {
	for name, run := range roles() {
		if dir := os.Getenv(name); dir != "" {
			if err := run(context.Background(), dir); err != nil {
				panic(err)
			}
			return
		}
	}
	os.Exit(m.Run())
}

func TestStoreKeepsWhatWasAcknowledgedOverARestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir)
	q := open(t, s, queue.Config{})
	for i := range 3 {
		require.NoError(t, q.Submit(t.Context(), newTask(i)))
	}
	tasks := takeTasks(t, q, queue.TasksConfig{Slots: 3, AckWait: time.Hour})
	done, open1, open2 := next(t, tasks), next(t, tasks), next(t, tasks)
	_, err := q.PublishResult(t.Context(), done.Key(), newResult(done.Task, "answer"))
	require.NoError(t, err)
	require.NoError(t, done.Ack(t.Context()))
	seqs, err := q.Batch(t.Context(), queue.Write{Subject: queue.CallSubject(done.Key()), Body: []byte("a")},
		queue.Write{Subject: queue.CallSubject(done.Key()), Body: []byte("b")})
	require.NoError(t, err)
	ref, err := q.PutText(t.Context(), "run-1", string(make([]byte, 300<<10)))
	require.NoError(t, err)
	s.Shutdown()
	s.Shutdown() // changes nothing

	q = open(t, startServer(t, dir), queue.Config{})
	// One slot: what comes again because this process is slow comes only after it was acknowledged, and so not at all.
	tasks = takeTasks(t, q, queue.TasksConfig{Slots: 1, AckWait: 500 * time.Millisecond})
	again := map[string]int{}
	for range 2 {
		d := next(t, tasks)
		again[d.Task.ID] = d.Deliveries
		require.NoError(t, d.Ack(t.Context()))
	}
	require.Equal(t, map[string]int{open1.Task.ID: 2, open2.Task.ID: 2}, again)
	nothing(t, tasks)
	r, err := q.Result(t.Context(), done.Key())
	require.NoError(t, err)
	require.Equal(t, newResult(done.Task, "answer"), r)
	won, err := q.PublishResult(t.Context(), done.Key(), newResult(done.Task, "another"))
	require.NoError(t, err)
	require.False(t, won)
	text, err := q.Text(t.Context(), ref, 1<<20)
	require.NoError(t, err)
	require.Len(t, text, 300<<10)
	last, ok, err := q.Last(t.Context(), queue.CallSubject(done.Key()))
	require.NoError(t, err)
	require.True(t, ok)
	require.Equal(t, seqs[1], last.Seq)
	require.Equal(t, "b", string(last.Body))
}

func TestFolderTakesOneServer(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir)
	_, err := queue.StartServer(t.Context(), queue.ServerConfig{StoreDir: dir, Logger: quiet()})
	require.ErrorIs(t, err, queue.ErrLocked)
	var locked *queue.LockedError
	require.ErrorAs(t, err, &locked)
	require.Equal(t, queue.LockedError{Dir: dir, PID: os.Getpid()}, *locked)
	require.ErrorContains(t, err, fmt.Sprintf("store %s is in use by process %d", dir, os.Getpid()))

	open(t, s, queue.Config{})
	s.Shutdown()
	startServer(t, dir)
}

func TestServerConfigIsChecked(t *testing.T) {
	t.Parallel()
	_, err := queue.StartServer(t.Context(), queue.ServerConfig{SyncAlways: true})
	require.ErrorContains(t, err, "SyncAlways")
	file := t.TempDir() + "/file"
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	_, err = queue.StartServer(t.Context(), queue.ServerConfig{StoreDir: file, Logger: quiet()})
	require.ErrorContains(t, err, file)
	_, err = queue.Open(t.Context(), nil, queue.Config{Limits: queue.Limits{Tasks: 1}})
	require.ErrorContains(t, err, "needs a limit")
}

func TestServerInMemoryLeavesNothingBehind(t *testing.T) {
	temp := t.TempDir()
	t.Setenv("TMPDIR", temp)
	s := startServer(t, "")
	require.NotEmpty(t, list(t, temp))
	s.Shutdown()
	require.Empty(t, list(t, temp))
}

func list(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	return entries
}

// say tells the test that started this process how far it is.
func say(v any) { _, _ = fmt.Fprintln(os.Stdout, v) }

// child submits tasks, publishes results and writes batches until it is killed, and says after each that it is stored.
func child(ctx context.Context, dir string) error {
	s, err := queue.StartServer(ctx, queue.ServerConfig{StoreDir: dir, Logger: quiet()})
	if err != nil {
		return err
	}
	nc, err := s.Connect("child")
	if err != nil {
		return err
	}
	q, err := queue.Open(ctx, nc, queue.Config{Logger: quiet()})
	if err != nil {
		return err
	}
	for i := 0; ; i++ {
		x := newTask(i)
		entry := queue.Write{Subject: queue.CallSubject(queue.KeyOf(x)), Body: []byte(x.ID)}
		_, resultErr := q.PublishResult(ctx, queue.KeyOf(x), newResult(x, "answer"))
		_, batchErr := q.Batch(ctx, entry, entry, entry)
		if err := errors.Join(resultErr, batchErr, q.Submit(ctx, x)); err != nil {
			return err
		}
		say(i)
	}
}

func TestStoreOpensAfterItsProcessWasKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	stored := 0
	for round := range 3 {
		stored = killAfter(t, dir, 10+round*7)
	}

	s := startServer(t, dir)
	q := open(t, s, queue.Config{})
	tasks := takeTasks(t, q, queue.TasksConfig{Slots: 8})
	for i := range stored {
		d := next(t, tasks)
		require.Equal(t, newTask(i), d.Task, "in the order in which they were submitted, none lost")
		require.NoError(t, d.Ack(t.Context()))
		r, err := q.Result(t.Context(), d.Key())
		require.NoError(t, err)
		require.Equal(t, newResult(d.Task, "answer"), r)
		entries, err := q.History(t.Context(), queue.CallSubject(d.Key()))
		require.NoError(t, err)
		require.Zero(t, len(entries)%3, "a part of a batch")
		require.NotEmpty(t, entries)
	}
}

// killAfter runs a child until it has stored n rounds, kills it, and returns how many it has said it stored.
func killAfter(t *testing.T, dir string, n int) int {
	t.Helper()
	exe, err := os.Executable()
	require.NoError(t, err)
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(out)
	for range n {
		require.True(t, lines.Scan(), "the child ended early: %v", lines.Err())
	}
	_, err = queue.StartServer(t.Context(), queue.ServerConfig{StoreDir: dir, Logger: quiet()})
	var locked *queue.LockedError
	require.ErrorAs(t, err, &locked)
	require.Equal(t, cmd.Process.Pid, locked.PID)
	require.NoError(t, cmd.Process.Kill())
	for lines.Scan() {
		n++
	}
	_, _ = io.Copy(io.Discard, out)
	require.Error(t, cmd.Wait())
	return n
}
