package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"arkonis.dev/ark/pkg/apis/data"
	"arkonis.dev/ark/pkg/remote"
)

// shownResult is how much of the arguments and the result of a tool a line shows, in characters.
const shownResult = 300

type logsFlags struct {
	remoteFlags
	follow       bool
	step, output string
}

func newLogs(s *streams) *cobra.Command {
	var f logsFlags
	c := &cobra.Command{
		Use:   "logs RUN",
		Short: "Print what the agents of a run in a cluster did: their words and tool calls",
		Long: `Print what the agents of a run did, in the order of time: what the models said, which tools they called and what came of
it, also in the runs of teams that play a role in it. With --follow the text is shown while it is written, until the run
has ended. RUN is the name of a run, or @latest for the newest one.`,
		Example: `  ark logs @latest -f
  ark logs research-run-5f2c9a8e1b --step find -o json`,
		Args: oneRun,
		RunE: func(c *cobra.Command, args []string) error {
			if f.output != formatText && f.output != formatJSON {
				return fmt.Errorf("--output: %q is not a format; use json", f.output)
			}
			ctx, stop := interruptible(c.Context())
			defer stop()
			return f.run(ctx, s, args[0])
		},
	}
	f.add(c)
	c.Flags().BoolVarP(&f.follow, "follow", "f", false, "go on until the run has ended")
	c.Flags().StringVar(&f.step, "step", "", "this step only")
	c.Flags().StringVarP(&f.output, "output", "o", "", "json: one object a line (default a text for people)")
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{formatJSON}, cobra.ShellCompDirectiveNoFileComp))
	c.ValidArgsFunction = f.completeRun()
	return c
}

func (f *logsFlags) run(ctx context.Context, s *streams, name string) error {
	cluster, run, err := f.find(ctx, name)
	if err != nil {
		return err
	}
	p := &printer{w: s.out, spoken: map[string]string{}}
	asJSON := json.NewEncoder(s.out)
	asJSON.SetEscapeHTML(false)
	err = cluster.FamilyLog(ctx, run, remote.LogOptions{Step: f.step, Follow: f.follow}, func(e *data.Entry) error {
		if f.output == formatJSON {
			return asJSON.Encode(e)
		}
		p.entry(e)
		return s.out.failed
	})
	p.newline()
	if ctx.Err() != nil {
		return &exitError{code: ExitInterrupted, quiet: true, err: errors.New("interrupted")}
	}
	return err
}

// printer writes entries for people: a line each, and the words of models under the name of their step.
type printer struct {
	w      io.Writer
	source string            // whose words the last line holds, empty at the start of a line
	spoken map[string]string // by task and call: what was shown of an answer while it was written
}

func (p *printer) entry(e *data.Entry) {
	at := e.At.Local().Format(time.TimeOnly)
	switch e.Kind {
	case data.EntryChunk:
		p.spoken[callOf(e)] += e.Text
		p.say(e, e.Text)
	case data.EntryAnswer:
		rest, shown := strings.CutPrefix(e.Text, p.spoken[callOf(e)])
		if !shown {
			rest = e.Text // what was shown was not all of it
		}
		delete(p.spoken, callOf(e))
		if rest != "" {
			p.say(e, rest)
		}
		if e.Cut {
			p.line(at, e.Step, "(the answer is not shown whole: see ark output)")
		}
	case data.EntryStarted:
		p.line(at, e.Step, "agent "+e.Agent+" started on pod "+e.Pod)
	case data.EntryReleased:
		p.line(at, e.Step, "pod "+e.Pod+" handed the task back")
	case data.EntryFailed:
		p.line(at, e.Step, "the model call failed: "+reasonOf(e))
	case data.EntryTool:
		p.line(at, e.Step, "calls "+e.Tool+" "+short(e.Text))
	case data.EntryToolDone:
		verb := " gave: "
		if e.Error {
			verb = " failed: "
		}
		tool := e.Tool
		if tool == "" {
			tool = "a tool"
		}
		p.line(at, e.Step, tool+verb+short(e.Text))
	case data.EntryNote:
		p.line(at, e.Step, "note: "+e.Text)
	case data.EntryEnded:
		text := fmt.Sprintf("%s - %d tokens", e.Phase, e.Tokens)
		if e.Error {
			text += ": " + reasonOf(e)
		}
		p.line(at, e.Step, text)
	case data.EntryRunEnded:
		text := fmt.Sprintf("Run %s - %d tokens", e.Phase, e.Tokens)
		if e.Text != "" {
			text += ": " + e.Text
		}
		p.line(at, "", text)
	case data.EntryMissed:
		p.line(at, "", "(some text was left out: it came faster than it could be shown)")
	case data.EntryCall: // its answer follows
	}
}

func callOf(e *data.Entry) string { return fmt.Sprintf("%s/%d", e.Task, e.Call) }

func reasonOf(e *data.Entry) string { return strings.TrimPrefix(e.Reason+": "+e.Text, ": ") }

func short(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	r := []rune(text)
	if len(r) > shownResult {
		return string(r[:shownResult]) + "…"
	}
	return text
}

// say writes words of a model. Whenever the step changes, its name goes before.
func (p *printer) say(e *data.Entry, text string) {
	text = harmless(text)
	if text == "" {
		return
	}
	if p.source != callOf(e) {
		p.newline()
		p.source = callOf(e)
		text = e.Step + "> " + text
	}
	_, _ = io.WriteString(p.w, text) // streams.out remembers a failure
}

func (p *printer) line(at, step, text string) {
	p.newline()
	if step != "" {
		step += ": "
	}
	fmt.Fprintf(p.w, "%s %s%s\n", at, step, strings.TrimRight(harmless(text), "\n"))
}

// newline puts what follows on a line of its own.
func (p *printer) newline() {
	if p.source != "" {
		p.source = ""
		fmt.Fprintln(p.w)
	}
}
