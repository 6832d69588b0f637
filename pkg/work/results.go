package work

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// followAgain is the pause before the results are followed again after they broke off.
const followAgain = time.Second

// settleAgain is the pause before calls of an ended task are settled again when the streams could not be reached.
const settleAgain = 2 * time.Second

// results are those that somebody waits for.
type results struct {
	mu      sync.Mutex
	waiters map[queue.Key]*waiter
}

// waiter is what several requests for one result wait for.
type waiter struct {
	count  int
	ready  chan struct{}
	result *task.Result // after ready
}

func newResults() *results { return &results{waiters: map[queue.Key]*waiter{}} }

// wait returns the result of a task, nil when there is none within the time.
func (r *results) wait(ctx context.Context, q *queue.Queue, key queue.Key, d time.Duration) (*task.Result, error) {
	w := r.enter(key)
	defer r.leave(key, w)
	result, err := q.Result(ctx, key)
	if !errors.Is(err, queue.ErrNoResult) {
		return result, err
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-w.ready:
		return w.result, nil
	case <-timer.C:
		return nil, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (r *results) enter(key queue.Key) *waiter {
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.waiters[key]
	if w == nil {
		w = &waiter{ready: make(chan struct{})}
		r.waiters[key] = w
	}
	w.count++
	return w
}

func (r *results) leave(key queue.Key, w *waiter) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w.count--; w.count == 0 && r.waiters[key] == w {
		delete(r.waiters, key)
	}
}

func (r *results) deliver(key queue.Key, result *task.Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if w := r.waiters[key]; w != nil {
		w.result = result
		close(w.ready)
		delete(r.waiters, key)
	}
}

// followResults reads all results, for everybody who waits for one.
func (s *Service) followResults(ctx context.Context) {
	for {
		err := s.q.Results(ctx, "", func(r queue.Record) error {
			if r.Result != nil {
				s.results.deliver(r.Key, r.Result)
				s.ended(ctx, r.Key)
			}
			return nil
		}, nil)
		if ctx.Err() != nil {
			return
		}
		s.cfg.Logger.Warn("results broke off, following them again", "error", err)
		if !pause(ctx, followAgain) {
			return
		}
	}
}

// ended notes that a task has a result: no call is reserved any more, what waits is sent away, and calls that do not
// tell what they used are charged in full after a while.
func (s *Service) ended(ctx context.Context, key queue.Key) {
	s.keepStrays(key, s.book.end(key))
	s.settleStrays(ctx, key)
}

// settleStrays charges after a while what a task has reserved, as far as it is known to be its, unless somebody works on it
// then.
func (s *Service) settleStrays(ctx context.Context, key queue.Key) {
	s.mu.Lock()
	budgets := slices.Collect(maps.Keys(s.strays[key]))
	delete(s.strays, key)
	s.mu.Unlock()
	if len(budgets) > 0 {
		s.settleLater(ctx, key, budgets)
	}
}

// end marks a journal that is in memory; without open calls it is dropped. It returns the budgets in which open calls
// have reserved. A journal that is just being written stays until that has ended.
func (b *book) end(key queue.Key) (reserved []scopeKey) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if r := b.reading[key]; r != nil {
		r.done = true
	}
	j := b.journals[key]
	if j == nil || j.done {
		return nil
	}
	j.done = true
	waits := b.requeueWaiting(key)
	if len(j.open) > 0 {
		return j.reservedIn()
	}
	if !waits && !j.writing {
		b.dropJournal(j) // what is on its way finds it in the stream
	}
	return nil
}

// againAction has the waiting ops of a task decided again, and those behind them.
type againAction struct{}

func (againAction) decide(t *turn, o *op) step {
	t.freed = true
	t.requeue(o.key)
	return stepEnded
}

// settleLater charges the open calls of a task that has ended, which have reserved in some budgets. A task that only left
// the queue may come back meanwhile, and the journal of one whose run is removed may go.
func (s *Service) settleLater(ctx context.Context, key queue.Key, strays []scopeKey) {
	s.group.Go(func() {
		if !pause(ctx, s.cfg.SettleAfter) {
			return
		}
		for {
			err := s.settleNow(ctx, key, strays)
			if err == nil {
				return
			}
			again := errors.Is(err, ErrUnavailable)
			s.cfg.Logger.Warn("calls of an ended task stay open", "task", key.TaskID, "run", key.RunUID, "error", err, "again", again)
			if !again || !pause(ctx, settleAgain) {
				return
			}
		}
	})
}

