package cmd

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode"

	"golang.org/x/term"
)

// streams is the only way in and out of a command.
type streams struct {
	in  *stdin
	out *results
	err io.Writer
	// outTerminal and errTerminal say that a person watches; color that the person wants it coloured.
	outTerminal, errTerminal, color bool
}

func processStreams() *streams {
	s := &streams{
		in: &stdin{r: os.Stdin}, out: &results{w: os.Stdout}, err: os.Stderr,
		outTerminal: isTerminal(os.Stdout), errTerminal: isTerminal(os.Stderr),
	}
	s.color = s.errTerminal && os.Getenv("NO_COLOR") == ""
	return s
}

func isTerminal(f *os.File) bool {
	return os.Getenv("TERM") != "dumb" && term.IsTerminal(int(f.Fd()))
}

// size is the terminal's columns and lines, 0 when it does not say.
func (s *streams) size() (columns, lines int) {
	f, ok := s.err.(*os.File)
	if !ok {
		return 0, 0
	}
	columns, lines, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0, 0
	}
	return columns, lines
}

// stdin hands standard input to whoever asks first.
type stdin struct {
	r     io.Reader
	taker string
}

// take returns the input for a purpose, such as "FILE -". There is only one: a second purpose is an error.
func (s *stdin) take(purpose string) (io.Reader, error) {
	if s.taker != "" {
		return nil, fmt.Errorf("%s: standard input is already read by %s: put one of them into a file", purpose, s.taker)
	}
	s.taker = purpose
	return s.r, nil
}

// results is standard output. It remembers the first failure, so that no result is lost in silence.
type results struct {
	w      io.Writer
	failed error
}

func (r *results) Write(p []byte) (int, error) {
	n, err := r.w.Write(p)
	if err != nil && r.failed == nil {
		r.failed = err
	}
	return n, err
}

// harmless removes what a terminal would obey from a text that a model wrote.
func harmless(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return -1
	}, s)
}

// encodeJSON writes a value as indented JSON.
func encodeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}
