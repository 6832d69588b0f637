// Package queue is ark's durable transport over NATS JetStream: the embedded server, the streams, tasks and their
// delivery, results, large payloads, hints, and atomic batches for the ledger.
//
// Every fact has one home:
//
//	ARK_TASKS     ark.task.<ns>.<agent>.<task id>               work queue, one message per subject
//	ARK_RESULTS   ark.result.<ns>.<agent>.<run uid>.<task id>   the first result of a task wins, the stream refuses others
//	              ark.delegated.<ns>.<agent>.<run uid>.<child>  work that a task handed over
//	              ark.begun.<ns>.<agent>.<run uid>.<task id>    the child run of a task has begun
//	ARK_LEDGER    ark.ledger.log                                commits of the ledger; each writes to subjects of its own:
//	              ark.call.<ns>.<agent>.<run uid>.<task id>     journals of tasks
//	              ark.budget.<ns>.<scope>                       states of budgets, rolled up
//	ARK_PAYLOADS  ark.payload.<run uid>.>                       bodies above task.InlineLimit
//	ARK_DEAD      ark.dead.>                                    messages that nobody could read
//
// All streams have a byte limit and discard new messages when it is reached: a full stream is ErrFull, never a lost
// task. Token chunks, progress and "cancel now" are hints on core NATS: they are not stored and decide nothing.
//
// Publishing twice is harmless everywhere: task and result subjects hold one message, payloads are named by their
// content, and batches carry the sequence that they expect. What an error says about the outcome matters: ErrStale,
// ErrExists, ErrFull, ErrTooLarge and ErrUnavailable mean that nothing was stored, ErrUnknownOutcome means that it
// may have been, or may still be.
//
// All types are safe for concurrent use unless they say otherwise.
package queue

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// Default byte limits of all streams together.
const (
	DefaultMemoryBytes = 1 << 30
	DefaultFileBytes   = 8 << 30
)

// DefaultTimeout is how long a publish waits for its acknowledgement when the caller's context has no deadline.
const DefaultTimeout = 5 * time.Second

// Limits are the byte limits of the streams. A stream that reaches its limit refuses with ErrFull.
type Limits struct {
	Tasks, Results, Ledger, Payloads, Dead int64
}

// LimitsOf shares out total bytes among the streams.
func LimitsOf(total int64) Limits {
	part := total / 32
	return Limits{Tasks: 2 * part, Results: 8 * part, Ledger: 8 * part, Payloads: 13 * part, Dead: part}
}

// Config says how the streams store.
type Config struct {
	Storage  jetstream.StorageType // jetstream.FileStorage (0) or jetstream.MemoryStorage
	Replicas int                   // of each stream, 1 if 0; the embedded server has one
	Limits   Limits                // DefaultFileBytes or DefaultMemoryBytes shared out if zero
	Timeout  time.Duration         // DefaultTimeout if 0
	Logger   *slog.Logger          // slog.Default() if nil
	// ConsumerKey makes the names of the agents' consumers secret, see Server.ConsumerKey. Agents that are confined to
	// accounts of their own need it; without one the names are plain.
	ConsumerKey []byte
	// Agents is the connection that takes in what agents send: their requests (see ServeAgents) and hints. Without one it is
	// the queue's own. The server cuts a connection off when more waits in it than it reads in time, and agents can send as
	// much as they like: on a connection of their own they do not cut off the queue's.
	Agents *nats.Conn
}

