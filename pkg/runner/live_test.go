package runner_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runner"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/telemetry"
)

// bench is a queue with one run on it. The test itself plays the agents.
type bench struct {
	t      *testing.T
	server *queue.Server
	queue  *queue.Queue
	run    *v1alpha1.ArkRun
	store  *memory
	began  time.Time
}

func newBench(t *testing.T, spec string) *bench {
	t.Helper()
	s, err := queue.StartServer(t.Context(), queue.ServerConfig{})
	require.NoError(t, err)
	t.Cleanup(s.Shutdown)
	nc, err := s.Connect("test")
	require.NoError(t, err)
	q, err := queue.Open(t.Context(), nc, queue.Config{Storage: jetstream.MemoryStorage})
	require.NoError(t, err)
	b := &bench{t: t, server: s, queue: q, store: &memory{}, began: time.Now().Truncate(time.Microsecond), run: &v1alpha1.ArkRun{
		ObjectMeta: metav1.ObjectMeta{Name: "team-run-1", Namespace: "default", UID: "u1"},
	}}
	require.NoError(t, yaml.UnmarshalStrict([]byte(spec), &b.run.Spec))
	return b
}

func (b *bench) config() runner.Config {
	return runner.Config{Run: b.run, Started: b.began, Queue: b.queue, Store: b.store}
}

func (b *bench) live() *runner.Live {
	l, err := runner.New(b.t.Context(), b.config())
	require.NoError(b.t, err)
	b.t.Cleanup(l.Close)
	return l
}

func (b *bench) advance(l *runner.Live) time.Time {
	b.t.Helper()
	wake, err := l.Advance(b.t.Context(), time.Now())
	require.NoError(b.t, err)
	return wake
}

// take takes the next task of an agent off the queue.
func (b *bench) take(agent string) *task.Task {
	b.t.Helper()
	tasks, err := b.queue.Tasks(b.t.Context(), "default", agent, queue.TasksConfig{})
	require.NoError(b.t, err)
	d, err := tasks.Next(b.t.Context())
	require.NoError(b.t, err)
	require.NoError(b.t, d.Ack(b.t.Context()))
	require.NoError(b.t, tasks.Stop(b.t.Context()))
	return d.Task
}

// answer publishes the result of a task.
func (b *bench) answer(t *task.Task, output string) {
	b.t.Helper()
	text, err := b.queue.PutText(b.t.Context(), t.Run.UID, output)
	require.NoError(b.t, err)
	won, err := b.queue.PublishResult(b.t.Context(), queue.KeyOf(t), &task.Result{
		Version: task.Version, TaskID: t.ID, Status: task.Succeeded, Output: text, Usage: task.Usage{InputTokens: 10, OutputTokens: 1}, Pod: "p",
	})
	require.NoError(b.t, err)
	require.True(b.t, won)
}

// output is the whole output of a run that has ended.
func (b *bench) output(l *runner.Live) string {
	b.t.Helper()
	status := l.Status(time.Now())
	text, err := b.queue.Text(b.t.Context(), runner.OutputOf(&status), 1<<30)
	require.NoError(b.t, err)
	return text
}

var errEnough = errors.New("enough")

// fold folds all n records that the run has.
func (b *bench) fold(l *runner.Live, n int) {
	b.t.Helper()
	err := b.queue.Results(b.t.Context(), "u1", func(r queue.Record) error {
		require.NoError(b.t, l.Fold(b.t.Context(), r))
		if n--; n == 0 {
			return errEnough
		}
		return nil
	}, nil)
	require.ErrorIs(b.t, err, errEnough)
}

// memory is a store of one run.
type memory struct {
	held      *v1alpha1.ArkRunStatus
	commits   int
	fail      error
	children  []runner.Child
	cancelled []string
}

func (m *memory) Commit(_ context.Context, _ *v1alpha1.ArkRun, status v1alpha1.ArkRunStatus) (v1alpha1.ArkRunStatus, error) {
	if m.fail != nil {
		err := m.fail
		m.fail = nil
		return v1alpha1.ArkRunStatus{}, err
	}
	if m.held == nil || !m.held.Phase.Terminal() {
		m.commits++
		m.held = &status
	}
	return *m.held, nil
}

