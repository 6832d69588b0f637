package anthropic

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
	text        exchange.Gather
	reasoning   strings.Builder
	blocks      []*block
	byIndex     map[int]*block
	calls       int
	beside      int // bytes of all but the text
	stop        string
	explanation string // of a refusal
	count       count
	model, id   string
	onChunk     func(llm.Chunk)
}

// The kinds of blocks that are kept; others are tools of the server's own, which nobody asked for.
const (
	kindText     = "text"
	kindThinking = "thinking"
	kindRedacted = "redacted_thinking"
	kindTool     = "tool_use"
)

// block is a part of the answer with a place of its own.
type block struct {
	kind      string
	n         int             // bytes of text or reasoning that are this block's
	signed    strings.Builder // signature of a thinking block, data of a redacted one
	id, name  string
	input     json.RawMessage // arguments that came in one piece
	arguments strings.Builder // and those that came in fragments
}

// Size is how many bytes of what the model wrote have arrived.
func (a *answer) Size() int { return a.text.Len() + a.beside }

// Finished says that the stop reason has arrived. Every block is whole by then.
func (a *answer) Finished() bool { return a.stop != "" }

// Usage is what the server said it used, nil before it said so: a stream begins with the input alone.
func (a *answer) Usage() *task.Usage { return a.count.usage() }

// Add takes in one event, or a whole message.
func (a *answer) Add(b []byte) (done bool, err error) {
	var p piece
	if err := json.Unmarshal(b, &p); err != nil {
		// A message as a text is how some servers write errors.
		if said := exchange.ParseError(b); said.Message != string(b) {
			return false, told(said)
		}
		return false, fmt.Errorf("%w: %w", exchange.ErrNoAnswer, err)
	}
	if !exchange.Null(p.Error) {
		return false, told(exchange.ErrorOf(p.Error))
	}
	switch kind := exchange.Text(p.Type); kind {
	case pieceStart:
		a.begin(p.Message)
	case pieceBlock:
		err = a.start(p.Index, p.Block)
	case pieceDelta:
		err = a.grow(p.Index, p.Delta)
	case pieceEnd:
		if p.Delta != nil {
			a.end(p.Delta.StopReason, p.Delta.StopDetails)
		}
		a.count.add(p.Usage, a.Finished())
	case pieceStop:
		return true, nil
	case pieceError:
		return false, told(exchange.ErrorOf(nil))
	case pieceWhole:
		return false, a.whole(b)
	case "":
		return false, exchange.ErrNoAnswer
	}
	return false, err
}

// statusOf is the HTTP status that goes with a type of error.
var statusOf = map[string]int{
	"invalid_request_error": 400, "authentication_error": 401, "billing_error": 402, "permission_error": 403,
	"not_found_error": 404, "request_too_large": 413, "rate_limit_error": 429, "api_error": 500, "timeout_error": 504,
	"overloaded_error": 529,
}

// told is an error in the middle of a good answer.
func told(said exchange.Said) error {
	if said.Number == 0 {
		said.Number = statusOf[said.Type]
	}
	return &said
}

// begin takes in what stands at the beginning of every answer.
func (a *answer) begin(m *message) {
	if m == nil {
		return
	}
	if a.id == "" {
		a.id = exchange.Name(m.ID)
	}
	if a.model == "" {
		a.model = exchange.Name(m.Model)
	}
	a.count.add(m.Usage, false)
}

// end takes in the stop reason, which may come before the answer ends, or not at all.
func (a *answer) end(reason json.RawMessage, details *stopDetails) {
	if s := exchange.Name(reason); s != "" {
		a.stop = s
	}
	if s := details.text(); s != "" {
		a.explanation = s
	}
}

// whole takes in an answer that did not stream.
func (a *answer) whole(b []byte) error {
	var m message
	if err := json.Unmarshal(b, &m); err != nil {
		return fmt.Errorf("%w: %w", exchange.ErrNoAnswer, err)
	}
	a.begin(&m)
	for i := range m.Content {
		if err := a.start(i, &m.Content[i]); err != nil {
			return err
		}
	}
	a.count.add(m.Usage, true)
	a.end(m.StopReason, m.StopDetails)
	return nil
}

