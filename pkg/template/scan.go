package template

import (
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"text/template/parse"
	"unicode"
	"unicode/utf8"
)

// alias is the letter that names made by the scanner begin with. Names of the user's that hold a letter outside ASCII
// are aliased too, so that none of them can be taken for one.
const alias = 'ʘ'

// scanner reads a source before text/template/parse does. It bounds what would make the parser recurse, finds what
// the parser reports without a column, and replaces path segments that Go's lexer refuses (hyphens, leading digits)
// by aliases of the form ʘ7.
type scanner struct {
	src     string
	pos     int
	out     strings.Builder // the source with aliases
	copied  int             // how much of src is in out
	names   []string        // what the aliases stand for
	shifts  []shift         // in order of out
	actions []span
	open    []block // control structures that are open here
	vars    int
	errAt   int // offset in src of the error returned
}

type span struct{ start, end int } // offsets in the aliased text

type shift struct{ out, src int } // from offset out on, the source stands at src

type block struct {
	word     string
	pos      int
	branches int
	elsed    bool
}

func (s *scanner) errorAt(pos int, err error) error {
	s.errAt = pos
	return err
}

// scan reads the whole source.
func (s *scanner) scan() error {
	for {
		i := strings.Index(s.src[s.pos:], "{{")
		if i < 0 {
			break
		}
		s.pos += i
		start := s.pos
		s.pos += 2
		if p := s.src[s.pos:]; len(p) >= 2 && p[0] == '-' && isSpace(p[1]) {
			s.pos += 2
		}
		if strings.HasPrefix(s.src[s.pos:], "/*") {
			if err := s.comment(start); err != nil {
				return err
			}
			continue
		}
		from := s.outPos(start)
		if err := s.action(start); err != nil {
			return err
		}
		s.actions = append(s.actions, span{from, s.outPos(s.pos)})
	}
	if n := len(s.open); n > 0 {
		return s.errorAt(s.open[n-1].pos, errorf("{{%s}} is never closed: {{end}} is missing", s.open[n-1].word))
	}
	s.out.WriteString(s.src[s.copied:])
	return nil
}

// outPos is the offset in the aliased text of an offset in the source that has not been copied yet.
func (s *scanner) outPos(pos int) int { return s.out.Len() + pos - s.copied }

func (s *scanner) comment(start int) error {
	i := strings.Index(s.src[s.pos+2:], "*/")
	if i < 0 {
		return s.errorAt(start, errorf("the comment is never closed: */}} is missing"))
	}
	s.pos += 2 + i + 2
	n := s.rightDelim()
	if n == 0 {
		return s.errorAt(start, errorf("a comment must be alone in its action: */ is not followed by }}"))
	}
	s.pos += n
	return nil
}

// rightDelim is the length of the action's end at this position, or 0.
func (s *scanner) rightDelim() int {
	p := s.src[s.pos:]
	if len(p) >= 4 && isSpace(p[0]) && p[1] == '-' && p[2:4] == "}}" {
		return 4
	}
	if strings.HasPrefix(p, "}}") {
		return 2
	}
	return 0
}

