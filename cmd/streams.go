package cmd

import (
	"os"

	"golang.org/x/term"
)

func processStreams() *streams {
	s := &streams{
		in: os.Stdin, out: os.Stdout, err: os.Stderr,
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
