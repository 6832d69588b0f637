package work

import (
	"encoding/json"
	"errors"
	"fmt"

	"arkonis.dev/ark/pkg/task"
)

// Entry is one entry of a task's journal. Exactly one field is set.
type Entry struct {
	Intent    *Intent     `json:"intent,omitempty"`
	Answer    *Answer     `json:"answer,omitempty"`
	Failed    *CallFailed `json:"failed,omitempty"`
	ToolStart *ToolStart  `json:"toolStart,omitempty"`
	ToolEnd   *ToolEnd    `json:"toolEnd,omitempty"`
	Note      string      `json:"note,omitempty"` // what a person should know of the task

	// moved is where the whole of a large entry is stored, while the fields above keep what accounting needs.
	moved *task.Ref
}

// Intent says that a model call is about to be made. Calls of a task are numbered from 1 and rising, over all epochs.
type Intent struct {
	Call    int    `json:"call"`
	Reserve int64  `json:"reserve"` // tokens: an upper bound of what the call can use
	Model   string `json:"model,omitempty"`
}

// Answer is the answer to a model call. What Usage says is charged.
type Answer struct {
	Call     int             `json:"call"`
	Response json.RawMessage `json:"response"`
	Usage    task.Usage      `json:"usage"`
}

// CallFailed is a model call without an answer.
type CallFailed struct {
	Call    int        `json:"call"`
	Code    task.Code  `json:"code,omitempty"`
	Message string     `json:"message,omitempty"`
	Usage   task.Usage `json:"usage,omitzero"` // what the server said it used, if it did
	Charged int64      `json:"charged"`        // tokens
	// Unknown says that the server may have done the work: all that was reserved is charged, or Charged if that is more.
	Unknown bool `json:"unknown,omitempty"`
}

// ToolStart says that a tool call has begun. ID is unique within the task.
type ToolStart struct {
	ID   string `json:"id"`
	Name string `json:"name"`
}

// ToolEnd is the result of a tool call.
type ToolEnd struct {
	ID      string `json:"id"`
	Text    string `json:"text"`
	IsError bool   `json:"isError,omitempty"`
}

// plain is Entry as it is written: with the reference, without methods.
type plain struct {
	Intent    *Intent     `json:"intent,omitempty"`
	Answer    *Answer     `json:"answer,omitempty"`
	Failed    *CallFailed `json:"failed,omitempty"`
	ToolStart *ToolStart  `json:"toolStart,omitempty"`
	ToolEnd   *ToolEnd    `json:"toolEnd,omitempty"`
	Note      string      `json:"note,omitempty"`
	Moved     *task.Ref   `json:"moved,omitempty"`
}

// MarshalJSON writes the field that is set.
func (e Entry) MarshalJSON() ([]byte, error) {
	return json.Marshal(plain{e.Intent, e.Answer, e.Failed, e.ToolStart, e.ToolEnd, e.Note, e.moved})
}

// UnmarshalJSON reads what MarshalJSON wrote.
func (e *Entry) UnmarshalJSON(data []byte) error {
	var p plain
	if err := json.Unmarshal(data, &p); err != nil {
		return err
	}
	*e = Entry{p.Intent, p.Answer, p.Failed, p.ToolStart, p.ToolEnd, p.Note, p.Moved}
	return nil
}

var errEntry = errors.New("not an entry of a journal")

// check says whether an entry is one, as far as that can be seen without the journal.
func (e Entry) check() error {
	set := 0
	for _, is := range []bool{e.Intent != nil, e.Answer != nil, e.Failed != nil, e.ToolStart != nil, e.ToolEnd != nil, e.Note != ""} {
		if is {
			set++
		}
	}
	switch {
	case set != 1:
		return fmt.Errorf("%w: %d of its fields are set, not one", errEntry, set)
	case e.Intent != nil && (e.Intent.Call < 1 || e.Intent.Reserve < 0):
		return fmt.Errorf("%w: intent of call %d with %d tokens", errEntry, e.Intent.Call, e.Intent.Reserve)
	case e.Answer != nil && e.Answer.Usage.Total() < 0, e.Failed != nil && e.Failed.Charged < 0:
		return fmt.Errorf("%w: negative tokens", errEntry)
	case e.Answer != nil && e.moved == nil && !json.Valid(e.Answer.Response):
		return fmt.Errorf("%w: the response of call %d is not JSON", errEntry, e.Answer.Call)
	default:
		return nil
	}
}

// shell is the entry without its large parts, as it stands in the journal beside the reference to the whole.
func (e Entry) shell(whole *task.Ref) Entry {
	s := e
	s.moved = whole
	switch {
	case e.Answer != nil:
		s.Answer = &Answer{Call: e.Answer.Call, Usage: e.Answer.Usage}
	case e.Failed != nil:
		f := *e.Failed
		f.Message = ""
		s.Failed = &f
	case e.ToolEnd != nil:
		s.ToolEnd = &ToolEnd{ID: e.ToolEnd.ID, IsError: e.ToolEnd.IsError}
	case e.Note != "":
		s.Note = clip(e.Note, task.PreviewLimit)
	}
	return s
}
