package anthropic

import (
	"encoding/json"

	"arkonis.dev/ark/pkg/llm/exchange"
	"arkonis.dev/ark/pkg/task"
)

// The types of pieces.
const (
	pieceStart = "message_start"
	pieceBlock = "content_block_start"
	pieceDelta = "content_block_delta"
	pieceEnd   = "message_delta"
	pieceStop  = "message_stop"
	pieceError = "error"
	pieceWhole = "message"
)

// The reasons why a model stopped that are told apart.
const (
	stopLength  = "max_tokens"
	stopRefusal = "refusal"
	stopPause   = "pause_turn"
	stopContext = "model_context_window_exceeded"
)

// piece is one event of a stream, or a whole answer that did not stream. Fields that servers may fill differently stay
// raw until they are looked at.
type piece struct {
	Type    json.RawMessage `json:"type"`
	Message *message        `json:"message"`       // message_start
	Index   int             `json:"index"`         // content_block_*
	Block   *content        `json:"content_block"` // content_block_start
	Delta   *content        `json:"delta"`         // content_block_delta, message_delta
	Usage   *usage          `json:"usage"`         // message_delta
	Error   json.RawMessage `json:"error"`
}

// message is a whole answer, or the beginning of one that streams.
type message struct {
	ID          json.RawMessage `json:"id"`
	Model       json.RawMessage `json:"model"`
	Content     []content       `json:"content"`
	StopReason  json.RawMessage `json:"stop_reason"`
	StopDetails *stopDetails    `json:"stop_details"`
	Usage       *usage          `json:"usage"`
}

// content is a block of an answer, a part of one, or the end of the answer.
type content struct {
	Type      json.RawMessage `json:"type"`
	Text      text            `json:"text"`
	Thinking  json.RawMessage `json:"thinking"`
	Signature json.RawMessage `json:"signature"`
	Data      json.RawMessage `json:"data"` // redacted_thinking
	ID        json.RawMessage `json:"id"`
	Name      json.RawMessage `json:"name"`
	Input     json.RawMessage `json:"input"`
	Partial   json.RawMessage `json:"partial_json"`

	StopReason  json.RawMessage `json:"stop_reason"`
	StopDetails *stopDetails    `json:"stop_details"`
}

// text is a text of any size, read without a copy of its JSON; what is no text is empty.
type text string

// UnmarshalJSON reads whatever a server wrote.
func (t *text) UnmarshalJSON(b []byte) error {
	*t = text(exchange.Text(b))
	return nil
}

// stopDetails say more about a refusal.
type stopDetails struct {
	Category    json.RawMessage `json:"category"`
	Explanation json.RawMessage `json:"explanation"`
}

func (d *stopDetails) text() string {
	if d == nil {
		return ""
	}
	if s := exchange.Text(d.Explanation); s != "" {
		return s
	}
	if s := exchange.Name(d.Category); s != "" {
		return "its safety filter stopped the answer: " + s
	}
	return ""
}

// usage is what servers tell about tokens.
type usage struct {
	Input    *float64 `json:"input_tokens"`
	Creation *float64 `json:"cache_creation_input_tokens"`
	Read     *float64 `json:"cache_read_input_tokens"`
	Output   *float64 `json:"output_tokens"`
	Details  *struct {
		Thinking *float64 `json:"thinking_tokens"`
	} `json:"output_tokens_details"`
}

// count adds up the usages of a stream. Each number is cumulative, and some servers tell some of them only at the
// beginning: the largest counts.
type count struct {
	input, creation, read, output, thinking int64
	whole                                   bool // the output of the whole answer is among them
	nonsense                                bool // one of them cannot be believed
}

// add takes in a usage; last says that the answer ends with it.
func (c *count) add(u *usage, last bool) {
	if u == nil {
		return
	}
	c.take(&c.input, u.Input)
	c.take(&c.creation, u.Creation)
	c.take(&c.read, u.Read)
	c.take(&c.output, u.Output)
	if u.Details != nil {
		c.take(&c.thinking, u.Details.Thinking)
	}
	c.whole = c.whole || last && u.Output != nil
}

func (c *count) take(to *int64, n *float64) {
	if n == nil {
		return
	}
	v, ok := exchange.Tokens(*n)
	c.nonsense = c.nonsense || !ok
	*to = max(*to, v)
}

// usage is the sum, nil while there is none that can be believed: no prompt is free.
func (c *count) usage() *task.Usage {
	input := c.input + c.creation + c.read
	if !c.whole || c.nonsense || input == 0 {
		return nil
	}
	return &task.Usage{
		InputTokens: input, OutputTokens: c.output, CachedTokens: c.read, ReasoningTokens: min(c.thinking, c.output),
	}
}
