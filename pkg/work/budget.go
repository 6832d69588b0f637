package work

import (
	"encoding/json"
	"fmt"
	"time"

	"arkonis.dev/ark/pkg/ledger"
	"arkonis.dev/ark/pkg/task"
)

// Budget is the stored state of a budget: the body of a message on queue.BudgetSubject.
type Budget struct {
	Version int           `json:"v"`
	Scope   string        `json:"scope"`
	State   *ledger.State `json:"state"`
}

// DecodeBudget reads the body of a message on a budget's subject.
func DecodeBudget(body []byte) (*Budget, error) {
	b := &Budget{State: new(ledger.State)}
	if err := json.Unmarshal(body, b); err != nil {
		return nil, fmt.Errorf("decode budget: %w", err)
	}
	if b.Version < 1 || b.Version > task.Version || b.State == nil {
		return nil, fmt.Errorf("decode budget %q: %w", b.Scope, task.ErrVersion)
	}
	return b, nil
}

// scopeKey names a budget.
type scopeKey struct{ namespace, scope string }

// scope is a budget as this process knows it.
type scope struct {
	key   scopeKey
	state *ledger.State
	seq   uint64 // of the stored state, 0 for none
	used  time.Time
}

func limitOf(b task.Budget) ledger.Limit {
	return ledger.Limit{Tokens: b.Limit, Window: time.Duration(b.Window) * time.Second}
}

func (s *scope) encode() ([]byte, error) {
	return json.Marshal(Budget{Version: task.Version, Scope: s.key.scope, State: s.state})
}

func newScope(key scopeKey) *scope {
	return &scope{key: key, state: new(ledger.State), used: time.Now()}
}
