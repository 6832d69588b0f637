package work

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

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
	Task string `json:"task"`
	Pod  string `json:"pod"`
	ID   string `json:"id"` // the same when the request is sent again
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
	// Conflict says that the n-th append of the epoch is another one, which is stored.
	Conflict bool `json:"conflict,omitempty"`
}

// withdrawRequest gives up an append: what is not stored of it never will be.
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
