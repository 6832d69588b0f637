package dataapi

import (
	"container/heap"
	"context"
	"time"

	"arkonis.dev/ark/pkg/apis/data"
	"arkonis.dev/ark/pkg/runner"
)

// dated is an entry and its place in a log: entries of one task keep their order, whatever the clocks say that dated them.
type dated struct {
	data.Entry
	at   time.Time // the latest of the task so far
	task int
	n    int // within the task
}

// pending are entries that are not written yet, the earliest first.
type pending []dated

func (p pending) Len() int      { return len(p) }
func (p pending) Swap(i, j int) { p[i], p[j] = p[j], p[i] }
func (p pending) Less(i, j int) bool {
	a, b := &p[i], &p[j]
	switch {
	case !a.at.Equal(b.at):
		return a.at.Before(b.at)
	case a.task != b.task:
		return a.task < b.task
	default:
		return a.n < b.n
	}
}

// Push implements heap.Interface.
func (p *pending) Push(x any) { *p = append(*p, x.(dated)) }

// Pop implements heap.Interface.
func (p *pending) Pop() any {
	last := len(*p) - 1
	e := (*p)[last]
	(*p)[last] = dated{} // its text may be long
	*p = (*p)[:last]
	return e
}

// inOrder writes what is new of some tasks, ordered by time across them. The tasks stand in the order in which they became
// due, so that no more is held than what tasks did that were worked on at once.
func (l *logger) inOrder(ctx context.Context, tasks []runner.PastTask) error {
	var p pending
	for i, t := range tasks {
		if err := l.writeUntil(&p, t.Created); err != nil {
			return err
		}
		entries, err := l.task(ctx, t)
		if err != nil {
			return err
		}
		at := t.Created
		for n, e := range entries {
			if e.At.After(at) {
				at = e.At
			}
			heap.Push(&p, dated{Entry: e, at: at, task: i, n: n})
		}
	}
	return l.writeUntil(&p, time.Time{})
}

// writeUntil writes what is earlier than a time, or all that there is.
func (l *logger) writeUntil(p *pending, until time.Time) error {
	for p.Len() > 0 && (until.IsZero() || (*p)[0].at.Before(until)) {
		if err := l.write(heap.Pop(p).(dated).Entry); err != nil {
			return err
		}
	}
	return nil
}