func (m *memory) StartChild(_ context.Context, c runner.Child) error {
	m.children = append(m.children, c)
	return nil
}

func (m *memory) CancelChild(_ context.Context, name string, _ queue.Key, reason string) error {
	m.cancelled = append(m.cancelled, name+": "+reason)
	return nil
}

const two = `
teamRef: {name: team}
input: {topic: tides}
maxTokens: 1000
roles: [{name: a, agent: team-a, promptHash: abc, canDelegate: [b]}, {name: b, agent: team-b}]
pipeline:
- {name: one, role: a, inputs: {prompt: "About {{ .input.topic }}"}, maxTokens: 500, timeoutSeconds: 7}
- {name: two, role: b, dependsOn: [one], inputs: {prompt: "{{ .steps.one.rawOutput }}"}}
`

func TestARunFromFirstTaskToItsEnd(t *testing.T) {
	t.Parallel()
	b := newBench(t, two)
	l := b.live()
	wake := b.advance(l)
	require.Equal(t, b.began.Add(24*time.Hour), wake, "only its deadline can end a run that waits")

	one := b.take("team-a")
	want := &task.Task{
		Version: task.Version, ID: task.ID(task.KindStep, "u1", "one", 0, 0, 0), Kind: task.KindStep, Namespace: "default", Agent: "team-a",
		Run: task.Run{UID: "u1", Name: "team-run-1", Team: "team"}, Step: "one", Role: "a",
		Prompt: task.Text{Inline: "About tides"}, PromptHash: "abc", TimeoutSeconds: 7, Deadline: b.began.Add(24 * time.Hour), Created: one.Created,
		Budgets:     one.Budgets,
		CanDelegate: []string{"b"},
		Roles:       map[string]task.Role{"a": {Agent: "team-a", CanDelegate: []string{"b"}, PromptHash: "abc"}, "b": {Agent: "team-b"}},
	}
	require.Empty(t, cmp.Diff(want, one))
	require.ElementsMatch(t, []task.Budget{{Scope: "run.u1", Limit: 1000}, {Scope: "step.u1.one", Limit: 500}}, one.Budgets)

	large := strings.Repeat("0123456789", 10_000)
	b.answer(one, large)
	b.fold(l, 1)
	b.advance(l)
	second := b.take("team-b")
	require.NotNil(t, second.Prompt.Ref, "a large prompt goes through the payload store")
	prompt, err := b.queue.Text(t.Context(), second.Prompt, 1<<20)
	require.NoError(t, err)
	require.Equal(t, large, prompt)

	b.answer(second, large)
	b.fold(l, 2)
	require.False(t, l.Ended())
	b.advance(l)
	require.True(t, l.Ended())
	require.Equal(t, large, b.output(l))
	require.Equal(t, 1, b.store.commits)
	require.Equal(t, v1alpha1.RunSucceeded, b.store.held.Phase)
	require.Equal(t, int64(22), b.store.held.TotalTokenUsage.TotalTokens)
	require.NotNil(t, b.store.held.OutputRef, "the whole output is found from the record")
	require.Equal(t, int64(len(large)), b.store.held.OutputRef.Size)
	require.Empty(t, cmp.Diff(*b.store.held, l.Status(time.Now())))
}

// An answer whose reference leads to nothing of the run fails its task.
func TestAnswersThatAreNotThere(t *testing.T) {
	t.Parallel()
	for name, stored := range map[string]string{"nowhere": "", "with another run": "other"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, two)
			l := b.live()
			b.advance(l)
			one := b.take("team-a")
			ref := task.Ref{Key: "u1/" + strings.Repeat("a", 64), SHA256: strings.Repeat("a", 64), Size: 3 << 20}
			if stored != "" {
				text, err := b.queue.PutText(t.Context(), stored, strings.Repeat("secret ", 100_000))
				require.NoError(t, err)
				ref = *text.Ref
			}
			_, err := b.queue.PublishResult(t.Context(), queue.KeyOf(one), &task.Result{Version: task.Version, TaskID: one.ID, Status: task.Succeeded, Output: task.Text{Ref: &ref}})
			require.NoError(t, err)
			b.fold(l, 1)
			b.advance(l)
			require.True(t, l.Ended())
			status := l.Status(time.Now())
			require.Equal(t, v1alpha1.RunFailed, status.Phase)
			require.Contains(t, status.Message, "the answer cannot be read from the payload store: payload "+ref.Key)
			require.NotContains(t, fmt.Sprintf("%+v", status), "secret")
		})
	}
}

