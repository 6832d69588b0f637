package local

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
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
	// UnknownCalls is the number of model calls whose outcome nobody knows; they are not in the counts.
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
	Error      string             `json:"error,omitempty"`
}

// newReport makes the report of a run that has ended. Whole outputs of steps come from stepOutput where it knows them;
// the record holds long ones in part only.
func newReport(run *v1alpha1.ArkRun, output string, stepOutput func(step string) (string, bool)) *Report {
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
		r.Reason = completeReason(s)
	}
	for i := range s.Steps {
		step := stepReport(&s.Steps[i])
		if whole, ok := stepOutput(step.Name); ok {
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
		r.Error = joined(s.Reason, s.Message)
	}
	return r
}

// joined puts a code before its sentence, unless the sentence begins with it.
func joined(code, sentence string) string {
	switch {
	case code == "" || strings.HasPrefix(sentence, code):
		return sentence
	case sentence == "":
		return code
	default:
		return code + ": " + sentence
	}
}

func tokens(u *v1alpha1.TokenUsage) Tokens {
	if u == nil {
		return Tokens{}
	}
	return Tokens{Input: u.InputTokens, Output: u.OutputTokens, Cached: u.CachedTokens, Total: u.TotalTokens, UnknownCalls: u.UnknownCalls}
}

// completeReason is why a run ended.
func completeReason(s *v1alpha1.ArkRunStatus) string {
	for _, c := range s.Conditions {
		if c.Type == v1alpha1.ConditionComplete {
			return c.Reason
		}
	}
	return ""
}

// Summary is the one line that ends a run: "Run Succeeded in 6.3s - 2466 tokens".
func (r *Report) Summary() string {
	return fmt.Sprintf("Run %s in %s - %d tokens", r.Status, seconds(time.Duration(r.DurationMS)*time.Millisecond), r.Tokens.Total)
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
