package queue

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"arkonis.dev/ark/pkg/chars"
)

// Chunk is a piece of a model's answer while it is written. It is display only: the result holds the answer.
type Chunk struct {
	Step string `json:"step,omitempty"` // whose task it is; empty for one that a judge, a router or another task has
	Call int    `json:"call"`           // number of the model call within the task
	Text string `json:"text"`
}

// Progress says what a task is doing. It is display only.
type Progress struct {
	Event string    `json:"event"`          // one of the Event constants
	Step  string    `json:"step,omitempty"` // whose task it is; empty for one that a judge, a router or another task has
	Pod   string    `json:"pod,omitempty"`
	Tool  string    `json:"tool,omitempty"` // of EventTool and EventToolDone
	Why   string    `json:"why,omitempty"`  // of EventWait: a sentence for a person
	At    time.Time `json:"at"`
}

// Events of Progress.
const (
	EventStarted  = "started"  // a pod took the task over
	EventCall     = "call"     // a model call begins
	EventTool     = "tool"     // a tool call begins
	EventToolDone = "toolDone" // a tool call has ended
	EventWait     = "wait"     // nothing happens until EventCall or EventStarted: a call is tried again, or a budget is used up
)

// HintCancel tells the process that works on a task to stop. It is a hint: the Cancelled result, published before, is
// what cancels the task.
func (q *Queue) HintCancel(key Key, reason string) error {
	subject := "ark.cancel." + Token(key.Namespace) + "." + Token(key.Agent) + "." + Token(key.TaskID)
	return q.hint(subject, []byte(chars.Head(reason, 500)))
}

// hintTime bounds how long a hint that must arrive before something else takes to get to the server.
const hintTime = time.Second

// HintRemoved tells the processes of an agent that it is gone: nobody waits for what they work on, and nothing ends their tasks
// but this. It is on its way to them when HintRemoved returns nil, so that they may be cut off.
func (q *Queue) HintRemoved(namespace, agent, reason string) error {
	if err := q.hint("ark.cancel."+Token(namespace)+"."+Token(agent)+"."+Token(""), []byte(chars.Head(reason, 500))); err != nil {
		return err
	}
	if err := q.nc.FlushTimeout(hintTime); err != nil {
		return fmt.Errorf("hint: %w", notStored(err))
	}
	return nil
}

// WatchCancel calls f for each cancel hint to tasks of an agent, one at a time, until stop. The hint that the agent itself is
// gone has an empty taskID.
func (q *Queue) WatchCancel(namespace, agent string, f func(taskID, reason string)) (stop func(), err error) {
	return q.watch("ark.cancel."+Token(namespace)+"."+Token(agent)+".*", func(m *nats.Msg) {
		id, err := Untoken(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:])
		if err == nil {
			f(id, string(m.Data))
		}
	})
}

// HintChunk passes a piece of an answer to whoever looks on.
func (q *Queue) HintChunk(key Key, c Chunk) error { return q.hintJSON(key.subject("chunk"), c) }

// WatchChunks calls f for each chunk of a run, or of all runs when runUID is empty, one at a time, until stop.
func (q *Queue) WatchChunks(runUID string, f func(Key, Chunk)) (stop func(), err error) {
	return watchJSON(q, of("chunk", runUID), f)
}

// HintProgress passes news of a task to whoever looks on.
func (q *Queue) HintProgress(key Key, p Progress) error {
	return q.hintJSON(key.subject("progress"), p)
}

// WatchProgress calls f for each progress hint of a run, or of all runs when runUID is empty, one at a time, until stop.
func (q *Queue) WatchProgress(runUID string, f func(Key, Progress)) (stop func(), err error) {
	return watchJSON(q, of("progress", runUID), f)
}

func (q *Queue) hintJSON(subject string, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("hint: %w", err)
	}
	return q.hint(subject, body)
}

func (q *Queue) hint(subject string, body []byte) error {
	if err := q.nc.Publish(subject, body); err != nil {
		return fmt.Errorf("hint: %w", notStored(err))
	}
	return nil
}

func watchJSON[T any](q *Queue, subject string, f func(Key, T)) (stop func(), err error) {
	return q.watch(subject, func(m *nats.Msg) {
		_, key, err := parseKey(m.Subject)
		var v T
		if err == nil && json.Unmarshal(m.Data, &v) == nil {
			f(key, v)
		}
	})
}

// watch returns when the server knows of the subscription.
func (q *Queue) watch(subject string, f nats.MsgHandler) (stop func(), err error) {
	sub, err := q.agents().Subscribe(subject, f)
	if err == nil {
		err = q.agents().FlushTimeout(q.cfg.Timeout)
	}
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", subject, err)
	}
	return func() { _ = sub.Unsubscribe() }, nil
}
