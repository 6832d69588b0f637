package runtime

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// result is the task's result after the conversation ended with err, nil for an answer.
func (a *attempt) result(ctx context.Context, err error) (*task.Result, error) {
	r := &task.Result{
		Version: task.Version, TaskID: a.task.ID, Status: task.Succeeded,
		Usage: a.conv.usage, ModelCalls: a.conv.calls, ToolCalls: a.conv.toolUses, Notes: a.conv.remarks(),
		Pod: a.config.Pod, Started: a.session.TakenAt(), Completed: time.Now().UTC(),
	}
	text, whole := a.conv.text, a.conv.whole
	if err != nil {
		r.Error = failure(err)
		r.Status = task.Failed
		if r.Error.Code == task.CodeCancelled {
			r.Status = task.Cancelled
		}
		if s := a.partial.String(); s != "" {
			text, whole = s, nil
		}
		if more := a.partial.size - maxPartial; more > 0 {
			r.Notes = append(slices.Clip(r.Notes), fmt.Sprintf("%d bytes of the partial answer were dropped; its first %d MiB are kept", more, maxPartial>>20))
		}
	}
	if whole != nil {
		r.Output = task.Text{Ref: whole}
		return r, nil
	}
	output, err := a.session.PutPayload(ctx, text)
	if err != nil {
		return nil, err
	}
	r.Output = output
	return r, nil
}

// maxMessage bounds what a result says about its error, in bytes; a model server can answer a lot.
const maxMessage = 4 << 10

// failure is an error as it travels. What is not known to this package is a fault of ark's own.
func failure(err error) *task.Error {
	var known *task.Error
	var refused *work.BudgetError
	switch {
	case errors.As(err, &known):
		return &task.Error{Code: known.Code, Message: chars.Head(known.Message, maxMessage), Scope: known.Scope, ResetsAt: known.ResetsAt}
	case errors.As(err, &refused):
		return &task.Error{Code: task.CodeBudgetExceeded, Message: refused.Error(), Scope: refused.Scope, ResetsAt: refused.FreesAt}
	default:
		return task.Errorf(task.CodeInternal, "%s", chars.Head(err.Error(), maxMessage))
	}
}
