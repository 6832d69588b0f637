package agent

import (
	"context"
	"time"

	"arkonis.dev/ark/pkg/work"
)

const (
	// reportGap is the least time between two reports.
	reportGap = time.Second
	// lastReport bounds the report of a pod that ends.
	lastReport = time.Second
)

// report tells the work service how the pod is, until ctx ends, and then that it is gone. A report that nobody hears costs
// nothing: there will be another one.
func (a *Agent) report(ctx context.Context, client *work.Client) {
	var told work.Report
	var at time.Time
	for ctx.Err() == nil {
		now, changed := a.State()
		if left := work.ReportEvery - time.Since(at); left > 0 && !now.Differs(told) {
			await(ctx, left, changed...)
			continue
		}
		if err := client.Report(ctx, a.env.Namespace, a.env.Name, now); err != nil {
			a.log.DebugContext(ctx, "the pod's state was not reported", "error", err)
		} else {
			told, at = now, time.Now()
			a.settled(ctx)
		}
		await(ctx, reportGap)
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastReport)
	defer cancel()
	if err := client.Report(ending, a.env.Namespace, a.env.Name, work.Report{Pod: a.env.Pod, Gone: true}); err != nil {
		a.log.DebugContext(ending, "the pod's end was not reported", "error", err)
	}
}

// settled hears that the pod has begun its work.
func (a *Agent) settled(ctx context.Context) {
	a.trimmed.Do(func() {
		if err := trim(); err != nil {
			a.log.DebugContext(ctx, "memory of the start was not given back", "error", err)
		}
	})
}

// await returns after some time, or when ctx or one of up to two signals says so.
func await(ctx context.Context, d time.Duration, signals ...<-chan struct{}) {
	var either [2]<-chan struct{} // a nil channel never says anything
	copy(either[:], signals)
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-either[0]:
	case <-either[1]:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// State is how the pod is now. One of the signals says that there may be something new.
func (a *Agent) State() (r work.Report, signals []<-chan struct{}) {
	a.mu.Lock()
	running, servers, memory, waiting := a.runtime, a.servers, a.memory, a.waiting
	a.mu.Unlock()
	r = work.Report{Pod: a.env.Pod, Reasons: []string{waiting}}
	if running != nil {
		state, changed := running.State()
		r.Reasons, r.RunningTasks, r.Verdict = state.Reasons, state.Running, state.Verdict
		signals = append(signals, changed)
	}
	r.Ready = len(r.Reasons) == 0
	if memory != nil {
		s := memory.Status()
		r.Memory = &work.MemoryState{Backend: string(s.Backend), Healthy: s.Healthy, Message: s.Message, Operations: s.Operations, Failures: s.Failures}
	}
	if servers == nil {
		return r, signals
	}
	signals = append(signals, servers.Changed())
	for _, h := range servers.Health() {
		r.ToolConnections = append(r.ToolConnections, work.ToolConnection{Name: h.Name, Healthy: h.Healthy, Message: h.Message})
	}
	return r, signals
}
