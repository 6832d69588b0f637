package cmd

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/local/progress"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/remote"
)

type getFlags struct {
	remoteFlags
	output string
	watch  bool
}

func newGet(s *streams) *cobra.Command {
	var f getFlags
	c := &cobra.Command{
		Use:   "get RUN",
		Short: "Show a run in a cluster: its steps with tokens and times",
		Long: `Show a run: its steps, the work that they handed over below them, tokens and times. RUN is the name of a run, or @latest
for the newest one.`,
		Example: `  ark get @latest
  ark get @latest --watch
  ark get research-run-5f2c9a8e1b -o json`,
		Args: oneRun,
		RunE: func(c *cobra.Command, args []string) error {
			ctx, stop := interruptible(c.Context())
			defer stop()
			return f.run(ctx, s, args[0])
		},
	}
	f.add(c)
	c.Flags().BoolVarP(&f.watch, "watch", "w", false, "follow the run until it has ended")
	addOutput(c, &f.output, formatName)
	c.ValidArgsFunction = f.completeRun()
	return c
}

func (f *getFlags) run(ctx context.Context, s *streams, name string) error {
	cluster, run, err := f.find(ctx, name)
	if err != nil {
		return err
	}
	if f.watch {
		if run, err = follow(ctx, s, cluster, run); err != nil {
			return err
		}
	}
	if err := f.allSteps(ctx, s, cluster, run); err != nil {
		return err
	}
	switch f.output {
	case formatName:
		fmt.Fprintln(s.out, "arkrun.arkonis.dev/"+run.Name)
	case formatJSON, formatYAML:
		return encode(s.out, f.output, typed(run, "ArkRun"))
	default:
		writeRun(s, run, treeOf(ctx, cluster, run), time.Now())
	}
	return nil
}

// allSteps puts the steps that do not fit the status into it.
func (f *getFlags) allSteps(ctx context.Context, s *streams, cluster *remote.Cluster, run *v1alpha1.ArkRun) error {
	counts := run.Status.StepCounts
	if counts == nil || int(counts.Total+counts.Delegated) <= len(run.Status.Steps) {
		return nil
	}
	steps, err := cluster.Steps(ctx, run)
	if err != nil {
		fmt.Fprintf(s.err, "warning: only %d of %d steps are shown: %v\n", len(run.Status.Steps), counts.Total+counts.Delegated, err)
		return nil
	}
	run.Status.Steps = steps
	return nil
}

// writeRun shows a run to people, or to a pipe: its steps alone, one a line.
func writeRun(s *streams, run *v1alpha1.ArkRun, rows []stepRow, now time.Time) {
	if s.outTerminal {
		writeRunHead(s, run, now)
	}
	t := newTable(s, "STEP", "AGENT", "PHASE", "ATTEMPTS", "TOKENS", "TOOLS", "DURATION", "DETAIL")
	for i := range rows {
		r, step := &rows[i], rows[i].step
		name := r.path
		if s.outTerminal {
			name = strings.Repeat("· ", r.depth) + r.name
		}
		t.row(name, step.Agent, string(step.Phase), count(step.Attempts), tokensOf(step.TokenUsage), count(step.ToolCalls), stepDuration(step, now), cmp.Or(r.calls, detailOf(step)))
	}
	t.flush()
}

func writeRunHead(s *streams, run *v1alpha1.ArkRun, now time.Time) {
	lines := [][2]string{{"Run", run.Namespace + "/" + run.Name}, {"Team", ownerOf(run)}, {"Phase", phaseText(run)}}
	if g := run.Spec.Trigger; g != nil {
		lines = append(lines, [2]string{"Trigger", strings.TrimSuffix(string(g.Kind)+"/"+g.Name, "/")})
	}
	if t := run.Status.StartTime; t != nil {
		lines = append(lines, [2]string{"Started", t.Local().Format(time.DateTime) + " (" + age(t.Time, now) + " ago)"})
	}
	if u := run.Status.TotalTokenUsage; u != nil {
		text := fmt.Sprintf("%d (%d in, %d out)", u.TotalTokens, u.InputTokens, u.OutputTokens)
		if u.UnknownCalls > 0 {
			text += fmt.Sprintf(", and %d calls whose outcome nobody knows", u.UnknownCalls)
		}
		lines = append(lines, [2]string{"Tokens", text})
	}
	lines = append(lines, [2]string{"Trace", run.Status.TraceID}, [2]string{"Message", run.Status.Message})
	for _, l := range lines {
		if l[1] != "" {
			fmt.Fprintf(s.out, "%-9s %s\n", l[0]+":", harmless(l[1]))
		}
	}
	if len(run.Status.Steps) > 0 {
		fmt.Fprintln(s.out)
	}
}

func phaseText(run *v1alpha1.ArkRun) string {
	text := string(phaseOf(run))
	i := slices.IndexFunc(run.Status.Conditions, conditionComplete)
	if i >= 0 && run.Status.Phase == v1alpha1.RunFailed {
		text += " (" + run.Status.Conditions[i].Reason + ")"
	}
	if run.Status.Duration != "" {
		text += " in " + run.Status.Duration
	}
	return text
}

func detailOf(step *v1alpha1.StepStatus) string {
	detail := progress.Reason(step.Reason, step.Message)
	if step.SelectedCapability != "" {
		detail = strings.TrimSpace("routed to " + step.SelectedCapability + ". " + detail)
	}
	return detail
}

func count(n int32) string {
	if n == 0 {
		return ""
	}
	return strconv.Itoa(int(n))
}

func stepDuration(step *v1alpha1.StepStatus, now time.Time) string {
	switch {
	case step.StartTime == nil || step.Reason == pipeline.ReasonReused:
		return ""
	case step.CompletionTime != nil:
		now = step.CompletionTime.Time
	}
	return progress.Seconds(max(0, now.Sub(step.StartTime.Time)))
}
