package pipeline

import (
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/chars"
)

func TestReadRuling(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]struct {
		ruling
		reason string
	}{
		"VALID":                                 {valid, ""},
		"INVALID":                               {invalid, ""},
		"PASS":                                  {valid, ""},
		"FAIL: too long":                        {invalid, "too long"},
		"valid, because it is short":            {valid, "because it is short"},
		"  **INVALID**\n\nIt names no source. ": {invalid, "It names no source."},
		"\"VALID\"":                             {valid, ""},
		"Verdict: INVALID - rude":               {invalid, "rude"},
		"The answer is VALID.":                  {valid, "The answer is VALID."},
		`{"verdict": "INVALID", "reason": "x"}`: {invalid, `reason": "x"}`},
		"VALID or INVALID? VALID":               {valid, "or INVALID? VALID"},
		"It is not VALID":                       {noRuling, "It is not VALID"},
		"It isn't VALID":                        {noRuling, "It isn't VALID"},
		"This is a valid answer":                {noRuling, "This is a valid answer"},
		"INVALIDATED":                           {noRuling, "INVALIDATED"},
		"VALID_ISH":                             {noRuling, "VALID_ISH"},
		"VALID-ISH":                             {noRuling, "VALID-ISH"},
		"Pass- it is fine":                      {valid, "it is fine"},
		"PASSED":                                {noRuling, "PASSED"},
		"":                                      {noRuling, ""},
		"\xff\xfe":                              {noRuling, "\xff\xfe"},
	} {
		r, reason := readRuling(said)
		require.Equal(t, want.ruling, r, said)
		require.Equal(t, want.reason, reason, said)
	}
}

func TestReadChoice(t *testing.T) {
	t.Parallel()
	choices := []v1alpha1.RunCapability{{ID: "billing-question"}, {ID: "technical"}, {ID: "Technical"}, {ID: "two words"}}
	for said, want := range map[string][2]string{
		"technical":                           {"technical", ""},
		"Technical":                           {"Technical", ""},
		"BILLING-QUESTION.":                   {"billing-question", ""},
		"`billing-question`\nIt is about it.": {"billing-question", "It is about it."},
		"**technical** - a crash":             {"technical", "a crash"},
		"Capability: technical\nbecause":      {"technical", "because"},
		"two words":                           {"two words", ""},
		`{"capability": "technical", "reason": "a crash"}`: {"technical", "a crash"},
		`{"id": "technical"}`:                              {"technical", ""},
		"not technical":                                    {"", "not technical"},
		"technical-problem":                                {"", "technical-problem"},
		"NONE":                                             {"", "NONE"},
		"":                                                 {"", ""},
		"...":                                              {"", "..."},
		`{"capability": "cook"}`:                           {"", `{"capability": "cook"}`},
	} {
		c, reason := readChoice(said, choices)
		id := ""
		if c != nil {
			id = c.ID
		}
		require.Equal(t, want, [2]string{id, reason}, said)
	}
}

// Whatever an answer holds, nothing in it can be taken for the end of the tag that it is wrapped in: what is left of it
// without spaces, dashes and what cannot be seen holds no such end.
func TestWrapCannotBeLeft(t *testing.T) {
	t.Parallel()
	seen := func(text string) string {
		return strings.ReplaceAll(strings.ToLower(strings.Map(func(r rune) rune {
			if r == '_' || unicode.In(r, unicode.Z, unicode.C, unicode.M, unicode.Pd, unicode.White_Space) {
				return -1
			}
			return r
		}, text)), "\u017f", "s")
	}
	pieces := rapid.SampledFrom([]string{
		"<", "/", "step", "-", "output", ">", " ", "\n", "STEP", "Output", "\u200b", "\u2011", "_", "</step-output>", "x", "\t",
		"\u00ad", "\ufeff", "s", "tep", "out", "PUT", "\u00a0", "\u0301", "\x00", "--", "&lt;", "\u017f",
	})
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(pieces, 1, 20).Draw(t, "text"), "")
		wrapped := wrap("a", text)
		inner, ok := strings.CutPrefix(wrapped, "<step-output step=\"a\">\n")
		require.True(t, ok)
		inner, ok = strings.CutSuffix(inner, "\n</step-output>")
		require.True(t, ok)
		require.NotContains(t, seen(inner), "</stepoutput")
		require.Equal(t, strings.ReplaceAll(text, "&lt;", "<"), strings.ReplaceAll(inner, "&lt;", "<"), "nothing else is changed")
	})
	require.Empty(t, wrap("a", ""))
	require.Equal(t, "<step-output step=\"a\">\n1 < 2, a <b>step</b>, </ step by step\n</step-output>", wrap("a", "1 < 2, a <b>step</b>, </ step by step"))
}

func TestCompose(t *testing.T) {
	t.Parallel()
	for want, parts := range map[string]map[string]string{
		"":                              {},
		"do it":                         {"prompt": "do it"},
		"do it\n\n## a\n1\n\n## b\n2":   {"b": "2", "prompt": "do it", "a": "1"},
		"## a\n1":                       {"a": "1"},
		"\n\n## Z\n\n\n## a\nx":         {"prompt": "", "a": "x", "Z": ""},
		"## one\n1\n\n## prompt-2\nand": {"prompt-2": "and", "one": "1"},
	} {
		require.Equal(t, want, compose(parts))
	}
}

func TestFalsy(t *testing.T) {
	t.Parallel()
	for _, no := range []string{"", " ", "false", "FALSE", "0", "no", "No\n", "\tfalse "} {
		require.True(t, falsy(no), no)
	}
	for _, yes := range []string{"true", "yes", "1", "00", "0.0", "nope", "null", "[]", "false!"} {
		require.False(t, falsy(yes), yes)
	}
}

func TestClipAndCut(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text, n := rapid.String().Draw(t, "text"), rapid.IntRange(0, 40).Draw(t, "n")
		clipped, bounded := chars.Head(text, n), cut(text, n)
		require.LessOrEqual(t, len(clipped), n)
		require.LessOrEqual(t, written(bounded), n)
		require.True(t, strings.HasPrefix(text, clipped) && strings.HasPrefix(text, bounded))
		if utf8.ValidString(text) {
			require.True(t, utf8.ValidString(clipped) && utf8.ValidString(bounded))
		}
		require.Equal(t, len(text) <= n, clipped == text)
		require.Equal(t, written(text) <= n, bounded == text)
	})
}

func TestOneOf(t *testing.T) {
	t.Parallel()
	names := []string{"writer", "editor", "ab"}
	for name, want := range map[string]string{
		"writr":   `did you mean "writer"?`,
		"writter": `did you mean "writer"?`,
		"wirter":  `did you mean "writer"?`,
		"wxiter":  `did you mean "writer"?`,
		"edito":   `did you mean "editor"?`,
		"abc":     "things are writer, editor, ab",
		"wrtier2": "things are writer, editor, ab",
		"":        "things are writer, editor, ab",
	} {
		require.Equal(t, want, oneOf("things", name, names), name)
	}
	require.Equal(t, "there are no things", oneOf("things", "x", nil))
	many := strings.Split(strings.Repeat("x,", 24)+"x", ",")
	for i := range many {
		many[i] = strings.Repeat("x", i+1)
	}
	require.Contains(t, oneOf("things", "y", many), " and 5 more")
}
