package runs

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"arkonis.dev/ark/pkg/queue"
)

// purger removes what the stores hold of runs that are gone.
type purger struct {
	q    *queue.Queue
	log  *slog.Logger
	wake chan struct{}

	mu   sync.Mutex
	gone map[string]struct{} // uids
}

// Pauses before what could not be removed yet is tried again: a task that an agent holds is removed when the agent has
// acknowledged it.
const (
	firstPurgeAgain = 200 * time.Millisecond
	lastPurgeAgain  = 10 * time.Second
)

func newPurger(q *queue.Queue, log *slog.Logger) *purger {
	return &purger{q: q, log: log, wake: make(chan struct{}, 1), gone: map[string]struct{}{}}
}

// add has the records of a run removed soon.
func (p *purger) add(uids ...string) {
	if len(uids) == 0 {
		return
	}
	p.mu.Lock()
	for _, uid := range uids {
		p.gone[uid] = struct{}{}
	}
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *purger) run(ctx context.Context) {
	var again <-chan time.Time
	pause := firstPurgeAgain
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
			pause = firstPurgeAgain
		case <-again:
			pause = min(2*pause, lastPurgeAgain)
		}
		again = nil
		if p.purge(ctx) > 0 {
			again = time.After(pause)
		}
	}
}

// purge removes what it can and returns how many runs are left.
func (p *purger) purge(ctx context.Context) int {
	p.mu.Lock()
	uids := make([]string, 0, len(p.gone))
	for uid := range p.gone {
		uids = append(uids, uid)
	}
	p.mu.Unlock()
	left := 0
	for _, uid := range p.waiting(ctx, uids) {
		if uid != "" {
			left++
		}
	}
	return left
}

// waiting purges runs and returns those that have to be tried again.
func (p *purger) waiting(ctx context.Context, uids []string) []string {
	if len(uids) == 0 {
		return nil
	}
	waiting, err := p.q.PurgeRun(ctx, uids...)
	switch {
	case err == nil && waiting == 0:
		p.done(uids)
		return nil
	case ctx.Err() != nil:
		return uids
	case err != nil:
		p.log.WarnContext(ctx, "records of removed runs are still there, it is tried again", "runs", len(uids), "error", err)
		return uids
	case len(uids) == 1:
		return uids
	}
	var left []string // tell those that wait from the others
	for _, uid := range uids {
		left = append(left, p.waiting(ctx, []string{uid})...)
	}
	return left
}

func (p *purger) done(uids []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, uid := range uids {
		delete(p.gone, uid)
	}
}
