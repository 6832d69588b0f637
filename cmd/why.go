package cmd

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"arkonis.dev/ark/pkg/remote/why"
)

type whyFlags struct {
	remoteFlags
	output string
}

func newWhy(s *streams) *cobra.Command {
	var f whyFlags
	c := &cobra.Command{
		Use:   "why RUN",
		Short: "Say why a run is pending, slow, stuck or failed, and what to do",
		Long: `Say why a run is pending, slow, stuck or failed: one answer, what it is seen by, and the next command to type.
RUN is the name of a run, or @latest for the newest one.`,
		Example: `  ark why @latest
  ark why research-run-5f2c9a8e1b -n team-a`,
		Args: oneRun,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			return f.run(ctx, s, args[0])
		},
	}
	f.add(c)
	f.addOperator(c)
	addOutput(c, &f.output)
	c.ValidArgsFunction = f.completeRun()
	return c
}

func (f *whyFlags) run(ctx context.Context, s *streams, name string) error {
	cluster, run, err := f.find(ctx, name)
	if err != nil {
		return err
	}
	facts, err := cluster.Why(ctx, run, f.operatorNamespace, time.Now())
	if err != nil {
		return err
	}
	answer := why.Explain(facts)
	if f.output != formatText {
		return encode(s.out, f.output, answer)
	}
	fmt.Fprintf(s.out, "%s is %s: %s\n", answer.Run, answer.Phase, harmless(answer.Message))
	for _, e := range answer.Evidence {
		fmt.Fprintln(s.out, "  - "+harmless(e))
	}
	for i, n := range answer.Next {
		lead := "      "
		if i == 0 {
			lead = "next: "
		}
		fmt.Fprintln(s.out, lead+n)
	}
	return nil
}
