package runtime

import (
	"context"
	"sync"
)

// slots are the places for tasks that run at once. A task that comes back from waiting goes before a new one, so
// that work that was begun gets finished.
type slots struct {
	mu        sync.Mutex
	free      int
	returning []chan struct{} // closed when its place is there
}

func newSlots(n int) *slots {
	return &slots{free: n}
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

// place is one task's place. The tool calls of a turn run at once: the place is given up while all of those that
// still run wait for somebody else.
type place struct {
	slots *slots
	// yield and resume tell the queue that the task does not count for now, and that it counts again.
	yield, resume func()

	mu      sync.Mutex
	held    bool
	running int           // tool calls that have begun and not ended
	waiting int           // those of them that wait
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
		p.held = false
		p.slots.release()
		p.yield()
	}
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
	if !p.held {
		p.resume() // it was given up for a time, and now for good by whoever ends the delivery
		return
	}
	p.held = false
	p.slots.release()
}
