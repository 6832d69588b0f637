package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// BucketTriggers holds which triggers were accepted, by event and idempotency key.
const BucketTriggers = "ark_trigger_keys"

// StreamTriggers holds triggers that were accepted and whose runs may not be made yet.
const StreamTriggers = "ARK_TRIGGERS"

const (
	// triggerKept is how long a repeated trigger is known to be one.
	triggerKept = 24 * time.Hour
	// triggerAckWait is how long the making of a run may take before it is tried again.
	triggerAckWait  = 30 * time.Second
	triggersAtOnce  = 16
	triggerConsumer = "operator"
	// triggerAgain is the pause before a trigger whose run could not be made is tried again.
	triggerAgain = time.Second
)

// AcceptTrigger makes a trigger durable. What is stored first for an event and a key is what counts for good: it is
// returned, whoever stored it. When it returns without an error the trigger is accepted, and FollowTriggers will hand it
// out. It can be repeated.
func (q *Queue) AcceptTrigger(ctx context.Context, namespace, eventUID, key string, body []byte) (accepted []byte, err error) {
	id := Token(eventUID) + "." + Token(key)
	err = q.accepted.Put(ctx, id, body, 0, triggerKept)
	if errors.Is(err, ErrStale) {
		var v Value
		if v, err = q.accepted.Get(ctx, id); err == nil && v.Data != nil {
			body = v.Data
		}
	}
	if err != nil {
		return nil, fmt.Errorf("accept trigger: %w", err)
	}
	subject := "ark.trigger." + Token(namespace) + "." + id
	err = q.publish(ctx, message(ctx, subject, body), subject)
	if streamMissing(err) { // nobody has followed triggers yet
		if _, err = q.triggers(ctx); err == nil {
			err = q.publish(ctx, message(ctx, subject, body), subject)
		}
	}
	if err != nil && !errors.Is(err, ErrExists) {
		return nil, fmt.Errorf("accept trigger: %w", err)
	}
	return body, nil
}

func (q *Queue) triggers(ctx context.Context) (jetstream.Stream, error) {
	c := q.stream(StreamTriggers, q.cfg.Limits.Tasks, "ark.trigger.>")
	c.Description = "accepted triggers whose runs are to be made"
	c.Retention = jetstream.WorkQueuePolicy
	ctx, cancel := q.bounded(ctx)
	defer cancel()
	s, err := ensureStream(ctx, q.js, onePerSubject(c))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return s, nil
}

// FollowTriggers hands accepted triggers to fire, several at once, until the context ends. One for which fire returns nil
// is done; one with an error is handed out again later. Only one process follows them at a time: what an earlier one had
// in hand is handed out at once.
func (q *Queue) FollowTriggers(ctx context.Context, fire func(ctx context.Context, body []byte) error) error {
	s, err := q.triggers(ctx)
	if err != nil {
		return fmt.Errorf("follow triggers: %w", err)
	}
	if err := s.DeleteConsumer(ctx, triggerConsumer); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("follow triggers: %w: %w", ErrUnavailable, err)
	}
	c, err := s.CreateConsumer(ctx, jetstream.ConsumerConfig{
		Durable: triggerConsumer, AckPolicy: jetstream.AckExplicitPolicy, AckWait: triggerAckWait, MaxDeliver: -1, MaxAckPending: triggersAtOnce,
	})
	if err != nil {
		return fmt.Errorf("follow triggers: %w: %w", ErrUnavailable, err)
	}
	iter, err := c.Messages(jetstream.PullMaxMessages(triggersAtOnce), jetstream.PullHeartbeat(DefaultHeartbeat))
	if err != nil {
		return fmt.Errorf("follow triggers: %w: %w", ErrUnavailable, err)
	}
	defer iter.Stop()
	var g errgroup.Group
	g.SetLimit(triggersAtOnce)
	defer func() { _ = g.Wait() }()
	for {
		m, err := iter.Next(jetstream.NextContext(ctx))
		if err != nil {
			return endOf(ctx, err)
		}
		g.Go(func() error {
			if err := fire(ctx, m.Data()); err != nil {
				return m.NakWithDelay(triggerAgain) // or it comes again after triggerAckWait
			}
			return m.Ack()
		})
	}
}
