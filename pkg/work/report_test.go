package work_test

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/work"
)

func (w *world) report(r work.Report) error {
	return w.client.Report(w.tb.Context(), "default", "writer", r)
}

// Every service hears of every pod, whichever of them was asked: an operator that is not the one that answers shows the
// same state.
func TestReportsReachEveryService(t *testing.T) {
	t.Parallel()
	c := newClock(noon)
	told := make(chan string, 64)
	w := newWorld(t, work.Config{Now: c.now, Reported: func(ns, agent string) { told <- ns + "/" + agent }})
	w.serve()
	first := w.service
	w.serve()
	services := []*work.Service{first, w.service}
	hear := func(n int) {
		t.Helper()
		for range n * len(services) {
			select {
			case name := <-told:
				require.Equal(t, "default/writer", name)
			case <-time.After(time.Minute):
				require.FailNow(t, "a service was not told")
			}
		}
	}
	full := work.Report{
		Pod: "writer-0", Reasons: []string{"the tool server search is down"}, RunningTasks: 3,
		Verdict:         &work.Verdict{Healthy: true, Pod: "writer-1", At: noon},
		ToolConnections: []work.ToolConnection{{Name: "search", Message: "connection refused"}},
		Memory:          &work.MemoryState{Backend: "nats", Healthy: true, Operations: 2},
	}
	require.NoError(t, w.report(full))
	hear(1)
	require.NoError(t, w.report(work.Report{Pod: "writer-1", Ready: true}))
	hear(1)
	full.At = noon
	for _, s := range services {
		require.Equal(t, []work.Report{full, {Pod: "writer-1", Ready: true, At: noon}}, s.Reports("default", "writer"))
		require.Empty(t, s.Reports("other", "writer"))
	}

	// What has only a new time is no news; the next pod is.
	c.add(work.ReportEvery)
	require.NoError(t, w.report(full))
	require.NoError(t, w.report(work.Report{Pod: "writer-2"}))
	hear(1)
	require.Empty(t, told)
	c.add(work.ReportTTL - work.ReportEvery)
	require.Len(t, first.Reports("default", "writer"), 2, "writer-1 has fallen silent")
	require.NoError(t, w.report(work.Report{Pod: "writer-2", Gone: true}))
	hear(1)
	c.add(work.ReportEvery)
	require.Empty(t, first.Reports("default", "writer"), "writer-0 has fallen silent too")
}

func TestReportsAreBounded(t *testing.T) {
	t.Parallel()
	c := newClock(noon)
	told := make(chan struct{}, 1024)
	w := newWorld(t, work.Config{Now: c.now, Reported: func(string, string) { told <- struct{}{} }})
	w.serve()
	long := strings.Repeat("ü", 10_000)
	r := work.Report{Pod: "writer-0", Memory: &work.MemoryState{Message: long}, Verdict: &work.Verdict{Message: long}}
	for range 200 {
		r.Reasons = append(r.Reasons, long)
		r.ToolConnections = append(r.ToolConnections, work.ToolConnection{Name: long, Message: long})
	}
	require.NoError(t, w.report(r))
	<-told
	got := w.service.Reports("default", "writer")[0]
	require.Len(t, got.Reasons, 8)
	require.Len(t, got.ToolConnections, 64)
	for _, text := range []string{got.Reasons[0], got.ToolConnections[0].Name, got.ToolConnections[0].Message, got.Memory.Message, got.Verdict.Message} {
		require.Equal(t, strings.Repeat("ü", 128), text)
	}
	require.Len(t, r.Reasons[0], 20_000, "what the caller has is not changed")

	var refused *work.RefusedError
	require.ErrorAs(t, w.report(work.Report{}), &refused)
	require.ErrorAs(t, w.report(work.Report{Pod: strings.Repeat("p", 300)}), &refused)
}
