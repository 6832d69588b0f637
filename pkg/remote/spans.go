package remote

import (
	"cmp"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arkonis.dev/ark/pkg/apis/data"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/telemetry"
)

// Spans makes the span tree of a run from its status and the entries of its log: the run, its steps with the work that
// they handed over, and the calls of models and tools. What has not ended lasts until now.
func Spans(run *v1alpha1.ArkRun, entries []data.Entry, now time.Time) []*telemetry.Node {
	root := node("run "+run.Name, run.Status.StartTime, run.Status.CompletionTime, now)
	if u := run.Status.TotalTokenUsage; u != nil {
		root.InputTokens, root.OutputTokens = u.InputTokens, u.OutputTokens
	}
	if run.Status.Phase == v1alpha1.RunFailed || run.Status.Phase == v1alpha1.RunCancelled {
		root.Error = cmp.Or(run.Status.Message, string(run.Status.Phase))
	}
	steps := map[string]*telemetry.Node{}
	for i := range run.Status.Steps {
		steps[run.Status.Steps[i].Name] = stepNode(&run.Status.Steps[i], now)
	}
	for i := range run.Status.Steps {
		s := &run.Status.Steps[i]
		if s.StartTime == nil {
			continue
		}
		above := root
		if p := steps[s.Parent]; p != nil && s.Parent != s.Name {
			above = p
		}
		above.Children = append(above.Children, steps[s.Name])
	}
	for _, c := range calls(entries, now) {
		if step := steps[c.step]; step != nil {
			step.Children = append(step.Children, c.node)
		}
	}
	for _, s := range steps {
		slices.SortStableFunc(s.Children, func(a, b *telemetry.Node) int { return a.Started.Compare(b.Started) })
	}
	return []*telemetry.Node{root}
}

func stepNode(s *v1alpha1.StepStatus, now time.Time) *telemetry.Node {
	kind := "step "
	if s.Parent != "" {
		kind = "delegate "
	}
	n := node(kind+s.Name, s.StartTime, s.CompletionTime, now)
	if u := s.TokenUsage; u != nil {
		n.InputTokens, n.OutputTokens = u.InputTokens, u.OutputTokens
	}
	if s.Phase == v1alpha1.StepFailed || s.Phase == v1alpha1.StepCancelled {
		n.Error = cmp.Or(s.Reason, string(s.Phase))
	}
	return n
}

func node(name string, start, end *metav1.MicroTime, now time.Time) *telemetry.Node {
	n := &telemetry.Node{Name: name}
	if start == nil {
		return n
	}
	if end != nil {
		now = end.Time
	}
	n.Started, n.Duration = start.Time, max(0, now.Sub(start.Time))
	return n
}

// call is a call of a model or a tool, and the step that it belongs to.
type call struct {
	step string
	node *telemetry.Node
}

// calls pairs the beginnings and ends of calls.
func calls(entries []data.Entry, now time.Time) []call {
	type key struct {
		task, tool string
		call       int
	}
	open := map[key]*telemetry.Node{}
	var out []call
	begin := func(k key, e *data.Entry, name string) {
		n := &telemetry.Node{Name: name, Started: e.At, Duration: max(0, now.Sub(e.At))}
		open[k] = n
		out = append(out, call{e.Step, n})
	}
	end := func(k key, e *data.Entry) {
		n := open[k]
		if n == nil {
			return
		}
		n.Duration = max(0, e.At.Sub(n.Started))
		n.InputTokens, n.OutputTokens = e.InputTokens, e.OutputTokens
		if e.Error {
			n.Error = cmp.Or(e.Reason, "failed")
		}
		delete(open, k)
	}
	for i := range entries {
		e := &entries[i]
		switch e.Kind {
		case data.EntryCall:
			begin(key{e.Task, "", e.Call}, e, "chat "+e.Model)
		case data.EntryAnswer, data.EntryFailed:
			end(key{e.Task, "", e.Call}, e)
		case data.EntryTool:
			begin(key{e.Task, e.ID, 0}, e, "execute_tool "+e.Tool)
		case data.EntryToolDone:
			end(key{e.Task, e.ID, 0}, e)
		default:
		}
	}
	return out
}
