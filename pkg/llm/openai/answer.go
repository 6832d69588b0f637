package openai

import (
	"encoding/json"
	"fmt"
	"strings"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/exchange"
	"arkonis.dev/ark/pkg/task"
)

// answer gathers the pieces of one answer.
type answer struct {
	text               exchange.Gather
	reasoning, refusal strings.Builder
	calls              []*partCall
	byIndex            map[int]*partCall
	beside             int // bytes of all but the text
	finish             string
	usage              *task.Usage
	usageApart         bool // it came without a piece of the answer
	model, id          string
	onChunk            func(llm.Chunk)
}

type partCall struct {
	id, name  string
	arguments strings.Builder
}

// Size is how many bytes of what the model wrote have arrived.
func (a *answer) Size() int { return a.text.Len() + a.beside }

// Finished says that the finish reason has arrived.
func (a *answer) Finished() bool { return a.finish != "" }

// Usage is what the server said the whole call used. Some servers count with every piece: before the end, only a usage
// that comes by itself is the last one.
func (a *answer) Usage() *task.Usage {
	if a.finish == "" && !a.usageApart {
		return nil
	}
	return a.usage
}

// Add takes in one piece. The end of a stream is no piece of its own.
func (a *answer) Add(b []byte) (done bool, err error) { return false, a.add(b) }

func (a *answer) add(b []byte) error {
	var p piece
	if err := json.Unmarshal(b, &p); err != nil {
		return fmt.Errorf("%w: %w", exchange.ErrNoAnswer, err)
	}
	if !exchange.Null(p.Error) {
		return told(p.Error)
	}
	if exchange.Text(p.Object) == "error" {
		return told(b)
	}
	if a.id == "" {
		a.id = exchange.Name(p.ID)
	}
	if a.model == "" {
		a.model = exchange.Name(p.Model)
	}
	if u, ok := usageOf(p.Usage); ok {
		a.usage, a.usageApart = &u, len(p.Choices) == 0
	}
	for i := range p.Choices {
		if err := a.choose(&p.Choices[i]); err != nil {
			return err
		}
	}
	return nil
}

// told is an error in the middle of a good answer.
func told(raw json.RawMessage) error {
	said := exchange.ErrorOf(raw)
	return &said
}

func (a *answer) choose(c *choice) error {
	if c.Index != 0 {
		return nil // only one answer was asked for
	}
	part := c.Delta
	if c.Message != nil && (part == nil || a.Size() == 0) {
		part = c.Message
	}
	if part != nil {
		if err := a.content(part); err != nil {
			return err
		}
	}
	switch f := exchange.Name(c.FinishReason); f {
	case "":
	case "error":
		return told(c.Error)
	default:
		a.finish = f
	}
	return nil
}

func (a *answer) content(c *content) error {
	chunk := llm.Chunk{Text: string(c.Content), Reasoning: c.reasoning()}
	refusal := textOf(c.Refusal)
	if err := a.grow(len(chunk.Text), len(chunk.Reasoning)+len(refusal)); err != nil {
		return err
	}
	a.text.Add(chunk.Text)
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

// grow makes sure that there may be so much more.
func (a *answer) grow(text, beside int) error {
	a.beside += beside
	return exchange.Within(a.text.Len()+text, a.beside)
}

func (a *answer) fragment(f *toolFragment) error {
	id, name, args := exchange.Text(f.ID), exchange.Text(f.Function.Name), argumentsOf(f.Function.Arguments)
	if err := a.grow(0, len(id)+len(name)+len(args)); err != nil {
		return err
	}
	c := a.callOf(f.Index, id, name)
	if c == nil {
		c = &partCall{}
		if len(a.calls) == exchange.MaxToolCalls {
			return &exchange.Excess{Of: fmt.Sprintf("%d tool calls", exchange.MaxToolCalls)}
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
	for _, c := range a.calls {
		out = append(out, llm.ToolCall{ID: c.id, Name: c.name, Arguments: c.arguments.String()})
	}
	llm.CompleteCalls(req, out)
	return out
}
