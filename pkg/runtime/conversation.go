package runtime

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/tools"
	"arkonis.dev/ark/pkg/work"
)

// conversation is what a task has come to: the fold of its journal. A live entry and a replayed one go the same way,
// so a task that was taken over stands where it stood.
type conversation struct {
	messages []llm.Message
	turn     []toolCall    // the calls of the last answer, until all have ended
	final    *llm.Response // the answer that called no tools
	text     string        // what the model wrote last: the partial answer of a task that fails
	whole    *task.Ref     // where that is when it is large: text is its beginning then

	nextCall int // number of the next model call, from 1
	turns    int // answers so far
	empty    int // answers in a row that said nothing
	calls    int // model calls made, also failed ones
	toolUses int
	usage    task.Usage
	notes    []string
	open     bool  // the last call has no outcome yet
	reserved int64 // for the last call
	stored   bool  // a result was too large to be given whole: the model is offered read_payload

	prompt  int                  // where in messages the task's prompt stands
	opened  bool                 // what is remembered was put before it
	vectors map[string][]float32 // that were made for the task's memory, by what for
}

// toolCall is one call of a turn. Its id is unique in the task and the same after a replay.
type toolCall struct {
	id     string
	call   llm.ToolCall
	result *tools.Result
}

// newConversation begins one. The last message is the task's prompt.
func newConversation(messages []llm.Message) *conversation {
	return &conversation{messages: messages, nextCall: 1, prompt: len(messages) - 1, vectors: map[string][]float32{}}
}

// toolID names a tool call: the number of the model call that asked for it and its place in the answer.
func toolID(call, index int) string { return fmt.Sprintf("%d.%d", call, index) }

// apply adds an entry of the journal.
func (c *conversation) apply(e work.Entry) error {
	switch {
	case e.Intent != nil:
		c.intent(e.Intent)
	case e.Answer != nil:
		return c.answer(e.Answer)
	case e.Failed != nil:
		c.failed(e.Failed)
	case e.ToolEnd != nil:
		c.toolEnd(e.ToolEnd)
	case e.Note != "":
		c.note(e.Note)
	}
	return nil
}

func (c *conversation) intent(i *work.Intent) {
	c.settleUnknown()
	c.calls++
	c.nextCall = i.Call + 1
	c.open, c.reserved = true, i.Reserve
}

// settleUnknown counts a call that has no outcome although the journal goes on.
func (c *conversation) settleUnknown() {
	if c.open {
		c.failed(&work.CallFailed{Unknown: true})
	}
}

func (c *conversation) answer(a *work.Answer) error {
	var body answerBody
	if err := json.Unmarshal(a.Response, &body); err != nil {
		return fmt.Errorf("read the answer of model call %d from the journal: %w", a.Call, err)
	}
	c.open = false
	if v := body.Vector; v != nil {
		c.usage = c.usage.Add(a.Usage)
		c.vectors[v.Key] = unpacked(v.Values)
		return nil
	}
	r := body.Response
	c.empty = 0
	c.turns++
	c.usage = c.usage.Add(r.Usage)
	for _, n := range r.Notes {
		c.note(n)
	}
	if r.UsageMissing {
		c.note("the model server does not tell what its answers cost: each is charged with the most that it may have used")
	}
	if r.Message.Text != "" {
		c.text, c.whole = r.Message.Text, body.Whole
	}
	if body.Whole != nil {
		// No model takes so much: it is shown what it wrote as it is shown a large result.
		r.Message.Text = body.Whole.Beginning(r.Message.Text)
		c.stored = true
	}
	c.messages = append(c.messages, r.Message)
	if len(r.Message.ToolCalls) == 0 {
		c.final = &r
		return nil
	}
	for i, call := range r.Message.ToolCalls {
		c.turn = append(c.turn, toolCall{id: toolID(a.Call, i), call: call})
	}
	c.toolUses += len(c.turn)
	return nil
}

func (c *conversation) failed(f *work.CallFailed) {
	c.open = false
	if f.Code == task.CodeEmptyAnswer {
		c.empty++
	}
	c.usage = c.usage.Add(f.Cost(c.reserved))
}

// toolEnd records a result. With the last one of a turn the model's messages go on, in the order of its calls.
func (c *conversation) toolEnd(e *work.ToolEnd) {
	if e.ID == openingID {
		c.opened = true
		c.messages[c.prompt].Text = e.Text + c.messages[c.prompt].Text
		return
	}
	c.stored = c.stored || task.ShowsBeginning(e.Text)
	for i := range c.turn {
		if c.turn[i].id == e.ID {
			c.turn[i].result = &tools.Result{Text: e.Text, IsError: e.IsError}
		}
	}
	if len(c.pending()) > 0 {
		return
	}
	for _, t := range c.turn {
		c.messages = append(c.messages, llm.Message{
			Role: llm.RoleTool, Text: t.result.Text, ToolID: t.call.ID, ToolName: t.call.Name, IsError: t.result.IsError,
		})
	}
	c.turn = nil
}

// pending are the calls of the last answer that have no result yet.
func (c *conversation) pending() []toolCall {
	var open []toolCall
	for _, t := range c.turn {
		if t.result == nil {
			open = append(open, t)
		}
	}
	return open
}

// note keeps what is told with the result: each text once, and of waits for the budget the last one.
func (c *conversation) note(text string) {
	if strings.HasPrefix(text, waitedUntil) {
		c.notes = slices.DeleteFunc(c.notes, func(other string) bool { return strings.HasPrefix(other, waitedUntil) })
	}
	if !slices.Contains(c.notes, text) {
		c.notes = append(c.notes, text)
	}
}

// remarks are the notes of the result.
func (c *conversation) remarks() []string {
	if c.usage.UnknownCalls == 0 {
		return c.notes
	}
	calls := "1 model call"
	if c.usage.UnknownCalls > 1 {
		calls = fmt.Sprintf("%d model calls", c.usage.UnknownCalls)
	}
	return append(slices.Clone(c.notes), calls+" ended with an unknown outcome; what was reserved is charged in full")
}
