package local

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/local/progress"
	"arkonis.dev/ark/pkg/runner"
)

// Report is what became of a run. Its JSON form is the one that `ark run --output json` prints.
type Report struct {
	Run   string `json:"run"`
	Team  string `json:"team,omitempty"`
	Agent string `json:"agent,omitempty"`

	Status  v1alpha1.RunPhase `json:"status"`
	Reason  string            `json:"reason,omitempty"` // of a run that did not succeed
	Message string            `json:"message,omitempty"`

	DurationMS int64        `json:"durationMs"`
	Tokens     Tokens       `json:"tokens"`
	Output     string       `json:"output"` // whole, whatever its size
	Steps      []StepReport `json:"steps"`
	TraceID    string       `json:"traceID,omitempty"`
}

// Tokens counts what a run used. Cached is part of Input.
type Tokens struct {
	Input  int64 `json:"input"`
	Output int64 `json:"output"`
	Cached int64 `json:"cached,omitempty"`
	Total  int64 `json:"total"`
	// UnknownCalls is the number of model calls whose outcome nobody knows. Total, which is what budgets were charged,
	// holds them in full; Input and Output do not.
	UnknownCalls int64 `json:"unknownCalls,omitempty"`
}

// StepReport is what became of one step, or of one piece of delegated work.
type StepReport struct {
	Name       string             `json:"name"`
	Parent     string             `json:"parent,omitempty"` // the step that handed the work over
	Agent      string             `json:"agent,omitempty"`
	Status     v1alpha1.StepPhase `json:"status"`
	Tokens     int64              `json:"tokens"`
	DurationMS int64              `json:"durationMs"`
	Attempts   int32              `json:"attempts,omitempty"`
	ToolCalls  int32              `json:"toolCalls,omitempty"`
	Output     string             `json:"output,omitempty"`
	Message    string             `json:"message,omitempty"` // such as a feature that the model server refused
	Error      string             `json:"error,omitempty"`
}

// NewReport makes the report of a run that has ended. steps are whole outputs of steps by their names, as far as they are
// known; of others there is what the status shows, which of long ones is a part only.
func NewReport(run *v1alpha1.ArkRun, output string, steps map[string]string) *Report {
	s := &run.Status
	r := &Report{
		Run: run.Name, Status: s.Phase, Message: s.Message, Output: output, TraceID: s.TraceID,
		Tokens:     tokens(s.TotalTokenUsage),
		DurationMS: between(s.StartTime, s.CompletionTime).Milliseconds(),
		Steps:      make([]StepReport, 0, len(s.Steps)),
	}
	if run.Spec.TeamRef != nil {
		r.Team = run.Spec.TeamRef.Name
	}
	if run.Spec.AgentRef != nil {
		r.Agent = run.Spec.AgentRef.Name
	}
	if s.Phase != v1alpha1.RunSucceeded {
		r.Reason = runner.EndReason(s)
	}
	for i := range s.Steps {
		step := stepReport(&s.Steps[i])
		if whole, ok := steps[step.Name]; ok {
			step.Output = whole
		}
		r.Steps = append(r.Steps, step)
	}
	return r
}

func stepReport(s *v1alpha1.StepStatus) StepReport {
	r := StepReport{
		Name: s.Name, Parent: s.Parent, Agent: s.Agent, Status: s.Phase, Tokens: tokens(s.TokenUsage).Total,
		DurationMS: between(s.StartTime, s.CompletionTime).Milliseconds(),
		Attempts:   s.Attempts, ToolCalls: s.ToolCalls, Output: s.Output,
	}
	if s.Phase == v1alpha1.StepFailed || s.Phase == v1alpha1.StepCancelled {
		r.Error = progress.Reason(s.Reason, s.Message)
	} else {
		r.Message = s.Message
	}
	return r
}

func tokens(u *v1alpha1.TokenUsage) Tokens {
	if u == nil {
		return Tokens{}
	}
	return Tokens{Input: u.InputTokens, Output: u.OutputTokens, Cached: u.CachedTokens, Total: u.TotalTokens, UnknownCalls: u.UnknownCalls}
}

// Summary is the one line that ends a run: "Run Succeeded in 6.3s - 2466 tokens". Tokens that nobody counted, because
// the call was cut off, are said to be what was reserved.
func (r *Report) Summary() string {
	text := fmt.Sprintf("Run %s in %s - %d tokens", r.Status, progress.Seconds(time.Duration(r.DurationMS)*time.Millisecond), r.Tokens.Total)
	switch n := r.Tokens.UnknownCalls; n {
	case 0:
		return text
	case 1:
		return text + ", with 1 model call of unknown outcome charged in full"
	default:
		return text + fmt.Sprintf(", with %d model calls of unknown outcome charged in full", n)
	}
}

// WriteText writes the output alone, ending with a newline unless there is none.
func (r *Report) WriteText(w io.Writer) error {
	out := r.Output
	if out != "" && !strings.HasSuffix(out, "\n") {
		out += "\n"
	}
	if _, err := io.WriteString(w, out); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

// WriteJSON writes the whole report, indented.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(r); err != nil {
		return fmt.Errorf("write report: %w", err)
	}
	return nil
}

func between(start, end *metav1.MicroTime) time.Duration {
	if start == nil || end == nil {
		return 0
	}
	return max(0, end.Sub(start.Time))
}

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
	Why   string // what was waited for at the end, empty when models and tools were at work
}

func (e *TimeoutError) Error() string {
	s := fmt.Sprintf("run %s did not end within %s and was cancelled: ", e.Run, e.After)
	if e.Why != "" {
		s += e.Why + "; "
	}
	return s + "give it more time with --timeout"
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
