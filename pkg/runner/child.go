package runner

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// MaxHops bounds how deep teams may stand below each other, and how many runs may lead to one.
const MaxHops = 8

// ChildEnd is the end of a child run as the result of the task that it carried out. Its output is copied under the parent's
// uid when it is large; an error that is queue.ErrNoPayload or queue.ErrCorrupt says that it is lost.
func ChildEnd(ctx context.Context, q *queue.Queue, key queue.Key, name string, s *v1alpha1.ArkRunStatus) (*task.Result, error) {
	r := &task.Result{
		Version: task.Version, TaskID: key.TaskID, Status: task.Succeeded, Pod: name,
		Started: timeOf(s.StartTime), Completed: timeOf(s.CompletionTime),
	}
	charge(r, s)
	switch s.Phase {
	case v1alpha1.RunSucceeded:
		var err error
		if r.Output, err = copyText(ctx, q, key.RunUID, OutputOf(s)); err != nil {
			return nil, fmt.Errorf("take over the output of run %s: %w", name, err)
		}
	case v1alpha1.RunCancelled:
		r.Status, r.Error = task.Cancelled, task.Errorf(task.CodeCancelled, "run %s was cancelled: %s", name, s.Message)
	default:
		r.Status, r.Error = task.Failed, task.Errorf(task.Code(EndReason(s)), "run %s failed: %s", name, s.Message)
	}
	return r, nil
}

// charge puts into the result of a child run what its status says that it has used.
func charge(r *task.Result, s *v1alpha1.ArkRunStatus) {
	if u := s.TotalTokenUsage; u != nil {
		r.Usage = task.Usage{
			InputTokens: u.InputTokens, OutputTokens: u.OutputTokens, CachedTokens: u.CachedTokens,
			UnknownCalls: u.UnknownCalls, UnknownTokens: u.TotalTokens - u.InputTokens - u.OutputTokens,
		}
	}
	for i := range s.Steps {
		r.ToolCalls += int(s.Steps[i].ToolCalls)
	}
}

// ChildDeleted is the result of the task of a child run that was deleted after it had begun and before it had ended. s is
// its status as far as it is known, for what it has used.
func ChildDeleted(key queue.Key, name string, s *v1alpha1.ArkRunStatus, now time.Time) *task.Result {
	r := ChildRefused(key, string(task.CodeRunDeleted), fmt.Sprintf(
		"the run %s, which did this step, was deleted before it had ended; what it has paid for is not paid for again: retry the run to have the step done anew", name), now)
	r.Pod, r.Started = name, timeOf(s.StartTime)
	charge(r, s)
	return r
}

// ChildRefused is the result of the task of a child run that cannot be, with the reason of the end that it would have.
func ChildRefused(key queue.Key, reason, message string, now time.Time) *task.Result {
	return &task.Result{
		Version: task.Version, TaskID: key.TaskID, Status: task.Failed, Error: &task.Error{Code: task.Code(reason), Message: message},
		Completed: now,
	}
}

// ChildCancelled is the result of the task of a child run that was cancelled before it was made.
func ChildCancelled(key queue.Key, message string, now time.Time) *task.Result {
	r := ChildRefused(key, string(task.CodeCancelled), message, now)
	r.Status = task.Cancelled
	return r
}

// EndReason is why a run ended, in one CamelCase word; empty for one that has not.
func EndReason(s *v1alpha1.ArkRunStatus) string {
	for _, c := range s.Conditions {
		if c.Type == v1alpha1.ConditionComplete {
			return c.Reason
		}
	}
	return ""
}

func timeOf(t *metav1.MicroTime) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.Time
}
