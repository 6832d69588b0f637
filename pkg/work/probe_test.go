package work_test

import (
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// clock is a clock that is set by hand.
type clock struct{ at atomic.Int64 }

func newClock(at time.Time) *clock {
	c := &clock{}
	c.at.Store(at.UnixNano())
	return c
}

func (c *clock) now() time.Time      { return time.Unix(0, c.at.Load()).UTC() }
func (c *clock) add(d time.Duration) { c.at.Add(int64(d)) }

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func probeOf(pod string) work.Probe {
	return work.Probe{Pod: pod, Setup: "m-1", Interval: 30 * time.Second, Timeout: 15 * time.Second, Threshold: 2}
}

// probe asks what is known of writer.
func (w *world) probe(p work.Probe) *work.ProbeTurn {
	w.tb.Helper()
	turn, err := w.client.Probe(w.tb.Context(), "default", "writer", p)
	require.NoError(w.tb, err)
	return turn
}

// asks has the pod ask the model and report.
func (w *world) asks(p work.Probe, used int64, failed string) work.Verdict {
	w.tb.Helper()
	turn := w.probe(p)
	require.NotNil(w.tb, turn.Session, "it is the turn of %s", p.Pod)
	appends(w.tb, turn.Session, intent(1, 100))
	appends(w.tb, turn.Session, answer(1, used))
	v, err := turn.Report(w.tb.Context(), true, failed)
	require.NoError(w.tb, err)
	return v
}

func TestOnePodAsksForAll(t *testing.T) {
	t.Parallel()
	c := newClock(noon)
	w := newWorld(t, work.Config{Now: c.now})
	w.serve()
	w.serve()
	var turns [20]*work.ProbeTurn
	var g errgroup.Group
	for i := range turns {
		g.Go(func() (err error) {
			turns[i], err = w.client.Probe(t.Context(), "default", "writer", probeOf(fmt.Sprint("pod-", i)))
			return err
		})
	}
	require.NoError(t, g.Wait())
	var asker *work.ProbeTurn
	for _, turn := range turns {
		require.Equal(t, work.Verdict{}, turn.Verdict, "nobody knows yet")
		if turn.Session == nil {
			require.Equal(t, time.Second, turn.Next)
			continue
		}
		require.Nil(t, asker, "two pods ask")
		asker = turn
	}
	require.NotNil(t, asker)
	v, err := asker.Report(t.Context(), true, "")
	require.NoError(t, err)
	require.True(t, v.Healthy)
	require.Equal(t, noon, v.At)

	c.add(10 * time.Second)
	turn := w.probe(probeOf("pod-x"))
	require.Nil(t, turn.Session)
	require.Equal(t, v, turn.Verdict)
	require.Equal(t, 20*time.Second+time.Millisecond, turn.Next)

	other := probeOf("pod-new")
	other.Setup = "m-2"
	turn = w.probe(other)
	require.NotNil(t, turn.Session, "another setup has a verdict of its own")
	require.Equal(t, work.Verdict{}, turn.Verdict)
}

func TestFailuresInARowMakeAnAgentUnhealthy(t *testing.T) {
	t.Parallel()
	c := newClock(noon)
	w := newWorld(t, work.Config{Now: c.now})
	w.serve()
	var got []string
	for _, failed := range []string{"", "no", "", "no", "no", "no", ""} {
		v := w.asks(probeOf("pod-0"), 5, failed)
		require.Equal(t, failed, v.Message)
		got = append(got, fmt.Sprint(v.Healthy, v.Failures))
		c.add(30 * time.Second)
	}
	require.Equal(t, []string{"true 0", "true 1", "true 0", "true 1", "false 2", "false 3", "true 0"}, got)

	fresh := probeOf("pod-0")
	fresh.Setup = "m-2"
	require.False(t, w.asks(fresh, 5, "no").Healthy, "who was never healthy does not need so many")
}

func TestRealAnswersStandInForAProbe(t *testing.T) {
	t.Parallel()
	c := newClock(noon)
	w := newWorld(t, work.Config{Now: c.now})
	w.serve()
	p := probeOf("pod-0")
	p.Proven = time.Now().Add(-10 * time.Second)
	turn := w.probe(p)
	require.Nil(t, turn.Session)
	require.True(t, turn.Verdict.Healthy)
	require.LessOrEqual(t, turn.Next, 20*time.Second+time.Millisecond)
	require.GreaterOrEqual(t, turn.Next, p.Interval-time.Since(p.Proven))
	require.Nil(t, w.probe(probeOf("pod-1")).Session, "it holds for all pods")

	c.add(time.Minute)
	p.Proven = time.Now().Add(-31 * time.Second)
	require.NotNil(t, w.probe(p).Session, "it was too long ago")
}

// A pod that got its turn and died keeps the others waiting only for its time. What it left open is charged in full.
func TestTurnOfADeadPodPasses(t *testing.T) {
	t.Parallel()
	c := newClock(noon)
	w := newWorld(t, work.Config{Now: c.now, Daily: func(_, agent, team string) []task.Budget {
		require.Empty(t, team)
		return []task.Budget{{Scope: "agent." + agent, Limit: 1000, Window: 86400}}
	}})
	stop := w.serve()
	dead := w.probe(probeOf("pod-0"))
	appends(t, dead.Session, intent(1, 300))
	require.Nil(t, w.probe(probeOf("pod-1")).Session)
	stop()
	w.serve()
	require.Nil(t, w.probe(probeOf("pod-1")).Session, "also for another service")
	c.add(20 * time.Second)
	require.Equal(t, int64(300), w.budget("agent.writer").Reserved())
	require.True(t, w.asks(probeOf("pod-1"), 7, "").Healthy)
	b := w.budget("agent.writer")
	require.Equal(t, []int64{307, 0}, []int64{b.Spent(c.now()), b.Reserved()})

	require.ErrorIs(t, dead.Session.Append(t.Context(), answer(1, 10)), work.ErrFenced)
	v, err := dead.Report(t.Context(), true, "too late")
	require.NoError(t, err)
	require.True(t, v.Healthy, "a late report changes nothing")
}

// Without anybody who comes after it, the service charges what a dead pod left open.
func TestWhatADeadPodLeavesOpenIsCharged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{SettleAfter: 50 * time.Millisecond, Daily: func(string, string, string) []task.Budget {
		return []task.Budget{{Scope: "agent.writer", Limit: 1000, Window: 86400}}
	}})
	stop := w.serve()
	p := probeOf("pod-0")
	p.Timeout = time.Millisecond
	turn := w.probe(p)
	appends(t, turn.Session, intent(1, 300))
	stop()
	w.serve()
	s := w.take(w.task()) // a call of the same agent: the budget is read, and with it what is open
	appends(t, s, intent(1, 10))
	appends(t, s, answer(1, 10))
	require.Eventually(t, func() bool {
		b := w.budget("agent.writer")
		return b.Reserved() == 0 && b.Spent(time.Now()) == 310
	}, patience, 20*time.Millisecond)
}

