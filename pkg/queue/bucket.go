package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Names of the buckets.
const (
	BucketMemory = "ark_memory" // what agents remember
	BucketProbes = "ark_probes" // whether the answers of agents make sense
)

// Bucket holds small values by key that change by compare-and-swap: a JetStream key-value bucket, which the tools for
// such buckets can read. It is made on first use, so that nobody pays for one that nobody uses, and may hold as many
// bytes as the queue of tasks (Limits.Tasks), in addition to the streams.
type Bucket struct {
	q    *Queue
	name string

	mu     sync.Mutex
	stream jetstream.Stream // nil before the first use
}

// Bucket returns the bucket of a name. It connects to nothing.
func (q *Queue) Bucket(name string) *Bucket { return &Bucket{q: q, name: name} }

// Value is what a key holds. The zero Value is that of a key that holds nothing.
type Value struct {
	Data     []byte
	Revision uint64 // what Put expects
}

// Get returns the value of a key, which consists of tokens (see Token) with dots between them.
func (b *Bucket) Get(ctx context.Context, key string) (Value, error) {
	ctx, cancel := b.q.bounded(ctx)
	defer cancel()
	s, err := b.open(ctx)
	if err != nil {
		return Value{}, fmt.Errorf("read %s from bucket %s: %w", key, b.name, err)
	}
	m, err := s.GetLastMsgForSubject(ctx, b.subject(key))
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return Value{}, nil
	case err != nil:
		b.lost(err)
		return Value{}, fmt.Errorf("read %s from bucket %s: %w: %w", key, b.name, ErrUnavailable, err)
	case m.Header.Get(headerOperation) != "":
		return Value{Revision: m.Sequence}, nil // deleted by hand
	default:
		return Value{Data: m.Data, Revision: m.Sequence}, nil
	}
}

// headerOperation marks what a key-value client has deleted.
const headerOperation = "KV-Operation"

// Put replaces the value of a key, if it is still the one of a revision; ErrStale says that it is not. The value is gone
// after ttl; 0 keeps it. A ttl below a second is one second.
func (b *Bucket) Put(ctx context.Context, key string, data []byte, revision uint64, ttl time.Duration) error {
	ctx, cancel := b.q.bounded(ctx)
	defer cancel()
	if _, err := b.open(ctx); err != nil {
		return fmt.Errorf("write %s to bucket %s: %w", key, b.name, err)
	}
	m := message(ctx, b.subject(key), data)
	m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(revision, 10))
	if ttl > 0 {
		m.Header.Set(jetstream.MsgTTLHeader, max(ttl, time.Second).String())
	}
	if err := b.q.publish(ctx, m, ""); err != nil {
		b.lost(err)
		return fmt.Errorf("write %s to bucket %s: %w", key, b.name, err)
	}
	return nil
}

func (b *Bucket) subject(key string) string { return "$KV." + b.name + "." + key }

func (b *Bucket) open(ctx context.Context) (jetstream.Stream, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stream != nil {
		return b.stream, nil
	}
	c := b.q.stream("KV_"+b.name, b.q.cfg.Limits.Tasks, b.subject(">"))
	c.MaxMsgsPerSubject = 1
	c.AllowMsgTTL = true
	c.AllowRollup = true
	c.DenyDelete = true
	// A replica that lags behind would make compare-and-swap fail over and over.
	c.AllowDirect = false
	s, err := ensureStream(ctx, b.q.js, c)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	b.stream = s
	return s, nil
}

// lost has the bucket made again when it is not there any more.
func (b *Bucket) lost(err error) {
	if !streamMissing(err) {
		return
	}
	b.mu.Lock()
	b.stream = nil
	b.mu.Unlock()
}

// streamMissing says whether an error means that there is no such stream.
func streamMissing(err error) bool {
	return errors.Is(err, jetstream.ErrStreamNotFound) || errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders)
}

// existing is the stream of a bucket, nil when nobody has used that yet.
func (q *Queue) existing(ctx context.Context, bucket string) (jetstream.Stream, error) {
	s, err := q.js.Stream(ctx, "KV_"+bucket)
	switch {
	case errors.Is(err, jetstream.ErrStreamNotFound):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("bucket %s: %w: %w", bucket, ErrUnavailable, err)
	default:
		return s, nil
	}
}

// eachKey calls f with the subject of every key of a bucket, $KV.<bucket>.<key>.
func (q *Queue) eachKey(ctx context.Context, bucket string, f func(subject string)) error {
	s, err := q.existing(ctx, bucket)
	if s == nil || err != nil {
		return err
	}
	return eachSubject(ctx, s, "$KV."+bucket+".>", f)
}

// purgeKeys removes the keys of a bucket that match a pattern. It says whether there were any.
func (q *Queue) purgeKeys(ctx context.Context, bucket, pattern string) (found bool, err error) {
	s, err := q.existing(ctx, bucket)
	if s == nil || err != nil {
		return false, err
	}
	subject := "$KV." + bucket + "." + pattern
	if err := eachSubject(ctx, s, subject, func(string) { found = true }); err != nil || !found {
		return false, err
	}
	if err := s.Purge(ctx, jetstream.WithPurgeSubject(subject)); err != nil {
		return false, fmt.Errorf("bucket %s: %w: %w", bucket, ErrUnavailable, err)
	}
	return true, nil
}
