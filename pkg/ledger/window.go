package ledger

import (
	"cmp"
	"slices"
	"time"
)

const (
	// slotsPerWindow is how finely a window is cut. More slots free tokens sooner and make states larger.
	slotsPerWindow = 48
	// maxSlots is how many slots are kept: a window of those behind the clock and a window of those ahead of it, where a
	// clock that was ahead has charged.
	maxSlots = 2 * slotsPerWindow
)

// slot is what was charged in one piece of time.
type slot struct {
	end    int64 // exclusive, in seconds since 1970
	tokens int64
	output int64 // of tokens
}

// join adds what another slot holds.
func (s *slot) join(other slot) {
	s.tokens, s.output = add(s.tokens, other.tokens), add(s.output, other.output)
}

// leaves is when all of the slot is out of the window.
func (s slot) leaves(window time.Duration) time.Time { return time.Unix(s.end, 0).Add(window).UTC() }

func (s slot) counts(window time.Duration, now time.Time) bool {
	return window <= 0 || now.Before(s.leaves(window))
}

func (s *State) spent(window time.Duration, now time.Time) int64 {
	var sum int64
	for _, slot := range s.slots {
		if slot.counts(window, now) {
			sum = add(sum, slot.tokens)
		}
	}
	return sum
}

// freesAt is when tokens fit beside what is spent, if nothing else is charged until then.
func (s *State) freesAt(l Limit, spent, tokens int64, now time.Time) time.Time {
	if l.Window <= 0 || tokens > l.Tokens {
		return time.Time{}
	}
	for _, slot := range s.slots {
		if !slot.counts(l.Window, now) {
			continue
		}
		if spent -= slot.tokens; add(spent, tokens) <= l.Tokens {
			return slot.leaves(l.Window)
		}
	}
	return time.Time{}
}

func (s *State) charge(tokens, output int64, now time.Time) {
	if s.limit.Window <= 0 {
		s.chargeForGood(tokens, output, now)
		return
	}
	end := slotEnd(s.limit.Window, now)
	i, found := slices.BinarySearchFunc(s.slots, end, func(s slot, end int64) int { return cmp.Compare(s.end, end) })
	if !found {
		s.slots = slices.Insert(s.slots, i, slot{end: end})
	}
	s.slots[i].join(slot{tokens: tokens, output: output})
	s.compact(now)
}

// chargeForGood keeps one slot only. Its end matters when the budget gets a window later.
func (s *State) chargeForGood(tokens, output int64, now time.Time) {
	all := slot{end: now.Unix() + 1, tokens: tokens, output: output}
	for _, old := range s.slots {
		all.end = max(all.end, old.end)
		all.join(old)
	}
	s.slots = append(s.slots[:0], all)
}

// compact bounds the number of slots by joining one with the next, which counts longer. None is forgotten: what is out
// of the window by this clock may be in it by the next one. Joined are the two that matter least: the first ones ahead of
// the clock when there is more than a window of those, else the oldest, which a clock that was never set has left behind.
func (s *State) compact(now time.Time) {
	current := slotEnd(s.limit.Window, now)
	for len(s.slots) > maxSlots {
		i := slices.IndexFunc(s.slots, func(s slot) bool { return s.end > current })
		if i < 0 || len(s.slots)-i <= slotsPerWindow {
			i = 0
		}
		s.slots[i+1].join(s.slots[i])
		s.slots = slices.Delete(s.slots, i, i+1)
	}
}

// slotEnd is the end of the slot that holds now: slots begin at multiples of their width, at least a second.
func slotEnd(window time.Duration, now time.Time) int64 {
	width := max(int64((window/slotsPerWindow+time.Second-1)/time.Second), 1)
	at := now.Unix()
	return at - mod(at, width) + width
}

// mod is never negative, also for times before 1970.
func mod(a, b int64) int64 { return ((a % b) + b) % b }
