package work

import (
	"context"
	"fmt"
	"time"

	"arkonis.dev/ark/pkg/ledger"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// Opening is what a budget begins with in a store that does not know it.
type Opening struct {
	Namespace string
	Budget    task.Budget
	Charges   []Charge
}

// Charge is tokens that were spent; Output is the part of them that models wrote.
type Charge struct {
	At             time.Time
	Tokens, Output int64
}

// openScope is the scope of the mark that the budgets of a group are open.
const openScope = "opened"

// openBatch is how many budgets are opened with one write.
const openBatch = 200

// Opened says whether the budgets of a group were opened in this store. The error is queue.ErrUnavailable.
func (s *Service) Opened(ctx context.Context, group string) (bool, error) {
	_, there, err := s.q.Last(ctx, queue.BudgetSubject(group, openScope))
	if err != nil {
		return false, fmt.Errorf("look whether budgets are open: %w", err)
	}
	return there, nil
}

// Open gives the budgets of a group what they begin with, and marks them as open: that happens once in a store, however
// many services try it. A budget that the store knows already stays as it is. It is called before the service runs.
//
// After queue.ErrStale another service was faster: ask Opened again. After other errors some budgets may be open; call it
// again with all of them.
func (s *Service) Open(ctx context.Context, group string, openings []Opening) error {
	subjects := make([]string, len(openings))
	for i, o := range openings {
		subjects[i] = queue.BudgetSubject(o.Namespace, o.Budget.Scope)
	}
	heads, err := s.q.Heads(ctx, subjects)
	if err != nil {
		return fmt.Errorf("open budgets: %w", err)
	}
	var writes []queue.Write
	for i, o := range openings {
		if heads[i] != 0 {
			continue
		}
		body, err := o.scope().encode()
		if err != nil {
			return fmt.Errorf("open budget %s of namespace %s: %w", o.Budget.Scope, o.Namespace, err)
		}
		writes = append(writes, queue.Write{Subject: subjects[i], Body: body, Expect: new(uint64), Rollup: true})
	}
	mark, err := newScope(scopeKey{group, openScope}).encode()
	if err != nil {
		return fmt.Errorf("open budgets: %w", err)
	}
	writes = append(writes, queue.Write{Subject: queue.BudgetSubject(group, openScope), Body: mark, Expect: new(uint64), Rollup: true})
	for len(writes) > 0 { // the mark is in the last batch
		n := min(len(writes), openBatch)
		if _, err := s.q.Batch(ctx, writes[:n]...); err != nil {
			return fmt.Errorf("open budgets: %w", err)
		}
		writes = writes[n:]
	}
	return nil
}

func (o *Opening) scope() *scope {
	scope := newScope(scopeKey{o.Namespace, o.Budget.Scope})
	scope.state = ledger.New(limitOf(o.Budget))
	for _, c := range o.Charges {
		scope.state.Charge(c.Tokens, c.Output, c.At)
	}
	return scope
}
