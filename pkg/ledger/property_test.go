package ledger_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"arkonis.dev/ark/pkg/ledger"
)

// model is what a budget is by the words of its package, without slots.
type model struct {
	limit   ledger.Limit
	charges []charge
	open    map[string]int64
	setBack bool           // the clock was: tokens that had left the window are in it again
	slots   map[int64]bool // that were charged
}

// charge notes what was charged.
func (m *model) charge(tokens int64, at time.Time) {
	m.charges = append(m.charges, charge{tokens, at})
	if m.limit.Window > 0 {
		m.slots[at.Unix()/int64(max(m.limit.Window/48, time.Second)/time.Second)] = true
	}
}

// exact says whether tokens count at most a slot longer than the window. They may count longer when the clock was set
// and more slots were charged than are kept.
func (m *model) exact() bool { return !m.setBack || len(m.slots) <= 96 }

type charge struct {
	tokens int64
	at     time.Time
}

// spent is what was charged within the window that ends now, by the clock as it is now: also what a clock that was
// ahead has charged.
func (m *model) spent(now time.Time, longer time.Duration) int64 {
	var n int64
	for _, c := range m.charges {
		if m.limit.Window == 0 || now.Before(c.at.Add(m.limit.Window+longer)) {
			n += c.tokens
		}
	}
	return n
}

func (m *model) reserved() int64 {
	var n int64
	for _, tokens := range m.open {
		n += tokens
	}
	return n
}

// The rule holds at every step, whatever the clock does and for however long: by the clock as it is, tokens count for at
// least the window, also those that were out of it while the clock was ahead, and at most 1/48 longer; nothing is
// granted above the limit, nothing that fits is refused, and a stored state goes on as it was.
func TestNeverAboveTheLimit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		window := rapid.SampledFrom([]time.Duration{0, time.Minute, time.Hour, 24 * time.Hour}).Draw(t, "window")
		limit := ledger.Limit{Tokens: rapid.Int64Range(0, 1000).Draw(t, "limit"), Window: window}
		slot := max(window/48, time.Second)
		m := &model{limit: limit, open: map[string]int64{}, slots: map[int64]bool{}}
		s := new(ledger.State)
		now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
		check := func() {
			if got, least, most := s.Spent(now), m.spent(now, 0), m.spent(now, slot+time.Second); s.Limit() == limit && (got < least || got > most && m.exact()) {
				t.Fatalf("spent %d, not between %d and %d", got, least, most)
			}
			if s.Reserved() != m.reserved() {
				t.Fatalf("reserved %d, not %d", s.Reserved(), m.reserved())
			}
			if !m.setBack && s.Spent(now)+s.Reserved() > limit.Tokens {
				t.Fatalf("%d spent and %d reserved of %d", s.Spent(now), s.Reserved(), limit.Tokens)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"": func(*rapid.T) { check() },
			"reserve": func(t *rapid.T) {
				holder := fmt.Sprint(rapid.IntRange(0, 5).Draw(t, "holder"))
				tokens := rapid.Int64Range(0, 400).Draw(t, "tokens")
				others := m.reserved() - m.open[holder]
				v := s.Reserve(limit, holder, tokens, now)
				switch v.Decision {
				case ledger.Granted:
					if m.spent(now, 0)+others+tokens > limit.Tokens {
						t.Fatalf("granted %d of %d beside %d and %d", tokens, limit.Tokens, m.spent(now, 0), others)
					}
					m.open[holder] = tokens
				case ledger.Wait:
					if m.spent(now, 0)+tokens > limit.Tokens {
						t.Fatal("waits for what cannot come")
					}
					if others == 0 {
						t.Fatal("waits for nobody")
					}
				case ledger.Refused:
					if m.exact() && m.spent(now, slot+time.Second)+tokens <= limit.Tokens {
						t.Fatal("refused what fits")
					}
					checkFreesAt(t, s, limit, v, holder, now)
				}
			},
			"settle": func(t *rapid.T) {
				if len(m.open) == 0 {
					t.Skip("nothing is open")
				}
				holder := rapid.SampledFrom(sorted(m.open)).Draw(t, "holder")
				used := rapid.Int64Range(0, m.open[holder]).Draw(t, "used")
				if reserved, ok := s.Settle(holder, used, 0, now); !ok || reserved != m.open[holder] {
					t.Fatalf("settled %d, %v", reserved, ok)
				}
				delete(m.open, holder)
				m.charge(used, now)
			},
			"work for long": func(t *rapid.T) {
				if s.Limit() != limit {
					t.Skip("nothing was granted yet")
				}
				for range rapid.IntRange(10, 150).Draw(t, "slots") {
					now = now.Add(slot)
					if s.Spent(now)+s.Reserved() < limit.Tokens {
						s.Charge(1, 0, now)
						m.charge(1, now)
					}
				}
			},
			"clock": func(t *rapid.T) {
				step := rapid.SampledFrom([]time.Duration{time.Second, window / 100, window / 2, window, 3 * window, 1000 * time.Hour}).Draw(t, "step")
				if rapid.IntRange(0, 2).Draw(t, "back") == 2 {
					step, m.setBack = -step, true
				}
				now = now.Add(step)
			},
			"store": func(t *rapid.T) {
				text, err := json.Marshal(s)
				if err != nil {
					t.Fatal(err)
				}
				s = new(ledger.State)
				if err := json.Unmarshal(text, s); err != nil {
					t.Fatal(err)
				}
			},
		})
	})
}

func checkFreesAt(t *rapid.T, s *ledger.State, limit ledger.Limit, v ledger.Verdict, holder string, now time.Time) {
	if v.FreesAt.IsZero() {
		if limit.Window > 0 && v.Asked <= limit.Tokens {
			t.Fatal("it frees at some time")
		}
		return
	}
	if !v.FreesAt.After(now) {
		t.Fatalf("frees at %s, now is %s", v.FreesAt, now)
	}
	if d := s.Decide(limit, holder, v.Asked, v.FreesAt.Add(-time.Nanosecond)).Decision; d != ledger.Refused {
		t.Fatalf("%s before it frees", d)
	}
	if d := s.Decide(limit, holder, v.Asked, v.FreesAt).Decision; d == ledger.Refused {
		t.Fatal("still refused when it frees")
	}
}

func sorted(m map[string]int64) []string {
	var keys []string
	for i := range 6 {
		if _, ok := m[fmt.Sprint(i)]; ok {
			keys = append(keys, fmt.Sprint(i))
		}
	}
	return keys
}
