package cmd

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"

	"github.com/spf13/cobra"

	"arkonis.dev/ark/pkg/remote"
)

type retryFlags struct {
	triggerFlags
	step string
}

func newRetry(s *streams) *cobra.Command {
	f := retryFlags{triggerFlags: triggerFlags{patience: waitTimeout}}
	c := &cobra.Command{
		Use:   "retry RUN|TEAM",
		Short: "Go on from a failed run in a cluster",
		Long: `Go on from a run that failed or was cancelled: a new run with the same input takes over the results of the steps that
succeeded, which are not paid for again, and works on all others, with the team as it is now. --step has a step run
again although it succeeded, and all that depends on it. With the name of a team, it is the team's newest failed run;
@latest is the newest run of all.`,
		Example: `  ark retry research --watch
  ark retry research-run-5f2c9a8e1b
  ark retry @latest --step analyse`,
		Args: oneRun,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			return f.run(ctx, s, args[0])
		},
	}
	f.add(c)
	c.Flags().StringVar(&f.step, "step", "", "run again from this step on")
	f.waitFlags(c)
	addOutput(c, &f.output)
	_ = c.RegisterFlagCompletionFunc("step", f.completeStep)
	c.ValidArgsFunction = first(f.complete((*remote.Cluster).RunNames, (*remote.Cluster).TeamNames))
	return c
}

func (f *retryFlags) run(ctx context.Context, s *streams, name string) error {
	if f.timeout < 0 {
		return fmt.Errorf("--timeout: %s is negative", f.timeout)
	}
	cluster, err := f.cluster()
	if err != nil {
		return err
	}
	old, err := cluster.RunOrTeam(ctx, name)
	if err != nil {
		return err
	}
	run, err := cluster.Retry(ctx, old, f.step, cmp.Or(f.id, rand.Text()), acceptance)
	return f.see(ctx, s, cluster, run, err)
}

// completeStep completes the steps of the run that is named.
func (f *retryFlags) completeStep(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return f.complete(func(cluster *remote.Cluster, ctx context.Context) ([]string, error) {
		old, err := cluster.RunOrTeam(ctx, args[0])
		if err != nil {
			return nil, err
		}
		return cluster.StepNames(ctx, old), nil
	})(c, args, typed)
}
