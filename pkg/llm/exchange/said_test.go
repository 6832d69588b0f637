package exchange_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/exchange"
)

// A long text is read in parts and is the same as if it were read at once, wherever the cuts fall.
func TestLongTextIsReadWhole(t *testing.T) {
	t.Parallel()
	for name, unit := range map[string]string{
		"plain":            `abc`,
		"escapes":          `\"\\\n\t\/`,
		"digits":           `\u00e9\u4e2d`,
		"halves":           `\ud83d\ude00x\uD83D\uDE00`,
		"only halves":      `\ud83d\ude00`,
		"lone halves":      `\ud83d\ud83d`,
		"characters":       `é中😀`,
		"no UTF-8":         "a\xff\x80\x80\x80b\xe4\xb8",
		"endless rest":     "\x80",
		"mixed":            `x\\u4e2d\ud83d\ude00\u0000é`,
		"backslashes":      `\\`,
		"digits, odd cuts": `a\u4e2d`,
	} {
		for shift := range 8 {
			raw := json.RawMessage(`"` + strings.Repeat("-", shift) + strings.Repeat(unit, (300<<10)/len(unit)) + `"`)
			var want string
			require.NoError(t, json.Unmarshal(raw, &want))
			require.True(t, want == exchange.Text(raw), "%s, %d", name, shift)
		}
	}
	require.Empty(t, exchange.Text(json.RawMessage(`["no text"]`)))
}

func FuzzLongText(f *testing.F) {
	f.Add(`\ud83d\ude00`)
	f.Add("é")
	f.Fuzz(func(t *testing.T, unit string) {
		raw := json.RawMessage(`"` + strings.Repeat(unit, 1+(200<<10)/max(len(unit), 1)) + `"`)
		var want string
		if len(unit) > 64 || !json.Valid(raw) || json.Unmarshal(raw, &want) != nil {
			return
		}
		if got := exchange.Text(raw); got != want || !utf8.ValidString(got) {
			t.Fatalf("%q is read as another text", unit)
		}
	})
}

func TestGather(t *testing.T) {
	t.Parallel()
	for _, sizes := range [][]int{{}, {0}, {1, 2, 3}, {64 << 10}, {1, 64 << 10, 1}, {3 << 20, 5}, {63 << 10, 63 << 10, 1 << 20, 1 << 20, 7}} {
		var g exchange.Gather
		var want strings.Builder
		for round := range 40 {
			for _, n := range sizes {
				piece := strings.Repeat(string(rune('a'+round%26)), n)
				g.Add(piece)
				want.WriteString(piece)
			}
			if round%16 == 7 {
				require.True(t, want.String() == g.String(), "%v in the middle", sizes)
			}
		}
		require.Equal(t, want.Len(), g.Len())
		require.True(t, want.String() == g.String(), "%v", sizes)
	}
}
