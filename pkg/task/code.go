package task

import (
	"fmt"
	"time"
)

// Code says in one CamelCase word why a task failed; it is what a step's reason shows.
type Code string

const (
	CodeProviderAuth    Code = "ProviderAuth"     // 401, 403: the model server refuses the key
	CodeProviderRefused Code = "ProviderRefused"  // 400, 404, 422: the model server refuses the request
	CodeProviderFailed  Code = "ProviderFailed"   // unreachable, 5xx, or garbage until the deadline
	CodeRateLimited     Code = "RateLimited"      // 429 until the deadline
	CodeContextTooLong  Code = "ContextTooLong"   // the prompt does not fit the model
	CodeContentFiltered Code = "ContentFiltered"  // the provider withheld the answer
	CodeEmptyAnswer     Code = "EmptyAnswer"      // the model answered with neither text nor tool calls, several times
	CodeTruncated       Code = "Truncated"        // the answer was cut at maxTokensPerCall
	CodeTimeout         Code = "Timeout"          // the task's own time is used up
	CodeDeadline        Code = "DeadlineExceeded" // the run's deadline passed
	CodeBudgetExceeded  Code = "BudgetExceeded"
	CodeMaxTurns        Code = "MaxTurns" // the model never stopped calling tools
	CodeToolUnavailable Code = "ToolUnavailable"
	CodeOutputInvalid   Code = "OutputInvalid" // does not fit the schema or the validation
	CodePoison          Code = "PoisonTask"    // every pod that took the task died
	CodeCancelled       Code = "Cancelled"
	CodeBadTask         Code = "BadTask"      // cannot be decoded, or asks for what this agent cannot do
	CodeAgentRemoved    Code = "AgentRemoved" // the agent is gone, and nobody is left to do it
	CodeRunDeleted      Code = "RunDeleted"   // the child run that did it was deleted before it had ended
	CodeInternal        Code = "Internal"     // a fault of ark's own
)

// Error is the failure of a task, as it travels: a code for machines and a sentence for people that names the
// cause and, where there is one, the next step.
type Error struct {
	Code    Code   `json:"code"`
	Message string `json:"message"`
	// Scope is the budget that refused, with CodeBudgetExceeded; empty when it is not known.
	Scope string `json:"scope,omitempty"`
	// ResetsAt is when enough of that budget is free again; zero when that never happens, or is not known.
	ResetsAt time.Time `json:"resetsAt,omitzero"`
}

func (e *Error) Error() string { return string(e.Code) + ": " + e.Message }

// Errorf makes an Error.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}