// A second process folds the same records and goes on where the first one was, without doing anything twice.
func TestANewProcessGoesOn(t *testing.T) {
	t.Parallel()
	b := newBench(t, two)
	b.advance(b.live())
	b.answer(b.take("team-a"), "facts")

	l := b.live()
	b.fold(l, 1)
	b.advance(l)
	b.advance(b.live()) // one more, which has folded nothing: its task is refused or comes to nothing
	second := b.take("team-b")
	require.Equal(t, "two", second.Step)
	b.answer(second, "text")
	b.fold(l, 2)
	b.advance(l)
	require.Equal(t, "text", b.output(l))

	other := b.live()
	b.fold(other, 2)
	b.advance(other)
	require.True(t, other.Ended())
	require.Equal(t, 1, b.store.commits, "the end is committed once")
	require.Equal(t, "text", b.output(other))
}

// A step whose end the process that began it did not live to see has its span, also when that process had not written yet
// that the step had begun.
func TestSpansOfAProcessThatWroteNothing(t *testing.T) {
	t.Parallel()
	b := newBench(t, two)
	b.advance(b.live())
	b.answer(b.take("team-a"), "facts")

	spans := &telemetry.Recorder{}
	tel, err := telemetry.Start(t.Context(), telemetry.Config{Recorder: spans})
	require.NoError(t, err)
	config := b.config()
	config.Telemetry = tel
	l, err := runner.New(t.Context(), config)
	require.NoError(t, err)
	b.fold(l, 1)
	b.advance(l)
	b.answer(b.take("team-b"), "text")
	b.fold(l, 2)
	b.advance(l)
	require.True(t, l.Ended())
	l.Close()
	require.NoError(t, tel.Shutdown(t.Context()))
	var tree strings.Builder
	require.NoError(t, spans.WriteTree(&tree))
	require.Equal(t, 1, strings.Count(tree.String(), "step one"), tree.String())
	require.Equal(t, 1, strings.Count(tree.String(), "step two"), tree.String())
}

// The end that is stored first holds, whoever stored it.
func TestAnotherEndHolds(t *testing.T) {
	t.Parallel()
	b := newBench(t, two)
	l := b.live()
	b.advance(l)
	done := metav1.NewMicroTime(b.began.Add(time.Second))
	b.store.held = &v1alpha1.ArkRunStatus{Phase: v1alpha1.RunCancelled, CompletionTime: &done, Output: "partial"}
	b.answer(b.take("team-a"), "facts")
	b.fold(l, 1)
	b.advance(l)
	b.answer(b.take("team-b"), "text")
	b.fold(l, 2)
	b.advance(l)
	require.True(t, l.Ended())
	require.Equal(t, v1alpha1.RunCancelled, l.Status(time.Now()).Phase)
	require.Equal(t, "partial", b.output(l))
}

// An end that could not be stored is stored with the next Advance, and it is the same end.
func TestTheEndIsTriedAgain(t *testing.T) {
	t.Parallel()
	b := newBench(t, two)
	l := b.live()
	b.advance(l)
	b.answer(b.take("team-a"), "facts")
	b.fold(l, 1)
	b.advance(l)
	b.answer(b.take("team-b"), "text")
	b.fold(l, 2)
	b.store.fail = fmt.Errorf("no store: %w", queue.ErrUnavailable)
	_, err := l.Advance(t.Context(), time.Now())
	require.ErrorIs(t, err, queue.ErrUnavailable)
	require.False(t, l.Ended())
	b.advance(l)
	require.True(t, l.Ended())
	require.Equal(t, v1alpha1.RunSucceeded, b.store.held.Phase)
}

