package cmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"arkonis.dev/ark/pkg/agent"
	"arkonis.dev/ark/pkg/environ"
	"arkonis.dev/ark/pkg/telemetry"
)

const runtimeLong = `Run one agent: take its tasks from the queue, call its model and its tools, and publish the results.

What the agent is stands in the environment: AGENT_NAME, AGENT_NAMESPACE, MODEL and NATS_URL at least. Each variable
also answers to its name with the prefix AGENT_, which wins. In a cluster the operator writes them.

SIGTERM drains: running tasks may finish, the rest is handed back to the queue within the grace period.`

const runtimeExample = `  AGENT_NAME=writer AGENT_NAMESPACE=default MODEL=mock NATS_URL=nats://127.0.0.1:4222 ark runtime`

// runtimeFlags are the flags of ark runtime as they were typed.
type runtimeFlags struct {
	listen, logLevel, logFormat string
	grace, ackWait              time.Duration
}

func newRuntime(s *streams) *cobra.Command {
	var f runtimeFlags
	c := &cobra.Command{
		Use:     "runtime",
		Short:   "Run one agent (the entrypoint of agent pods)",
		Long:    runtimeLong,
		Example: runtimeExample,
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			return f.run(ctx, s)
		},
	}
	fl := c.Flags()
	fl.StringVar(&f.listen, "listen", ":8080", "address of /healthz, /readyz and /metrics; empty for none")
	fl.DurationVar(&f.grace, "grace-period", 150*time.Second, "time to end in: the pod's terminationGracePeriodSeconds")
	fl.DurationVar(&f.ackWait, "ack-wait", 0, "silence after which the queue gives this process's tasks to another one (default 12s)")
	fl.StringVar(&f.logLevel, "log-level", "info", "debug, info, warn or error")
	fl.StringVar(&f.logFormat, "log-format", "json", "json or text")
	return c
}

// check finds wrong uses that the flags alone show.
func (f *runtimeFlags) check() error {
	switch {
	case f.logFormat != string(telemetry.JSON) && f.logFormat != string(telemetry.Text):
		return fmt.Errorf("--log-format: %q is not a format; use json or text", f.logFormat)
	case f.grace <= 0:
		return fmt.Errorf("--grace-period: %s leaves no time; give at least a few seconds", f.grace)
	case f.ackWait != 0 && f.ackWait < time.Second:
		return fmt.Errorf("--ack-wait: %s is too short for a sign of life; give at least 1s", f.ackWait)
	default:
		return nil
	}
}

func (f *runtimeFlags) run(ctx context.Context, s *streams) error {
	if err := f.check(); err != nil {
		return err
	}
	level, err := telemetry.ParseLevel(f.logLevel)
	if err != nil {
		return fmt.Errorf("--log-level: %w", err)
	}
	if err := adoptPrefixed("OTEL_"); err != nil {
		return err
	}
	tel, wrong := startScraped(ctx, "ark runtime")
	defer stopTelemetry(context.WithoutCancel(ctx), tel)
	hostname, err := os.Hostname()
	if err != nil {
		hostname = ""
	}
	a, err := agent.New(agent.Config{
		Env:     environ.Source{Getenv: os.Getenv, ReadFile: os.ReadFile, Hostname: hostname},
		Environ: os.Environ(), Listen: f.listen, Grace: f.grace, AckWait: f.ackWait,
		Logger: telemetry.NewLogger(s.err, telemetry.LogFormat(f.logFormat), level), Telemetry: tel,
	})
	if err = errors.Join(err, wrong); err != nil {
		return faultsOf(s, err)
	}
	return a.Run(ctx)
}

// startScraped starts telemetry with metrics that are scraped.
func startScraped(ctx context.Context, service string) (*telemetry.Telemetry, error) {
	c, err := telemetry.ConfigFromEnv(os.Getenv)
	if err != nil {
		return nil, err
	}
	c.Service, c.Version, c.Scrape = service, version, true
	return telemetry.Start(ctx, c)
}

// adoptPrefixed gives the variables AGENT_<kind>* their plain names too: libraries read some of them on their own.
func adoptPrefixed(kind string) error {
	for _, v := range os.Environ() {
		name, value, _ := strings.Cut(v, "=")
		plain, ok := strings.CutPrefix(name, "AGENT_")
		if !ok || !strings.HasPrefix(plain, kind) || value == "" {
			continue
		}
		if err := os.Setenv(plain, value); err != nil {
			return fmt.Errorf("environment variable %s: %w", name, err)
		}
	}
	return nil
}

// faultsOf tells each fault of the environment on a line of its own.
func faultsOf(s *streams, err error) error {
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(s.err, "error: "+strings.TrimPrefix(strings.TrimRight(line, "\n"), "environment variable "))
	}
	return &exitError{code: ExitUsage, quiet: true, err: err}
}
