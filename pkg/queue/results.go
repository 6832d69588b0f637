package queue

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	"arkonis.dev/ark/pkg/task"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// publishAttempts bounds how often a result is sent when no answer comes.
const publishAttempts = 3

// PublishResult stores the result of a task. The first stored result of a task is its result for good: won is false
// when another one was there already, which is not an error. After ErrUnknownOutcome publish the same result again.
func (q *Queue) PublishResult(ctx context.Context, key Key, r *task.Result) (won bool, err error) {
	if r.TaskID != key.TaskID {
		return false, fmt.Errorf("publish result: it is of task %s, not of %s", r.TaskID, key)
	}
	won, err = q.publishFirst(ctx, resultSubject(key), r)
	if err != nil {
		return false, fmt.Errorf("publish result of %s: %w", key, err)
	}
	return won, nil
}

// PublishDelegated records that a task handed work to another one, so that it shows among the results of the run.
// Publish it before the child is submitted; publishing it again is fine.
func (q *Queue) PublishDelegated(ctx context.Context, child *task.Task, d *task.Delegated) error {
	if _, err := q.publishFirst(ctx, delegatedSubject(KeyOf(child)), d); err != nil {
		return fmt.Errorf("record delegated %s: %w", KeyOf(child), err)
	}
	return nil
}

// publishFirst stores a body on a subject that takes one message, and says whether it is this body that it holds.
func (q *Queue) publishFirst(ctx context.Context, subject string, v any) (won bool, err error) {
	body, err := json.Marshal(v)
	if err != nil {
		return false, err
	}
	if len(body) > task.MaxBody {
		return false, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(body))
	}
	for range publishAttempts {
		// The id covers the body: a second result of another content must meet the stream's own guard.
		_, err = q.publish(ctx, message(ctx, subject, body), contentID(subject, body))
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, ErrExists):
			return q.holds(ctx, subject, body)
		case !errors.Is(err, ErrUnknownOutcome) || ctx.Err() != nil:
			return false, err
		}
		if won, there := q.holds(ctx, subject, body); there == nil {
			return won, nil
		}
	}
	return false, err
}

func contentID(subject string, body []byte) string {
	sum := sha256.Sum256(body)
	return subject + "." + hex.EncodeToString(sum[:16])
}

// holds compares what a subject of StreamResults holds. It is ErrNoResult when there is nothing.
func (q *Queue) holds(ctx context.Context, subject string, body []byte) (bool, error) {
	m, err := q.lastResult(ctx, subject)
	if err != nil {
		return false, err
	}
	return bytes.Equal(m.Data, body), nil
}

func (q *Queue) lastResult(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := q.bounded(ctx)
	defer cancel()
	m, err := q.results.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, ErrNoResult
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return m, nil
}

// Result returns the result of a task, ErrNoResult while there is none. A stored result that cannot be read is a
// failed one.
func (q *Queue) Result(ctx context.Context, key Key) (*task.Result, error) {
	m, err := q.lastResult(ctx, resultSubject(key))
	if err != nil {
		return nil, fmt.Errorf("result of %s: %w", key, err)
	}
	r, err := readResult(key, m.Data)
	if err != nil {
		return unreadable(key, err), nil
	}
	return r, nil
}

func readResult(key Key, data []byte) (*task.Result, error) {
	r, err := task.Decode[task.Result](data)
	if err != nil {
		return nil, err
	}
	if r.TaskID != key.TaskID {
		return nil, fmt.Errorf("it is of task %s", r.TaskID)
	}
	return r, nil
}

// unreadable stands for a stored result that cannot be read: the subject takes no other one, and the run must go on.
func unreadable(key Key, cause error) *task.Result {
	return &task.Result{
		Version: task.Version,
		TaskID:  key.TaskID,
		Status:  task.Failed,
		Error:   task.Errorf(task.CodeInternal, "the stored result cannot be read: %s", clip(cause.Error(), 500)),
	}
}

// deadResult puts a copy of a result or record that cannot be read away, where a person finds it.
func (q *Queue) deadResult(ctx context.Context, m *nats.Msg, cause error) {
	if err := q.bury(ctx, m, StreamResults, cause.Error()); err != nil {
		q.cfg.Logger.Error("record cannot be read and not be copied", "subject", m.Subject, "cause", cause, "error", err)
		return
	}
	q.cfg.Logger.Error("record cannot be read, a copy was put away", "subject", m.Subject, "stream", StreamDead, "cause", cause)
}
