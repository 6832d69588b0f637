package cmd

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"arkonis.dev/ark/pkg/apis/data"
	"arkonis.dev/ark/pkg/remote"
	"arkonis.dev/ark/pkg/telemetry"
)

type traceFlags struct{ remoteFlags }

func newTrace(s *streams) *cobra.Command {
	var f traceFlags
	c := &cobra.Command{
		Use:   "trace RUN",
		Short: "Print the span tree of a run in a cluster: where its time and its tokens went",
		Long: `Print the span tree of a run, made from the run's own records: its steps, the model calls and the tool calls in them. RUN
is the name of a run, or @latest for the newest one. The id that it prints finds the trace in the telemetry back end.`,
		Example: `  ark trace @latest`,
		Args:    oneRun,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			return f.run(ctx, s, args[0])
		},
	}
	f.add(c)
	c.ValidArgsFunction = f.completeRun()
	return c
}

func (f *traceFlags) run(ctx context.Context, s *streams, name string) error {
	cluster, err := f.cluster()
	if err != nil {
		return err
	}
	run, err := cluster.Run(ctx, name)
	if err != nil {
		return err
	}
	if counts := run.Status.StepCounts; counts != nil && int(counts.Total+counts.Delegated) > len(run.Status.Steps) {
		if run.Status.Steps, err = cluster.Steps(ctx, run); err != nil {
			return err
		}
	}
	var entries []data.Entry
	err = cluster.Log(ctx, run, "", false, func(_ []byte, e *data.Entry) error {
		e.Text = "" // spans show no contents
		entries = append(entries, *e)
		return nil
	})
	if err != nil {
		fmt.Fprintf(s.err, "warning: model and tool calls are not shown: %v\n", err)
	}
	if run.Status.TraceID != "" {
		fmt.Fprintln(s.out, "trace "+run.Status.TraceID)
	}
	return telemetry.WriteTree(s.out, remote.Spans(run, entries, time.Now()))
}
