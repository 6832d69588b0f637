package ledger

import (
	"maps"
	"math"
	"slices"
	"time"
)

// Limit is what a budget allows: so many tokens within a rolling window. A window of 0 has no end: what is spent
// never counts as free again.
type Limit struct {
	Tokens int64
	Window time.Duration
}

// State is one budget. The zero State is a budget that nobody has used. It is for one goroutine.
type State struct {
	limit    Limit            // of the last reservation that was granted
	slots    []slot           // what was spent, by rising end
	open     map[string]int64 // reservations by holder
	reserved int64            // sum of open
}

// New returns a budget with a limit of which nothing is used.
func New(l Limit) *State { return &State{limit: l} }

// Decision is what becomes of a reservation.
type Decision int

const (
	// Granted means that the tokens are reserved.
	Granted Decision = iota + 1
	// Wait means that only other open reservations stand in the way: it may be granted when one of them is settled.
	Wait
	// Refused means that what is spent stands in the way: it cannot be granted before Verdict.FreesAt.
	Refused
)

func (d Decision) String() string {
	switch d {
	case Granted:
		return "granted"
	case Wait:
		return "wait"
	case Refused:
		return "refused"
	default:
		return "undecided"
	}
}

// Verdict is a decision and the numbers that it follows from, as they were before it.
type Verdict struct {
	Decision Decision
	Limit    int64
	Spent    int64
	Reserved int64 // by others
	Asked    int64
	// FreesAt is, for Refused, when enough of what is spent will be out of the window; zero when that never happens.
	FreesAt time.Time
}

// Decide says what Reserve would answer and changes nothing.
func (s *State) Decide(l Limit, holder string, tokens int64, now time.Time) Verdict {
	tokens = max(tokens, 0)
	v := Verdict{Limit: l.Tokens, Spent: s.spent(l.Window, now), Reserved: s.reserved - s.open[holder], Asked: tokens}
	switch {
	case add(v.Spent, tokens) > l.Tokens:
		v.Decision = Refused
		v.FreesAt = s.freesAt(l, v.Spent, tokens, now)
	case add(add(v.Spent, v.Reserved), tokens) > l.Tokens:
		v.Decision = Wait
	default:
		v.Decision = Granted
	}
	return v
}

// Reserve reserves tokens for a holder when spent and reserved tokens together stay within the limit; otherwise it
// changes nothing. A holder has one reservation: reserving again replaces it. Fewer than 0 tokens count as 0.
func (s *State) Reserve(l Limit, holder string, tokens int64, now time.Time) Verdict {
	v := s.Decide(l, holder, tokens, now)
	if v.Decision != Granted {
		return v
	}
	if s.open == nil {
		s.open = map[string]int64{}
	}
	s.limit = l
	s.reserved += v.Asked - s.open[holder]
	s.open[holder] = v.Asked
	return v
}

// Settle closes a reservation and charges what was really used, be it less or more; output is the part of it that the
// model wrote. It returns what was reserved; ok is false when the holder had no reservation, and what was used is charged
// all the same.
func (s *State) Settle(holder string, used, output int64, now time.Time) (reserved int64, ok bool) {
	reserved, ok = s.open[holder]
	delete(s.open, holder)
	s.reserved -= reserved
	s.Charge(used, output, now)
	return reserved, ok
}

// Charge counts tokens as spent without a reservation; output is the part of them that the model wrote. Nothing is charged
// below 1.
func (s *State) Charge(tokens, output int64, now time.Time) {
	if tokens > 0 {
		s.charge(tokens, min(max(output, 0), tokens), now)
	}
}

// Limit is that of the last granted reservation.
func (s *State) Limit() Limit { return s.limit }

// Spent is the sum of what was charged and still counts, in tokens.
func (s *State) Spent(now time.Time) int64 { return s.spent(s.limit.Window, now) }

// Output is the part of Spent that models wrote, in tokens, as far as it was told apart.
func (s *State) Output(now time.Time) int64 {
	var sum int64
	for _, slot := range s.slots {
		if slot.counts(s.limit.Window, now) {
			sum = add(sum, slot.output)
		}
	}
	return sum
}

// Reserved is the sum of all open reservations in tokens.
func (s *State) Reserved() int64 { return s.reserved }

// Open returns the open reservation of a holder in tokens.
func (s *State) Open(holder string) (tokens int64, ok bool) {
	tokens, ok = s.open[holder]
	return tokens, ok
}

// Holders are those with an open reservation, sorted.
func (s *State) Holders() []string { return slices.Sorted(maps.Keys(s.open)) }

// Clone returns a copy that shares nothing.
func (s *State) Clone() *State {
	c := *s
	c.slots = slices.Clone(s.slots)
	c.open = maps.Clone(s.open)
	return &c
}

// add adds two numbers from 0 on without passing the largest.
func add(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}
