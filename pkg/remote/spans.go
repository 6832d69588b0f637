package remote

import (
	"cmp"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arkonis.dev/ark/pkg/apis/data"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/telemetry"
)

// Record is a run and what its log says.
type Record struct {
	Run     *v1alpha1.ArkRun
	Entries []data.Entry
}

// Spans makes the span tree of a run from the records of it and of those below it, the run itself first: the run, its steps
// with the work that they handed over, their tasks when there were several, the calls of models and tools, and the runs
// that carried them out. What has not ended lasts until now.
func Spans(all []Record, now time.Time) []*telemetry.Node {
	steps := map[string]*telemetry.Node{} // by run and step
	var root *telemetry.Node
	for i := range all {
		r := &all[i]
		top := runNode(r.Run, now)
		r.nodes(top, steps, now)
		above := root
		if p := r.Run.Spec.Parent; p != nil && root != nil {
			above = cmp.Or(steps[stepKey(p.RunUID, stepAbove(all, p))], root)
		}
		if above == nil {
			root = top
			continue
		}
		above.Children = append(above.Children, top)
	}
	sortNode(root)
	return []*telemetry.Node{root}
}

func stepKey(uid, step string) string { return uid + "/" + step }

// stepAbove is the step that a run carries out.
func stepAbove(all []Record, p *v1alpha1.ParentTask) string {
	for i := range all {
		if string(all[i].Run.UID) != p.RunUID || p.Step != "" {
			continue
		}
		for k := range all[i].Run.Status.Steps {
			if s := &all[i].Run.Status.Steps[k]; s.TaskID == p.TaskID {
				return s.Name
			}
		}
	}
	return p.Step
}

func sortNode(n *telemetry.Node) {
	slices.SortStableFunc(n.Children, func(a, b *telemetry.Node) int { return a.Started.Compare(b.Started) })
	for _, c := range n.Children {
		sortNode(c)
	}
}

func runNode(run *v1alpha1.ArkRun, now time.Time) *telemetry.Node {
	n := node("run "+run.Name, run.Status.StartTime, run.Status.CompletionTime, now)
	if u := run.Status.TotalTokenUsage; u != nil {
		n.InputTokens, n.OutputTokens = u.InputTokens, u.OutputTokens
	}
	if run.Status.Phase == v1alpha1.RunFailed || run.Status.Phase == v1alpha1.RunCancelled {
		n.Error = cmp.Or(run.Status.Message, string(run.Status.Phase))
	}
	return n
}

// nodes hangs the steps of a run, and what was done for them, below it.
func (r *Record) nodes(top *telemetry.Node, steps map[string]*telemetry.Node, now time.Time) {
	uid := string(r.Run.UID)
	for i := range r.Run.Status.Steps {
		s := &r.Run.Status.Steps[i]
		steps[stepKey(uid, s.Name)] = stepNode(s, now)
	}
	for i := range r.Run.Status.Steps {
		s := &r.Run.Status.Steps[i]
		if s.StartTime == nil {
			continue
		}
		above := top
		if p := steps[stepKey(uid, s.Parent)]; p != nil && s.Parent != s.Name {
			above = p
		}
		above.Children = append(above.Children, steps[stepKey(uid, s.Name)])
	}
	tasks := r.tasks(steps, now)
	for _, c := range calls(r.Entries, now) {
		above := cmp.Or(tasks[c.task], steps[stepKey(uid, c.step)])
		if above != nil {
			above.Children = append(above.Children, c.node)
		}
	}
}

// tasks hangs the tasks of the steps that had several below them: attempts, items, judges. It returns their nodes by id.
func (r *Record) tasks(steps map[string]*telemetry.Node, now time.Time) map[string]*telemetry.Node {
	ofStep := map[string][]string{}
	nodes := map[string]*telemetry.Node{}
	for i := range r.Entries {
		e := &r.Entries[i]
		n := nodes[e.Task]
		if n == nil && e.Task != "" {
			n = &telemetry.Node{Name: "task process", Started: e.At, Duration: max(0, now.Sub(e.At))}
			nodes[e.Task] = n
			ofStep[e.Step] = append(ofStep[e.Step], e.Task)
		}
		if e.Kind != data.EntryEnded {
			continue
		}
		n.Duration = max(0, e.At.Sub(n.Started))
		if e.Error {
			n.Error = cmp.Or(e.Reason, "failed")
		}
	}
	for step, ids := range ofStep {
		above := steps[stepKey(string(r.Run.UID), step)]
		if len(ids) == 1 || above == nil {
			for _, id := range ids {
				delete(nodes, id)
			}
			continue
		}
		for _, id := range ids {
			above.Children = append(above.Children, nodes[id])
		}
	}
	return nodes
}

func stepNode(s *v1alpha1.StepStatus, now time.Time) *telemetry.Node {
	kind := "step "
	if s.Parent != "" {
		kind = "delegate "
	}
	name := kind + s.Name
	if s.Reason == pipeline.ReasonReused {
		name += " (" + cmp.Or(s.Message, "taken over from another run") + ")"
	}
	n := node(name, s.StartTime, s.CompletionTime, now)
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

// call is a call of a model or a tool, and whose it is.
type call struct {
	step, task string
	node       *telemetry.Node
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
		out = append(out, call{e.Step, e.Task, n})
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
