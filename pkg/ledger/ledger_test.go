package ledger_test

import (
	"encoding/json"
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/ledger"
)

const day = 24 * time.Hour

var (
	noon    = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	forever = ledger.Limit{Tokens: 100}
	daily   = ledger.Limit{Tokens: 100, Window: day}
)

func TestReserve(t *testing.T) {
	t.Parallel()
	type spend struct {
		tokens int64
		at     time.Time
	}
	for name, c := range map[string]struct {
		limit ledger.Limit
		spent []spend
		open  int64 // of another holder
		ask   int64
		want  ledger.Verdict
	}{
		"empty":            {forever, nil, 0, 100, ledger.Verdict{Decision: ledger.Granted, Limit: 100, Asked: 100}},
		"nothing":          {forever, nil, 100, 0, ledger.Verdict{Decision: ledger.Granted, Limit: 100, Reserved: 100}},
		"less than none":   {forever, nil, 100, -5, ledger.Verdict{Decision: ledger.Granted, Limit: 100, Reserved: 100}},
		"more than all":    {daily, nil, 0, 101, ledger.Verdict{Decision: ledger.Refused, Limit: 100, Asked: 101}},
		"limit of nothing": {ledger.Limit{}, nil, 0, 1, ledger.Verdict{Decision: ledger.Refused, Asked: 1}},
		"largest numbers": {
			ledger.Limit{Tokens: math.MaxInt64},
			[]spend{{math.MaxInt64, noon}},
			0, math.MaxInt64,
			ledger.Verdict{Decision: ledger.Granted, Limit: math.MaxInt64, Spent: math.MaxInt64, Asked: math.MaxInt64},
		},
		"to the last token":   {forever, []spend{{30, noon}}, 50, 20, ledger.Verdict{Decision: ledger.Granted, Limit: 100, Spent: 30, Reserved: 50, Asked: 20}},
		"one too many waits":  {forever, []spend{{30, noon}}, 50, 21, ledger.Verdict{Decision: ledger.Wait, Limit: 100, Spent: 30, Reserved: 50, Asked: 21}},
		"waits for all":       {forever, []spend{{30, noon}}, 50, 70, ledger.Verdict{Decision: ledger.Wait, Limit: 100, Spent: 30, Reserved: 50, Asked: 70}},
		"cannot fit":          {forever, []spend{{30, noon}}, 50, 71, ledger.Verdict{Decision: ledger.Refused, Limit: 100, Spent: 30, Reserved: 50, Asked: 71}},
		"frees never":         {forever, []spend{{100, noon.Add(-1000 * day)}}, 0, 1, ledger.Verdict{Decision: ledger.Refused, Limit: 100, Spent: 100, Asked: 1}},
		"just left":           {daily, []spend{{100, noon.Add(-day - 30*time.Minute)}}, 0, 100, ledger.Verdict{Decision: ledger.Granted, Limit: 100, Asked: 100}},
		"still there in part": {daily, []spend{{100, noon.Add(-day - time.Second)}}, 0, 1, ledger.Verdict{Decision: ledger.Refused, Limit: 100, Spent: 100, Asked: 1, FreesAt: noon}},
		"the first is enough": {
			daily,
			[]spend{{40, noon.Add(-20 * time.Hour)}, {50, noon.Add(-time.Hour)}},
			0, 50,
			ledger.Verdict{Decision: ledger.Refused, Limit: 100, Spent: 90, Asked: 50, FreesAt: noon.Add(4*time.Hour + 30*time.Minute)},
		},
		"needs both": {
			daily,
			[]spend{{40, noon.Add(-20 * time.Hour)}, {50, noon.Add(-time.Hour)}},
			0, 51,
			ledger.Verdict{Decision: ledger.Refused, Limit: 100, Spent: 90, Asked: 51, FreesAt: noon.Add(23*time.Hour + 30*time.Minute)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var s ledger.State
			for i, sp := range c.spent {
				require.Equal(t, ledger.Granted, s.Reserve(ledger.Limit{Tokens: math.MaxInt64, Window: c.limit.Window}, fmt.Sprint(i), 0, sp.at).Decision)
				s.Settle(fmt.Sprint(i), sp.tokens, 0, sp.at)
			}
			if c.open > 0 {
				require.Equal(t, ledger.Granted, s.Reserve(c.limit, "other", c.open, noon).Decision)
			}
			before := encode(t, &s)
			now := noon
			if name == "still there in part" {
				now = noon.Add(-time.Second)
			}
			require.Equal(t, c.want, s.Decide(c.limit, "me", c.ask, now))
			require.JSONEq(t, before, encode(t, &s), "to decide changes nothing")
			require.Equal(t, c.want, s.Reserve(c.limit, "me", c.ask, now))
			if c.want.Decision == ledger.Granted {
				require.Equal(t, c.open+max(c.ask, 0), s.Reserved())
				return
			}
			require.JSONEq(t, before, encode(t, &s), "what is not granted changes nothing")
		})
	}
}

func encode(t *testing.T, s *ledger.State) string {
	t.Helper()
	b, err := json.Marshal(s)
	require.NoError(t, err)
	return string(b)
}

func TestReservingAgainReplaces(t *testing.T) {
	t.Parallel()
	var s ledger.State
	require.Equal(t, ledger.Granted, s.Reserve(forever, "me", 90, noon).Decision)
	require.Equal(t, ledger.Granted, s.Reserve(forever, "me", 100, noon).Decision)
	require.Equal(t, int64(100), s.Reserved())
	require.Equal(t, ledger.Granted, s.Reserve(forever, "me", 10, noon).Decision)
	require.Equal(t, int64(10), s.Reserved())
	require.Equal(t, []string{"me"}, s.Holders())
}

