package cmd

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/remote"
)

type outputFlags struct {
	remoteFlags
	step, file string
}

func newOutput(s *streams) *cobra.Command {
	var f outputFlags
	c := &cobra.Command{
		Use:   "output RUN",
		Short: "Print the whole output of a run in a cluster, or of one of its steps",
		Long: `Print the whole output of a run that has ended, or of a step that is done, whatever its size. RUN is the name of a run,
or @latest for the newest one.`,
		Example: `  ark output @latest
  ark output research-run-5f2c9a8e1b --step find > found.md`,
		Args: oneRun,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			return f.run(ctx, s, args[0])
		},
	}
	f.add(c)
	c.Flags().StringVar(&f.step, "step", "", "the output of this step")
	c.Flags().StringVar(&f.file, "output-file", "", "write the output to this file")
	c.ValidArgsFunction = f.completeRun()
	return c
}

func (f *outputFlags) run(ctx context.Context, s *streams, name string) error {
	cluster, run, err := f.find(ctx, name)
	if err != nil {
		return err
	}
	if !run.Status.Phase.Terminal() && f.step == "" {
		return fmt.Errorf("run %s is %s and has no output yet: wait for it with 'ark get %s --watch', or name a step that is done with --step", run.Name, phaseOf(run), run.Name)
	}
	if f.file != "" {
		err = f.save(ctx, cluster, run)
	} else {
		err = copyOutput(ctx, s, cluster, run, f.step)
	}
	if err != nil || f.step != "" {
		return err
	}
	return ended(run)
}

func (f *outputFlags) save(ctx context.Context, cluster *remote.Cluster, run *v1alpha1.ArkRun) error {
	body, err := cluster.Output(ctx, run, f.step)
	if err != nil {
		return err
	}
	defer body.Close() //nolint:errcheck // it was only read
	file, err := os.Create(f.file)
	if err != nil {
		return fmt.Errorf("--output-file %s: %s", f.file, fileCause(err))
	}
	_, err = io.Copy(file, body)
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return fmt.Errorf("--output-file %s: it is not whole: %w", f.file, err)
	}
	return nil
}

// copyOutput writes the output of a run, or of a step, to standard output as it arrives. A terminal gets a newline at its
// end, and nothing that it would obey.
func copyOutput(ctx context.Context, s *streams, cluster *remote.Cluster, run *v1alpha1.ArkRun, step string) error {
	body, err := cluster.Output(ctx, run, step)
	if err != nil {
		return err
	}
	defer body.Close() //nolint:errcheck // it was only read
	end := &ending{w: s.out, terminal: s.outTerminal}
	if _, err := io.Copy(end, body); err != nil {
		return fmt.Errorf("read the output of run %s: it is not whole: %w", run.Name, err)
	}
	if end.some && end.last != '\n' {
		fmt.Fprintln(s.out)
	}
	return nil
}

// ending passes text on and remembers how it ended.
type ending struct {
	w        io.Writer
	terminal bool
	last     byte
	some     bool
}

func (e *ending) Write(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	e.last, e.some = p[len(p)-1], true
	if !e.terminal {
		return e.w.Write(p)
	}
	_, err := io.WriteString(e.w, harmless(string(p)))
	return len(p), err
}