// action reads one action; the left delimiter is past.
func (s *scanner) action(start int) error {
	var parens []int
	var words []string // the first two, when they are words
	glued := false     // the token before ends here, and fields may follow it
	first := true
	for {
		if n := s.rightDelim(); n > 0 {
			if len(parens) > 0 {
				return s.errorAt(parens[len(parens)-1], errorf("( is never closed: ) is missing"))
			}
			s.pos += n
			return s.control(start, words)
		}
		if s.pos >= len(s.src) {
			return s.errorAt(start, errorf("the action is never closed: }} is missing"))
		}
		at := s.pos
		c, size := utf8.DecodeRuneInString(s.src[s.pos:])
		wasGlued := glued
		glued = false
		switch {
		case c == '"' || c == '`' || c == '\'':
			if err := s.quoted(byte(c)); err != nil {
				return err
			}
		case c == '(':
			s.pos++
			parens = append(parens, at)
			if len(s.open)+len(parens) > MaxNesting {
				return s.errorAt(at, &LimitError{What: "nesting", Limit: MaxNesting, Unit: "levels"})
			}
		case c == ')':
			s.pos++
			if len(parens) == 0 {
				return s.errorAt(at, errorf("unexpected )"))
			}
			parens = parens[:len(parens)-1]
			glued = true
		case c == '.' && (wasGlued || !s.digitAt(s.pos+1)):
			s.pos++
			s.segment()
			glued = s.pos > at+1
		case c == '$':
			s.pos++
			s.pos += wordLen(s.src[s.pos:])
			glued = true
		case isWord(c) && !isDigit(c):
			s.pos += wordLen(s.src[s.pos:])
			if len(words) < 2 && (first || len(words) == 1) {
				words = append(words, s.src[at:s.pos])
			}
			glued = true
		case c == '.' || isDigit(c):
			s.number()
		case c == ':':
			s.pos++
			if s.vars++; s.vars > MaxVariables {
				return s.errorAt(at, &LimitError{What: "the number of variables", Limit: MaxVariables, Unit: "declarations"})
			}
		default:
			s.pos += size
		}
		if !unicode.IsSpace(c) {
			first = false
		}
	}
}

// quoted reads a text or character constant.
func (s *scanner) quoted(quote byte) error {
	start := s.pos
	for s.pos++; s.pos < len(s.src); s.pos++ {
		switch c := s.src[s.pos]; {
		case c == quote:
			s.pos++
			return nil
		case quote == '`':
		case c == '\n':
			return s.errorAt(start, errorf("the text is not closed on its line: %c is missing", quote))
		case c == '\\':
			s.pos++
			if s.pos < len(s.src) && s.src[s.pos] == '\n' {
				return s.errorAt(start, errorf("the text is not closed on its line: %c is missing", quote))
			}
		}
	}
	s.pos = len(s.src)
	return s.errorAt(start, errorf("the text is never closed: %c is missing", quote))
}

// segment reads the name after a dot, and replaces one that Go's lexer would refuse.
func (s *scanner) segment() {
	start := s.pos
	for {
		s.pos += wordLen(s.src[s.pos:])
		hyphens := 0
		for s.pos+hyphens < len(s.src) && s.src[s.pos+hyphens] == '-' {
			hyphens++
		}
		if s.pos == start || hyphens == 0 || wordLen(s.src[s.pos+hyphens:]) == 0 {
			break
		}
		s.pos += hyphens
	}
	name := s.src[start:s.pos]
	if name == "" || !needsAlias(name) {
		return
	}
	s.out.WriteString(s.src[s.copied:start])
	s.out.WriteRune(alias)
	s.out.WriteString(strconv.Itoa(len(s.names)))
	s.copied = s.pos
	s.names = append(s.names, name)
	s.shifts = append(s.shifts, shift{out: s.out.Len(), src: s.pos})
}

func needsAlias(name string) bool {
	if name[0] >= '0' && name[0] <= '9' {
		return true
	}
	return strings.ContainsFunc(name, func(c rune) bool { return c == '-' || c > unicode.MaxASCII })
}

// number reads past a number, so that the dot in it is not taken for a path.
func (s *scanner) number() {
	for s.pos < len(s.src) {
		c := s.src[s.pos]
		sign := (c == '+' || c == '-') && strings.IndexByte("eEpP", s.src[s.pos-1]) >= 0
		if c != '.' && !sign && (c >= utf8.RuneSelf || !isWord(rune(c))) {
			return
		}
		s.pos++
	}
}

func (s *scanner) digitAt(i int) bool {
	return i < len(s.src) && isDigit(rune(s.src[i]))
}

// control follows the nesting of control structures.
func (s *scanner) control(start int, words []string) error {
	if len(words) == 0 {
		return nil
	}
	switch word := words[0]; word {
	case "if", "range", "with":
		if len(s.open) == MaxNesting {
			return s.errorAt(start, &LimitError{What: "nesting", Limit: MaxNesting, Unit: "levels"})
		}
		s.open = append(s.open, block{word: word, pos: start})
	case "else":
		return s.elseAction(start, words)
	case "end":
		if len(s.open) == 0 {
			return s.errorAt(start, errorf("unexpected {{end}}: nothing is open here"))
		}
		s.open = s.open[:len(s.open)-1]
	case "define", "block", "template":
		return s.errorAt(start, errorf("{{%s}} is not supported: a template stands alone", word))
	}
	return nil
}

