// Package progress shows runs to people while they go on: redrawn in place on a terminal (Screen), or as one line per
// transition (Lines). What it draws is computed by pure functions from the statuses of the runs and the hints of their
// tasks, which an Observer puts together.
package progress

import (
	"io"
	"slices"
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
	view View

	mu    sync.Mutex
	order []string // uids, the run that was asked for first
	runs  map[string]sceneRun
	tools map[string][]string // task id -> tools being called, the newest last
}

// NewObserver makes an Observer that feeds a view.
func NewObserver(v View) *Observer {
	return &Observer{view: v, runs: map[string]sceneRun{}, tools: map[string][]string{}}
}

// Run takes in how far a run is. task is the one that a child run carries out.
func (o *Observer) Run(uid, task string, status v1alpha1.ArkRunStatus) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if _, known := o.runs[uid]; !known {
		o.order = append(o.order, uid)
	}
	o.runs[uid] = sceneRun{task: task, status: status}
	o.show()
}

// Progress takes in what a task says of itself.
func (o *Observer) Progress(key queue.Key, p queue.Progress) {
	o.mu.Lock()
	defer o.mu.Unlock()
	calls := o.tools[key.TaskID]
	switch p.Event {
	case queue.EventTool:
		o.tools[key.TaskID] = append(calls, p.Tool)
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
	s := scene{tools: make(map[string]string, len(o.tools))}
	for _, uid := range o.order {
		s.runs = append(s.runs, o.runs[uid])
	}
	for task, calls := range o.tools {
		if len(calls) > 0 {
			s.tools[task] = calls[len(calls)-1]
		}
	}
	o.view.show(s)
}

// Chunk passes on a piece of an answer under the name of its step.
func (o *Observer) Chunk(key queue.Key, c queue.Chunk) { o.view.chunk(o.step(key), c.Text) }

func (o *Observer) step(key queue.Key) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, s := range o.runs[key.RunUID].status.Steps {
		if s.TaskID == key.TaskID {
			return s.Name
		}
	}
	return key.Agent // an item of a list, a judge
}