func (c *Config) validate() error {
	if c.Limits == (Limits{}) {
		c.Limits = LimitsOf(DefaultFileBytes)
		if c.Storage == jetstream.MemoryStorage {
			c.Limits = LimitsOf(DefaultMemoryBytes)
		}
	}
	l := c.Limits
	for name, n := range map[string]int64{"Tasks": l.Tasks, "Results": l.Results, "Ledger": l.Ledger, "Payloads": l.Payloads, "Dead": l.Dead} {
		if n <= 0 {
			return fmt.Errorf("limits: %s: %d bytes, every stream needs a limit above 0", name, n)
		}
	}
	if c.Replicas == 0 {
		c.Replicas = 1
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return nil
}

// agents is where messages of agents come in.
func (q *Queue) agents() *nats.Conn {
	if q.cfg.Agents != nil {
		return q.cfg.Agents
	}
	return q.nc
}

// Queue is one connection's view of the streams. It owns nothing that needs closing.
type Queue struct {
	cfg Config
	nc  *nats.Conn
	js  jetstream.JetStream

	results, ledger, payloads, tasks jetstream.Stream

	log      *ledger
	accepted *Bucket // triggers, by their keys

	desk *deskClient // of an agent's view, see Attach; nil for everybody else

	mu   sync.Mutex
	seen map[string]bool // consumers of tasks that are there
}

// Open makes the streams, or changes their limits to those of the configuration, and returns when they are there.
// The connection stays the caller's.
func Open(ctx context.Context, nc *nats.Conn, cfg Config) (*Queue, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(cfg.Timeout))
	if err != nil {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	q := &Queue{cfg: cfg, nc: nc, js: js, seen: map[string]bool{}}
	q.log, q.accepted = newLedger(q), q.Bucket(BucketTriggers)
	g, ctx := errgroup.WithContext(ctx)
	var dead jetstream.Stream
	for _, s := range []struct {
		to  *jetstream.Stream
		cfg jetstream.StreamConfig
	}{
		{&q.tasks, q.tasksStream()},
		{&q.results, q.resultsStream()},
		{&q.ledger, q.ledgerStream()},
		{&q.payloads, q.payloadsStream()},
		{&dead, q.deadStream()},
	} {
		g.Go(func() (err error) {
			*s.to, err = ensureStream(ctx, js, s.cfg)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("open queue: %w", err)
	}
	return q, nil
}

// StoreID names the store that holds the streams: another one was made anew, and holds nothing of what was stored before.
func (q *Queue) StoreID() string {
	return strconv.FormatInt(q.results.CachedInfo().Created.UnixNano(), 36)
}

// Conn is the connection that the queue was opened with.
func (q *Queue) Conn() *nats.Conn { return q.nc }

// ensureStream creates the stream, which succeeds for one that is the same already, or updates it.
func ensureStream(ctx context.Context, js jetstream.JetStream, cfg jetstream.StreamConfig) (jetstream.Stream, error) {
	s, err := js.CreateStream(ctx, cfg)
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		s, err = js.UpdateStream(ctx, cfg)
	}
	if err != nil {
		return nil, fmt.Errorf("stream %s: %w", cfg.Name, err)
	}
	return s, nil
}

func (q *Queue) tasksStream() jetstream.StreamConfig {
	c := q.stream(StreamTasks, q.cfg.Limits.Tasks, "ark.task.>")
	c.Description = "tasks to do, one message per task"
	c.Retention = jetstream.WorkQueuePolicy
	return onePerSubject(c)
}

func (q *Queue) resultsStream() jetstream.StreamConfig {
	c := q.stream(StreamResults, q.cfg.Limits.Results, "ark.result.>", "ark.delegated.>", "ark.begun.>")
	c.Description = "results of tasks, the first one wins; delegated work; child runs that have begun"
	return onePerSubject(c)
}

func (q *Queue) ledgerStream() jetstream.StreamConfig {
	c := q.stream(StreamLedger, q.cfg.Limits.Ledger, logSubject)
	c.Description = "commits of the work service: journals of tasks and states of budgets"
	c.AllowAtomicPublish = true
	return c
}

func (q *Queue) payloadsStream() jetstream.StreamConfig {
	c := q.stream(StreamPayloads, q.cfg.Limits.Payloads, "ark.payload.>")
	c.Description = "large bodies, removed with their run"
	return onePerSubject(c)
}

func (q *Queue) deadStream() jetstream.StreamConfig {
	c := q.stream(StreamDead, q.cfg.Limits.Dead, "ark.dead.>")
	c.Description = "messages that nobody could read"
	return onePerSubject(c)
}

func (q *Queue) stream(name string, limit int64, subjects ...string) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name:        name,
		Subjects:    subjects,
		Retention:   jetstream.LimitsPolicy,
		Storage:     q.cfg.Storage,
		Replicas:    q.cfg.Replicas,
		MaxBytes:    limit,
		Discard:     jetstream.DiscardNew,
		AllowDirect: true,
	}
}

func onePerSubject(c jetstream.StreamConfig) jetstream.StreamConfig {
	c.MaxMsgsPerSubject = 1
	c.DiscardNewPerSubject = true
	return c
}
