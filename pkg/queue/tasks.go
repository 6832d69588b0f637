package queue

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"arkonis.dev/ark/pkg/task"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Defaults of TasksConfig.
const (
	DefaultAckWait   = 30 * time.Second
	DefaultHeartbeat = 5 * time.Second
	// pullExpiry is how long one request for tasks stays with the server before it is made anew.
	pullExpiry = 30 * time.Second
	// maxWaiting is how many requests of all pods of an agent may wait at once.
	maxWaiting = 4096
)

// Submit queues a task. It is fine when the task is there already: a task may be submitted again at any time. Errors:
// ErrFull, ErrTooLarge, ErrUnavailable; after ErrUnknownOutcome submit again.
func (q *Queue) Submit(ctx context.Context, t *task.Task) error {
	body, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("submit task %s: %w", t.ID, err)
	}
	if len(body) > task.MaxBody {
		return fmt.Errorf("submit task %s: %w: %d bytes", t.ID, ErrTooLarge, len(body))
	}
	m := message(ctx, taskSubject(t.Namespace, t.Agent, t.ID), body)
	m.Header.Set(headerRun, Token(t.Run.UID))
	if _, err = q.publish(ctx, m, Token(t.ID)); err != nil && !errors.Is(err, ErrExists) {
		return fmt.Errorf("submit %s: %w", KeyOf(t), err)
	}
	return nil
}

// TasksConfig says how an agent's process takes tasks.
type TasksConfig struct {
	Slots     int           // tasks at once, 1 if 0
	AckWait   time.Duration // a task is delivered again when nothing was heard of it for so long; DefaultAckWait if 0
	Heartbeat time.Duration // of the server while no task comes; two missed ones renew the subscription; DefaultHeartbeat if 0
}

func (c *TasksConfig) validate() error {
	if c.Slots == 0 {
		c.Slots = 1
	}
	if c.AckWait == 0 {
		c.AckWait = DefaultAckWait
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = DefaultHeartbeat
	}
	if c.Slots < 0 || c.AckWait < 0 {
		return fmt.Errorf("Slots %d and AckWait %s must not be negative", c.Slots, c.AckWait)
	}
	if c.Heartbeat < 0 || 2*c.Heartbeat > pullExpiry {
		return fmt.Errorf("Heartbeat: %s is not between 0 and %s", c.Heartbeat, pullExpiry/2)
	}
	return nil
}

// Tasks takes the tasks of one agent. It asks the server for exactly as many as it has free slots: a delivery holds
// a slot from the moment it arrives until Ack, Nak, Term or Release.
type Tasks struct {
	q        *Queue
	cfg      TasksConfig
	ns       string
	agent    string
	consumer string

	ctx   context.Context // ends with Stop
	stop  context.CancelFunc
	out   chan *Delivery
	freed chan struct{} // a slot became free
	done  chan struct{} // everything is handed back

	mu   sync.Mutex
	held int // slots in use
}

// Tasks starts to take the tasks of an agent. Several processes may do so for one agent; each task goes to one of
// them. The context bounds the start only; Stop ends it.
func (q *Queue) Tasks(ctx context.Context, namespace, agent string, cfg TasksConfig) (*Tasks, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("take tasks of agent %s/%s: %w", namespace, agent, err)
	}
	t := &Tasks{
		q: q, cfg: cfg, ns: namespace, agent: agent, consumer: consumerName(namespace, agent),
		out:   make(chan *Delivery, cfg.Slots),
		freed: make(chan struct{}, 1),
		done:  make(chan struct{}),
	}
	t.ctx, t.stop = context.WithCancel(context.WithoutCancel(ctx))
	if err := t.start(ctx); err != nil {
		t.stop()
		return nil, fmt.Errorf("take tasks of agent %s/%s: %w", namespace, agent, err)
	}
	return t, nil
}

func (t *Tasks) start(ctx context.Context) error {
	if err := t.ensureConsumer(ctx); err != nil {
		return err
	}
	p, err := newPuller(t)
	if err != nil {
		return err
	}
	go p.run()
	return nil
}

// Next waits for a task. The error is ErrStopped after Stop, or the context's.
func (t *Tasks) Next(ctx context.Context) (*Delivery, error) {
	select {
	case d := <-t.out:
		return d, nil
	case <-t.ctx.Done():
		return nil, ErrStopped
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Stop takes no more tasks and hands back at once those that Next has not returned. Deliveries that were returned
// stay valid. It returns when all is handed back or the context ends.
func (t *Tasks) Stop(ctx context.Context) error {
	t.stop()
	select {
	case <-t.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop taking tasks of agent %s/%s: %w", t.ns, t.agent, context.Cause(ctx))
	}
}

// take claims a slot for a message that arrived, release gives it back.
func (t *Tasks) take() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held++
}

func (t *Tasks) release() {
	t.mu.Lock()
	t.held--
	t.mu.Unlock()
	select {
	case t.freed <- struct{}{}:
	default:
	}
}

func (t *Tasks) free() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.cfg.Slots - t.held
}

// ensureConsumer makes the agent's durable consumer, which outlives this process: what it has not acknowledged is
// delivered to another one. There is no limit on deliveries and on what is unacknowledged: the first would leave a
// task behind for good, the second would let idle pods starve.
func (t *Tasks) ensureConsumer(ctx context.Context) error {
	ctx, cancel := t.q.bounded(ctx)
	defer cancel()
	_, err := t.q.js.CreateOrUpdateConsumer(ctx, StreamTasks, jetstream.ConsumerConfig{
		Durable:       t.consumer,
		Description:   "tasks of agent " + strconv.QuoteToASCII(t.ns+"/"+t.agent),
		FilterSubject: "ark.task." + Token(t.ns) + "." + Token(t.agent) + ".*",
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       t.cfg.AckWait,
		MaxDeliver:    -1,
		MaxAckPending: -1,
		MaxWaiting:    maxWaiting,
	})
	if err != nil {
		return fmt.Errorf("consumer %s: %w", t.consumer, err)
	}
	return nil
}

// consumerName is readable where the names are short; the server's limit is 255 bytes.
func consumerName(namespace, agent string) string {
	name := Token(namespace) + "__" + Token(agent)
	if len(name) <= 120 {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return name[:80] + "__" + hex.EncodeToString(sum[:16])
}

// pullRequest is JetStream's request for the next messages.
type pullRequest struct {
	Batch     int           `json:"batch"`
	Expires   time.Duration `json:"expires"`
	Heartbeat time.Duration `json:"idle_heartbeat"`
}

func (t *Tasks) pull(inbox string, n int) error {
	req, err := json.Marshal(pullRequest{Batch: n, Expires: pullExpiry, Heartbeat: t.cfg.Heartbeat})
	if err != nil {
		return err
	}
	return t.q.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+StreamTasks+"."+t.consumer, inbox, req)
}

// pending is how many tasks wait that no process was given.
func (t *Tasks) pending(ctx context.Context) (uint64, error) {
	ctx, cancel := t.q.bounded(ctx)
	defer cancel()
	c, err := t.q.js.Consumer(ctx, StreamTasks, t.consumer)
	if err != nil {
		return 0, err
	}
	return c.CachedInfo().NumPending, nil
}

// deliver decodes a message and queues it for Next. A message that cannot be read never reaches Next.
func (t *Tasks) deliver(m *nats.Msg) {
	t.take()
	d, err := newDelivery(t, m)
	if err != nil {
		go t.bury(d, err)
		return
	}
	select {
	case t.out <- d:
	default:
		// More than was asked for, after a renewal: another process may have a free slot.
		d.handBack()
	}
}
