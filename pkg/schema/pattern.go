package schema

import (
	"regexp/syntax"
	"slices"
	"strings"
	"unicode"
)

// matching makes a text for a regular expression: each repetition is made as often as it must be, and up to extra
// times more. It knows literals, classes, groups, alternatives and repetitions; the result has to be checked.
func matching(text string, extra int) (string, bool) {
	parsed, err := syntax.Parse(text, syntax.Perl)
	if err != nil {
		return "", false
	}
	g := generator{extra: extra}
	g.write(parsed)
	return g.b.String(), g.b.Len() <= maxMinimal
}

type generator struct {
	b     strings.Builder
	extra int
}

func (g *generator) write(re *syntax.Regexp) {
	if g.b.Len() > maxMinimal {
		return
	}
	switch re.Op {
	case syntax.OpLiteral:
		for _, c := range re.Rune {
			g.b.WriteRune(c)
		}
	case syntax.OpCharClass:
		g.b.WriteRune(member(re.Rune))
	case syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		g.b.WriteByte('x')
	case syntax.OpCapture, syntax.OpConcat:
		for _, sub := range re.Sub {
			g.write(sub)
		}
	case syntax.OpAlternate:
		g.write(re.Sub[0])
	case syntax.OpStar:
		g.repeat(re.Sub[0], 0, -1)
	case syntax.OpPlus:
		g.repeat(re.Sub[0], 1, -1)
	case syntax.OpQuest:
		g.repeat(re.Sub[0], 0, 1)
	case syntax.OpRepeat:
		g.repeat(re.Sub[0], re.Min, re.Max)
	default: // anchors and the like match between characters
	}
}

func (g *generator) repeat(re *syntax.Regexp, least, most int) {
	n := least + g.extra
	if most >= 0 {
		n = min(n, most)
	}
	for range n {
		if g.b.Len() > maxMinimal {
			return
		}
		g.write(re)
	}
}

// member picks a readable character of a class, which is a list of ranges.
func member(ranges []rune) rune {
	for _, c := range "ax0A _-." {
		for i := 0; i+1 < len(ranges); i += 2 {
			if ranges[i] <= c && c <= ranges[i+1] {
				return c
			}
		}
	}
	for i := 0; i+1 < len(ranges); i += 2 {
		for c := ranges[i]; c <= ranges[i+1] && c < ranges[i]+64; c++ {
			if unicode.IsPrint(c) {
				return c
			}
		}
	}
	return slices.Max(append(ranges[:min(1, len(ranges)):min(1, len(ranges))], 0))
}
