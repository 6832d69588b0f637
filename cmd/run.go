package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"arkonis.dev/ark/pkg/local"
	"arkonis.dev/ark/pkg/telemetry"
)

const runExample = `  # a team without a key: the mock model echoes what it was asked
  ark run team.yaml --input topic=tides

  # the same team against a model server that speaks OpenAI's chat completions
  OPENAI_BASE_URL=http://127.0.0.1:11434/v1 ark run team.yaml --provider openai --model llama3.2 --input topic=tides

  # keep the run on disk, and go on after a crash
  ark run team.yaml --store .ark --input topic=tides
  ark run --store .ark --resume @latest`

// runFlags are the flags of ark run as they were typed.
type runFlags struct {
	team, agent, provider, model string
	inputs                       []string
	mockScript                   string
	maxTokens                    int64
	timeout                      time.Duration
	watch, stream, trace         bool
	dryRun, noMCP                bool
	store, resume                string
	output, outputFile, logLevel string
}

func newRun(s *streams) *cobra.Command {
	var f runFlags
	c := &cobra.Command{
		Use:   "run FILE...",
		Short: "Run a team or an agent on this machine",
		Long: `Run a team, or one agent, on this machine: the YAML of the cluster, the same engine and the same queue, in one process.

FILE is a file, a folder, a URL, or - for standard input. ark's own kinds, ConfigMaps and Secrets are loaded; other
kinds are skipped with a note.`,
		Example: runExample,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			return run(ctx, s, &f, args, c.Flags().Changed("watch"))
		},
	}
	f.register(c)
	return c
}

func (f *runFlags) register(c *cobra.Command) {
	fl := c.Flags()
	fl.StringVar(&f.team, "team", "", "the team to run, when the files hold several")
	fl.StringVar(&f.team, "flow", "", "the same as --team")
	_ = fl.MarkHidden("flow")
	fl.StringVar(&f.agent, "agent", "", "run one agent instead of a team; its prompt is the input 'prompt'")
	fl.StringArrayVarP(&f.inputs, "input", "i", nil, "input: key=value, a JSON object, or @file (repeatable)")
	fl.StringVar(&f.provider, "provider", "", "use this provider for all agents: openai or mock")
	fl.StringVar(&f.model, "model", "", "use this model for all agents")
	fl.StringVar(&f.mockScript, "mock-script", "", "YAML file that scripts the mock provider")
	fl.Int64Var(&f.maxTokens, "max-tokens", 0, "tokens that the run may use, at most what the team allows")
	fl.DurationVar(&f.timeout, "timeout", 0, "time that the run may take, such as 90s")
	fl.BoolVarP(&f.watch, "watch", "w", true, "draw the steps in place (on a terminal)")
	fl.BoolVar(&f.stream, "stream", false, "print the models' text as it arrives")
	fl.BoolVar(&f.trace, "trace", false, "print the span tree of the run at its end")
	fl.BoolVar(&f.dryRun, "dry-run", false, "check everything, print the plan and its token bound, call no model")
	fl.BoolVar(&f.noMCP, "no-mcp", false, "run without MCP servers")
	fl.StringVar(&f.store, "store", "", "keep the run in this folder, so that it survives a crash")
	fl.StringVar(&f.resume, "resume", "", "go on with this run of --store; @latest is the newest")
	fl.StringVarP(&f.output, "output", "o", "text", "text or json")
	fl.StringVar(&f.outputFile, "output-file", "", "write the run's output to this file")
	fl.StringVar(&f.logLevel, "log-level", "warn", "debug, info, warn or error")
}

// check finds wrong uses that the flags alone show.
func (f *runFlags) check(args []string) error {
	switch {
	case f.output != "text" && f.output != "json":
		return fmt.Errorf("--output: %q is not a format; use text or json", f.output)
	case f.maxTokens < 0:
		return fmt.Errorf("--max-tokens: %d is negative; leave the flag out for no limit", f.maxTokens)
	case f.timeout < 0:
		return fmt.Errorf("--timeout: %s is negative; leave the flag out for the team's own", f.timeout)
	case f.team != "" && f.agent != "":
		return errors.New("--team and --agent exclude each other: name one of them")
	case f.resume != "" && f.store == "":
		return errors.New("--resume needs --store: the folder that holds the run")
	case f.resume != "" && (len(f.inputs) > 0 || f.dryRun):
		return errors.New("--resume goes on with a recorded run: --input and --dry-run do not go with it")
	case f.resume == "" && len(args) == 0:
		return errors.New("no file: name a YAML file, a folder, a URL, or - for standard input (see 'ark run --help')")
	}
	return nil
}

