package runs

import (
	"context"
	"log/slog"
	"maps"
	"slices"
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
	uids := slices.Collect(maps.Keys(p.gone))
	p.mu.Unlock()
	if len(uids) == 0 {
		return 0
	}
	left, err := p.q.PurgeRun(ctx, uids...)
	if err != nil && ctx.Err() == nil {
		p.log.WarnContext(ctx, "records of removed runs are still there, it is tried again", "runs", len(left), "error", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, uid := range uids {
		delete(p.gone, uid)
	}
	for _, uid := range left {
		p.gone[uid] = struct{}{}
	}
	return len(p.gone)
}
