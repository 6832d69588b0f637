// Package cmd is ark's command line: flags in, wiring, exit code. One file a command.
//
// Output rules: results go to stdout, progress and logs to stderr. There is no colour and no live view when the
// stream is not a terminal or NO_COLOR is set. Every error names the object, the cause and what to do next, on
// stderr, once. Exit codes: 0 done, 1 wrong use or cannot start, 2 the run failed, 3 timed out waiting, 130
// interrupted.
package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// Exit codes of every command.
const (
	ExitOK          = 0
	ExitUsage       = 1
	ExitRunFailed   = 2
	ExitTimeout     = 3
	ExitInterrupted = 130
)

// streams is the only way in and out of a command.
type streams struct {
	in       io.Reader
	out, err io.Writer
	// outTerminal and errTerminal say that a person watches; color that the person wants it coloured.
	outTerminal, errTerminal, color bool
}

// exitError carries the exit code of an error that a command returns; any other error means wrong use. A quiet
// one was already reported.
type exitError struct {
	code  int
	quiet bool
	err   error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// Main runs the command line of this process and returns its exit code.
func Main() int {
	s := processStreams()
	root := newRoot(s)
	root.SetArgs(os.Args[1:])
	return execute(context.Background(), root, s)
}

func execute(ctx context.Context, root *cobra.Command, s *streams) int {
	err := root.ExecuteContext(ctx)
	if err == nil {
		return ExitOK
	}
	code := ExitUsage
	var exit *exitError
	if errors.As(err, &exit) {
		code = exit.code
		if exit.quiet {
			return code
		}
	}
	fmt.Fprintln(s.err, "error: "+strings.TrimRight(err.Error(), "\n"))
	return code
}

func newRoot(s *streams) *cobra.Command {
	root := &cobra.Command{
		Use:   commandName(),
		Short: "Run AI agents as Kubernetes resources",
		Long: `ark runs AI agents as Kubernetes resources. An ArkAgent says what an agent knows, can do and may cost; an
ArkTeam joins agents into a pipeline or lets them delegate; each execution is an ArkRun.

The same YAML runs on a laptop with "ark run".`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE: func(c *cobra.Command, _ []string) error {
			return c.Help()
		},
	}
	root.SetIn(s.in)
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w (see '%s --help')", err, c.CommandPath())
	})
	root.AddCommand(newRun(s), newValidate(s), newInit(s), newVersion(s))
	root.InitDefaultCompletionCmd(os.Args[1:]...)
	return root
}

// noSuchCommand refuses words that are no command and offers those that look like them.
func noSuchCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	hint := "see '" + c.CommandPath() + " --help'"
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean " + strings.Join(near, " or ") + "?"
	}
	return fmt.Errorf("there is no command %q (%s)", args[0], hint)
}

// commandName is "ark", or "kubectl ark" when kubectl runs this executable as its plugin.
func commandName() string {
	if strings.HasPrefix(filepath.Base(os.Args[0]), "kubectl-") {
		return "kubectl ark"
	}
	return "ark"
}
