package local

import (
	"fmt"
	"strings"
	"time"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// ConfigError means that a run cannot start as it was asked for: nothing was paid for. Problems are sentences for a
// person, each with the object or option, the cause and what to do; there is at least one.
type ConfigError struct{ Problems []string }

func (e *ConfigError) Error() string {
	if len(e.Problems) == 1 {
		return e.Problems[0]
	}
	return fmt.Sprintf("%d problems:\n  %s", len(e.Problems), strings.Join(e.Problems, "\n  "))
}

func configErrorf(format string, args ...any) error {
	return &ConfigError{Problems: []string{fmt.Sprintf(format, args...)}}
}

// FailedError means that the run ended without success. The report says the rest.
type FailedError struct {
	Run     string
	Phase   v1alpha1.RunPhase // Failed, or Cancelled by somebody else than the caller
	Step    string            // the step that failed the run, if one did
	Reason  string            // in one CamelCase word: why the step failed, else why the run did
	Message string
}

func (e *FailedError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "run %s %s", e.Run, strings.ToLower(string(e.Phase)))
	if e.Reason != "" && e.Reason != string(e.Phase) {
		fmt.Fprintf(&b, " (%s)", e.Reason)
	}
	// The engine's message usually names the step already.
	if e.Step != "" && !strings.Contains(e.Message, e.Step) {
		fmt.Fprintf(&b, " in step %s", e.Step)
	}
	if e.Message != "" {
		b.WriteString(": " + e.Message)
	}
	return b.String()
}

// TimeoutError means that the run did not end within Options.Timeout. It was cancelled.
type TimeoutError struct {
	Run   string
	After time.Duration
}

func (e *TimeoutError) Error() string {
	return fmt.Sprintf("run %s did not end within %s and was cancelled: give it more time with --timeout", e.Run, e.After)
}

// InterruptedError means that the caller ended the run. Clean says that the run was cancelled and its end is stored;
// otherwise it was left where it stood.
type InterruptedError struct {
	Run   string
	Clean bool
	// Resume is how to go on with the run, empty when it cannot be gone on with.
	Resume string
}

func (e *InterruptedError) Error() string {
	s := "run " + e.Run + " was cancelled"
	if !e.Clean {
		s = "run " + e.Run + " was interrupted"
	}
	if e.Resume != "" {
		s += "; go on with: " + e.Resume
	}
	return s
}