// start begins a block. What it already holds, in an answer that did not stream all of it, goes the way of the deltas.
func (a *answer) start(index int, c *content) error {
	if c == nil {
		return exchange.ErrNoAnswer
	}
	b := &block{kind: exchange.Text(c.Type)}
	a.byIndex[index] = b
	switch b.kind {
	case kindText, kindThinking, kindRedacted:
	case kindTool:
		b.id, b.name = exchange.Text(c.ID), exchange.Text(c.Name)
		if a.calls++; a.calls > exchange.MaxToolCalls {
			return &exchange.Excess{Of: fmt.Sprintf("%d tool calls", exchange.MaxToolCalls)}
		}
		if object := strings.TrimSpace(string(c.Input)); !exchange.Null(c.Input) && object != "{}" {
			b.input = c.Input
		}
	default:
		return nil
	}
	if len(a.blocks) == maxBlocks {
		return &exchange.Excess{Of: fmt.Sprintf("%d blocks", maxBlocks)}
	}
	a.blocks = append(a.blocks, b)
	if err := a.room(0, len(b.id)+len(b.name)+len(b.input)); err != nil {
		return err
	}
	return a.grow(index, c)
}

const maxBlocks = 4096 // of one answer

// grow adds to a block. Deltas of a block that never began have no place.
func (a *answer) grow(index int, c *content) error {
	b := a.byIndex[index]
	if b == nil || c == nil {
		return fmt.Errorf("%w: a part of a block that did not begin", exchange.ErrNoAnswer)
	}
	var chunk llm.Chunk
	signed, partial := "", ""
	switch b.kind {
	case kindText:
		chunk.Text = string(c.Text)
	case kindThinking:
		chunk.Reasoning, signed = exchange.Text(c.Thinking), exchange.Text(c.Signature)
	case kindRedacted:
		signed = exchange.Text(c.Data)
	case kindTool:
		partial = exchange.Text(c.Partial)
	}
	if err := a.room(len(chunk.Text), len(chunk.Reasoning)+len(signed)+len(partial)); err != nil {
		return err
	}
	b.n += len(chunk.Text) + len(chunk.Reasoning)
	a.text.Add(chunk.Text)
	a.reasoning.WriteString(chunk.Reasoning)
	b.signed.WriteString(signed)
	b.arguments.WriteString(partial)
	if chunk != (llm.Chunk{}) {
		a.onChunk(chunk)
	}
	return nil
}

// room makes sure that there may be so much more.
func (a *answer) room(text, beside int) error {
	a.beside += beside
	return exchange.Within(a.text.Len()+text, a.beside)
}

// response is the whole answer; there is one only with a stop reason.
func (a *answer) response(req llm.Request) *llm.Response {
	r := &llm.Response{Model: a.model, ID: a.id, Finish: llm.FinishStop}
	r.Message = llm.Message{Role: llm.RoleAssistant, Text: a.text.String(), Reasoning: a.reasoning.String()}
	whole := true
	for _, b := range a.blocks {
		if b.kind != kindTool {
			continue
		}
		c := llm.ToolCall{ID: b.id, Name: b.name, Arguments: b.arguments.String()}
		if c.Arguments == "" {
			c.Arguments = string(b.input)
		}
		whole = whole && (c.Arguments == "" || json.Valid([]byte(c.Arguments)))
		r.Message.ToolCalls = append(r.Message.ToolCalls, c)
	}
	llm.CompleteCalls(req, r.Message.ToolCalls)
	if a.stop == stopLength {
		r.Finish = llm.FinishLength
	}
	if len(r.Message.ToolCalls) > 0 && (r.Finish != llm.FinishLength || whole) {
		r.Finish = llm.FinishToolCalls
	}
	r.Message.Signed = a.signed(req.Model)
	if u := a.Usage(); u != nil {
		r.Usage = *u
	} else {
		r.Usage, r.UsageMissing = task.Usage{InputTokens: llm.InputBound(req), OutputTokens: req.MaxTokens}, true
	}
	return r
}
