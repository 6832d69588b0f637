package cmd

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"arkonis.dev/ark/pkg/remote"
)

type cancelFlags struct{ remoteFlags }

func newCancel(s *streams) *cobra.Command {
	var f cancelFlags
	c := &cobra.Command{
		Use:   "cancel RUN...",
		Short: "Cancel runs in a cluster",
		Long: `Cancel runs: their open tasks are withdrawn, and no model is called any more. RUN is the name of a run, or @latest for
the newest one. What the run did so far stays, and 'ark retry' goes on from there.`,
		Example: `  ark cancel @latest
  ark cancel research-run-5f2c9a8e1b`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return oneRun(c, args)
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			cluster, err := f.cluster()
			if err != nil {
				return err
			}
			var errs []error
			for _, name := range args {
				errs = append(errs, cancelRun(ctx, s, cluster, name))
			}
			return errors.Join(errs...)
		},
	}
	f.add(c)
	c.ValidArgsFunction = f.complete((*remote.Cluster).RunNames)
	return c
}

func cancelRun(ctx context.Context, s *streams, cluster *remote.Cluster, name string) error {
	run, err := cluster.Run(ctx, name)
	if err != nil {
		return err
	}
	if run.Status.Phase.Terminal() {
		fmt.Fprintf(s.out, "run %s has ended already: %s\n", run.Name, run.Status.Phase)
		return nil
	}
	if err := cluster.Cancel(ctx, run); err != nil {
		return err
	}
	fmt.Fprintf(s.out, "run %s is being cancelled\n", run.Name)
	return nil
}
