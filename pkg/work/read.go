package work

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// Line is one thing that a task's journal says, for people who look on. Exactly one of TakenOver, Released and Entry is
// set.
type Line struct {
	Seq       uint64 // of the record that it is a part of, rising
	At        time.Time
	Pod       string // that took the task over, for this line and all that follow until the next take-over
	TakenOver bool
	Released  bool // the pod handed the task back
	Entry     *Entry
}

// ReadJournal returns the lines of a task's journal in the order in which they were stored. Large entries are fetched
// from the payload store up to limit bytes; of one that is larger, or lost, only what stands in the journal itself is
// there: its Text or Response is empty. It changes nothing and needs no lease on the task.
func ReadJournal(ctx context.Context, q *queue.Queue, key queue.Key, limit int64) ([]Line, error) {
	stored, err := q.History(ctx, queue.CallSubject(key))
	if err != nil {
		return nil, fmt.Errorf("journal of %s: %w", key, err)
	}
	var lines []Line
	pod := ""
	for _, s := range stored {
		r, err := readRecord(s)
		if err != nil {
			return nil, err
		}
		switch {
		case r.TakeOver != nil && !r.TakeOver.Refused:
			pod = r.TakeOver.Pod
			lines = append(lines, Line{Seq: s.Seq, At: s.At, Pod: pod, TakenOver: true})
		case r.Release:
			lines = append(lines, Line{Seq: s.Seq, At: s.At, Pod: pod, Released: true})
		}
		for _, e := range r.entries() {
			if err := whole(ctx, q, &e, limit); err != nil {
				return nil, fmt.Errorf("journal of %s: %w", key, err)
			}
			lines = append(lines, Line{Seq: s.Seq, At: s.At, Pod: pod, Entry: &e})
		}
	}
	return lines, nil
}

// whole fetches what was moved out of an entry.
func whole(ctx context.Context, q *queue.Queue, e *Entry, limit int64) error {
	if e.moved == nil || e.moved.Size > limit {
		return nil
	}
	text, err := q.Text(ctx, task.Text{Ref: e.moved}, limit)
	if errors.Is(err, queue.ErrNoPayload) || errors.Is(err, queue.ErrCorrupt) {
		return nil
	}
	if err != nil {
		return err
	}
	var w Entry
	if err := json.Unmarshal([]byte(text), &w); err != nil {
		return err
	}
	*e = w
	return nil
}
