package work

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/task"
)

// Verbs of requests; queue.WorkSubject makes subjects of them.
const (
	verbTakeOver = "takeover"
	verbJournal  = "journal"
	verbAppend   = "append"
	verbWithdraw = "withdraw"
	verbDelegate = "delegate"
	verbAwait    = "await"
	verbRelease  = "release"
	verbPut      = "payload-put"
	verbGet      = "payload-get"
)

// Requests and answers are JSON in the message's body. Payload chunks are the body themselves; what goes with them is
// in headerMeta. An answer with headerFailure has no body.
const (
	headerMeta    = "Ark-Work"
	headerFailure = "Ark-Work-Failure"
)

const (
	// chunkLimit is how much of a payload one message carries, in bytes.
	chunkLimit = 512 << 10
	// appendLimit is how large the entries of one append may be together, in bytes.
	appendLimit = 256 << 10
	// pageLimit is how much of a journal one answer carries, in bytes.
	pageLimit = 512 << 10
	// requestLimit is how large a request may be that carries no entries and no part of a payload, in bytes.
	requestLimit = 256 << 10
	// journalLimit is how large the journal of a task may become, in bytes: hundreds of turns, as what is large is stored
	// beside it. All journals share a stream.
	journalLimit = 16 << 20
	// pollLimit is how long the service keeps a request that waits for others before the client has to ask again. An
	// answer that was lost is missed so much later.
	pollLimit = 3 * time.Second
	// settleLimit is the same for an append that waits for nobody.
	settleLimit = time.Second
)

// holder says which task a request is about and in which epoch the caller holds it.
type holder struct {
	Run   string `json:"run"`
	Task  string `json:"task"`
	Epoch int    `json:"epoch"`
}

type takeOverRequest struct {
	Run  string `json:"run,omitempty"` // uid; what the queue holds of the task decides
	Task string `json:"task"`
	Pod  string `json:"pod"`
	// Process is the same for all that one client asks, and for no other client.
	Process string `json:"process,omitempty"`
	ID      string `json:"id"` // the same when the request is sent again
	// Patience is how long the client waits before it does, in ms. A request that is older must not be carried out: the
	// client may have given it up, and somebody else may have the task.
	Patience int64 `json:"patience"`
	// Quiet is how long nothing may have been stored of another pod that holds the task, in ms.
	Quiet int64 `json:"quiet,omitempty"`
}

// quiet is at most a minute: nobody keeps a task from others for long.
func (r takeOverRequest) quiet() time.Duration {
	return time.Duration(max(0, min(r.Quiet, time.Minute.Milliseconds()))) * time.Millisecond
}

type takeOverReply struct {
	Task      *task.Task `json:"task"`
	TakenAt   time.Time  `json:"takenAt"`
	TakeOvers int        `json:"takeOvers"`
	Epoch     int        `json:"epoch"`
	page
}

type journalRequest struct {
	holder
	From uint64 `json:"from"` // page.Next of the page before
}

// page is a part of a journal.
type page struct {
	Entries []Entry `json:"entries,omitempty"`
	Next    uint64  `json:"next,omitempty"` // 0 for the last page
}

// appendRequest carries the n-th append of an epoch, from 1. ID is the same when it is sent again, and only then.
type appendRequest struct {
	holder
	N       int     `json:"n"`
	ID      string  `json:"id"`
	Wait    int64   `json:"wait"` // ms until Waiting is answered
	Entries []Entry `json:"entries"`
}

type appendReply struct {
	Waiting bool `json:"waiting,omitempty"` // ask again
	Blocked bool `json:"blocked,omitempty"` // beside Waiting: it waits for others' reservations
}

// withdrawRequest gives up an append: what is not stored of it never will be. Its number is used up.
type withdrawRequest struct {
	holder
	N  int    `json:"n"`
	ID string `json:"id"`
}

type withdrawReply struct {
	Have int `json:"have"` // entries that are stored
}

type delegateRequest struct {
	holder
	Call   string    `json:"call"`
	Role   string    `json:"role"`
	Prompt task.Text `json:"prompt"`
}

type delegateReply struct {
	Child *task.Task `json:"child"`
}

type awaitRequest struct {
	holder
	Child string `json:"child"`
	Wait  int64  `json:"wait"` // ms until an answer without a result
}

type awaitReply struct {
	Result *task.Result `json:"result,omitempty"` // ask again without it
}

type releaseRequest struct{ holder }

// putRequest goes with a chunk. The chunks of a body are sent in order, to the instance that took the first.
type putRequest struct {
	holder
	Upload string `json:"upload"`
	Offset int64  `json:"offset"`
	Last   bool   `json:"last"`
}

type putReply struct {
	Instance string    `json:"instance,omitempty"` // where further chunks go
	Ref      *task.Ref `json:"ref,omitempty"`      // after the last chunk
}

type getRequest struct {
	holder
	Ref    task.Ref `json:"ref"`
	Offset int64    `json:"offset"`
	Length int      `json:"length"`
}

// encode puts v into a message: into the body, or into headerMeta beside a chunk.
func encode(m *nats.Msg, v any, chunk []byte) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode %T: %w", v, err)
	}
	if chunk == nil {
		m.Data = body
		return nil
	}
	m.Data = chunk
	m.Header.Set(headerMeta, string(body))
	return nil
}

func decode(m *nats.Msg, v any) error {
	body := m.Data
	if meta := m.Header.Get(headerMeta); meta != "" {
		body = []byte(meta)
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	return nil
}

func encodeFailure(m *nats.Msg, err error) {
	body, marshalErr := json.Marshal(newFailure(err))
	if marshalErr != nil {
		body = []byte(`{"kind":"unavailable"}`)
	}
	m.Header.Set(headerFailure, string(body))
}

func decodeFailure(m *nats.Msg) error {
	text := m.Header.Get(headerFailure)
	if text == "" {
		return nil
	}
	var f failure
	if err := json.Unmarshal([]byte(text), &f); err != nil {
		return fmt.Errorf("%w: its answer cannot be read: %w", ErrUnavailable, err)
	}
	return f.err()
}

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

// Cost is what the call used and was charged, when so much was reserved for it.
func (f *CallFailed) Cost(reserved int64) task.Usage {
	u, charged := f.Usage, f.Charged
	if f.Unknown {
		u.UnknownCalls++
		charged = max(charged, reserved)
	}
	u.UnknownTokens += max(charged-u.Total(), 0)
	return u
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
		s.Note = chars.Head(e.Note, task.PreviewLimit)
	}
	return s
}
