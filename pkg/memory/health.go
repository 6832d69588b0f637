package memory

import (
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// Status is the state of a memory at one moment.
type Status struct {
	Backend Backend
	// Healthy is true until an operation fails, and again from the first one on that works.
	Healthy bool
	Since   time.Time // when the present state began
	Message string    // while it is not healthy: the cause, without secrets
	// Operations and Failures count since the start, vectors included. Operations that failed at once, because the store
	// was resting, are in neither.
	Operations, Failures int64
}

// merge is the state of two things that are both needed.
func (s Status) merge(other Status) Status {
	sum := s
	if s.Healthy && (!other.Healthy || other.Since.After(s.Since)) {
		sum = other
	}
	sum.Operations, sum.Failures = s.Operations+other.Operations, s.Failures+other.Failures
	return sum
}

// health knows whether something that a memory needs works, and lets it rest when it does not.
type health struct {
	log  *slog.Logger
	rest time.Duration

	mu    sync.Mutex
	state Status
	next  time.Time // while it is not healthy: when it is tried again
}

func newHealth(c Config, log *slog.Logger) *health {
	return &health{log: log.With("memory", string(c.Backend)), rest: c.Rest, state: Status{Backend: c.Backend, Healthy: true, Since: time.Now()}}
}

func (h *health) status() Status {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.state
}

// resting says why nothing is to be tried now; nil if something may.
func (h *health) resting() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.state.Healthy && time.Now().Before(h.next) {
		return &Error{Message: h.state.Message, err: ErrUnavailable}
	}
	return nil
}

// enter begins an operation. While the store rests there is an error at once; after the rest one operation goes ahead of
// the others.
func (h *health) enter() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.state.Healthy {
		if now := time.Now(); now.Before(h.next) {
			return &Error{Message: h.state.Message, err: ErrUnavailable}
		}
		h.next = time.Now().Add(h.rest)
	}
	h.state.Operations++
	return nil
}

// interrupted ends an operation that says nothing about the store.
func (h *health) interrupted() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.state.Healthy {
		h.next = time.Time{} // somebody else may try
	}
}

func (h *health) worked() {
	h.mu.Lock()
	was := h.state
	if !was.Healthy {
		h.state.Healthy, h.state.Message, h.state.Since = true, "", time.Now()
	}
	h.mu.Unlock()
	if !was.Healthy {
		h.log.Info("memory works again", "down_for", time.Since(was.Since).Round(time.Millisecond))
	}
}

func (h *health) failed(message string) {
	now := time.Now()
	h.mu.Lock()
	was := h.state.Healthy
	if was {
		h.state.Healthy, h.state.Since = false, now
	}
	h.state.Failures++
	h.state.Message = message
	h.next = now.Add(h.rest)
	h.mu.Unlock()
	if was {
		h.log.Warn("memory does not work, tasks go on without it", "error", message)
	}
}

// unavailable is what a task's notes say when it went without its memory.
func unavailable(b Backend, err error) string {
	return fmt.Sprintf("the agent's memory (%s) could not be read, the task went without it: %v", b, err)
}
