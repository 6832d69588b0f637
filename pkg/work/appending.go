package work

import (
	"fmt"
	"slices"
	"strings"

	"arkonis.dev/ark/pkg/ledger"
	"arkonis.dev/ark/pkg/task"
)

// appending decides an append.
type appending struct {
	req      appendRequest
	budgets  []task.Budget // that an Intent is reserved in
	patience patience      // for the lock of the book
	// checked says that the budgets are known to be as the stream has them: no refusal without.
	checked  bool
	waitsFor []scopeKey // the budgets that stood in the way
	have     int        // how many of the entries were stored when it was decided last
}

func (a *appending) decide(t *turn, o *op) step {
	if a.patience.lapsed(t.at) {
		o.outcome = errLapsed
		return stepEnded
	}
	j := t.journal(o.key)
	if j == nil {
		return stepUnloaded
	}
	have, verdict, err := a.place(j, o)
	if verdict == stepUnloaded {
		return stepUnloaded
	}
	a.have = have
	if err != nil || have == len(a.req.Entries) {
		o.outcome = err
		return stepEnded
	}
	return a.account(t, j, o, a.req.Entries[have:])
}

// place finds out how many of the entries are stored already. verdict is stepUnloaded when the journal in memory seems
// to be older than the caller.
func (a *appending) place(j *journal, o *op) (have int, verdict step, err error) {
	old := !o.reloaded && (a.req.Epoch > j.epoch || a.req.Epoch == j.epoch && a.req.N > j.appended+1)
	switch {
	case old:
		o.reload, o.reloaded = true, true
		return 0, stepUnloaded, nil
	case j.epoch == 0:
		return 0, stepEnded, ErrGone
	case a.req.Epoch != j.epoch:
		return 0, stepEnded, ErrFenced
	case a.req.N == j.appended && a.req.ID == j.appendID && j.withdrawn:
		return 0, stepEnded, errWithdrawn
	case a.req.N == j.appended && a.req.ID == j.appendID && !j.more:
		return len(a.req.Entries), stepEnded, nil
	case a.req.N == j.appended && a.req.ID == j.appendID:
		return min(j.have, len(a.req.Entries)), stepEnded, nil
	case a.req.N != j.appended+1:
		return 0, stepEnded, fmt.Errorf("%w: append %d after %d", ErrGone, a.req.N, j.appended)
	default:
		return 0, stepEnded, nil
	}
}

// account applies entries that are not stored yet, as far as the budgets allow.
func (a *appending) account(t *turn, j *journal, o *op, entries []Entry) step {
	if j.full() {
		o.outcome = refusef("the journal of the task has %d MiB, which is the limit", journalLimit>>20)
		return stepEnded
	}
	intent := slices.IndexFunc(entries, func(e Entry) bool { return e.Intent != nil })
	if err := a.check(j, entries, intent); err != nil {
		o.outcome = err
		return stepEnded
	}
	ends, ok := j.endsOf(t, o, entries)
	var budgets []*scope
	if intent >= 0 {
		budgets = t.load(o, a.budgets)
	}
	if !ok || intent >= 0 && len(budgets) < len(a.budgets) {
		return stepUnloaded
	}
	if intent < 0 {
		a.store(t, j, entries, ends, false)
		return stepEnded
	}
	return a.reserve(t, j, o, entries, intent, ends, budgets)
}

func (a *appending) check(j *journal, entries []Entry, intent int) error {
	if intent >= 0 {
		switch call := entries[intent].Intent.Call; {
		case j.done:
			return ErrDone
		case j.task == nil:
			return ErrGone
		case call <= j.lastCall:
			return refusef("call %d does not follow call %d", call, j.lastCall)
		case slices.ContainsFunc(entries[intent+1:], func(e Entry) bool { return e.Intent != nil || e.Answer != nil || e.Failed != nil }):
			return refusef("an intent must be the last of the entries that account for calls")
		}
	}
	for _, e := range entries {
		call, _, _, ok := j.ended(e)
		if !ok {
			continue
		}
		if _, open := j.open[call]; !open {
			if j.done {
				return ErrDone
			}
			return refusef("call %d is not open", call)
		}
	}
	return nil
}

// ending is the settlement of one call.
type ending struct {
	holder   string
	reserved int64
	used     int64
	output   int64 // of used
	scopes   []*scope
}

// endsOf lists the calls that entries end. ok is false when a budget of theirs is not in memory.
func (j *journal) endsOf(t *turn, o *op, entries []Entry) (ends []ending, ok bool) {
	ok = true
	for _, e := range entries {
		call, used, output, is := j.ended(e)
		if !is {
			continue
		}
		r := j.open[call]
		scopes := t.load(o, r.budgets)
		if len(scopes) < len(r.budgets) {
			ok = false
			continue
		}
		ends = append(ends, ending{ledgerHolder(j.key, call), r.reserve, used, output, scopes})
	}
	return ends, ok
}

