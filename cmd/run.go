package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
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

// maxScriptFile bounds what --mock-script reads, in bytes.
const maxScriptFile = 1 << 20

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
			if err := noEmptyFlags(c); err != nil {
				return err
			}
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
	fl.StringVar(&f.provider, "provider", "", "use this provider for all agents: auto, openai, anthropic or mock")
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
	completions(c)
}

// completions completes the values of flags that have a fixed set of them.
func completions(c *cobra.Command) {
	for flag, values := range map[string][]string{
		"output": outputs(), "provider": providers(), "log-level": {"debug", "info", "warn", "error"}, "resume": {local.Latest},
	} {
		_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	}
}

func outputs() []string { return []string{"text", "json"} }

// providers are those that an ArkAgent can name.
func providers() []string {
	return []string{string(v1alpha1.ProviderAuto), string(v1alpha1.ProviderOpenAI), string(v1alpha1.ProviderAnthropic), string(v1alpha1.ProviderMock)}
}

// noEmptyFlags refuses --flag "": a variable of the shell that was not set is no choice.
func noEmptyFlags(c *cobra.Command) error {
	for _, name := range []string{
		"team", "flow", "agent", "provider", "model", "mock-script", "store", "resume", "output", "output-file", "log-level",
	} {
		if f := c.Flags().Lookup(name); f.Changed && f.Value.String() == "" {
			return fmt.Errorf("--%s is empty: give it a value, or leave the flag out", name)
		}
	}
	return nil
}

// check finds wrong uses that the flags and the folders that they name show.
func (f *runFlags) check(args []string) error {
	if err := f.checkValues(args); err != nil {
		return err
	}
	if err := f.checkResume(); err != nil {
		return err
	}
	return f.checkPlaces()
}

func (f *runFlags) checkValues(args []string) error {
	switch {
	case !slices.Contains(outputs(), f.output):
		return fmt.Errorf("--output: %q is not a format; use text or json", f.output)
	case f.provider != "" && !slices.Contains(providers(), f.provider):
		return fmt.Errorf("--provider: there is no provider %q; use one of %s", f.provider, strings.Join(providers(), ", "))
	case f.maxTokens < 0:
		return fmt.Errorf("--max-tokens: %d is negative; leave the flag out for no limit", f.maxTokens)
	case f.timeout < 0:
		return fmt.Errorf("--timeout: %s is negative; leave the flag out for the team's own", f.timeout)
	case f.team != "" && f.agent != "":
		return errors.New("--team and --agent exclude each other: name one of them")
	case f.resume == "" && len(args) == 0:
		return errors.New("no file: name a YAML file, a folder, a URL, or - for standard input (see 'ark run --help')")
	}
	return nil
}

// checkResume refuses what a run that goes on would ignore: its team, inputs, script and bounds are recorded.
func (f *runFlags) checkResume() error {
	if f.resume == "" {
		return nil
	}
	if f.store == "" {
		return errors.New("--resume needs --store: the folder that holds the run")
	}
	for _, flag := range []struct {
		name  string
		given bool
	}{
		{"team", f.team != ""},
		{"agent", f.agent != ""},
		{"input", len(f.inputs) > 0},
		{"mock-script", f.mockScript != ""},
		{"max-tokens", f.maxTokens > 0},
		{"no-mcp", f.noMCP},
		{"dry-run", f.dryRun},
	} {
		if flag.given {
			return fmt.Errorf("--%s does not go with --resume, which goes on with a run as it was recorded", flag.name)
		}
	}
	if _, err := os.Stat(f.store); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("--resume %s: there is no store %s: name the folder that the run was started with", f.resume, f.store)
	}
	return nil
}

// checkPlaces looks at the places that the run will be written to, before it is paid for.
func (f *runFlags) checkPlaces() error {
	if info, err := os.Stat(f.store); f.store != "" && err == nil && !info.IsDir() {
		return fmt.Errorf("--store %s: is a file; name a folder, which need not exist", f.store)
	}
	if f.outputFile == "" {
		return nil
	}
	if info, err := os.Stat(f.outputFile); err == nil && info.IsDir() {
		return fmt.Errorf("--output-file %s: is a folder; name a file in it", f.outputFile)
	}
	if info, err := os.Stat(filepath.Dir(f.outputFile)); err != nil || !info.IsDir() {
		return fmt.Errorf("--output-file %s: there is no folder %s: make it first", f.outputFile, filepath.Dir(f.outputFile))
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
func run(ctx context.Context, s *streams, f *runFlags, files []string, watchAsked bool) error {
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
	tel, err := startTelemetry(ctx, s, recorder)
	if err != nil {
		return err
	}
	// What the run was is told even when the run was interrupted.
	defer stopTelemetry(context.WithoutCancel(ctx), tel)
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
		if o.MockScript, err = readFile(f.mockScript, "--mock-script "+f.mockScript, maxScriptFile); err != nil {
			return local.Options{}, err
		}
		if len(o.MockScript) == 0 {
			return local.Options{}, fmt.Errorf("--mock-script %s: the file is empty; it needs replies: and a list", f.mockScript)
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

// write prints the run's output, or the whole report as JSON, and keeps the output of a run that succeeded in
// --output-file. What one of them cannot take, the other still gets.
func (f *runFlags) write(s *streams, r *local.Report) (err error) {
	if f.outputFile != "" && r.Status == v1alpha1.RunSucceeded {
		if werr := os.WriteFile(f.outputFile, []byte(r.Output), 0o644); werr != nil {
			err = fmt.Errorf("--output-file %s: %s", f.outputFile, fileCause(werr))
		}
	}
	if f.output == "json" {
		return errors.Join(err, r.WriteJSON(s.out))
	}
	if s.outTerminal {
		shown := *r
		shown.Output = harmless(r.Output)
		r = &shown
	}
	return errors.Join(err, r.WriteText(s.out))
}

// withExitCode gives the ways in which a run can end their exit codes.
func withExitCode(err error) error {
	if err == nil {
		return nil
	}
	if _, ok := errors.AsType[*local.InterruptedError](err); ok {
		return &exitError{code: ExitInterrupted, err: err}
	}
	if _, ok := errors.AsType[*local.TimeoutError](err); ok {
		return &exitError{code: ExitTimeout, err: err}
	}
	if _, ok := errors.AsType[*local.FailedError](err); ok {
		return &exitError{code: ExitRunFailed, err: err}
	}
	return err
}