func (s *scanner) elseAction(start int, words []string) error {
	if len(s.open) == 0 {
		return s.errorAt(start, errorf("unexpected {{else}}: nothing is open here"))
	}
	b := &s.open[len(s.open)-1]
	if b.elsed {
		return s.errorAt(start, errorf("unexpected {{else}}: the {{%s}} has one already", b.word))
	}
	chained := len(words) == 2 && (words[1] == "if" || words[1] == "with")
	if chained && words[1] != b.word {
		return s.errorAt(start, errorf("{{else %s}} does not continue {{%s}}", words[1], b.word))
	}
	b.elsed = !chained
	if b.branches++; b.branches > MaxBranches {
		return s.errorAt(start, &LimitError{What: "else " + b.word, Limit: MaxBranches, Unit: "branches"})
	}
	return nil
}

// parse runs Go's parser over the aliased text, and gives the tree the user's names and offsets.
func (s *scanner) parse() (*parse.ListNode, error) {
	text := s.out.String()
	root, msg := parseGo(text)
	if msg != "" {
		s.errAt = s.srcPos(s.guilty(text, msg))
		return nil, errorf("%s", s.unalias(msg))
	}
	if err := (&restorer{s}).list(root); err != nil {
		return nil, err
	}
	return root, nil
}

// guilty finds the action that the parser's message is about, as it does not say. The first one up to which the text
// gives that message is the one; over a long text, where so many tries would take too long, each action is tried alone.
func (s *scanner) guilty(text, msg string) int {
	const long = 8 << 10
	n := len(s.actions)
	var at int
	if len(text) <= long {
		at = sort.Search(n, func(i int) bool {
			_, m := parseGo(text[:s.actions[i].end])
			return m == msg
		})
	} else {
		at = slices.IndexFunc(s.actions, func(a span) bool {
			_, m := parseGo(text[a.start:a.end])
			return m == msg
		})
	}
	if at < 0 || at >= n {
		return len(text)
	}
	return s.actions[at].start
}

// parseGo returns the tree, or the parser's message without its place.
func parseGo(text string) (*parse.ListNode, string) {
	tree := parse.New("t")
	tree.Mode = parse.SkipFuncCheck
	if _, err := tree.Parse(text, "", "", map[string]*parse.Tree{}); err != nil {
		msg := strings.TrimPrefix(err.Error(), "template: t:")
		if line, rest, ok := strings.Cut(msg, ": "); ok {
			if _, err := strconv.Atoi(line); err == nil {
				msg = rest
			}
		}
		return nil, msg
	}
	return tree.Root, ""
}

func (s *scanner) unalias(msg string) string {
	return regexp.MustCompile(string(alias)+`[0-9]+`).ReplaceAllStringFunc(msg, s.name)
}

// name gives the user's name of a segment.
func (s *scanner) name(ident string) string {
	digits, ok := strings.CutPrefix(ident, string(alias))
	if !ok {
		return ident
	}
	i, err := strconv.Atoi(digits)
	if err != nil || i >= len(s.names) {
		return ident
	}
	return s.names[i]
}

// srcPos is the offset in the source of an offset in the aliased text.
func (s *scanner) srcPos(out int) int {
	i := sort.Search(len(s.shifts), func(i int) bool { return s.shifts[i].out > out })
	if i == 0 {
		return min(out, len(s.src))
	}
	last := s.shifts[i-1]
	return min(last.src+out-last.out, len(s.src))
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func isDigit(c rune) bool { return c >= '0' && c <= '9' }

func isWord(c rune) bool { return c == '_' || unicode.IsLetter(c) || unicode.IsDigit(c) }

// wordLen is the length in bytes of the word that a text begins with.
func wordLen(text string) int {
	for i, c := range text {
		if !isWord(c) {
			return i
		}
	}
	return len(text)
}