func TestSettle(t *testing.T) {
	t.Parallel()
	var s ledger.State
	s.Reserve(forever, "a", 60, noon)
	s.Reserve(forever, "b", 40, noon)
	reserved, ok := s.Settle("a", 25, 0, noon)
	require.True(t, ok)
	require.Equal(t, int64(60), reserved)
	require.Equal(t, []int64{25, 40}, []int64{s.Spent(noon), s.Reserved()})
	reserved, ok = s.Settle("a", 5, 0, noon)
	require.False(t, ok)
	require.Zero(t, reserved)
	require.Equal(t, int64(30), s.Spent(noon), "what was used without a reservation is spent all the same")
	s.Settle("b", 500, 0, noon)
	require.Equal(t, []int64{530, 0}, []int64{s.Spent(noon), s.Reserved()}, "more than was reserved is charged")
	require.Equal(t, ledger.Refused, s.Reserve(forever, "c", 1, noon).Decision)
	_, open := s.Open("b")
	require.False(t, open)
}

// A budget's window may change with its agent: what was spent does not get lost, and does not stay longer than it must.
func TestLimitsChange(t *testing.T) {
	t.Parallel()
	var s ledger.State
	s.Reserve(forever, "a", 60, noon)
	s.Settle("a", 60, 0, noon)
	require.Equal(t, ledger.Refused, s.Reserve(daily, "b", 41, noon.Add(day)).Decision)
	require.Equal(t, ledger.Granted, s.Reserve(daily, "b", 40, noon.Add(day)).Decision)
	require.Equal(t, ledger.Granted, s.Reserve(daily, "c", 60, noon.Add(day+time.Second)).Decision)
	require.Equal(t, ledger.Wait, s.Reserve(ledger.Limit{Tokens: 99, Window: day}, "d", 0, noon.Add(day+time.Second)).Decision, "lower than what is open")
	require.Equal(t, daily, s.Limit())
	require.Equal(t, ledger.Refused, s.Reserve(forever, "d", 41, noon.Add(9*day)).Decision, "without a window all counts again")
}

func TestStateIsBounded(t *testing.T) {
	t.Parallel()
	var s ledger.State
	limit := ledger.Limit{Tokens: math.MaxInt64, Window: day}
	for i := range 5000 {
		now := noon.Add(time.Duration(i) * 7 * time.Minute)
		s.Reserve(limit, "a", 10, now)
		s.Settle("a", 10, 0, now)
	}
	require.Less(t, len(encode(t, &s)), 3<<10)
	now := noon.Add(4999 * 7 * time.Minute)
	inWindow := int64(day/(7*time.Minute)) * 10
	require.GreaterOrEqual(t, s.Spent(now), inWindow)
	require.LessOrEqual(t, s.Spent(now), inWindow+inWindow/48+20)
}

func TestCodec(t *testing.T) {
	t.Parallel()
	var s ledger.State
	s.Reserve(daily, "a", 60, noon)
	s.Settle("a", 50, 0, noon)
	s.Reserve(daily, "b", 40, noon)
	text := encode(t, &s)
	require.JSONEq(t, fmt.Sprintf(`{"limit":100,"window":86400,"slots":[[%d,50,0]],"open":{"b":40}}`, noon.Add(30*time.Minute).Unix()), text)
	var back ledger.State
	require.NoError(t, json.Unmarshal([]byte(text), &back))
	require.Equal(t, s, back)
	require.JSONEq(t, text, encode(t, s.Clone()))

	for _, bad := range []string{
		`[]`, `{"slots":[[2,1],[1,1]]}`, `{"slots":[[1,-1]]}`, `{"slots":[[1,2,3]]}`, `{"slots":[[1,2,-1]]}`, `{"open":{"a":-1}}`, `{"window":-1}`, `{"window":9223372036854775807}`,
	} {
		require.Error(t, json.Unmarshal([]byte(bad), &back), bad)
	}
}

func TestCloneSharesNothing(t *testing.T) {
	t.Parallel()
	var s ledger.State
	s.Reserve(daily, "a", 50, noon)
	before := encode(t, &s)
	c := s.Clone()
	c.Settle("a", 50, 0, noon)
	c.Reserve(daily, "b", 50, noon)
	require.JSONEq(t, before, encode(t, &s))
	require.Equal(t, "granted wait refused undecided", fmt.Sprint(ledger.Granted, ledger.Wait, ledger.Refused, ledger.Decision(0)))
}

// What models wrote is told apart as long as it counts.
func TestOutput(t *testing.T) {
	t.Parallel()
	var s ledger.State
	day := ledger.Limit{Tokens: 1000, Window: 24 * time.Hour}
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	s.Reserve(day, "a", 100, noon)
	s.Settle("a", 50, 20, noon)
	s.Charge(30, 40, noon.Add(2*time.Hour)) // no more than all of it
	require.Equal(t, int64(80), s.Spent(noon.Add(3*time.Hour)))
	require.Equal(t, int64(50), s.Output(noon.Add(3*time.Hour)))
	data, err := json.Marshal(&s)
	require.NoError(t, err)
	var read ledger.State
	require.NoError(t, json.Unmarshal(data, &read))
	require.Equal(t, int64(30), read.Output(noon.Add(25*time.Hour)))
	require.Zero(t, read.Output(noon.Add(48*time.Hour)))
	require.NoError(t, json.Unmarshal([]byte(`{"limit":100,"window":86400,"slots":[[1,50]]}`), &read), "as earlier versions wrote it")
}
