package cmd

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/remote"
)

type runsFlags struct {
	remoteFlags
	selector, output string
	watch            bool
}

func newRuns(s *streams) *cobra.Command {
	var f runsFlags
	c := &cobra.Command{
		Use:   "runs [TEAM]",
		Short: "List the runs in a cluster, the newest first",
		Example: `  ark runs
  ark runs research -n team-a --watch
  ark runs -A -l arkonis.dev/event=nightly`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) > 1 {
				return fmt.Errorf("%s takes one team, and got %q as well (see '%s --help')", c.CommandPath(), args[1], c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			filter := remote.RunFilter{Selector: f.selector}
			if len(args) > 0 {
				filter.Team = args[0]
			}
			return f.run(ctx, s, filter)
		},
	}
	f.add(c)
	f.addAll(c)
	c.Flags().StringVarP(&f.selector, "selector", "l", "", "labels that the runs must have, as kubectl takes them")
	c.Flags().BoolVarP(&f.watch, "watch", "w", false, "go on with runs that are new or change")
	addOutput(c, &f.output, formatWide, formatName)
	c.ValidArgsFunction = first(f.complete((*remote.Cluster).TeamNames))
	return c
}

func (f *runsFlags) run(ctx context.Context, s *streams, filter remote.RunFilter) error {
	cluster, err := f.cluster()
	if err != nil {
		return err
	}
	if f.watch {
		return f.follow(ctx, s, cluster, filter)
	}
	runs, err := cluster.Runs(ctx, filter)
	if err != nil {
		return err
	}
	if len(runs) == 0 && filter.Team != "" {
		if _, err := cluster.Team(ctx, filter.Team); err != nil && !f.all {
			return err
		}
	}
	switch f.output {
	case formatJSON, formatYAML:
		l := newList()
		for i := range runs {
			l.Items = append(l.Items, typed(&runs[i], "ArkRun"))
		}
		return encode(s.out, f.output, l)
	}
	t := f.table(s)
	for i := range runs {
		f.row(t, &runs[i], time.Now())
	}
	t.flush()
	if len(runs) == 0 {
		fmt.Fprintln(s.err, "no runs "+cluster.In())
	}
	return nil
}

// follow lists the runs and then each one that changes, until it is interrupted.
func (f *runsFlags) follow(ctx context.Context, s *streams, cluster *remote.Cluster, filter remote.RunFilter) error {
	t := f.table(s)
	err := cluster.WatchRuns(ctx, filter, func(run *v1alpha1.ArkRun, gone bool) error {
		if gone {
			return nil
		}
		if f.output == formatJSON || f.output == formatYAML {
			return encode(s.out, f.output, typed(run, "ArkRun"))
		}
		f.row(t, run, time.Now())
		t.flush()
		return s.out.failed
	})
	if ctx.Err() != nil {
		return &exitError{code: ExitInterrupted, quiet: true, err: err}
	}
	return err
}

func (f *runsFlags) table(s *streams) *table {
	head := []string{"NAME", "TEAM", "PHASE", "STEPS", "TOKENS", "DURATION", "AGE"}
	if f.all {
		head = append([]string{"NAMESPACE"}, head...)
	}
	if f.output == formatWide {
		head = append(head, "TRIGGER", "MESSAGE")
	}
	return newTable(s, head...)
}

func (f *runsFlags) row(t *table, run *v1alpha1.ArkRun, now time.Time) {
	if f.output == formatName {
		fmt.Fprintln(t.w, "arkrun.arkonis.dev/"+run.Name)
		return
	}
	fields := []string{
		run.Name, ownerOf(run), string(phaseOf(run)), run.Status.StepSummary, tokensOf(run.Status.TotalTokenUsage), durationOf(run, now),
		age(run.CreationTimestamp.Time, now),
	}
	if f.all {
		fields = append([]string{run.Namespace}, fields...)
	}
	if f.output == formatWide {
		trigger := ""
		if g := run.Spec.Trigger; g != nil {
			trigger = string(g.Kind)
			if g.Name != "" {
				trigger += "/" + g.Name
			}
		}
		fields = append(fields, trigger, run.Status.Message)
	}
	t.row(fields...)
}

// ownerOf is whose run it is: the team's name, or that of the agent.
func ownerOf(run *v1alpha1.ArkRun) string {
	switch {
	case run.Spec.TeamRef != nil:
		return run.Spec.TeamRef.Name
	case run.Spec.AgentRef != nil:
		return "agent/" + run.Spec.AgentRef.Name
	default:
		return ""
	}
}

func phaseOf(run *v1alpha1.ArkRun) v1alpha1.RunPhase {
	if run.Status.Phase == "" {
		return v1alpha1.RunPending
	}
	return run.Status.Phase
}

func tokensOf(u *v1alpha1.TokenUsage) string {
	if u == nil {
		return ""
	}
	return strconv.FormatInt(u.TotalTokens, 10)
}

// durationOf is how long a run took, or has taken so far.
func durationOf(run *v1alpha1.ArkRun, now time.Time) string {
	s := &run.Status
	switch {
	case s.Duration != "":
		return s.Duration
	case s.StartTime == nil:
		return ""
	case s.CompletionTime == nil:
		return age(s.StartTime.Time, now)
	default:
		return age(s.StartTime.Time, s.CompletionTime.Time)
	}
}
