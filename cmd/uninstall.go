package cmd

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"arkonis.dev/ark/pkg/install"
)

const uninstallLong = `Take the operator out of a cluster. Live runs are cancelled first: no model is called any more. Then go what the API server
would wait for, the operator, and its rights.

The definitions of ark's kinds stay, and so do all agents, teams and runs, the pods of agents (which have no work
without the operator), and the namespace with the queue's volume and ark's keys. A later install goes on with them;
'ark retry' then goes on with a cancelled run.

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
	fl.DurationVar(&f.timeout, "timeout", 5*time.Minute, "how long to wait until everything is gone; the ends of runs have half of it")
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
	if f.purge {
		return waitingError(ctx, cluster.Purge(ctx, f.namespace), f.timeout)
	}
	unended, err := cluster.Uninstall(ctx, f.namespace)
	if err != nil {
		return waitingError(ctx, err, f.timeout)
	}
	if n := len(unended); n > 0 {
		fmt.Fprintf(s.err, "WARNING: no operator has ended %d of the runs: %s\n", n, some(unended))
		fmt.Fprintln(s.err, "  They are marked as cancelled, have nobody to call a model for them, and end when ark is installed again.")
	}
	fmt.Fprintf(s.err, "The definitions of ark's kinds, their objects, the pods of agents and namespace %s with the queue's volume stay.\n", f.namespace)
	return nil
}

// some are the first few names of a list.
func some(names []string) string {
	const few = 5
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
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
