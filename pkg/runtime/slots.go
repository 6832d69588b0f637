package runtime

import (
	"context"
	"slices"
	"sync"
)

// slots are the places for tasks that run at once. A task that comes back from waiting goes before a new one, so
// that work that was begun gets finished.
type slots struct {
	mu        sync.Mutex
	size      int
	free      int
	returning []chan struct{} // closed when its place is there
	// stalled hold a place and wait for tokens that others have reserved, in the order in which they said so; lender has
	// given its place up for that.
	stalled []*place
	lender  *place
}

func newSlots(n int) *slots {
	return &slots{size: n, free: n}
}

// try takes a place for a new task if one is free.
func (s *slots) try() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.free == 0 {
		return false
	}
	s.free--
	return true
}

// release gives a place up: to the first who returns, else to new tasks.
func (s *slots) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.returning) > 0 {
		close(s.returning[0])
		s.returning = s.returning[1:]
		return
	}
	s.free++
}

// retake waits for a place for a task that gave its own up.
func (s *slots) retake(ctx context.Context) error {
	s.mu.Lock()
	if s.free > 0 {
		s.free--
		s.mu.Unlock()
		return nil
	}
	granted := make(chan struct{})
	s.returning = append(s.returning, granted)
	s.mu.Unlock()
	select {
	case <-granted:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	for i, c := range s.returning {
		if c == granted {
			s.returning = append(s.returning[:i:i], s.returning[i+1:]...)
			s.mu.Unlock()
			return context.Cause(ctx)
		}
	}
	s.mu.Unlock()
	s.release() // it was granted at the same moment
	return context.Cause(ctx)
}

// stalling is what a task that waits for tokens does with its place.
type stalling int

const (
	stalledStays stalling = iota // it waits on
	stalledLends                 // it waits on without its place
	stalledEnds                  // it is handed back to the queue
)

// stall decides what a task with a place does that waits for tokens that others have reserved. They may belong to tasks
// whose process has died, and those settle only when somebody takes them from the queue: while everybody here waits, one
// lends its place for that, and who came last and has to wait in it as well is handed back to the queue, so that the next
// one comes. All others keep their turn, and at most one task more is held than there are places.
func (s *slots) stall(p *place) stalling {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Contains(s.stalled, p) {
		s.stalled = append(s.stalled, p)
	}
	switch {
	case s.free > 0 || len(s.stalled) < s.size:
		return stalledStays
	case s.lender == nil || s.lender == p: // one that came back for something else lends again
		s.lender = p
		s.forget(p)
		return stalledLends
	case s.stalled[len(s.stalled)-1] == p:
		return stalledEnds
	default:
		return stalledStays
	}
}

// forget takes a task from those that hold a place and wait. It is called with the lock held.
func (s *slots) forget(p *place) {
	s.stalled = slices.DeleteFunc(s.stalled, func(other *place) bool { return other == p })
}

// unstall is called when a task does not wait for tokens any more and has a place again or needs none.
func (s *slots) unstall(p *place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forget(p)
	if s.lender == p {
		s.lender = nil
	}
}

// place is one task's place. The tool calls of a turn run at once: the place is given up while all of those that
// still run wait for somebody else.
type place struct {
	slots *slots
	// yield and resume tell the queue that the task does not count for now, and that it counts again.
	yield, resume func()

	mu      sync.Mutex
	held    bool
	running int           // tool calls that have begun and not ended
	waiting int           // those of them that wait for somebody else
	closed  bool          // given up for good
	stalled bool          // the task, or one of its tool calls, waits for tokens
	back    chan struct{} // while the place is being taken again: closed when that ended
}

func newPlace(s *slots, yield, resume func()) *place {
	return &place{slots: s, yield: yield, resume: resume, held: true}
}

// begin counts tool calls that start, end one that ended.
func (p *place) begin(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running += n
}

func (p *place) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.running--
	p.leaveIfIdle()
}

// leaveIfIdle gives the place up when every running call waits.
func (p *place) leaveIfIdle() {
	if p.held && p.running > 0 && p.waiting == p.running {
		p.giveUp()
	}
}

// giveUp gives the place up for a time. It is called with the lock held.
func (p *place) giveUp() {
	p.held = false
	p.slots.release()
	p.yield()
}

// stall is called now and then while the task waits for tokens that others have reserved. It says whether the task is to
// be handed back to the queue. A call of unstall follows.
func (p *place) stall() (handBack bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.stalled = true
	// While tool calls run, the one that waits for tokens is one of them.
	if !p.held || p.waiting+1 < p.running {
		return false
	}
	switch p.slots.stall(p) {
	case stalledLends:
		p.giveUp()
	case stalledEnds:
		return true
	case stalledStays:
	}
	return false
}

// unstall returns when the task has its place again, if it stalled.
func (p *place) unstall(ctx context.Context) error {
	p.mu.Lock()
	stalled := p.stalled
	p.stalled = false
	p.mu.Unlock()
	if !stalled {
		return nil
	}
	defer p.slots.unstall(p)
	return p.retake(ctx)
}

// wait runs fn, which waits for somebody else, and returns when the task has its place again.
func (p *place) wait(ctx context.Context, fn func(context.Context) error) error {
	p.mu.Lock()
	p.waiting++
	p.leaveIfIdle()
	p.mu.Unlock()
	err := fn(ctx)
	p.mu.Lock()
	p.waiting--
	p.mu.Unlock()
	if back := p.retake(ctx); err == nil {
		err = back
	}
	return err
}

// retake takes the place again unless it is held; of several calls that return at once, one asks.
func (p *place) retake(ctx context.Context) error {
	for {
		p.mu.Lock()
		if p.held {
			p.mu.Unlock()
			return nil
		}
		if p.back != nil {
			back := p.back
			p.mu.Unlock()
			<-back
			if err := ctx.Err(); err != nil {
				return context.Cause(ctx)
			}
			continue
		}
		back := make(chan struct{})
		p.back = back
		p.mu.Unlock()
		err := p.slots.retake(ctx)
		p.mu.Lock()
		p.held = err == nil
		if p.held {
			p.resume()
		}
		p.back = nil
		p.mu.Unlock()
		close(back)
		return err
	}
}

// close gives the place up for good.
func (p *place) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if !p.held {
		p.resume() // it was given up for a time, and now for good by whoever ends the delivery
		return
	}
	p.held = false
	p.slots.release()
}
