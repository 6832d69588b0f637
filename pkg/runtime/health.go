package runtime

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/work"
)

// What may keep an agent from taking tasks. An agent that is unready for one of the first three takes none.
const (
	faultTools   = "tools"
	faultProbe   = "probe"
	faultStart   = "start"
	faultDrain   = "drain"
	faultRunning = "running"
)

const (
	// settleTime is how long the first tasks wait for tool servers that have not answered yet.
	settleTime = 10 * time.Second
	// pulseEvery is how often the loop shows that it is alive, and pulseLimit the silence after which it is not.
	pulseEvery = 5 * time.Second
	pulseLimit = time.Minute
)

// health is what a runtime knows of itself. It is safe for concurrent use.
type health struct {
	mu     sync.Mutex
	faults map[string]string    // by what keeps the agent from taking tasks
	turn   func(ready bool)     // called at each change, with the lock held
	pulse  time.Time            // of the loop; zero while it does not run
	proof  map[string]time.Time // when a model last answered
	last   *work.Verdict        // of the probe
	news   chan struct{}        // closed and replaced at each change that State shows
}

func newHealth() *health {
	return &health{faults: map[string]string{faultRunning: "not started yet"}, turn: func(bool) {}, proof: map[string]time.Time{}, news: make(chan struct{})}
}

// set notes what keeps the agent from taking tasks, or with an empty text that it does not any more.
func (h *health) set(fault, text string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.faults[fault] == text {
		return
	}
	if text == "" {
		delete(h.faults, fault)
	} else {
		h.faults[fault] = text
	}
	h.turn(h.takes())
	h.tell()
}

// tell wakes whoever waits for news. The lock is held.
func (h *health) tell() {
	close(h.news)
	h.news = make(chan struct{})
}

// touch tells of a change that is not the health's own.
func (h *health) touch() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.tell()
}

func (h *health) changed() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.news
}

// takes says whether the agent may take tasks.
func (h *health) takes() bool {
	return h.faults[faultTools] == "" && h.faults[faultProbe] == "" && h.faults[faultStart] == ""
}

// follow has f called with whether the agent may take tasks, now and at each change.
func (h *health) follow(f func(ready bool)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.turn = f
	f(h.takes())
}

func (h *health) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	var texts []string
	for _, fault := range slices.Sorted(maps.Keys(h.faults)) {
		texts = append(texts, h.faults[fault])
	}
	return texts
}

func (h *health) beat(at time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.pulse = at
}

// proven notes that a model has answered a real task.
func (h *health) proven(at time.Time, model string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.proof) < 64 || !h.proof[model].IsZero() { // tasks may name models of their own
		h.proof[model] = at
	}
}

func (h *health) lastProof(model string) time.Time {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.proof[model]
}

func (h *health) lastVerdict() *work.Verdict {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.last
}

// swapVerdict returns the verdict before.
func (h *health) swapVerdict(v *work.Verdict) (was *work.Verdict) {
	h.mu.Lock()
	defer h.mu.Unlock()
	was, h.last = h.last, v
	h.tell()
	return was
}

// Ready is nil when the agent takes tasks: it is connected, its required tool servers are there, and its answers make
// sense as far as they are asked for. The error says everything that is in the way.
func (r *Runtime) Ready() error {
	var faults []error
	if !r.config.Queue.Conn().IsConnected() {
		faults = append(faults, errors.New("not connected to the queue server"))
	}
	for _, text := range r.health.all() {
		faults = append(faults, errors.New(text))
	}
	return errors.Join(faults...)
}

// State is how a runtime is at one moment.
type State struct {
	// Reasons say why it takes no tasks, see Ready; empty when it does.
	Reasons []string
	Running int           // tasks that it works on
	Verdict *work.Verdict // of the semantic probe; nil without one, and before the first
}

// State is how the runtime is now. Changed is closed when there is something new in it.
func (r *Runtime) State() (s State, changed <-chan struct{}) {
	changed = r.health.changed()
	if err := r.Ready(); err != nil {
		s.Reasons = strings.Split(err.Error(), "\n")
	}
	if v := r.health.lastVerdict(); v != nil && !v.At.IsZero() {
		verdict := *v
		s.Verdict = &verdict
	}
	r.mu.Lock()
	s.Running = len(r.running)
	r.mu.Unlock()
	return s, changed
}

// Alive is nil unless the loop that takes tasks stands still.
func (r *Runtime) Alive() error {
	r.health.mu.Lock()
	pulse := r.health.pulse
	r.health.mu.Unlock()
	if silence := time.Since(pulse); !pulse.IsZero() && silence > pulseLimit {
		return fmt.Errorf("the loop that takes tasks has stood still for %s", silence.Round(time.Second))
	}
	return nil
}

// prepare notes what the agent has to wait for before it takes its first task.
func (r *Runtime) prepare() {
	if r.config.Servers != nil {
		r.health.set(faultStart, "looking for the tool servers")
	}
	if r.config.Probe != nil && r.health.lastVerdict() == nil {
		r.health.set(faultProbe, "the semantic probe has not been answered yet")
	}
}

// watch keeps the agent's health up to date until ctx ends, and has it take tasks only while it is ready.
func (r *Runtime) watch(ctx context.Context, tasks *queue.Tasks) {
	r.health.follow(func(ready bool) {
		if ready {
			tasks.Resume()
		} else {
			tasks.Pause()
		}
	})
	var group sync.WaitGroup
	if r.config.Probe != nil {
		group.Go(func() { r.probe(ctx) })
	}
	if r.config.Servers != nil {
		group.Go(func() { r.watchServers(ctx) })
	}
	group.Wait()
}

func (r *Runtime) watchServers(ctx context.Context) {
	settled, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	if err := r.config.Servers.Settle(settled); err != nil && ctx.Err() == nil {
		r.log.WarnContext(ctx, "not all tool servers have answered; tasks start without the tools of the others")
	}
	for first := true; ; first = false {
		changed := r.config.Servers.Changed()
		text := ""
		if err := r.config.Servers.Ready(); err != nil {
			text = err.Error()
		}
		r.health.set(faultTools, text)
		if first {
			r.health.set(faultStart, "")
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