// No call is made when the budget does not allow it; that says nothing about the model.
func TestProbeWithoutBudget(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{Daily: func(string, string, string) []task.Budget {
		return []task.Budget{{Scope: "agent.writer", Limit: 50, Window: 86400}}
	}})
	w.serve()
	turn := w.probe(probeOf("pod-0"))
	var refused *work.BudgetError
	require.ErrorAs(t, turn.Session.Append(t.Context(), intent(1, 51)), &refused)
	v, err := turn.Report(t.Context(), false, "")
	require.NoError(t, err)
	require.Equal(t, work.Verdict{}, v)
	require.NotNil(t, w.probe(probeOf("pod-1")).Session, "it is the next one's turn")
}

// However often an agent is probed, its journal holds one probe and its value a bounded number of verdicts.
func TestProbesLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	c := newClock(noon)
	w := newWorld(t, work.Config{Now: c.now})
	w.serve()
	for i := range 40 {
		p := probeOf("pod-0")
		p.Setup = fmt.Sprint("m-", i)
		w.asks(p, 5, "")
		c.add(time.Second)
	}
	key := queue.Key{Namespace: "default", Agent: "writer", RunUID: work.ProbeRun, TaskID: "probe"}
	stored, err := w.queue.History(t.Context(), queue.CallSubject(key))
	require.NoError(t, err)
	require.Len(t, stored, 3)
	v, err := w.queue.Bucket(queue.BucketProbes).Get(t.Context(), "default.writer")
	require.NoError(t, err)
	var value struct {
		Verdicts map[string]work.Verdict `json:"verdicts"`
	}
	require.NoError(t, json.Unmarshal(v.Data, &value))
	require.Len(t, value.Verdicts, 8)
	require.Contains(t, value.Verdicts, "m-39")
	require.Contains(t, value.Verdicts, "m-32")
}

func TestWrongProbesAreRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, work.Config{})
	w.serve()
	var refused *work.RefusedError
	for _, change := range []func(*work.Probe){
		func(p *work.Probe) { p.Setup = "" },
		func(p *work.Probe) { p.Interval = 0 },
		func(p *work.Probe) { p.Timeout = 2 * time.Hour },
	} {
		p := probeOf("pod-0")
		change(&p)
		_, err := w.client.Probe(t.Context(), "default", "writer", p)
		require.ErrorAs(t, err, &refused)
	}
}
