package cmd

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/local"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/remote"
	"arkonis.dev/ark/pkg/trigger"
)

const (
	// acceptance bounds how long a trigger waits for the operator to take it up.
	acceptance = 30 * time.Second
	// waitTimeout bounds how long --wait waits for the end of a run, unless --timeout says otherwise.
	waitTimeout = 60 * time.Second
)

type triggerFlags struct {
	remoteFlags
	inputs      []string
	agent       string
	watch, wait bool
	timeout     time.Duration
	patience    time.Duration // of --wait without --timeout; 0 is for ever
	output, id  string
}

func newTrigger(s *streams) *cobra.Command {
	f := triggerFlags{patience: waitTimeout}
	c := &cobra.Command{
		Use:   "trigger TEAM",
		Short: "Run a team in a cluster",
		Long: `Run a team in a cluster: the trigger is recorded as an ArkEvent, which makes one run. It prints the run's name; with
--watch or --wait, it waits for the end and prints the output instead.`,
		Example: `  ark trigger research --input topic=tides --watch
  ark trigger research --input @input.json --wait --timeout 5m -o json
  ark trigger --agent writer --input prompt='Write a haiku.'`,
		Args: func(c *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return fmt.Errorf("%s takes one team, and got %q as well (see '%s --help')", c.CommandPath(), args[1], c.CommandPath())
			case len(args) == 1 && f.agent != "":
				return errors.New("a team and --agent exclude each other: name one of them")
			case len(args) == 0 && f.agent == "":
				return fmt.Errorf("which team? Give its name, or --agent (see '%s --help')", c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			r := trigger.Request{Agent: f.agent, ID: f.id}
			if len(args) > 0 {
				r.Team = args[0]
			}
			return f.run(ctx, s, r)
		},
	}
	f.add(c)
	fl := c.Flags()
	fl.StringArrayVarP(&f.inputs, "input", "i", nil, "input: key=value, a JSON object, or @file (repeatable)")
	fl.StringVar(&f.agent, "agent", "", "run one agent instead of a team; its prompt is the input 'prompt'")
	f.waitFlags(c)
	addOutput(c, &f.output)
	_ = c.RegisterFlagCompletionFunc("agent", f.complete((*remote.Cluster).AgentNames))
	c.ValidArgsFunction = first(f.complete((*remote.Cluster).TeamNames))
	return c
}

// waitFlags adds the flags that say whether to wait for the end.
func (f *triggerFlags) waitFlags(c *cobra.Command) {
	fl := c.Flags()
	fl.BoolVarP(&f.watch, "watch", "w", false, "follow the run until it has ended, then print its output")
	fl.BoolVar(&f.wait, "wait", false, "wait until the run has ended, then print its output")
	fl.BoolVar(&f.wait, "sync", false, "the same as --wait")
	fl.DurationVar(&f.timeout, "timeout", 0, "how long to wait for the end (default 60s with --wait, for ever with --watch); the run goes on")
	fl.StringVar(&f.id, "id", "", "names this trigger: the same one again makes no second run")
}

func (f *triggerFlags) run(ctx context.Context, s *streams, r trigger.Request) error {
	if f.timeout < 0 {
		return fmt.Errorf("--timeout: %s is negative", f.timeout)
	}
	input, err := parseInputs(f.inputs, s.in)
	if err != nil {
		return err
	}
	cluster, err := f.cluster()
	if err != nil {
		return err
	}
	r.Input = input
	if r.Agent != "" {
		prompt, ok := input["prompt"].(string)
		if !ok || len(input) > 1 {
			return fmt.Errorf("an agent takes one input, its prompt: write --input prompt='...'")
		}
		r.Prompt, r.Input = prompt, nil
		_, err = cluster.Agent(ctx, r.Agent)
	} else {
		err = f.checkTeam(ctx, s, cluster, r)
	}
	if err != nil {
		return err
	}
	return f.fire(ctx, s, cluster, r)
}

// checkTeam says what is wrong with a trigger of a team before it is recorded, as far as only people make such mistakes: the
// name of an agent, and inputs that the team does not know.
func (f *triggerFlags) checkTeam(ctx context.Context, s *streams, cluster *remote.Cluster, r trigger.Request) error {
	team, err := cluster.Team(ctx, r.Team)
	if err != nil {
		if _, noAgent := cluster.Agent(ctx, r.Team); noAgent == nil {
			return fmt.Errorf("%s is an agent and no team: write 'ark trigger --agent %s --input prompt=...', or 'ark submit %s TEXT'", r.Team, r.Team, r.Team)
		}
		return err
	}
	_, found := pipeline.ResolveInput(team, r.Input)
	for _, finding := range found {
		if finding.Severity == pipeline.SeverityWarning {
			fmt.Fprintf(s.err, "warning: %s\n", finding)
		}
	}
	return nil
}

// fire triggers, and waits as the flags say.
func (f *triggerFlags) fire(ctx context.Context, s *streams, cluster *remote.Cluster, r trigger.Request) error {
	r.ID = cmp.Or(r.ID, rand.Text())
	run, err := cluster.Trigger(ctx, r, acceptance)
	return f.see(ctx, s, cluster, run, err)
}

// see says which run was made, or waits for its end, as the flags say. err is why there is none.
func (f *triggerFlags) see(ctx context.Context, s *streams, cluster *remote.Cluster, run *v1alpha1.ArkRun, err error) error {
	if _, late := errors.AsType[*remote.UndecidedError](err); late {
		return &exitError{code: ExitTimeout, err: err}
	}
	if err != nil && ctx.Err() != nil {
		return &exitError{code: ExitInterrupted, err: err}
	}
	if err != nil {
		return err
	}
	if !f.watch && !f.wait {
		return f.name(s, run)
	}
	timeout := f.timeout
	if f.wait && !f.watch {
		timeout = cmp.Or(timeout, f.patience)
	}
	waiting := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		waiting, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	if f.watch {
		fmt.Fprintln(s.err, run.Name)
		run, err = follow(waiting, s, cluster, run)
	} else {
		run, err = wait(waiting, cluster, run)
	}
	if err != nil {
		return err
	}
	return writeEnd(ctx, s, cluster, run, f.output)
}

func (f *triggerFlags) name(s *streams, run *v1alpha1.ArkRun) error {
	if f.output != formatText {
		return encode(s.out, f.output, typed(run, "ArkRun"))
	}
	fmt.Fprintln(s.out, run.Name)
	return nil
}

// writeEnd prints what a run that has ended put out, or the report of it, and gives its end an exit code.
func writeEnd(ctx context.Context, s *streams, cluster *remote.Cluster, run *v1alpha1.ArkRun, format string) error {
	if format == formatText {
		if run.Status.Phase == v1alpha1.RunSucceeded {
			if err := copyOutput(ctx, s, cluster, run, ""); err != nil {
				return err
			}
		}
		return ended(run)
	}
	body, err := cluster.Output(ctx, run, "")
	if err != nil {
		return err
	}
	defer body.Close() //nolint:errcheck // it was only read
	text, err := io.ReadAll(body)
	if err != nil {
		return fmt.Errorf("read the output of run %s: %w", run.Name, err)
	}
	report := local.NewReport(run, string(text), nil)
	return errors.Join(encode(s.out, format, report), ended(run))
}
