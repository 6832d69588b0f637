package cmd

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"arkonis.dev/ark/pkg/install"
)

const uninstallLong = `Take the operator out of a cluster: first what the API server would wait for, then the operator, then its rights.

The definitions of ark's kinds stay, and so do all agents, teams and runs, the pods of agents (which have no work
without the operator), and the namespace with the queue's volume and ark's keys. A later install goes on with them.

With --purge all of that goes too, in all namespaces. There is no way back.`

type uninstallFlags struct {
	clusterFlags
	purge, yes bool
	timeout    time.Duration
}

func newUninstall(s *streams) *cobra.Command {
	var f uninstallFlags
	c := &cobra.Command{
		Use:     "uninstall",
		Short:   "Take ark out of a cluster",
		Long:    uninstallLong,
		Example: "  ark uninstall\n  ark uninstall --purge --yes",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			return f.run(ctx, s)
		},
	}
	f.add(c, install.DefaultNamespace, "ark's own namespace")
	fl := c.Flags()
	fl.BoolVar(&f.purge, "purge", false, "remove all objects of ark's kinds, their definitions and the queue's volume too")
	fl.BoolVar(&f.yes, "yes", false, "do what --purge warns of")
	fl.DurationVar(&f.timeout, "timeout", 5*time.Minute, "how long to wait until everything is gone")
	return c
}

func (f *uninstallFlags) run(ctx context.Context, s *streams) error {
	cluster, err := f.cluster(s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, f.timeout)
	defer cancel()
	if f.purge && !f.yes {
		counts, err := cluster.Counts(ctx)
		if err != nil {
			return err
		}
		warn(s.err, counts, f.namespace)
		return fmt.Errorf("--purge: nothing was removed; give --yes too when all of this shall go")
	}
	if err := cluster.Uninstall(ctx, f.namespace); err != nil {
		return waitingError(ctx, err, f.timeout)
	}
	if f.purge {
		return waitingError(ctx, cluster.Purge(ctx, f.namespace), f.timeout)
	}
	fmt.Fprintf(s.err, "The definitions of ark's kinds, their objects, the pods of agents and namespace %s with the queue's volume stay.\n", f.namespace)
	return nil
}

// warn says what a purge removes.
func warn(w io.Writer, counts []install.Count, namespace string) {
	fmt.Fprintln(w, "WARNING: --purge removes for good, in all namespaces:")
	for _, c := range counts {
		fmt.Fprintf(w, "  %d %s\n", c.N, c.Kind)
	}
	fmt.Fprintln(w, "  the definitions of ark's kinds and whatever belongs to the objects above: pods, Services, Secrets")
	fmt.Fprintf(w, "  the queue's volume and ark's keys in namespace %s, and the namespace if ark install made it\n", namespace)
}
