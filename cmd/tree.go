package cmd

import (
	"context"
	"slices"
	"strings"

	"arkonis.dev/ark/pkg/apis/data"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/local/progress"
	"arkonis.dev/ark/pkg/remote"
)

// stepRow is a line of a run's tree.
type stepRow struct {
	step       *v1alpha1.StepStatus
	path, name string // from the top, and below the line above
	depth      int
	calls      string // the tool that is being called
}

// treeOf lists the steps of a run, with the work that they handed over and the steps of the runs that carry them out below
// them. What the user may not see of it is left out.
func treeOf(ctx context.Context, cluster *remote.Cluster, run *v1alpha1.ArkRun) []stepRow {
	all, err := cluster.Family(ctx, run)
	if err != nil {
		all = []remote.Relative{{Run: run}}
	}
	t := tree{below: map[string][]*v1alpha1.ArkRun{}, calls: map[string]string{}}
	for _, r := range all[1:] {
		uid := r.Run.Spec.Parent.RunUID
		t.below[uid] = append(t.below[uid], r.Run)
	}
	for _, r := range all {
		if !r.Run.Status.Phase.Terminal() {
			t.listen(ctx, cluster, r.Run)
		}
	}
	return t.rows(nil, run, "", 0)
}

type tree struct {
	below map[string][]*v1alpha1.ArkRun // by the uid of the run above, the oldest first
	calls map[string]string             // by task
}

// listen finds out which tools the tasks of a run are calling.
func (t *tree) listen(ctx context.Context, cluster *remote.Cluster, run *v1alpha1.ArkRun) {
	open := map[string][]string{}
	_ = cluster.Log(ctx, run, remote.LogOptions{Mute: true}, func(e *data.Entry) error {
		switch i := slices.Index(open[e.Task], e.Tool); {
		case e.Kind == data.EntryTool:
			open[e.Task] = append(open[e.Task], e.Tool)
		case e.Kind == data.EntryToolDone && i >= 0:
			open[e.Task] = slices.Delete(open[e.Task], i, i+1)
		case e.Kind == data.EntryEnded:
			delete(open, e.Task)
		}
		return nil
	})
	for task, tools := range open {
		if len(tools) > 0 {
			t.calls[task] = "calls " + tools[len(tools)-1]
		}
	}
}

func (t *tree) rows(out []stepRow, run *v1alpha1.ArkRun, path string, depth int) []stepRow {
	for _, b := range progress.Tree(run.Status.Steps) {
		r := stepRow{
			step: b.Step, path: path + b.Step.Name, name: strings.TrimPrefix(b.Step.Name, b.Step.Parent+"/"), depth: depth + b.Depth,
		}
		if b.Step.Phase == v1alpha1.StepRunning {
			r.calls = t.calls[b.Step.TaskID]
		}
		out = append(out, r)
		for _, c := range t.children(run, b.Step) {
			if c.item == "" {
				out = t.rows(out, c.run, r.path+"/", r.depth+1)
				continue
			}
			out = append(out, stepRow{step: stepOf(c.run), path: r.path + c.item, name: c.item, depth: r.depth + 1})
			out = t.rows(out, c.run, r.path+c.item+"/", r.depth+2)
		}
	}
	return out
}

// childOf is a run that carries out a step, or an item of it.
type childOf struct {
	item string // as in [2]; empty when the step has no items
	run  *v1alpha1.ArkRun
}

// children are the runs that carry out a step: the newest one, of each item.
func (t *tree) children(run *v1alpha1.ArkRun, step *v1alpha1.StepStatus) []childOf {
	var out []childOf
	for _, r := range t.below[string(run.UID)] {
		p := r.Spec.Parent
		if p.Step != step.Name && p.TaskID != step.TaskID {
			continue
		}
		c := childOf{remote.ItemOf(p), r}
		if i := slices.IndexFunc(out, func(other childOf) bool { return other.item == c.item }); i >= 0 {
			out[i] = c
		} else {
			out = append(out, c)
		}
	}
	return out
}

// stepOf shows a run in a line.
func stepOf(run *v1alpha1.ArkRun) *v1alpha1.StepStatus {
	s := &run.Status
	return &v1alpha1.StepStatus{
		Phase: v1alpha1.StepPhase(phaseOf(run)), TokenUsage: s.TotalTokenUsage, StartTime: s.StartTime, CompletionTime: s.CompletionTime, Message: "run " + run.Name,
	}
}
