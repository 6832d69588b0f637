// Package progress shows runs to people while they go on: redrawn in place on a terminal (Screen), or as one line per
// transition (Lines). What it draws is computed by pure functions from the statuses of the runs and the hints of their
// tasks, which an Observer puts together.
package progress

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/queue"
)

// View shows a run while it goes on: Lines or Screen. It is also where log lines go.
type View interface {
	io.Writer
	show(scene)
	chunk(step, text string)
	Finish(summary string)
}

// Observer puts together what a view shows: the statuses of the runs of one host and what their tasks say of
// themselves. It is safe for concurrent use.
type Observer struct {
	view   View
	stream bool

	mu       sync.Mutex
	order    []string // uids, the run that was asked for first
	runs     map[string]sceneRun
	tools    map[string][]string // task id -> tools being called, the newest last
	begun    map[string]int      // task id -> tool calls so far
	waits    map[string]string   // task id -> why nothing happens
	streamed map[string]*answer  // task id -> what was shown of its answer
}

// answer is what was shown of a task's newest answer.
type answer struct {
	call int
	text string
	done bool
}

// NewObserver makes an Observer that feeds a view. With stream it shows answers as they arrive.
func NewObserver(v View, stream bool) *Observer {
	return &Observer{
		view: v, stream: stream, runs: map[string]sceneRun{}, tools: map[string][]string{}, begun: map[string]int{},
		waits: map[string]string{}, streamed: map[string]*answer{},
	}
}

// Run takes in how far a run is. task is the one that a child run carries out.
func (o *Observer) Run(uid, task string, status v1alpha1.ArkRunStatus) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, known := o.runs[uid]; !known {
		o.order = append(o.order, uid)
	}
	o.runs[uid] = sceneRun{task: task, status: status}
	for i := range status.Steps {
		if status.Steps[i].Phase.Terminal() {
			delete(o.waits, status.Steps[i].TaskID)
		}
	}
	if o.stream {
		o.complete(status.Steps)
	}
	o.show()
}

// complete shows what is missing of the answers of steps that are done: hints come later than results, or not at all.
func (o *Observer) complete(steps []v1alpha1.StepStatus) {
	for i := range steps {
		s := &steps[i]
		if !s.Phase.Terminal() || s.TaskID == "" {
			continue
		}
		a := o.answer(s.TaskID)
		if rest, ok := strings.CutPrefix(s.Output, a.text); ok && !a.done {
			o.view.chunk(s.Name, rest)
		}
		a.done = true
	}
}

func (o *Observer) answer(task string) *answer {
	a := o.streamed[task]
	if a == nil {
		a = &answer{}
		o.streamed[task] = a
	}
	return a
}

// Progress takes in what a task says of itself.
func (o *Observer) Progress(key queue.Key, p queue.Progress) {
	o.mu.Lock()
	defer o.mu.Unlock()
	calls := o.tools[key.TaskID]
	switch p.Event {
	case queue.EventWait:
		why := o.step(key, p.Step) + " waits: " + Plain(p.Why)
		o.waits[key.TaskID] = why
		_, _ = fmt.Fprintln(o.view, why) // progress that nobody can read ends no run
		return
	case queue.EventStarted, queue.EventCall:
		delete(o.waits, key.TaskID)
		return
	case queue.EventTool:
		o.tools[key.TaskID] = append(calls, p.Tool)
		o.begun[key.TaskID]++
	case queue.EventToolDone:
		if i := slices.Index(calls, p.Tool); i >= 0 {
			o.tools[key.TaskID] = slices.Delete(calls, i, i+1)
		}
	default:
		return
	}
	o.show()
}

func (o *Observer) show() {
	s := scene{tools: make(map[string]string, len(o.tools)), begun: make(map[string]int, len(o.tools))}
	for _, uid := range o.order {
		s.runs = append(s.runs, o.runs[uid])
	}
	for task, calls := range o.tools {
		if len(calls) > 0 {
			s.tools[task], s.begun[task] = calls[len(calls)-1], o.begun[task]
		}
	}
	o.view.show(s)
}

// Waits says which steps wait and why, in one line; "" when none does, and for a nil Observer.
func (o *Observer) Waits() string {
	if o == nil {
		return ""
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	all := slices.Compact(slices.Sorted(maps.Values(o.waits)))
	if more := len(all) - mostWaits; more > 0 {
		all = append(all[:mostWaits], fmt.Sprintf("%d more", more))
	}
	return strings.Join(all, ", ")
}

// mostWaits is how many steps Waits names.
const mostWaits = 3

// Chunk passes on a piece of an answer under the name of its step.
func (o *Observer) Chunk(key queue.Key, c queue.Chunk) {
	o.mu.Lock()
	defer o.mu.Unlock()
	a := o.answer(key.TaskID)
	if a.done {
		return
	}
	step := o.step(key, c.Step)
	if a.call != c.Call {
		if a.text != "" {
			o.view.chunk(step, "\n")
		}
		a.call, a.text = c.Call, ""
	}
	a.text += c.Text
	o.view.chunk(step, c.Text)
}

// step names whoever a hint is from. Hints come before the status that knows of the task, too.
func (o *Observer) step(key queue.Key, told string) string {
	for _, s := range o.runs[key.RunUID].status.Steps {
		if s.TaskID == key.TaskID {
			return s.Name
		}
	}
	return cmp.Or(told, key.Agent) // of a judge, a router, a delegate
}
