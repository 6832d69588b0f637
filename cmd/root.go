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

	"arkonis.dev/ark/pkg/manifest"
)

// Exit codes of every command.
const (
	ExitOK          = 0
	ExitUsage       = 1
	ExitRunFailed   = 2
	ExitTimeout     = 3
	ExitInterrupted = 130
)

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
	if err == nil && s.out.failed != nil {
		err = fmt.Errorf("standard output: %w", s.out.failed)
	}
	if err == nil {
		return ExitOK
	}
	code := ExitUsage
	if exit, ok := errors.AsType[*exitError](err); ok {
		code = exit.code
		if exit.quiet {
			return code
		}
	}
	printError(s.err, err)
	return code
}

// printError writes each of the errors that one is made of; what follows the first line of one is indented.
func printError(w io.Writer, err error) {
	for _, text := range errorTexts(err) {
		first, rest, _ := strings.Cut(strings.TrimRight(text, "\n"), "\n")
		fmt.Fprintln(w, "error: "+first)
		for line := range strings.Lines(rest) {
			fmt.Fprintln(w, "  "+strings.TrimSpace(line))
		}
	}
}

// errorTexts takes apart what errors.Join joined, and the findings of manifests.
func errorTexts(err error) []string {
	if exit, ok := errors.AsType[*exitError](err); ok {
		err = exit.err
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok { //nolint:errorlint // what is wrapped stays together
		var texts []string
		for _, e := range joined.Unwrap() {
			texts = append(texts, errorTexts(e)...)
		}
		if strings.Join(texts, "\n") == err.Error() {
			return texts
		}
	}
	if m, ok := err.(*manifest.Error); ok { //nolint:errorlint // what is wrapped stays together
		return strings.Split(m.Error(), "\n")
	}
	return []string{err.Error()}
}

func newRoot(s *streams) *cobra.Command {
	root := &cobra.Command{
		Use:         "ark",
		Annotations: map[string]string{cobra.CommandDisplayNameAnnotation: commandName()},
		Short:       "Run AI agents as Kubernetes resources",
		Long: `ark runs AI agents as Kubernetes resources. An ArkAgent says what an agent knows, can do and may cost; an
ArkTeam joins agents into a pipeline or lets them delegate; each execution is an ArkRun.

The same YAML runs on a laptop with "ark run".`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noSuchCommand,
		RunE: func(c *cobra.Command, _ []string) error {
			return c.Help()
		},
		SuggestionsMinimumDistance: 2,
	}
	root.SetOut(s.out)
	root.SetErr(s.err)
	root.SetFlagErrorFunc(flagError)
	root.AddCommand(newRun(s), newRuntime(s), newOperator(s), newValidate(s), newInit(s), newInstall(s), newUninstall(s), newVersion(s))
	root.AddCommand(newStatus(s), newRuns(s), newGet(s), newWhy(s), newCancel(s),
		newTrigger(s), newSubmit(s), newRetry(s), newOutput(s), newLogs(s), newTrace(s), newCopyTo())
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd(os.Args[1:]...)
	for _, c := range root.Commands() {
		switch c.Name() {
		case "completion": // by itself it would print its help and succeed, whatever was asked for
			c.Args, c.RunE = noSuchShell, func(*cobra.Command, []string) error { return nil }
		case "help":
			c.Args = noSuchTopic
		}
	}
	return root
}

// flagError says what a flag takes, in words of the command line.
func flagError(c *cobra.Command, err error) error {
	for cause, want := range map[string]string{
		": strconv.ParseInt: ":  "want a whole number",
		": strconv.ParseBool: ": "want true or false",
		": time: ":              "want a duration such as 90s or 5m",
	} {
		if about, _, ok := strings.Cut(err.Error(), cause); ok {
			return fmt.Errorf("%s: %s (see '%s --help')", about, want, c.CommandPath())
		}
	}
	return fmt.Errorf("%w (see '%s --help')", err, c.CommandPath())
}

// noSuchShell refuses what is no shell: those that are one are commands of their own.
func noSuchShell(c *cobra.Command, args []string) error {
	shells := make([]string, 0, len(c.Commands()))
	for _, s := range c.Commands() {
		shells = append(shells, s.Name())
	}
	if len(args) == 0 {
		return fmt.Errorf("completion for which shell? Name one of %s", strings.Join(shells, ", "))
	}
	return fmt.Errorf("there is no completion for %q: name one of %s", args[0], strings.Join(shells, ", "))
}

// noSuchTopic refuses to help with what is no command.
func noSuchTopic(c *cobra.Command, args []string) error {
	_, rest, err := c.Root().Find(args)
	if err != nil {
		return err
	}
	return noSuchCommand(c.Root(), rest)
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
