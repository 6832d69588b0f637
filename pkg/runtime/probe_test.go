package runtime_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/ledger"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

const question = "Are you well? Answer HEALTHY."

// patient answers the probe as it is told, and every other call with "done".
type patient struct{ answer atomic.Value }

func (p *patient) config() modelserver.Config {
	return modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		if c.Request.Prompt() == question {
			return &modelserver.Reply{Text: p.answer.Load().(string), Usage: &modelserver.Usage{Prompt: 10, Completion: 1}}
		}
		return &modelserver.Reply{Text: "done", Usage: &modelserver.Usage{Prompt: 100, Completion: 10}}
	}}
}

// probed starts an agent with a probe.
func (w *world) probed(pod string, interval time.Duration, change func(*runtime.Config)) *runtime.Runtime {
	w.t.Helper()
	c := w.config("writer", func(c *runtime.Config) {
		c.Pod = pod
		c.Probe = &runtime.Probe{Prompt: question, Interval: interval, Timeout: time.Minute, FailureThreshold: 2}
		if change != nil {
			change(c)
		}
	})
	r, err := runtime.New(c)
	require.NoError(w.t, err)
	w.background(r.Run)
	return r
}

// becomes waits until an agent is ready, or not.
func becomes(t *testing.T, r *runtime.Runtime, ready bool) {
	t.Helper()
	require.Eventually(t, func() bool { return (r.Ready() == nil) == ready }, patience, 2*time.Millisecond)
}

// An agent takes tasks while its answers make sense, and only then; an answer that is nearly right is wrong.
func TestUnhealthyAgentTakesNoTasks(t *testing.T) {
	t.Parallel()
	p := &patient{}
	p.answer.Store("UNHEALTHY")
	w := newWorld(t, p.config())
	r := w.probed("writer-0", 20*time.Millisecond, nil)
	tk := w.task("writer", "x")
	w.submit(tk)
	_, err := w.models.Wait(t.Context(), 4)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		err := r.Ready()
		return err != nil && err.Error() != "the semantic probe has not been answered yet"
	}, patience, time.Millisecond)
	require.ErrorContains(t, r.Ready(), `the model answered "UNHEALTHY", which does not hold the word HEALTHY`)
	_, err = w.queue.Task(t.Context(), namespace, "writer", tk.ID)
	require.NoError(t, err, "nobody has taken it")

	p.answer.Store("I am HEALTHY.")
	require.Equal(t, "done", w.result(tk.ID).Output.Inline)
	becomes(t, r, true)

	p.answer.Store("no idea")
	becomes(t, r, false)
	late := w.task("writer", "y")
	w.submit(late)
	p.answer.Store("HEALTHY")
	require.Equal(t, "done", w.result(late.ID).Output.Inline)
	require.NoError(t, r.Alive())
}

func TestOneQuestionForAllPods(t *testing.T) {
	t.Parallel()
	p := &patient{}
	p.answer.Store("HEALTHY")
	w := newWorld(t, p.config())
	var all []*runtime.Runtime
	for _, pod := range []string{"writer-0", "writer-1", "writer-2", "writer-3"} {
		all = append(all, w.probed(pod, time.Hour, nil))
	}
	for _, r := range all {
		becomes(t, r, true)
	}
	calls := w.models.Calls()
	require.Len(t, calls, 1)
	require.Equal(t, []string{"user: " + question}, messages(calls[0]))
	require.Empty(t, calls[0].Request.Tools)
	require.LessOrEqual(t, *calls[0].Request.MaxTokens, int64(256))
}

// Probes are paid from the agent's budget: what they used is in it, and none is asked that it has no room for.
func TestProbesCountInTheBudget(t *testing.T) {
	t.Parallel()
	p := &patient{}
	p.answer.Store("HEALTHY")
	daily := func(string, string, string) []task.Budget {
		return []task.Budget{{Scope: "agent.writer", Limit: 500, Window: 86400}}
	}
	w := newWorldWith(t, p.config(), work.Config{Daily: daily, Logger: quiet()})
	r := w.probed("writer-0", time.Millisecond, nil)
	// Each probe uses 11 and reserves 256 and its question: the twelfth does not fit any more and is not asked.
	require.Eventually(t, func() bool { return spent(w, "agent.writer") == 121 }, patience, time.Millisecond)
	require.Len(t, w.models.Calls(), 11)
	becomes(t, r, true)
	require.Never(t, func() bool { return len(w.models.Calls()) > 11 }, 200*time.Millisecond, 20*time.Millisecond)
}

func TestProbeThatCannotAskSaysWhy(t *testing.T) {
	t.Parallel()
	p := &patient{}
	p.answer.Store("HEALTHY")
	daily := func(string, string, string) []task.Budget {
		return []task.Budget{{Scope: "agent.writer", Limit: 100, Window: 86400}}
	}
	w := newWorldWith(t, p.config(), work.Config{Daily: daily, Logger: quiet()})
	r := w.probed("writer-0", time.Minute, nil)
	require.Eventually(t, func() bool {
		err := r.Ready()
		return err != nil && len(err.Error()) > 100
	}, patience, time.Millisecond)
	require.ErrorContains(t, r.Ready(), `the semantic probe cannot ask: `)
	require.ErrorContains(t, r.Ready(), `maxDailyTokens of agent "writer" is 100 tokens`)
	require.Empty(t, w.models.Calls())
}

// An answer to a real task says as much as one to the question.
func TestRealWorkStandsInForTheProbe(t *testing.T) {
	t.Parallel()
	p := &patient{}
	p.answer.Store("HEALTHY")
	type figures struct{ tasks, asked, gaps int }
	got := patiently(func(f figures) bool { return f.gaps == 0 }, func(scale int) (f figures) {
		interval := time.Duration(scale) * 300 * time.Millisecond
		w := newWorld(t, p.config())
		w.probed("writer-0", interval, nil)
		first, err := w.models.Wait(t.Context(), 1)
		require.NoError(t, err)
		last := first[0].Answered
		gap := func() {
			if time.Since(last) > interval/2 {
				f.gaps++
			}
			last = time.Now()
		}
		for began := last; last.Sub(began) < 10*interval; f.tasks++ {
			require.Equal(t, "done", w.do(w.task("writer", "x")).Output.Inline)
			gap()
		}
		f.asked = len(w.models.Calls()) - f.tasks
		gap()
		return f
	})
	require.Less(t, got.asked, 3+got.gaps, "the first question, and perhaps one on the way")
	require.Greater(t, got.tasks, 10)
}

func spent(w *world, scope string) int64 { return state(w, scope).Spent(time.Now()) }

// state is what is stored of a budget.
func state(w *world, scope string) *ledger.State {
	last, ok, err := w.queue.Last(w.t.Context(), queue.BudgetSubject(namespace, scope))
	require.NoError(w.t, err)
	if !ok {
		return new(ledger.State)
	}
	b, err := work.DecodeBudget(last.Body)
	require.NoError(w.t, err)
	return b.State
}
