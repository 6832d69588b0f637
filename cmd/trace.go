package cmd

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"arkonis.dev/ark/pkg/apis/data"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/remote"
	"arkonis.dev/ark/pkg/telemetry"
)

type traceFlags struct{ remoteFlags }

func newTrace(s *streams) *cobra.Command {
	var f traceFlags
	c := &cobra.Command{
		Use:   "trace RUN",
		Short: "Print the span tree of a run in a cluster: where its time and its tokens went",
		Long: `Print the span tree of a run, made from the run's own records: its steps, the model calls and the tool calls in them, and
the same of the runs of teams that play a role in it. RUN is the name of a run, or @latest for the newest one. The id that
it prints finds the trace in the telemetry back end.`,
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
	cluster, run, err := f.find(ctx, name)
	if err != nil {
		return err
	}
	all, err := cluster.Family(ctx, run)
	if err != nil {
		fmt.Fprintf(s.err, "warning: the runs below this one are not shown: %v\n", err)
		all = []remote.Relative{{Run: run}}
	}
	var records []remote.Record
	for _, r := range all {
		record, err := recordOf(ctx, s, cluster, r.Run)
		if err != nil {
			return err
		}
		records = append(records, record)
	}
	if run.Status.TraceID != "" {
		fmt.Fprintln(s.out, "trace "+run.Status.TraceID)
	}
	return telemetry.WriteTree(s.out, remote.Spans(records, time.Now()))
}

// recordOf reads what is known of a run.
func recordOf(ctx context.Context, s *streams, cluster *remote.Cluster, run *v1alpha1.ArkRun) (r remote.Record, err error) {
	r.Run = run
	if counts := run.Status.StepCounts; counts != nil && int(counts.Total+counts.Delegated) > len(run.Status.Steps) {
		if run.Status.Steps, err = cluster.Steps(ctx, run); err != nil {
			return r, err
		}
	}
	err = cluster.Log(ctx, run, remote.LogOptions{Mute: true}, func(e *data.Entry) error {
		r.Entries = append(r.Entries, *e)
		return nil
	})
	if err != nil {
		fmt.Fprintf(s.err, "warning: model and tool calls are not shown: %v\n", err)
	}
	return r, nil
}
