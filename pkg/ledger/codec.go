package ledger

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"
)

var errState = errors.New("not the state of a budget")

// wire is the stored form of a State. Times are whole seconds since 1970, the window is in seconds.
type wire struct {
	Limit  int64            `json:"limit"`
	Window int64            `json:"window,omitempty"`
	Slots  [][3]int64       `json:"slots,omitempty"` // end, tokens, and those of them that were output
	Open   map[string]int64 `json:"open,omitempty"`
}

// MarshalJSON writes the state as {"limit", "window" in seconds, "slots": [[end, tokens,
// output]...], "open": {holder:
// tokens}}.
func (s *State) MarshalJSON() ([]byte, error) {
	w := wire{Limit: s.limit.Tokens, Window: int64(s.limit.Window / time.Second), Open: s.open}
	for _, slot := range s.slots {
		w.Slots = append(w.Slots, [3]int64{slot.end, slot.tokens, slot.output})
	}
	return json.Marshal(w)
}

// UnmarshalJSON reads what MarshalJSON wrote. It fails on negative numbers and on slots that are out of order.
func (s *State) UnmarshalJSON(data []byte) error {
	var w wire
	if err := json.Unmarshal(data, &w); err != nil {
		return fmt.Errorf("%w: %w", errState, err)
	}
	const maxWindow = int64(1<<63-1) / int64(time.Second)
	if w.Window < 0 || w.Window > maxWindow {
		return fmt.Errorf("%w: window %d", errState, w.Window)
	}
	n := State{limit: Limit{Tokens: w.Limit, Window: time.Duration(w.Window) * time.Second}, open: w.Open}
	for _, pair := range w.Slots {
		n.slots = append(n.slots, slot{end: pair[0], tokens: pair[1], output: pair[2]})
	}
	if !slices.IsSortedFunc(n.slots, func(a, b slot) int { return cmp.Compare(a.end, b.end) }) {
		return fmt.Errorf("%w: slots are out of order", errState)
	}
	if slices.ContainsFunc(n.slots, func(s slot) bool { return s.output < 0 || s.tokens < s.output }) {
		return fmt.Errorf("%w: a slot with fewer tokens than output, or with negative ones", errState)
	}
	for holder, tokens := range w.Open {
		if tokens < 0 {
			return fmt.Errorf("%w: %s reserves %d tokens", errState, holder, tokens)
		}
		n.reserved = add(n.reserved, tokens)
	}
	*s = n
	return nil
}
