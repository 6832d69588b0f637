package runs

import (
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/runner"
)

// A status that the API server does not take - because of the schema of ArkRun, or of a policy of the cluster - it will not
// take later either. A run that goes on does so without it; one that cannot go on without it, or that ends with it, ends
// with less.

// refusedError is a status that the API server does not take, now or later.
type refusedError struct{ error }

func (e refusedError) Unwrap() error { return e.error }

// refused says whether an error of a write is about what was written.
func refused(err error) bool {
	return apierrors.IsInvalid(err) || apierrors.IsRequestEntityTooLargeError(err)
}

// maxRefusal bounds what a message quotes of a refusal and of the end that was refused, in bytes.
const maxRefusal = 1500

// reduced are ends for a run of which another end was refused, the fuller one first. Nothing of what was refused may be in
// the last one: it has what the object has already, and words of this package.
func reduced(run *v1alpha1.ArkRun, s *v1alpha1.ArkRunStatus, cause error) []v1alpha1.ArkRunStatus {
	phase := s.Phase
	if phase == v1alpha1.RunSucceeded {
		phase = v1alpha1.RunFailed // whoever relies on its output would rely on nothing
	}
	refusal := fmt.Sprintf("the run had ended as %s, but the API server refuses the status that says so: %s; its steps and its output are not in the status",
		s.Phase, cut(cause.Error(), maxRefusal))
	end := func(message string, full bool) v1alpha1.ArkRunStatus {
		at := time.Now()
		if s.CompletionTime != nil {
			at = s.CompletionTime.Time
		}
		completed := metav1.NewMicroTime(at)
		e := v1alpha1.ArkRunStatus{
			ObservedGeneration: run.Generation, Phase: phase, CompletionTime: &completed, StartTime: run.Status.StartTime,
			Resolved: run.Status.Resolved, Reused: run.Status.Reused, Message: message, TraceID: run.Status.TraceID,
			Conditions: conditions(run, metav1.ConditionTrue, v1alpha1.ReasonStatusRefused, message, at),
		}
		if full {
			e.StartTime, e.Duration, e.TraceID = s.StartTime, s.Duration, s.TraceID
			e.TotalTokenUsage, e.StepCounts, e.StepSummary = s.TotalTokenUsage, s.StepCounts, s.StepSummary
		}
		return e
	}
	told := refusal
	if s.Message != "" {
		told += fmt.Sprintf("; it said (%s): %s", runner.EndReason(s), cut(s.Message, maxRefusal))
	}
	return []v1alpha1.ArkRunStatus{
		end(clip(told), true),
		end(fmt.Sprintf("the run had ended as %s, but the API server refuses every status that says more", s.Phase), false),
	}
}

// cut shortens a text to about n bytes, and to what can be written.
func cut(s string, n int) string {
	if len(s) <= n {
		return strings.ToValidUTF8(s, "?")
	}
	return strings.ToValidUTF8(s[:n], "") + " ..."
}
