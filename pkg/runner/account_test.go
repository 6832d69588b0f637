package runner_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runner"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// serve starts a work service on the bench's queue.
func (b *bench) serve(settleAfter time.Duration) *work.Service {
	b.t.Helper()
	nc, err := b.server.Connect("service")
	require.NoError(b.t, err)
	s, err := work.NewService(b.queue, nc, work.Config{SettleAfter: settleAfter})
	require.NoError(b.t, err)
	ctx, stop := context.WithCancel(b.t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	require.NoError(b.t, s.Ready(b.t.Context()))
	b.t.Cleanup(func() {
		stop()
		require.NoError(b.t, <-ended)
	})
	return s
}

// hold takes the next task of an agent and takes it over.
func (b *bench) hold(s *work.Service, agent string) *work.Session {
	b.t.Helper()
	tasks, err := b.queue.Tasks(b.t.Context(), "default", agent, queue.TasksConfig{})
	require.NoError(b.t, err)
	d, err := tasks.Next(b.t.Context())
	require.NoError(b.t, err)
	b.t.Cleanup(func() { _ = tasks.Stop(context.WithoutCancel(b.t.Context())) })
	session, err := s.Client().TakeOver(b.t.Context(), d.Key(), "pod", 0)
	require.NoError(b.t, err)
	return session
}

func intent(call int, reserve int64) work.Entry {
	return work.Entry{Intent: &work.Intent{Call: call, Reserve: reserve}}
}

func answered(call int, in, out int64) work.Entry {
	return work.Entry{Answer: &work.Answer{
		Call: call, Response: json.RawMessage(`{}`), Usage: task.Usage{InputTokens: in, OutputTokens: out},
	}}
}

const parallel = `
teamRef: {name: team}
maxTokens: 1000
roles: [{name: a, agent: team-a}, {name: b, agent: team-b}, {name: c, agent: team-c}]
pipeline:
- {name: one, role: a, inputs: {prompt: "x"}}
- {name: two, role: b, inputs: {prompt: "x"}}
- {name: three, role: c, inputs: {prompt: "x"}}
`

// A run that ends while its tasks are worked on reports what they were charged, to the token: what they had used, what
// the agent tells after it was told to stop, and in full what nobody tells. A task that nobody has begun costs nothing.
func TestAnEndedRunReportsAllThatWasCharged(t *testing.T) {
	t.Parallel()
	b := newBench(t, parallel)
	service := b.serve(5 * time.Second) // for what the agent tells; what nobody tells is waited for as long
	c := b.config()
	c.Account = service.Account
	l, err := runner.New(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(l.Close)
	b.advance(l)

	tells, silent := b.hold(service, "team-a"), b.hold(service, "team-b")
	require.NoError(t, tells.Append(t.Context(), intent(1, 100)))
	require.NoError(t, tells.Append(t.Context(), answered(1, 30, 5), intent(2, 200)))
	require.NoError(t, silent.Append(t.Context(), intent(1, 70)))
	require.NoError(t, silent.Append(t.Context(), answered(1, 20, 4), intent(2, 80)))
	told := make(chan error, 1)
	stop, err := b.queue.WatchCancel("default", "team-a", func(string, string) {
		told <- tells.Append(t.Context(), answered(2, 40, 6))
	})
	require.NoError(t, err)
	defer stop()

	l.Cancel("enough of it", time.Now())
	b.advance(l)
	b.fold(l, 3)
	b.advance(l)
	require.True(t, l.Ended())
	require.NoError(t, <-told)

	last, ok, err := b.queue.Last(t.Context(), queue.BudgetSubject("default", "run.u1"))
	require.NoError(t, err)
	require.True(t, ok)
	budget, err := work.DecodeBudget(last.Body)
	require.NoError(t, err)
	require.Equal(t, int64(0), budget.State.Reserved())
	require.Equal(t, int64(35+46+24+80), budget.State.Spent(time.Now()))

	total := b.store.held.TotalTokenUsage
	require.Equal(t, budget.State.Spent(time.Now()), total.TotalTokens)
	require.Equal(t, []int64{90, 15, 1}, []int64{total.InputTokens, total.OutputTokens, total.UnknownCalls})
	byStep := map[string]int64{}
	for _, s := range b.store.held.Steps {
		byStep[s.Name] = s.TokenUsage.TotalTokens
	}
	require.Equal(t, map[string]int64{"one": 81, "two": 104, "three": 0}, byStep)
	require.ErrorIs(t, silent.Append(t.Context(), answered(2, 1, 1)), work.ErrDone, "the books are closed")
	require.ErrorIs(t, tells.Append(t.Context(), intent(3, 1)), work.ErrDone)
}
