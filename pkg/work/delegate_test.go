package work_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// lead is a task that may hand work to a writer and a critic.
func (w *world) lead() *task.Task {
	t := w.task(runBudget(1000), task.Budget{Scope: "step.run-1.draft", Limit: 500})
	t.Roles = map[string]task.Role{
		"lead":   {Agent: "writer", CanDelegate: []string{"critic", "author", "ghost"}},
		"author": {Agent: "other", CanDelegate: []string{"critic"}, PromptHash: "abc"},
		"critic": {Agent: "crew-critic"},
	}
	t.CanDelegate = []string{"critic", "author", "ghost", "lead"}
	return t
}

// records are the delegated records of the run so far.
func (w *world) records() []*task.Delegated {
	w.tb.Helper()
	var all []*task.Delegated
	ctx, cancel := context.WithCancel(w.tb.Context())
	defer cancel()
	err := w.queue.Results(ctx, "run-1", func(r queue.Record) error {
		if r.Delegated != nil {
			all = append(all, r.Delegated)
		}
		return nil
	}, func() error { cancel(); return nil })
	require.ErrorIs(w.tb, err, context.Canceled)
	return all
}

func TestDelegate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	stop := w.serve()
	parent := w.lead()
	s := w.take(parent)
	child, err := s.Delegate(t.Context(), "1.0", "author", "write it")
	require.NoError(t, err)
	want := &task.Task{
		Version: task.Version, ID: task.ChildID(parent.ID, "1.0"), Kind: task.KindDelegate,
		Namespace: "default", Agent: "other", Run: parent.Run, Step: parent.Step + "/author-1", Role: "author",
		Prompt: task.Text{Inline: "write it"}, PromptHash: "abc", Deadline: parent.Deadline, Created: child.Created,
		Budgets: parent.Budgets, CanDelegate: []string{"critic"}, Roles: parent.Roles,
		Ancestry: []task.Ancestor{{Task: parent.ID, Role: "lead"}},
	}
	require.Equal(t, want, child)
	stored, err := w.queue.Task(t.Context(), "default", "other", child.ID)
	require.NoError(t, err)
	require.Equal(t, want, stored)
	record := &task.Delegated{Version: task.Version, Parent: parent.ID, Child: child.ID, Role: "author", Agent: "other", At: child.Created}
	require.Equal(t, []*task.Delegated{record}, w.records())

	// Whoever takes the task over finds the same child, whatever it asks it.
	stop()
	w.serve()
	again, err := w.takeAgain(parent)
	require.NoError(t, err)
	require.Empty(t, again.Journal())
	same, err := again.Delegate(t.Context(), "1.0", "author", "something else")
	require.NoError(t, err)
	require.Equal(t, want, same)
	second, err := again.Delegate(t.Context(), "1.1", "author", "more")
	require.NoError(t, err)
	require.Equal(t, parent.Step+"/author-2", second.Step)
	require.Len(t, w.records(), 2)

	result := make(chan *task.Result, 1)
	go func() {
		r, err := again.Await(t.Context(), child.ID)
		if err == nil {
			result <- r
		}
		close(result)
	}()
	w.result(child, task.Succeeded)
	require.Equal(t, "done", (<-result).Output.Inline)
	late, err := again.Await(t.Context(), child.ID)
	require.NoError(t, err)
	require.Equal(t, task.Succeeded, late.Status)

	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = again.Await(ctx, second.ID)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	_, err = s.Await(t.Context(), child.ID)
	require.ErrorIs(t, err, work.ErrFenced)
	var refused *work.RefusedError
	_, err = again.Await(t.Context(), parent.ID)
	require.ErrorAs(t, err, &refused)
}

// A child that has ended is not queued again when its parent asks for it again.
func TestDelegatedWorkIsDoneOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	s := w.take(w.lead())
	child, err := s.Delegate(t.Context(), "1.0", "critic", "judge")
	require.NoError(t, err)
	tasks, err := w.queue.Tasks(t.Context(), "default", "crew-critic", queue.TasksConfig{})
	require.NoError(t, err)
	d, err := tasks.Next(t.Context())
	require.NoError(t, err)
	require.Equal(t, child, d.Task)
	w.result(child, task.Succeeded)
	require.NoError(t, d.Ack(t.Context()))
	require.NoError(t, tasks.Stop(t.Context()))
	_, err = s.Delegate(t.Context(), "1.0", "critic", "judge")
	require.NoError(t, err)
	_, err = w.queue.Task(t.Context(), "default", "crew-critic", child.ID)
	require.ErrorIs(t, err, queue.ErrNoTask)
	r, err := s.Await(t.Context(), child.ID)
	require.NoError(t, err)
	require.Equal(t, "done", r.Output.Inline)
}

func TestDelegationIsBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	s := w.take(w.lead())
	for role, why := range map[string]string{
		"nobody": `may not hand work to role "nobody", only to critic, author, ghost, lead`,
		"ghost":  `no agent plays the role "ghost"`,
		"lead":   `role "lead" is already at work above this task`,
	} {
		_, err := s.Delegate(t.Context(), "1."+role, role, "x")
		var refused *work.RefusedError
		require.ErrorAs(t, err, &refused)
		require.Contains(t, refused.Message, why)
	}
	for i := range work.MaxChildren {
		_, err := s.Delegate(t.Context(), fmt.Sprint("1.", i), "critic", "x")
		require.NoError(t, err)
	}
	_, err := s.Delegate(t.Context(), "1.32", "critic", "x")
	require.ErrorContains(t, err, "handed over 32 pieces of work")
	_, err = s.Delegate(t.Context(), "1.0", "critic", "x")
	require.NoError(t, err, "one of the 32")

	deep := w.task()
	deep.Roles, deep.CanDelegate, deep.Role = map[string]task.Role{"next": {Agent: "writer"}}, []string{"next"}, "r8"
	for i := range work.MaxDepth {
		deep.Ancestry = append(deep.Ancestry, task.Ancestor{Task: fmt.Sprint("t", i), Role: fmt.Sprint("r", i)})
	}
	_, err = w.take(deep).Delegate(t.Context(), "1.0", "next", "x")
	require.ErrorContains(t, err, "handed over 8 times in a row")

	circle := w.lead()
	circle.Ancestry = []task.Ancestor{{Task: "t", Role: "critic"}}
	_, err = w.take(circle).Delegate(t.Context(), "1.0", "critic", "x")
	require.ErrorContains(t, err, "go in a circle")
}

// Many calls of one turn at once, while the turn's other results are journaled.
func TestDelegationBesideAppends(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	parent := w.lead()
	s := w.take(parent)
	errs := make(chan error, 10)
	for i := range 10 {
		go func() {
			_, err := s.Delegate(t.Context(), fmt.Sprint("1.", i), "critic", strings.Repeat("x", 40<<10))
			errs <- err
		}()
	}
	for i := range 10 {
		appends(t, s, toolEnd(fmt.Sprint(i), "text"))
	}
	for range 10 {
		require.NoError(t, <-errs)
	}
	again, err := w.takeAgain(parent)
	require.NoError(t, err)
	require.Len(t, again.Journal(), 10)
	require.Len(t, w.records(), 10)
	child, err := w.queue.Task(t.Context(), "default", "crew-critic", task.ChildID(parent.ID, "1.0"))
	require.NoError(t, err)
	require.NotNil(t, child.Prompt.Ref, "a long prompt travels as a reference")
	text, err := w.queue.Text(t.Context(), child.Prompt, 1<<20)
	require.NoError(t, err)
	require.Len(t, text, 40<<10)
}

// A task that has a result hands nothing over any more, also when the service hears of the result a moment later: what
// was recorded for its run by then is withdrawn, as the run may have ended too.
func TestNothingIsHandedOverByATaskThatHasEnded(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	for range 30 {
		parent := w.lead()
		s := w.take(parent)
		w.result(parent, task.Failed)
		_, err := s.Delegate(t.Context(), "1.0", "author", "write it")
		require.ErrorIs(t, err, work.ErrDone)
	}
	for _, d := range w.records() {
		r, err := w.queue.Result(t.Context(), queue.Key{Namespace: "default", Agent: d.Agent, RunUID: "run-1", TaskID: d.Child})
		require.NoError(t, err, "nobody works on it")
		require.Equal(t, task.Cancelled, r.Status)
	}
}
