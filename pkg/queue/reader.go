package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"arkonis.dev/ark/pkg/task"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

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
	if err := q.follow(ctx, runUID, record, caughtUp); err != nil {
		return fmt.Errorf("follow results: %w", err)
	}
	return nil
}

func (q *Queue) follow(ctx context.Context, runUID string, record func(Record) error, caughtUp func() error) error {
	filters := []string{of("result", runUID), of("delegated", runUID)}
	c, err := q.js.OrderedConsumer(ctx, StreamResults, jetstream.OrderedConsumerConfig{
		FilterSubjects:    filters,
		DeliverPolicy:     jetstream.DeliverAllPolicy,
		InactiveThreshold: time.Minute,
	})
	if err != nil {
		return err
	}
	iter, err := c.Messages(jetstream.PullHeartbeat(DefaultHeartbeat))
	if err != nil {
		return err
	}
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