// store writes entries and settles the calls that they end.
func (a *appending) store(t *turn, j *journal, entries []Entry, ends []ending, more bool) {
	r := &record{Epoch: j.epoch, N: a.req.N, ID: a.req.ID, More: more, Entries: entries, Notes: overdrawn(ends)}
	if slices.ContainsFunc(entries, func(e Entry) bool { return e.Intent != nil }) {
		r.Budgets = a.budgets
	}
	t.write(j, r)
	t.settleAll(ends)
}

func (t *turn) settleAll(ends []ending) {
	for _, e := range ends {
		for _, s := range e.scopes {
			t.settle(s, e.holder, e.used, e.output)
		}
	}
}

// overdrawn says which calls used more than was reserved.
func overdrawn(ends []ending) []string {
	var notes []string
	for _, e := range ends {
		if e.used > e.reserved {
			notes = append(notes, fmt.Sprintf("call %s used %d tokens, more than the %d that were reserved as its upper bound; all of them are charged",
				e.holder[strings.LastIndexByte(e.holder, '.')+1:], e.used, e.reserved))
		}
	}
	return notes
}

// reserve decides an Intent. The calls that the same append ends count as ended: their tokens are free for it.
func (a *appending) reserve(t *turn, j *journal, o *op, entries []Entry, intent int, ends []ending, budgets []*scope) step {
	call := entries[intent].Intent
	holder := ledgerHolder(j.key, call.Call)
	verdict, scope := t.verdict(budgets, ends, holder, a.budgets, call.Reserve)
	keys := keysOf(budgets)
	a.waitsFor = keys
	switch {
	case verdict.Decision == ledger.Refused && !a.checked:
		o.outcome = errCheck
		return stepEnded
	case verdict.Decision == ledger.Refused:
		o.outcome = &BudgetError{
			Scope: scope, Limit: verdict.Limit, Spent: verdict.Spent, Reserved: verdict.Reserved, Asked: verdict.Asked, FreesAt: verdict.FreesAt,
		}
		return stepEnded
	case verdict.Decision == ledger.Wait || t.book.ahead(o, keys):
		if len(ends) > 0 {
			// What is ended is ended, and must not stand in anybody's way while this one waits.
			a.store(t, j, entries[:intent], ends, true)
		}
		o.waits = keys
		return stepWaits
	}
	a.store(t, j, entries, ends, false)
	for i, s := range budgets {
		s.state.Reserve(limitOf(a.budgets[i]), holder, call.Reserve, t.now)
		t.touch(s)
	}
	return stepEnded
}

// verdict is the strictest of all budgets, and its scope.
func (t *turn) verdict(budgets []*scope, ends []ending, holder string, limits []task.Budget, tokens int64) (worst ledger.Verdict, name string) {
	worst.Decision = ledger.Granted
	for i, s := range budgets {
		state := s.state
		for _, e := range ends {
			if slices.Contains(e.scopes, s) {
				if state == s.state {
					state = s.state.Clone()
				}
				state.Settle(e.holder, e.used, e.output, t.now)
			}
		}
		if v := state.Decide(limitOf(limits[i]), holder, tokens, t.now); v.Decision > worst.Decision {
			worst, name = v, s.key.scope
		}
	}
	return worst, name
}

func keysOf(scopes []*scope) []scopeKey {
	keys := make([]scopeKey, len(scopes))
	for i, s := range scopes {
		keys[i] = s.key
	}
	return keys
}

// withdrawing decides that an append is given up. That is stored, unless all of the append is: a service that has the
// append in its line and has not heard of this finds it there.
type withdrawing struct {
	req  withdrawRequest
	have int
}

func (w *withdrawing) decide(t *turn, o *op) step {
	j := t.journal(o.key)
	switch {
	case j == nil:
		return stepUnloaded
	case !o.reloaded && (w.req.Epoch > j.epoch || w.req.Epoch == j.epoch && w.req.N > j.appended+1):
		o.reload, o.reloaded = true, true
		return stepUnloaded
	case j.epoch == 0:
		o.outcome = ErrGone
		return stepEnded
	case w.req.Epoch != j.epoch:
		o.outcome = ErrFenced
		return stepEnded
	}
	begun := w.req.N == j.appended && w.req.ID == j.appendID
	switch {
	case begun:
		w.have = j.have
	case w.req.N == j.appended+1:
		w.have = 0
	default:
		o.outcome = fmt.Errorf("%w: append %d is given up after %d", ErrGone, w.req.N, j.appended)
		return stepEnded
	}
	if !begun || j.more {
		t.write(j, &record{Epoch: j.epoch, N: w.req.N, ID: w.req.ID, Withdraw: true})
		t.requeue(o.key)
	}
	return stepEnded
}
