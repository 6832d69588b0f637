package work

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

const (
	// turnWrites bounds the writes of a batch; an op more may need about maxBudgets.
	turnWrites = queue.MaxBatch - 4*maxBudgets
	// turnBytes bounds them in bytes, so that a batch with one op more is still one message of the log.
	turnBytes = 512 << 10
)

// turn is a batch in the making: what the ops of one round do to journals and budgets.
type turn struct {
	book *book
	now  time.Time // by the broker's clock, for everything that is stored
	at   time.Time // by this process's clock, for everything that is in memory only
	ops  []*op     // that end with the batch

	writes   []queue.Write
	size     int
	journals map[*journal][]int // the writes of each
	scopes   map[*scope]int     // the write of each; -1 until it is made
	freed    bool               // tokens were freed that others wait for, or one that waited has gone
	err      error
}

// decide makes a turn of what has come. First those who settle something may make room; then those who wait, in the
// order in which they came.
func (b *book) decide() *turn {
	t := &turn{book: b, now: b.now(), at: time.Now(), journals: map[*journal][]int{}, scopes: map[*scope]int{}}
	n := 0
	for n < len(b.queued) && t.room() {
		t.take(b.queued[n])
		n++
	}
	b.queued = slices.Delete(b.queued, 0, n)
	if t.freed {
		t.passWaiting()
	}
	t.encodeScopes()
	return t
}

func (t *turn) room() bool {
	return len(t.writes)+len(t.scopes) < turnWrites && t.size < turnBytes
}

// take decides an op that has come.
func (t *turn) take(o *op) {
	o.outcome = nil
	switch o.action.decide(t, o) {
	case stepWaits:
		o.waited = true
		t.book.wait(o)
	case stepUnloaded:
		o.outcome = errAgain
		t.ops = append(t.ops, o)
	case stepEnded:
		t.ops = append(t.ops, o)
	}
}

// passWaiting decides those who wait. Nobody overtakes one that came earlier and waits for the same budget, so that a
// large reservation gets its turn.
func (t *turn) passWaiting() {
	held := map[scopeKey]bool{}
	for _, o := range slices.Clone(t.book.waiting) {
		waits := o.waits
		if !t.room() {
			t.book.again(&op{action: passAction{}}) // in another turn
			return
		}
		if !o.lapsed(t.at) && slices.ContainsFunc(waits, func(s scopeKey) bool { return held[s] }) {
			hold(held, waits)
			continue
		}
		t.book.unwait(o)
		t.take(o)
		hold(held, o.waits)
	}
}

func hold(held map[scopeKey]bool, scopes []scopeKey) {
	for _, s := range scopes {
		held[s] = true
	}
}

// passAction only has those who wait decided.
type passAction struct{}

func (passAction) decide(t *turn, _ *op) step {
	t.freed = true
	return stepEnded
}

// requeue has the waiting ops of a task decided again in this turn.
func (t *turn) requeue(key queue.Key) {
	for _, o := range slices.Clone(t.book.waiting) {
		if o.key == key {
			t.book.unwait(o)
			t.freed = true
			t.take(o)
		}
	}
}

// journal returns a journal that is in memory.
func (t *turn) journal(key queue.Key) *journal {
	j := t.book.journals[key]
	if j != nil {
		j.used = t.at
	}
	return j
}

// touched says whether this turn has written to a journal.
func (t *turn) touched(j *journal) bool { return len(t.journals[j]) > 0 }

// load returns the budgets of an op, or nil when one of them is not in memory; the op then says which.
func (t *turn) load(o *op, budgets []task.Budget) []*scope {
	scopes := make([]*scope, 0, len(budgets))
	for _, budget := range budgets {
		key := scopeKey{o.key.Namespace, budget.Scope}
		s := t.book.scopes[key]
		if s == nil {
			o.missing = append(o.missing, key)
			continue
		}
		s.used = t.at
		scopes = append(scopes, s)
	}
	if len(scopes) < len(budgets) {
		return nil
	}
	return scopes
}

// write adds a record to a journal.
func (t *turn) write(j *journal, r *record) {
	r.Version, r.At = task.Version, t.now.UTC()
	body, err := json.Marshal(r)
	if err != nil {
		t.err = errors.Join(t.err, fmt.Errorf("encode record of %s: %w", j.key, err))
	}
	// Of probes, which never end, the last one is kept.
	w := queue.Write{Subject: queue.CallSubject(j.key), Body: body, Rollup: r.TakeOver != nil && j.key.RunUID == ProbeRun}
	if !t.touched(j) {
		w.Expect = new(j.seq)
	}
	t.journals[j] = append(t.journals[j], len(t.writes))
	t.writes = append(t.writes, w)
	t.size += len(body)
	if w.Rollup {
		j.size = 0
	}
	j.size += len(body)
	j.apply(r)
	j.writing = true
}

// touch has a budget written at the end of the turn.
func (t *turn) touch(s *scope) {
	t.scopes[s] = -1
	s.writing = true
}

// settle closes a reservation in a budget.
func (t *turn) settle(s *scope, holder string, used, output int64) {
	s.state.Settle(holder, used, output, t.now)
	t.touch(s)
	if t.book.blocked[s.key] > 0 {
		t.freed = true
	}
}

// encodeScopes writes each budget once, as it is after all ops.
func (t *turn) encodeScopes() {
	for _, s := range slices.SortedFunc(maps.Keys(t.scopes), compareScopes) {
		body, err := s.encode()
		if err != nil {
			t.err = errors.Join(t.err, fmt.Errorf("encode budget %s: %w", s.key.scope, err))
		}
		t.scopes[s] = len(t.writes)
		t.writes = append(t.writes, queue.Write{
			Subject: queue.BudgetSubject(s.key.namespace, s.key.scope), Body: body, Expect: new(s.seq), Rollup: true,
		})
	}
}

// stored takes over the sequences of a batch and answers its ops.
func (t *turn) stored(seqs []uint64) {
	for j, writes := range t.journals {
		j.seq, j.writing = seqs[writes[len(writes)-1]], false
	}
	for s, write := range t.scopes {
		s.seq, s.writing = seqs[write], false
	}
	for _, o := range t.ops {
		o.done <- o.outcome
	}
}

// failed forgets everything that the batch touched. After a doubtful outcome and when another service was faster, its
// ops are decided again; otherwise nothing was stored, and they are told why.
func (t *turn) failed(err error) {
	b := t.book
	for j := range t.journals {
		if b.journals[j.key] == j {
			b.dropJournal(j)
		}
		j.tell()
	}
	for s := range t.scopes {
		if b.scopes[s.key] == s {
			delete(b.scopes, s.key)
		}
	}
	answer := fmt.Errorf("%w: %w", ErrUnavailable, err)
	if errors.Is(err, queue.ErrStale) || errors.Is(err, queue.ErrUnknownOutcome) {
		answer = errAgain
	}
	b.log.Debug("batch was not stored", "writes", len(t.writes), "error", err)
	for _, o := range t.ops {
		o.done <- answer
	}
	// What waits may have been decided on what was not stored.
	for _, o := range slices.Clone(b.waiting) {
		b.unwait(o)
		o.done <- errAgain
	}
}

func compareScopes(a, b *scope) int {
	return cmp.Or(strings.Compare(a.key.namespace, b.key.namespace), strings.Compare(a.key.scope, b.key.scope))
}