// A cancelled run withdraws its task: the agent finds a result and is told at once.
func TestCancel(t *testing.T) {
	t.Parallel()
	b := newBench(t, two)
	l := b.live()
	b.advance(l)
	one := b.take("team-a")
	hints := make(chan string, 1)
	stop, err := b.queue.WatchCancel("default", "team-a", func(id, reason string) { hints <- id })
	require.NoError(t, err)
	defer stop()

	l.Cancel("enough of it", time.Now())
	b.advance(l)
	require.Equal(t, one.ID, <-hints)
	r, err := b.queue.Result(t.Context(), queue.KeyOf(one))
	require.NoError(t, err)
	require.Equal(t, task.Cancelled, r.Status)
	require.False(t, l.Ended(), "the end waits until every task has its result")
	b.fold(l, 1)
	b.advance(l)
	require.True(t, l.Ended())
	require.Equal(t, v1alpha1.RunCancelled, b.store.held.Phase)
	require.Contains(t, b.store.held.Message, "enough of it")
}

// The run's time is over: Advance says when, and then ends it.
func TestRunTimeout(t *testing.T) {
	t.Parallel()
	b := newBench(t, two+"timeoutSeconds: 60\n")
	l := b.live()
	wake := b.advance(l)
	require.Equal(t, b.began.Add(time.Minute), wake)
	_, err := l.Advance(t.Context(), wake)
	require.NoError(t, err)
	b.fold(l, 1)
	_, err = l.Advance(t.Context(), wake.Add(time.Millisecond))
	require.NoError(t, err)
	require.True(t, l.Ended())
	require.Equal(t, v1alpha1.RunFailed, b.store.held.Phase)
	for _, c := range b.store.held.Conditions {
		if c.Type == v1alpha1.ConditionComplete {
			require.Equal(t, v1alpha1.ReasonTimedOut, c.Reason)
		}
	}
}

const withTeam = `
teamRef: {name: team}
maxTokens: 1000
roles: [{name: press, team: printers}]
pipeline:
- {name: print, role: press, inputs: {text: "hello"}, maxTokens: 300}
`

// A role that a team plays is a run of its own, bounded by the run above; its end is the step's end.
func TestChildRun(t *testing.T) {
	t.Parallel()
	b := newBench(t, withTeam)
	l := b.live()
	b.advance(l)
	require.Len(t, b.store.children, 1)
	child := b.store.children[0]
	require.Equal(t, "printers", child.Team)
	require.Equal(t, map[string]any{"text": "hello"}, child.Input)
	require.Equal(t, int32(1), child.Hops)
	require.Equal(t, b.began.Add(24*time.Hour), child.Deadline)
	require.ElementsMatch(t, []task.Budget{{Scope: "run.u1", Limit: 1000}, {Scope: "step.u1.print", Limit: 300}}, child.Budgets)
	_, err := b.queue.PublishResult(t.Context(), child.Key, &task.Result{
		Version: task.Version, TaskID: child.Key.TaskID, Status: task.Succeeded, Output: task.Text{Inline: "printed"}, Usage: task.Usage{InputTokens: 5},
	})
	require.NoError(t, err)
	b.fold(l, 1)
	b.advance(l)
	require.Equal(t, "printed", b.output(l))
	require.Equal(t, int64(5), b.store.held.TotalTokenUsage.TotalTokens)
}

func TestCancelReachesTheChildRun(t *testing.T) {
	t.Parallel()
	b := newBench(t, withTeam)
	l := b.live()
	b.advance(l)
	l.Cancel("enough of it", time.Now())
	b.advance(l)
	require.Len(t, b.store.cancelled, 1)
	require.Contains(t, b.store.cancelled[0], b.store.children[0].Name+": ")
	_, err := b.queue.Result(t.Context(), b.store.children[0].Key)
	require.ErrorIs(t, err, queue.ErrNoResult, "the child's own end tells what it used")
}

func TestARunThatDoesNotCompile(t *testing.T) {
	t.Parallel()
	b := newBench(t, "{teamRef: {name: t}, roles: [{name: a, agent: a}], pipeline: [{role: a, dependsOn: [ghost]}]}")
	_, err := runner.New(t.Context(), b.config())
	require.ErrorContains(t, err, "run team-run-1: ")
	require.ErrorContains(t, err, "ghost")
}
