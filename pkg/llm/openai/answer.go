package openai

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/task"
)

// answer gathers the pieces of one answer.
type answer struct {
	text, reasoning, refusal strings.Builder
	calls                    []*partCall
	byIndex                  map[int]*partCall
	size                     int
	finish                   string
	usage                    *task.Usage
	model, id                string
	onChunk                  func(llm.Chunk)
}

type partCall struct {
	id, name  string
	arguments strings.Builder
}

// toldError is an error that the server told in the middle of a good answer.
type toldError struct{ serverError }

func (e *toldError) Error() string { return e.Message }

var errNoAnswer = errors.New("not an answer of chat completions")

// add takes one piece in. The error is a *toldError, errTooMuch, or wraps errNoAnswer.
func (a *answer) add(b []byte) error {
	var p piece
	if err := json.Unmarshal(b, &p); err != nil {
		return fmt.Errorf("%w: %w", errNoAnswer, err)
	}
	if !null(p.Error) {
		return &toldError{errorOf(p.Error)}
	}
	if str(p.Object) == "error" {
		return &toldError{errorOf(b)}
	}
	if a.id == "" {
		a.id = bounded(str(p.ID))
	}
	if a.model == "" {
		a.model = bounded(str(p.Model))
	}
	if u, ok := usageOf(p.Usage); ok {
		a.usage = &u
	}
	for i := range p.Choices {
		if err := a.choose(&p.Choices[i]); err != nil {
			return err
		}
	}
	return nil
}

// bounded keeps names that a server makes up small.
func bounded(s string) string { return s[:min(len(s), 256)] }

func (a *answer) choose(c *choice) error {
	if c.Index != 0 {
		return nil // only one answer was asked for
	}
	part := c.Delta
	if c.Message != nil && (part == nil || a.size == 0) {
		part = c.Message
	}
	if part != nil {
		if err := a.content(part); err != nil {
			return err
		}
	}
	switch f := str(c.FinishReason); f {
	case "":
	case "error":
		return &toldError{errorOf(c.Error)}
	default:
		a.finish = bounded(f)
	}
	return nil
}

func (a *answer) content(c *content) error {
	chunk := llm.Chunk{Text: textOf(c.Content), Reasoning: c.reasoning()}
	refusal := textOf(c.Refusal)
	if err := a.grow(len(chunk.Text) + len(chunk.Reasoning) + len(refusal)); err != nil {
		return err
	}
	a.text.WriteString(chunk.Text)
	a.reasoning.WriteString(chunk.Reasoning)
	a.refusal.WriteString(refusal)
	for i := range c.ToolCalls {
		if err := a.fragment(&c.ToolCalls[i]); err != nil {
			return err
		}
	}
	if chunk != (llm.Chunk{}) {
		a.onChunk(chunk)
	}
	return nil
}

func (a *answer) grow(n int) error {
	if a.size += n; a.size > MaxAnswer {
		return errTooMuch
	}
	return nil
}

func (a *answer) fragment(f *toolFragment) error {
	id, name, args := str(f.ID), str(f.Function.Name), argumentsOf(f.Function.Arguments)
	if err := a.grow(len(id) + len(name) + len(args)); err != nil {
		return err
	}
	c := a.callOf(f.Index, id, name)
	if c == nil {
		c = &partCall{}
		if len(a.calls) == MaxToolCalls {
			return errTooMuch
		}
		a.calls = append(a.calls, c)
		if f.Index != nil {
			a.byIndex[*f.Index] = c
		}
	}
	if c.id == "" {
		c.id = id
	}
	if name != c.name {
		c.name += name
	}
	c.arguments.WriteString(args)
	return nil
}

// callOf finds the call that a fragment goes on with, nil if it begins a new one. Servers leave indexes out, or give
// every call the index 0; an id of its own together with a name is then what begins a call.
func (a *answer) callOf(index *int, id, name string) *partCall {
	var c *partCall
	switch {
	case index != nil:
		c = a.byIndex[*index]
	case id != "":
		for _, known := range a.calls {
			if known.id == id {
				return known
			}
		}
		return nil
	case name == "" && len(a.calls) > 0:
		c = a.calls[len(a.calls)-1]
	}
	if c != nil && id != "" && c.id != "" && id != c.id && name != "" {
		return nil
	}
	return c
}

// response is the whole answer; there is one only with a finish reason.
func (a *answer) response(req llm.Request) *llm.Response {
	r := &llm.Response{Model: a.model, ID: a.id, Finish: finishOf(a.finish)}
	r.Message = llm.Message{Role: llm.RoleAssistant, Text: a.text.String(), Reasoning: a.reasoning.String()}
	r.Message.ToolCalls = a.toolCalls(req)
	if len(r.Message.ToolCalls) > 0 && (r.Finish != llm.FinishLength || a.callsWhole()) {
		r.Finish = llm.FinishToolCalls
	}
	if a.usage != nil {
		r.Usage = *a.usage
	} else {
		r.Usage, r.UsageMissing = task.Usage{InputTokens: llm.InputBound(req), OutputTokens: req.MaxTokens}, true
	}
	return r
}

func finishOf(f string) llm.FinishReason {
	switch strings.ToLower(f) {
	case "length", "max_tokens", "model_length", "max_output_tokens":
		return llm.FinishLength
	case "content_filter", "safety":
		return llm.FinishFiltered
	default:
		return llm.FinishStop
	}
}

// callsWhole says whether an answer that was cut at its limit still holds whole calls.
func (a *answer) callsWhole() bool {
	for _, c := range a.calls {
		if !json.Valid([]byte(c.arguments.String())) {
			return false
		}
	}
	return true
}

func (a *answer) toolCalls(req llm.Request) []llm.ToolCall {
	if len(a.calls) == 0 {
		return nil
	}
	out := make([]llm.ToolCall, 0, len(a.calls))
	seen := make(map[string]bool, len(a.calls))
	for i, c := range a.calls {
		id := c.id
		for n := i; id == "" || seen[id]; n += MaxToolCalls {
			id = callID(req, n)
		}
		seen[id] = true
		args := c.arguments.String()
		if strings.TrimSpace(args) == "" {
			args = "{}"
		}
		out = append(out, llm.ToolCall{ID: id, Name: c.name, Arguments: args})
	}
	return out
}
