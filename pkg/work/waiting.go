package work

import (
	"context"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"arkonis.dev/ark/pkg/queue"
)

const (
	// lookEvery is how often the service looks for ops that wait and that nobody asks for any more.
	lookEvery = time.Second
	// patiencePolls is how many polls a client may miss before its append is given up.
	patiencePolls = 3
	// lookParallel bounds how many of them are looked up at once.
	lookParallel = 16
)

// patience is how long a service goes on with an append that waits: as long as its client asks for it. A client that asks
// another service meanwhile keeps its place for a few polls; one that has died, or whose append the other service has
// granted, must not stand in anybody's way for ever.
type patience struct {
	asked  time.Time     // when the client asked last, or the service looked for itself
	wait   time.Duration // after which it asks again
	lapses time.Time
}

func newPatience(r appendRequest, now time.Time) patience {
	wait := min(time.Duration(r.Wait)*time.Millisecond, pollLimit)
	return patience{asked: now, wait: wait, lapses: now.Add(patiencePolls*wait + answerTimeout)}
}

func (p *patience) lapsed(now time.Time) bool { return now.After(p.lapses) }

// missed says whether the client should have asked again by now.
func (p *patience) missed(now time.Time) bool { return now.Sub(p.asked) > p.wait+lookEvery }

// renew notes that somebody still waits for an append. It returns the budgets that it waits for.
func (b *book) renew(a *appending, r appendRequest) []scopeKey {
	b.mu.Lock()
	defer b.mu.Unlock()
	a.patience = newPatience(r, time.Now())
	return a.waitsFor
}

// lookAgain has an append decided again when another service has changed what it is decided on.
func (s *Service) lookAgain(ctx context.Context, key queue.Key, budgets []scopeKey) {
	if err := s.book.refresh(ctx, key, budgets); err != nil {
		s.cfg.Logger.Debug("journal and budgets were not read again", "error", err)
	}
}

// lookAfterWaiting sees to those that wait and that nobody asks for here, until the context ends.
func (s *Service) lookAfterWaiting(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			var g errgroup.Group
			g.SetLimit(lookParallel)
			for _, m := range s.book.missed(now) {
				g.Go(func() error {
					s.lookAgain(ctx, m.key, m.budgets)
					return nil
				})
			}
			_ = g.Wait() // of what never fails
		}
	}
}

// missing is an append that its client should have asked for.
type missing struct {
	key     queue.Key
	budgets []scopeKey
}

// missed lists the appends that wait and that their clients did not ask for in time. Those whom it has given up are
// decided again.
func (b *book) missed(now time.Time) []missing {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []missing
	lapsed := false
	for _, o := range b.waiting {
		a, ok := o.action.(*appending)
		switch {
		case !ok:
		case a.patience.lapsed(now):
			lapsed = true
		case a.patience.missed(now):
			a.patience.asked = now
			list = append(list, missing{o.key, a.waitsFor})
		}
	}
	if lapsed {
		b.again(&op{action: passAction{}})
	}
	return list
}

// lapsed says whether an op that waits is one that nobody asks for any more.
func (o *op) lapsed(now time.Time) bool {
	a, ok := o.action.(*appending)
	return ok && a.patience.lapsed(now)
}

// requeueWaiting has the waiting ops of a task decided again, and those behind them. It says whether there are any. It
// is called with the lock held.
func (b *book) requeueWaiting(key queue.Key) bool {
	waits := slices.ContainsFunc(b.waiting, func(o *op) bool { return o.key == key })
	if waits {
		b.again(&op{key: key, action: againAction{}})
	}
	return waits
}

// passWaiting has all who wait decided again if somebody waits for a budget. It is called with the lock held.
func (b *book) passWaiting(budget scopeKey) {
	if b.blocked[budget] > 0 {
		b.again(&op{action: passAction{}})
	}
}

// again queues an op that nobody waits for. It is called with the lock held.
func (b *book) again(o *op) {
	o.done = make(chan error, 1)
	b.queued = append(b.queued, o)
	b.stir()
}

// wait puts an op among those that wait, in the order in which they came.
func (b *book) wait(o *op) {
	i, _ := slices.BinarySearchFunc(b.waiting, o.ticket, func(o *op, ticket uint64) int {
		if o.ticket < ticket {
			return -1
		}
		return 1
	})
	b.waiting = slices.Insert(b.waiting, i, o)
	for _, s := range o.waits {
		b.blocked[s]++
	}
}

// unwait is the reverse.
func (b *book) unwait(o *op) {
	b.waiting = slices.DeleteFunc(b.waiting, func(other *op) bool { return other == o })
	for _, s := range o.waits {
		if b.blocked[s]--; b.blocked[s] <= 0 {
			delete(b.blocked, s)
		}
	}
	o.waits = nil
}

// ahead says whether an op that came earlier waits for one of the budgets.
func (b *book) ahead(o *op, keys []scopeKey) bool {
	if !slices.ContainsFunc(keys, func(k scopeKey) bool { return b.blocked[k] > 0 }) {
		return false
	}
	for _, other := range b.waiting {
		if other.ticket >= o.ticket {
			return false
		}
		if slices.ContainsFunc(keys, func(k scopeKey) bool { return slices.Contains(other.waits, k) }) {
			return true
		}
	}
	return false
}
