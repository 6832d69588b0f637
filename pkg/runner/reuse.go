package runner

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// reusedVersion is that of a list of results which this build writes.
const reusedVersion = 1

// maxReused bounds what is read of such a list, in bytes: large outputs are payloads of their own.
const maxReused = 64 << 20

// reusedList is what a run has taken over, as it is stored.
type reusedList struct {
	Version int            `json:"v"`
	Results []reusedResult `json:"results"`
}

type reusedResult struct {
	Step   string    `json:"step"`
	Output task.Text `json:"output"`
	Raw    task.Text `json:"raw,omitzero"`
	Held   int64     `json:"held,omitempty"` // how much of the output is needed, in bytes; 0: all
	Agent  string    `json:"agent,omitempty"`
	Run    string    `json:"run,omitempty"`
}

// Reusable lists the results of a run that has ended which another run can start with, and says why when there can be
// none: see pipeline.Plan.Reusable.
func (p *Past) Reusable(next *pipeline.Plan, from string) ([]pipeline.StepResult, error) {
	return next.Reusable(p.plan, p.state, from)
}

// Whole says whether the records hold the result of every step that succeeded according to a status: stores can be lost.
func (p *Past) Whole(s *v1alpha1.ArkRunStatus) bool {
	if s.StepCounts == nil {
		return true
	}
	succeeded := int32(0)
	for i := range p.state.Steps {
		if p.state.Steps[i].Phase == v1alpha1.StepSucceeded {
			succeeded++
		}
	}
	return succeeded >= s.StepCounts.Succeeded
}

// StoreReused copies results into what the stores hold of another run, so that they go with that one only, and returns the
// reference to all of them. An error that is queue.ErrNoPayload or queue.ErrCorrupt says that one is lost.
func StoreReused(ctx context.Context, q *queue.Queue, uid string, results []pipeline.StepResult) (task.Ref, error) {
	list := reusedList{Version: reusedVersion, Results: make([]reusedResult, len(results))}
	for i := range results {
		r := &results[i]
		output, err := copyText(ctx, q, uid, r.Text())
		if err != nil {
			return task.Ref{}, fmt.Errorf("take over the result of step %s: %w", r.Step, err)
		}
		raw, err := q.PutText(ctx, uid, r.Raw)
		if err != nil {
			return task.Ref{}, fmt.Errorf("take over the result of step %s: %w", r.Step, err)
		}
		list.Results[i] = reusedResult{Step: r.Step, Output: output, Raw: raw, Held: r.Held, Agent: r.Agent, Run: r.Run}
	}
	body, err := json.Marshal(list)
	if err != nil {
		return task.Ref{}, fmt.Errorf("take over results: %w", err)
	}
	return q.PutPayload(ctx, uid, bytes.NewReader(body))
}

// ReadReused reads what a run has taken over. When the payload store has lost some of it, nothing is taken over, and lost
// says so: a store that was lost has no results of the run itself either, and all steps are worked on again.
func ReadReused(ctx context.Context, q *queue.Queue, run *v1alpha1.ArkRun) (results []pipeline.StepResult, lost bool, err error) {
	if run.Status.Reused == nil || run.Status.Reused.Ref == nil {
		return nil, false, nil
	}
	results, err = readReused(ctx, q, run.Status.Reused.Ref)
	switch {
	case errors.Is(err, queue.ErrNoPayload), errors.Is(err, queue.ErrCorrupt):
		return nil, true, nil
	case err != nil:
		return nil, false, fmt.Errorf("run %s: read what it has taken over: %w", run.Name, err)
	}
	return results, false, nil
}

func readReused(ctx context.Context, q *queue.Queue, ref *v1alpha1.PayloadRef) ([]pipeline.StepResult, error) {
	text, err := q.Text(ctx, task.Text{Ref: &task.Ref{Key: ref.Key, Size: ref.Size, SHA256: ref.SHA256}}, maxReused)
	if err != nil {
		return nil, err
	}
	var list reusedList
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		return nil, err
	}
	if list.Version > reusedVersion {
		return nil, fmt.Errorf("version %d is newer than this build of ark knows: update the operator", list.Version)
	}
	out := make([]pipeline.StepResult, len(list.Results))
	for i := range list.Results {
		r := &list.Results[i]
		out[i] = pipeline.StepResult{Step: r.Step, OutputRef: r.Output.Ref, Agent: r.Agent, Run: r.Run}
		if out[i].Output, err = readText(ctx, q, r.Output, cmp.Or(r.Held, sizeOf(r.Output))); err != nil {
			return nil, err
		}
		if out[i].Raw, err = q.Text(ctx, r.Raw, sizeOf(r.Raw)); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// sizeOf bounds what is read of a text that was accepted before.
func sizeOf(t task.Text) int64 {
	if t.Ref == nil {
		return 0
	}
	return t.Ref.Size
}
