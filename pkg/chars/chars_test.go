package chars_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/chars"
)

// Wherever a text of characters of one to four bytes is cut, what is left is the longest beginning of whole characters.
func TestCutsBetweenCharacters(t *testing.T) {
	t.Parallel()
	const text = "aé€😀 😀€éa"
	for n := range len(text) + 2 {
		want := text
		for len(want) > n {
			_, size := utf8.DecodeLastRuneInString(want)
			want = want[:len(want)-size]
		}
		require.Equal(t, want, chars.Head(text, n), n)
		require.Equal(t, want, string(chars.Whole([]byte(text[:min(n, len(text))]))), n)
	}
}

func TestTextsThatAreNotUTF8KeepTheirBounds(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"\xff\xfe\xfd\xfc\xfb", strings.Repeat("\x80", 9), "abc\xe2\x82", "\xf0"} {
		for n := range len(text) + 1 {
			require.LessOrEqual(t, len(chars.Head(text, n)), n)
			require.True(t, strings.HasPrefix(text, chars.Head(text, n)))
		}
		require.True(t, strings.HasPrefix(text, string(chars.Whole([]byte(text)))))
	}
}
