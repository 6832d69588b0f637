// Package llm makes one call to a language model: messages and tools in, a message, tool calls and usage out.
//
// A Provider makes exactly one HTTP request per Chat (never a hidden retry: a retry costs money, and only the caller
// can reserve it). The one exception is a server that refuses a feature - tools, response_format, stream_options,
// the name of the token limit - with a 4xx before any token was made: the provider remembers it and reports it as an
// *Error with Fallback set, so that the caller makes a new, reserved attempt which then goes without the feature.
//
// All methods are safe for concurrent use.
package llm

import (
	"context"
	"encoding/json"
	"time"

	"arkonis.dev/ark/pkg/task"
)

// Provider talks to one model server.
type Provider interface {
	// Chat streams one answer. onChunk, which may be nil, hears text as it arrives, in order, on the calling
	// goroutine; it must not block. The response is whole or there is an *Error: half an answer is never returned
	// as an answer. With a Schema the provider asks for it in the server's own structured output where that can
	// express the schema and no tools are offered, else it adds SchemaInstruction to the system message; whether the
	// answer fits stays the caller's to check.
	Chat(ctx context.Context, req Request, onChunk func(Chunk)) (*Response, error)
	// Name is the provider's name in telemetry (gen_ai.provider.name): "openai", "anthropic", "mock".
	Name() string
}

// Role of a message.
type Role string

const (
	RoleSystem    Role = "system"
	RoleUser      Role = "user"
	RoleAssistant Role = "assistant"
	RoleTool      Role = "tool"
)

// Message is one entry of a conversation.
type Message struct {
	Role      Role       `json:"role"`
	Text      string     `json:"text,omitempty"`
	Reasoning string     `json:"reasoning,omitempty"` // assistant: shown, sent back only with Signed
	ToolCalls []ToolCall `json:"toolCalls,omitempty"` // assistant
	ToolID    string     `json:"toolID,omitempty"`    // tool: the call that this answers
	ToolName  string     `json:"toolName,omitempty"`  // tool
	IsError   bool       `json:"isError,omitempty"`   // tool: the call failed
	// Signed is what a provider needs to give its server the reasoning back, in a form of its own; assistant. Other
	// providers leave it alone.
	Signed json.RawMessage `json:"signed,omitempty"`
}

// ToolCall is the model's wish to call a tool. Arguments are what the model wrote, not yet checked: they may not be
// JSON at all. IDs are unique within a message; a provider makes them up where the server left them out.
type ToolCall struct {
	ID        string `json:"id"`
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// Tool is what a model may call. Schema is a JSON Schema of an object.
type Tool struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Schema      json.RawMessage `json:"schema"`
}

// Request is one call.
type Request struct {
	Model       string
	Messages    []Message // system first
	Tools       []Tool
	Schema      json.RawMessage // JSON Schema of the answer, see Provider
	MaxTokens   int64           // output cap, > 0
	Temperature *float64
	TopP        *float64
	// Key is the idempotency key of the call ("<task id>-<call>"), sent where the provider supports it.
	Key string
	// Purpose tells a mock what it is asked for: "step", "judge", "route", "probe". Capabilities go with "route".
	Purpose      string
	Capabilities []task.Capability
	// Agent is the agent's name: a mock script matches on it.
	Agent string
	// Room is called once, on the calling goroutine, before an answer takes more than a few times SmallAnswer of memory,
	// and returns when there is room for it, or with an error that ends the call. nil says that nobody asks for long
	// answers: one above SmallAnswer is an error.
	Room func(context.Context) error
}

// SmallAnswer is the size in bytes up to which answers need no Request.Room.
const SmallAnswer = 8 << 20

// Chunk is a piece of an answer while it streams.
type Chunk struct {
	Text      string
	Reasoning string
}

// FinishReason is why the model stopped.
type FinishReason string

const (
	FinishStop      FinishReason = "stop"
	FinishLength    FinishReason = "length" // cut at MaxTokens
	FinishToolCalls FinishReason = "tool_calls"
	// FinishFiltered never reaches a caller as a Response: Chat makes an *Error with ContentFiltered of it.
	FinishFiltered FinishReason = "content_filter"
)

// Response is a whole answer.
type Response struct {
	Message Message      `json:"message"`
	Usage   task.Usage   `json:"usage"`
	Finish  FinishReason `json:"finish"`
	Model   string       `json:"model,omitempty"` // as the server names it
	ID      string       `json:"id,omitempty"`
	// UsageMissing says that the server reported no usage: Usage is then the upper bound, InputBound and MaxTokens.
	UsageMissing bool `json:"usageMissing,omitempty"`
	// Notes say what the request had to go without, such as tools that the server refused; the same sentence as in
	// the Note of the *Error that the refusal was.
	Notes []string `json:"notes,omitempty"`
}

// Error is a failed call.
type Error struct {
	Code    task.Code
	Message string // names the server, what it answered, and what to do
	Status  int    // HTTP status, 0 without one
	// Retry says that another attempt may succeed; RetryAfter is what the server asked for (0: nothing).
	Retry      bool
	RetryAfter time.Duration
	// Fallback says that the server refused a feature and the provider will do without it from now on: try again
	// at once. Note says which, for the run's record.
	Fallback bool
	Note     string
	// Unknown says that the server may have done, and billed, the work: the call is charged in full. Usage is what
	// the server said it used, if it said so before it failed.
	Unknown bool
	Usage   *task.Usage
	Err     error
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Err }
