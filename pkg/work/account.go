package work

import (
	"context"
	"fmt"
	"time"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// accountPatience bounds how long Account waits for calls that are under way: an agent stops within a second of being
// told, and records what it did within a few more. It is shorter than the time that an interrupted run has for its end, so
// that a call whose agent is not heard of costs its reservation and not the report.
const accountPatience = 6 * time.Second

// Account closes the books of a task that has a result, and returns what the task's calls have cost: exactly what its
// budgets were charged. Agents that still work on the task get some time to tell what their calls used; what is open
// after that, or after Config.SettleAfter if that is shorter, is charged in full. From then on nothing is charged any
// more. It can be repeated. It is for whoever ends runs, in the process of the service.
//
// Errors: ErrUnavailable, *task.Error when the journal cannot be read, or the context's.
func (s *Service) Account(ctx context.Context, key queue.Key) (task.Usage, error) {
	a := &accounting{}
	err := s.Ready(ctx)
	if err == nil {
		err = s.book.callsEnded(ctx, key, s.patience)
	}
	if err == nil {
		err = s.book.do(ctx, key, a)
	}
	if err != nil {
		return task.Usage{}, fmt.Errorf("account for task %s: %w", key.TaskID, err)
	}
	s.unknown(ctx, key, a.count)
	return a.usage, nil
}

// BudgetState is how far a budget is used up, in tokens.
type BudgetState struct {
	Spent    int64 // within the window
	Output   int64 // the part of Spent that models wrote
	Reserved int64 // by calls that are under way
	// ResetsAt is when as many tokens are free as were asked about; zero while they are, and when they never will be.
	ResetsAt time.Time
}

// Budget reads a budget of a namespace as it is stored: one look into the stream. One that nobody has used is empty. tokens
// are those of a call that shall still be possible; 1 for any. It is for whoever shows budgets, in the process of the
// service; agents cannot ask for it. The error is ErrUnavailable.
func (s *Service) Budget(ctx context.Context, namespace string, b task.Budget, tokens int64) (BudgetState, error) {
	scope, err := s.book.readScope(ctx, scopeKey{namespace, b.Scope})
	if err != nil {
		return BudgetState{}, err
	}
	v := scope.state.Decide(limitOf(b), "", tokens, s.cfg.Now())
	return BudgetState{Spent: v.Spent, Output: scope.state.Output(s.cfg.Now()), Reserved: v.Reserved, ResetsAt: v.FreesAt}, nil
}

// callsEnded returns when no call of a task is open any more, or the time is over.
func (b *book) callsEnded(ctx context.Context, key queue.Key, patience time.Duration) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for fresh := true; ; fresh = false {
		if _, err := b.journal(ctx, key, fresh); err != nil {
			return err
		}
		closed := b.closed(key)
		if closed == nil {
			return nil
		}
		select {
		case <-closed:
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// closed is closed when there is news of a journal's open calls; it is nil when there are none.
func (b *book) closed(key queue.Key) <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	j := b.journals[key]
	if j == nil || len(j.open) == 0 {
		return nil
	}
	if j.closed == nil {
		j.closed = make(chan struct{})
	}
	return j.closed
}

// accounting decides that a task that has a result is charged no more. The record that it writes makes sure of that:
// whoever holds an older journal has to read it again, and finds the result.
type accounting struct {
	usage task.Usage
	count int
}

func (a *accounting) decide(t *turn, o *op) step {
	j := t.journal(o.key)
	if j == nil {
		return stepUnloaded
	}
	if j.settled && len(j.open) == 0 {
		a.usage = j.usage
		return stepEnded
	}
	entries := j.unknown()
	ends, ok := j.endsOf(t, o, entries)
	if !ok {
		return stepUnloaded
	}
	j.done = true
	a.count = len(entries)
	t.write(j, &record{Epoch: j.epoch, Settled: true, Entries: entries})
	t.settleAll(ends)
	t.requeue(o.key)
	a.usage = j.usage
	return stepEnded
}
