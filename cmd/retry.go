package cmd

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/remote"
	"arkonis.dev/ark/pkg/trigger"
)

type retryFlags struct{ triggerFlags }

func newRetry(s *streams) *cobra.Command {
	f := retryFlags{triggerFlags{patience: waitTimeout}}
	c := &cobra.Command{
		Use:   "retry RUN|TEAM",
		Short: "Run again what a run in a cluster was asked for",
		Long: `Run again what a run was asked for: a new run of the same team, or agent, with the same input. With the name of a team,
its newest run is repeated; @latest is the newest run of all.`,
		Example: `  ark retry @latest --watch
  ark retry research-run-5f2c9a8e1b`,
		Args: oneRun,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			return f.again(ctx, s, args[0])
		},
	}
	f.add(c)
	f.waitFlags(c)
	addOutput(c, &f.output)
	c.ValidArgsFunction = first(f.complete((*remote.Cluster).RunNames, (*remote.Cluster).TeamNames))
	return c
}

func (f *retryFlags) again(ctx context.Context, s *streams, name string) error {
	cluster, err := f.cluster()
	if err != nil {
		return err
	}
	run, err := cluster.RunOrTeam(ctx, name)
	if err != nil {
		return err
	}
	if !run.Status.Phase.Terminal() {
		return fmt.Errorf("run %s has not ended (%s): cancel it first with 'ark cancel %s', or wait", run.Name, phaseOf(run), run.Name)
	}
	r, err := requestOf(run)
	if err != nil {
		return err
	}
	r.ID = f.id
	return f.fire(ctx, s, cluster, r)
}

// requestOf is what a run was asked for.
func requestOf(run *v1alpha1.ArkRun) (trigger.Request, error) {
	if run.Spec.AgentRef != nil {
		return trigger.Request{Agent: run.Spec.AgentRef.Name, Prompt: run.Spec.Prompt}, nil
	}
	input, err := run.Spec.Input.Decode()
	if err != nil {
		return trigger.Request{}, fmt.Errorf("run %s: its input cannot be read: %w", run.Name, err)
	}
	return trigger.Request{Team: run.Spec.TeamRef.Name, Input: input}, nil
}
