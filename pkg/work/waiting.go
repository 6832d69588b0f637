package work

import (
	"context"
	"slices"
	"time"

	"arkonis.dev/ark/pkg/queue"
)

const (
	// lookEvery is how often the service looks after ops that wait: whether another service has changed what they were
	// decided on, and whether anybody still asks for them.
	lookEvery = time.Second
	// patiencePolls is how many polls a client may miss before its append is given up.
	patiencePolls = 3
)

// patience is how long a service goes on with an append that waits: as long as its client asks for it. A client that asks
// another service meanwhile keeps its place for a few polls; one that has died, or whose append the other service has
// granted, must not stand in anybody's way for ever.
type patience struct{ lapses time.Time }

func newPatience(r appendRequest, now time.Time) patience {
	wait := min(time.Duration(r.Wait)*time.Millisecond, pollLimit)
	return patience{lapses: now.Add(patiencePolls*wait + answerTimeout)}
}

func (p *patience) lapsed(now time.Time) bool { return now.After(p.lapses) }

// renew notes that somebody still waits for an append.
func (b *book) renew(a *appending, r appendRequest) {
	b.mu.Lock()
	defer b.mu.Unlock()
	a.patience = newPatience(r, time.Now())
}

// lookAfterWaiting sees to those that wait, until the context ends. What it costs does not depend on how many they are.
func (s *Service) lookAfterWaiting(ctx context.Context) {
	ticker := time.NewTicker(lookEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			list := s.book.waitedFor(now)
			if len(list) == 0 {
				continue
			}
			if err := s.book.compare(ctx, list); err != nil {
				s.cfg.Logger.Debug("journals and budgets that are waited for were not compared", "error", err)
			}
		}
	}
}

// waitedFor lists the journals and budgets of those that wait. If somebody has been given up, they are decided again.
func (b *book) waitedFor(now time.Time) []held {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []held
	lapsed := false
	for _, o := range b.waiting {
		lapsed = lapsed || o.lapsed(now)
		if j := b.journals[o.key]; j != nil {
			j.used = now
			list = append(list, held{subject: queue.CallSubject(o.key), seq: j.seq, task: &o.key})
		}
	}
	for key := range b.blocked {
		list = b.heldScope(list, key)
	}
	if lapsed {
		b.again(&op{action: passAction{}})
	}
	return list
}

// held is something in memory and how far it was stored then.
type held struct {
	subject string
	seq     uint64
	task    *queue.Key // of a journal; nil for a budget
	budget  scopeKey
}

// refreshScopes forgets budgets that another service has changed meanwhile.
func (b *book) refreshScopes(ctx context.Context, keys []scopeKey) error {
	var list []held
	b.mu.Lock()
	for _, key := range keys {
		list = b.heldScope(list, key)
	}
	b.mu.Unlock()
	return b.compare(ctx, list)
}

func (b *book) heldScope(list []held, key scopeKey) []held {
	if s := b.scopes[key]; s != nil {
		list = append(list, held{subject: queue.BudgetSubject(key.namespace, key.scope), seq: s.seq, budget: key})
	}
	return list
}

// compare forgets what another service has changed meanwhile, so that it is read again, and has those decided again who
// wait for it. It costs one look at the log. What this process is just writing is left alone: that is stored only if
// nobody else has changed it.
func (b *book) compare(ctx context.Context, list []held) error {
	subjects := make([]string, len(list))
	for i, h := range list {
		subjects[i] = h.subject
	}
	heads, err := b.q.Heads(ctx, subjects)
	if err != nil {
		return unavailable(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, h := range list {
		if heads[i] == h.seq {
			continue
		}
		if h.task == nil {
			if s := b.scopes[h.budget]; s != nil && !s.writing && s.seq == h.seq {
				delete(b.scopes, h.budget)
				b.passWaiting(h.budget)
			}
			continue
		}
		if j := b.journals[*h.task]; j != nil && !j.writing && j.seq == h.seq {
			b.dropJournal(j)
			b.requeueWaiting(*h.task)
		}
	}
	return nil
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

// blocks says whether an append waits for others' reservations.
func (b *book) blocks(a *appending) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.ContainsFunc(b.waiting, func(o *op) bool { return o.action == a })
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
