package telemetry

import (
	"cmp"
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Attributes of the GenAI semantic conventions, and ark's own.
const (
	keyOperation       = attribute.Key("gen_ai.operation.name")
	keyProvider        = attribute.Key("gen_ai.provider.name")
	keyRequestModel    = attribute.Key("gen_ai.request.model")
	keyResponseModel   = attribute.Key("gen_ai.response.model")
	keyResponseID      = attribute.Key("gen_ai.response.id")
	keyFinishReasons   = attribute.Key("gen_ai.response.finish_reasons")
	keyMaxTokens       = attribute.Key("gen_ai.request.max_tokens")
	keyTemperature     = attribute.Key("gen_ai.request.temperature")
	keyTopP            = attribute.Key("gen_ai.request.top_p")
	keyInputTokens     = attribute.Key("gen_ai.usage.input_tokens")
	keyOutputTokens    = attribute.Key("gen_ai.usage.output_tokens")
	keyCachedTokens    = attribute.Key("gen_ai.usage.cache_read.input_tokens")
	keyReasoningTokens = attribute.Key("gen_ai.usage.reasoning.output_tokens")
	keyInputMessages   = attribute.Key("gen_ai.input.messages")
	keyOutputMessages  = attribute.Key("gen_ai.output.messages")
	keyToolName        = attribute.Key("gen_ai.tool.name")
	keyToolType        = attribute.Key("gen_ai.tool.type")
	keyToolCallID      = attribute.Key("gen_ai.tool.call.id")
	keyToolArguments   = attribute.Key("gen_ai.tool.call.arguments")
	keyToolResult      = attribute.Key("gen_ai.tool.call.result")
	keyAgentName       = attribute.Key("gen_ai.agent.name")
	keyConversation    = attribute.Key("gen_ai.conversation.id")
	keyTokenType       = attribute.Key("gen_ai.token.type")
	keyErrorType       = attribute.Key("error.type")
	keyOutcome         = attribute.Key("ark.outcome")
	keyBackend         = attribute.Key("ark.memory.backend")
	keyController      = attribute.Key("ark.controller")
)

// Ark's own attributes, for spans of runs, steps and tasks.
const (
	KeyRun       = attribute.Key("ark.run.name")
	KeyTeam      = attribute.Key("ark.team.name")
	KeyStep      = attribute.Key("ark.step.name")
	KeyTask      = attribute.Key("ark.task.id")
	KeyKind      = attribute.Key("ark.task.kind")
	KeyAgent     = keyAgentName
	KeyNamespace = attribute.Key("k8s.namespace.name")
	KeyTakeOver  = attribute.Key("ark.task.take_over")
	KeyRole      = attribute.Key("ark.role.name")
)

// Usage is what a model call used, in tokens. Cached is part of Input, Reasoning of Output.
type Usage struct{ Input, Output, Cached, Reasoning int64 }

// Embeddings is the Operation of calls that make vectors.
const Embeddings = "embeddings"

// Chat describes a model call before it is made.
type Chat struct {
	Operation                    string // "chat" if it is empty
	Provider, Model, Agent, Task string
	MaxTokens                    int64
	Temperature, TopP            *float64
	Messages                     func() string // read only when contents are wanted
}

// ChatEnd describes what came of a model call. ErrorType is a short, bounded word (a task's code).
type ChatEnd struct {
	Model, ID, Finish string
	Usage             Usage
	Answer            func() string // read only when contents are wanted
	ErrorType         string
	Message           string
}

// StartChat starts the span "<operation> <model>" and its metrics.
func (t *Telemetry) StartChat(ctx context.Context, c Chat) (context.Context, *ChatSpan) {
	c.Operation = cmp.Or(c.Operation, "chat")
	ctx, span := t.Start(ctx, c.Operation+" "+c.Model, trace.SpanKindClient,
		keyOperation.String(c.Operation), keyProvider.String(c.Provider), keyRequestModel.String(c.Model),
		keyAgentName.String(c.Agent), keyConversation.String(c.Task))
	if span.recording() {
		if c.MaxTokens > 0 {
			span.Set(keyMaxTokens.Int64(c.MaxTokens))
		}
		if c.Temperature != nil {
			span.Set(keyTemperature.Float64(*c.Temperature))
		}
		if c.TopP != nil {
			span.Set(keyTopP.Float64(*c.TopP))
		}
		if t.Contents() && c.Messages != nil {
			span.Set(keyInputMessages.String(c.Messages()))
		}
	}
	return ctx, &ChatSpan{Span: span, t: t, chat: c, started: time.Now()}
}

// ChatSpan is a model call under way.
type ChatSpan struct {
	*Span
	t       *Telemetry
	chat    Chat
	started time.Time
}

// Finish ends the span and records the call's duration and tokens.
func (s *ChatSpan) Finish(ctx context.Context, e ChatEnd) {
	s.SetUsage(e.Usage)
	if s.recording() {
		if e.Model != "" {
			s.Set(keyResponseModel.String(e.Model))
		}
		if e.ID != "" {
			s.Set(keyResponseID.String(e.ID))
		}
		if e.Finish != "" {
			s.Set(keyFinishReasons.StringSlice([]string{e.Finish}))
		}
		if s.t.Contents() && e.Answer != nil {
			s.Set(keyOutputMessages.String(e.Answer()))
		}
	}
	s.End(e.ErrorType, e.Message)
	s.t.recordChat(ctx, s.chat, e, time.Since(s.started))
}

// Tool describes a tool call before it is made. Kind is "function" or "extension" as in the conventions.
type Tool struct {
	Name, CallID, Agent string
	Arguments           func() string // read only when contents are wanted
}

// StartTool starts the span "execute_tool <name>" and its metrics.
func (t *Telemetry) StartTool(ctx context.Context, c Tool) (context.Context, *ToolSpan) {
	ctx, span := t.Start(ctx, "execute_tool "+c.Name, trace.SpanKindInternal,
		keyOperation.String("execute_tool"), keyToolName.String(c.Name), keyToolType.String("function"),
		keyToolCallID.String(c.CallID), keyAgentName.String(c.Agent))
	if span.recording() && t.Contents() && c.Arguments != nil {
		span.Set(keyToolArguments.String(c.Arguments()))
	}
	return ctx, &ToolSpan{Span: span, t: t, tool: c, started: time.Now()}
}

// ToolSpan is a tool call under way.
type ToolSpan struct {
	*Span
	t       *Telemetry
	tool    Tool
	started time.Time
}

// Finish ends the span and counts the call. errorType is empty for a call that succeeded.
func (s *ToolSpan) Finish(ctx context.Context, errorType string, result func() string) {
	if s.recording() && s.t.Contents() && result != nil {
		s.Set(keyToolResult.String(result()))
	}
	s.End(errorType, "")
	s.t.recordTool(ctx, s.tool.Name, errorType, time.Since(s.started))
}

// Span is one span. Its methods may be called on spans that are not recorded; they then do nothing.
type Span struct{ span trace.Span }

func (s *Span) recording() bool { return s.span.IsRecording() }

// Set adds attributes.
func (s *Span) Set(attributes ...attribute.KeyValue) { s.span.SetAttributes(attributes...) }

// Note adds an event, such as a fallback that was taken.
func (s *Span) Note(text string) { s.span.AddEvent(text) }

// SetUsage adds the tokens that the work below this span used.
func (s *Span) SetUsage(u Usage) {
	if !s.recording() || u == (Usage{}) {
		return
	}
	s.Set(keyInputTokens.Int64(u.Input), keyOutputTokens.Int64(u.Output))
	if u.Cached != 0 {
		s.Set(keyCachedTokens.Int64(u.Cached))
	}
	if u.Reasoning != 0 {
		s.Set(keyReasoningTokens.Int64(u.Reasoning))
	}
}

// End ends the span. An empty errorType means that it succeeded; otherwise it is a short, bounded word, and message
// says more.
func (s *Span) End(errorType, message string) { s.EndAt(time.Time{}, errorType, message) }

// EndAt is End at a time in the past; the zero time is now.
func (s *Span) EndAt(at time.Time, errorType, message string) {
	if errorType != "" {
		s.Set(keyErrorType.String(errorType))
		s.span.SetStatus(codes.Error, message)
	}
	if at.IsZero() {
		s.span.End()
		return
	}
	s.span.End(trace.WithTimestamp(at))
}
