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