func (s *Service) settleNow(ctx context.Context, key queue.Key, strays []scopeKey) error {
	j, err := s.book.journal(ctx, key, true)
	if err != nil {
		return err
	}
	s.book.mu.Lock()
	a := &settling{epoch: j.epoch, strays: strays}
	s.book.mu.Unlock()
	ended, err := s.nobodyHolds(ctx, key)
	if err != nil {
		return err
	}
	if ended {
		err = s.book.do(ctx, key, a)
	}
	if err != nil {
		return err
	}
	if !ended || a.moved {
		s.keepStrays(key, strays)
	}
	s.unknown(ctx, key, a.count)
	return nil
}

// lookAfterStrays looks again, until the context ends, whether anybody works on the tasks that reservations are of of
// which nobody in this process knows more. Most are told of by the results; one may have left the queue without one.
func (s *Service) lookAfterStrays(ctx context.Context) {
	for pause(ctx, s.cfg.SettleAfter) {
		s.mu.Lock()
		keys := slices.Collect(maps.Keys(s.strays))
		s.mu.Unlock()
		for _, key := range keys {
			if ended, err := s.nobodyHolds(ctx, key); err == nil && ended {
				s.settleStrays(ctx, key)
			}
		}
	}
}

// findStrays looks for reservations in a budget that was just read whose task nobody works on any more: their holders
// have ended while no service was there to see it.
func (s *Service) findStrays(ctx context.Context, b *scope) {
	s.book.mu.Lock()
	holders := b.state.Holders()
	s.book.mu.Unlock()
	for _, holder := range holders {
		key, call, ok := holderKey(b.key.namespace, holder)
		if !ok || !s.addStray(key, call, b.key) {
			continue
		}
		s.group.Go(func() {
			for {
				ended, err := s.nobodyHolds(ctx, key)
				if ended {
					s.settleStrays(ctx, key)
				}
				if !errors.Is(err, ErrUnavailable) || !pause(ctx, settleAgain) {
					return
				}
			}
		})
	}
}

// keepStrays remembers reservations until their task has a result.
func (s *Service) keepStrays(key queue.Key, budgets []scopeKey) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range budgets {
		s.rememberStray(key, b)
	}
}

func (s *Service) rememberStray(key queue.Key, budget scopeKey) {
	if s.strays[key] == nil {
		s.strays[key] = map[scopeKey]bool{}
	}
	s.strays[key][budget] = true
}

// addStray remembers the reservation of a call that this process knows nothing of. It says whether it is new.
func (s *Service) addStray(key queue.Key, call int, budget scopeKey) bool {
	s.book.mu.Lock()
	known := false
	if j := s.book.journals[key]; j != nil {
		_, known = j.open[call]
	}
	s.book.mu.Unlock()
	if known {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	added := !s.strays[key][budget]
	s.rememberStray(key, budget)
	return added
}

// nobodyHolds says whether a task has a result, or is not in the queue any more. The error is ErrUnavailable.
func (s *Service) nobodyHolds(ctx context.Context, key queue.Key) (bool, error) {
	done, err := s.book.hasResult(ctx, key)
	if err == nil && !done {
		_, err = s.q.Task(ctx, key.Namespace, key.Agent, key.TaskID)
	}
	switch {
	case errors.Is(err, queue.ErrNoTask):
		return true, nil
	case errors.Is(err, queue.ErrUnavailable):
		return false, unavailable(err)
	default:
		return done, nil // a task that cannot be read is somebody's
	}
}

// unknown counts calls that were charged in full because nobody knows what became of them.
func (s *Service) unknown(ctx context.Context, key queue.Key, n int) {
	if n == 0 {
		return
	}
	s.cfg.Telemetry.CallUnknown(ctx, key.Agent, n)
	s.cfg.Logger.Info("calls of unknown outcome were charged in full", "task", key.TaskID, "run", key.RunUID, "agent", key.Agent, "calls", n)
}