// interruptible returns a context that ends at the first SIGINT or SIGTERM; a second one ends the process at once.
func interruptible(parent context.Context) (context.Context, context.CancelFunc) {
	ctx, stop := signal.NotifyContext(parent, os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// run loads, runs and prints.
func run(ctx context.Context, s *streams, f *runFlags, files []string, watchAsked bool) (err error) {
	if err := f.check(files); err != nil {
		return err
	}
	if f.watch && watchAsked && !s.errTerminal {
		fmt.Fprintln(s.err, "note: --watch needs a terminal; printing lines")
	}
	o, err := f.options(ctx, s, files)
	if err != nil {
		return err
	}
	recorder := f.recorder()
	tel, err := startTelemetry(ctx, recorder)
	if err != nil {
		return err
	}
	// What the run was is told even when the run was interrupted.
	defer func() { err = errors.Join(err, stopTelemetry(context.WithoutCancel(ctx), tel)) }()
	o.Telemetry = tel
	if f.dryRun {
		return f.plan(ctx, s, o)
	}
	report, err := local.Run(ctx, o)
	if report != nil {
		if werr := f.write(s, report); werr != nil {
			err = errors.Join(err, werr)
		}
	}
	if recorder != nil {
		if werr := recorder.WriteTree(s.err); werr != nil {
			err = errors.Join(err, werr)
		}
	}
	return withExitCode(err)
}

func (f *runFlags) options(ctx context.Context, s *streams, files []string) (local.Options, error) {
	level, err := telemetry.ParseLevel(f.logLevel)
	if err != nil {
		return local.Options{}, fmt.Errorf("--log-level: %w", err)
	}
	input, err := parseInputs(f.inputs, s.in)
	if err != nil {
		return local.Options{}, err
	}
	o := local.Options{
		Team: f.team, Agent: f.agent, Input: input, Provider: f.provider, Model: f.model,
		MockScriptName: f.mockScript, NoMCP: f.noMCP, MaxTokens: f.maxTokens, Timeout: f.timeout,
		Store: f.store, Resume: f.resume, Progress: s.err, Stream: f.stream, LogLevel: level, Getenv: os.Getenv,
	}
	if f.mockScript != "" {
		if o.MockScript, err = os.ReadFile(f.mockScript); err != nil {
			return local.Options{}, fmt.Errorf("--mock-script: %w", err)
		}
	}
	if f.watch && s.errTerminal {
		o.Terminal = &local.Terminal{Size: s.size, Color: s.color}
	}
	if len(files) > 0 {
		o.Manifests, err = load(ctx, s, files)
	}
	return o, err
}

func (f *runFlags) recorder() *telemetry.Recorder {
	if !f.trace {
		return nil
	}
	return &telemetry.Recorder{}
}

func (f *runFlags) plan(ctx context.Context, s *streams, o local.Options) error {
	p, err := local.Plan(ctx, o)
	if err != nil {
		return err
	}
	if f.output == "json" {
		return p.WriteJSON(s.out)
	}
	return p.WriteText(s.out)
}

// write prints the run's output, or the whole report as JSON, and keeps the output in --output-file.
func (f *runFlags) write(s *streams, r *local.Report) error {
	if f.outputFile != "" {
		if err := os.WriteFile(f.outputFile, []byte(r.Output), 0o644); err != nil {
			return fmt.Errorf("--output-file: %w", err)
		}
	}
	if f.output == "json" {
		return r.WriteJSON(s.out)
	}
	return r.WriteText(s.out)
}

// withExitCode gives the ways in which a run can end their exit codes.
func withExitCode(err error) error {
	var (
		failed      *local.FailedError
		timeout     *local.TimeoutError
		interrupted *local.InterruptedError
	)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &interrupted):
		return &exitError{code: ExitInterrupted, err: err}
	case errors.As(err, &timeout):
		return &exitError{code: ExitTimeout, err: err}
	case errors.As(err, &failed):
		return &exitError{code: ExitRunFailed, err: err}
	}
	return err
}
