package queue

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/task"
)

// publishAttempts bounds how often a result is sent when no answer comes.
const publishAttempts = 3

// PublishResult stores the result of a task. The first stored result of a task is its result for good: won is false
// when another one was there already, which is not an error. After ErrUnknownOutcome publish the same result again.
func (q *Queue) PublishResult(ctx context.Context, key Key, r *task.Result) (won bool, err error) {
	if r.TaskID != key.TaskID {
		return false, fmt.Errorf("publish result: it is of task %s, not of %s", r.TaskID, key)
	}
	if q.desk != nil {
		won, err = q.desk.result(ctx, key, r)
	} else {
		won, err = q.publishFirst(ctx, resultSubject(key), r)
	}
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

// MarkBegun records that the child run which carries out a task has begun, so that it is known for as long as the run that it
// is a step of has records, also when the child run itself is deleted. Marking it again is fine.
func (q *Queue) MarkBegun(ctx context.Context, key Key, childUID string) error {
	if _, err := q.publishFirst(ctx, begunSubject(key), childUID); err != nil {
		return fmt.Errorf("mark the begin of %s: %w", key, err)
	}
	return nil
}

// Begun says whether the child run which carries out a task has ever begun.
func (q *Queue) Begun(ctx context.Context, key Key) (bool, error) {
	_, err := q.lastResult(ctx, begunSubject(key))
	if errors.Is(err, ErrNoResult) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the begin of %s: %w", key, err)
	}
	return true, nil
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
		err = q.publish(ctx, message(ctx, subject, body), contentID(subject, body))
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
		Error:   task.Errorf(task.CodeInternal, "the stored result cannot be read: %s", chars.Head(cause.Error(), 500)),
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

// Record is one entry of the results stream: the result of a task, or the news that work was delegated.
type Record struct {
	Key       Key             // of the task; of the child for delegated work
	Result    *task.Result    // exactly one of both is set
	Delegated *task.Delegated //
	At        time.Time       // when it was stored, by the server's clock
	Seq       uint64          // rising

	header nats.Header
}

// Context returns ctx with the trace of whoever published the record.
func (r Record) Context(ctx context.Context) context.Context { return Extract(ctx, r.header) }

// Results passes every record of a run, or of all runs when runUID is empty, from the first stored one on and in the
// order in which they were stored, each one once; it then waits for more. caughtUp, which may be nil, is called once,
// when everything that was there at the start has been passed. Connections that break are taken up again where they
// ended.
//
// It returns when the context ends, a function fails, or the connection is closed for good.
func (q *Queue) Results(ctx context.Context, runUID string, record func(Record) error, caughtUp func() error) error {
	if err := q.follow(ctx, runUID, 1, record, caughtUp); err != nil {
		return fmt.Errorf("follow results: %w", err)
	}
	return nil
}

// NewResults passes the records of all runs that are stored from now on, like Results. It calls ready, which must not
// block, when it misses none any more. One reader for many runs costs the server much less than one for each.
func (q *Queue) NewResults(ctx context.Context, record func(Record) error, ready func()) error {
	info, err := q.results.Info(ctx)
	if err != nil {
		return fmt.Errorf("follow results: %w: %w", ErrUnavailable, err)
	}
	ready() // what is stored from here on stands behind the sequence that the reader begins at
	if err := q.follow(ctx, "", info.State.LastSeq+1, record, nil); err != nil {
		return fmt.Errorf("follow results: %w", err)
	}
	return nil
}

// unfollow removes a reader's consumer. Without it the server keeps it for a while, and a process that follows many
// runs one after another reaches the limit of consumers.
func (q *Queue) unfollow(ctx context.Context, c jetstream.Consumer) {
	info := c.CachedInfo()
	if info == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), unfollowTimeout)
	defer cancel()
	// When it fails, the inactivity threshold removes the consumer.
	_ = q.js.DeleteConsumer(ctx, StreamResults, info.Name)
}

const unfollowTimeout = time.Second

func (q *Queue) follow(ctx context.Context, runUID string, from uint64, record func(Record) error, caughtUp func() error) error {
	filters := []string{of("result", runUID), of("delegated", runUID)}
	c, err := q.js.OrderedConsumer(ctx, StreamResults, jetstream.OrderedConsumerConfig{
		FilterSubjects:    filters,
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       from,
		InactiveThreshold: time.Minute,
	})
	if err != nil {
		return err
	}
	iter, err := c.Messages(jetstream.PullHeartbeat(DefaultHeartbeat))
	if err != nil {
		return err
	}
	defer q.unfollow(ctx, c)
	defer iter.Stop()
	caughtUp = once(caughtUp)
	if info := c.CachedInfo(); info != nil && info.NumPending == 0 {
		if err := caughtUp(); err != nil {
			return err
		}
	}
	for {
		m, err := iter.Next(jetstream.NextContext(ctx))
		if err != nil {
			return endOf(ctx, err)
		}
		pending, err := q.pass(ctx, m, record)
		if err != nil {
			return err
		}
		if pending > 0 {
			continue
		}
		if err := caughtUp(); err != nil {
			return err
		}
	}
}

func endOf(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, jetstream.ErrMsgIteratorClosed):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	default:
		return err
	}
}

// pass hands on one message and returns how many are known to follow.
func (q *Queue) pass(ctx context.Context, m jetstream.Msg, record func(Record) error) (pending uint64, err error) {
	meta, err := m.Metadata()
	if err != nil {
		return 0, err
	}
	r, err := readRecord(m.Subject(), m.Data())
	if err != nil {
		q.deadResult(ctx, &nats.Msg{Subject: m.Subject(), Header: m.Headers(), Data: m.Data()}, err)
		if r.Result == nil {
			return meta.NumPending, nil
		}
	}
	r.At, r.Seq, r.header = meta.Timestamp, meta.Sequence.Stream, m.Headers()
	return meta.NumPending, record(r)
}

// readRecord returns an error for what cannot be read; for a result the record is then a failed result in its place.
func readRecord(subject string, data []byte) (Record, error) {
	kind, key, err := parseKey(subject)
	if err != nil {
		return Record{}, err
	}
	if kind == "delegated" {
		d, err := task.Decode[task.Delegated](data)
		return Record{Key: key, Delegated: d}, err
	}
	r, err := readResult(key, data)
	if err != nil {
		return Record{Key: key, Result: unreadable(key, err)}, err
	}
	return Record{Key: key, Result: r}, nil
}

// once returns a function that calls f the first time only; f may be nil.
func once(f func() error) func() error {
	return func() error {
		if f == nil {
			return nil
		}
		call := f
		f = nil
		return call()
	}
}
