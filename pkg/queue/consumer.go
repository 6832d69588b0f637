package queue

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// takeFrom makes the agent's durable consumer, or gives it another AckWait. It outlives this process: what it has not
// acknowledged is delivered to another one. It returns the consumer's name.
func (q *Queue) takeFrom(ctx context.Context, namespace, agent string, ackWait time.Duration) (consumer string, err error) {
	ctx, cancel := q.bounded(ctx)
	defer cancel()
	if q.desk != nil {
		return q.desk.takeFrom(ctx, namespace, agent, ackWait)
	}
	c := q.taskConsumer(namespace, agent, ackWait)
	if _, err := q.js.CreateOrUpdateConsumer(ctx, StreamTasks, c); err != nil {
		return "", fmt.Errorf("consumer %s: %w", c.Durable, err)
	}
	q.see(c.Durable)
	return c.Durable, nil
}

// awaitedBy makes the agent's consumer unless it is there. No task may be in the queue without one: the server lets
// the holder of any consumer acknowledge, and so remove, messages that no consumer is to get.
func (q *Queue) awaitedBy(ctx context.Context, namespace, agent string) error {
	c := q.taskConsumer(namespace, agent, DefaultAckWait)
	if q.sees(c.Durable) {
		return nil
	}
	ctx, cancel := q.bounded(ctx)
	defer cancel()
	_, err := q.js.CreateConsumer(ctx, StreamTasks, c)
	if err != nil && !errors.Is(err, jetstream.ErrConsumerExists) {
		return fmt.Errorf("%w: consumer %s: %w", ErrUnavailable, c.Durable, err)
	}
	q.see(c.Durable)
	return nil
}

func (q *Queue) see(consumer string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.seen[consumer] = true
}

func (q *Queue) sees(consumer string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.seen[consumer]
}

// waiting is how many tasks of an agent wait that no process was given.
func (q *Queue) waiting(ctx context.Context, namespace, agent string) (uint64, error) {
	ctx, cancel := q.bounded(ctx)
	defer cancel()
	if q.desk != nil {
		return q.desk.waiting(ctx, namespace, agent)
	}
	c, err := q.js.Consumer(ctx, StreamTasks, consumerName(q.cfg.ConsumerKey, namespace, agent))
	if err != nil {
		return 0, err
	}
	return c.CachedInfo().NumPending, nil
}

// taskConsumer has no limit on deliveries and on what is unacknowledged: the first would leave a task behind for good,
// the second would let idle pods starve.
func (q *Queue) taskConsumer(namespace, agent string, ackWait time.Duration) jetstream.ConsumerConfig {
	return jetstream.ConsumerConfig{
		Durable:       consumerName(q.cfg.ConsumerKey, namespace, agent),
		Description:   "tasks of agent " + strconv.QuoteToASCII(namespace+"/"+agent),
		FilterSubject: "ark.task." + Token(namespace) + "." + Token(agent) + ".*",
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       ackWait,
		MaxDeliver:    -1,
		MaxAckPending: -1,
		MaxWaiting:    maxWaiting,
	}
}

// consumerName is readable where the names are short; the server's limit is 255 bytes. With a key it ends in what nobody
// guesses without it.
//
// The name protects a consumer: a request that enters ark's account gets a one-time reply subject from the server, except
// when its reply begins with $JS.ACK. That one is left as it is, and what JetStream answers there, a message without a
// body, acknowledges whatever task the subject names. Newer servers take no such reply from a client. With older ones, who
// does not know the consumer cannot name it.
func consumerName(key []byte, namespace, agent string) string {
	name := Token(namespace) + "__" + Token(agent)
	if len(name) > 120 {
		sum := sha256.Sum256([]byte(name))
		name = name[:80] + "__" + hex.EncodeToString(sum[:16])
	}
	if len(key) == 0 {
		return name
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(name))
	return name + "__" + hex.EncodeToString(mac.Sum(nil)[:16])
}
