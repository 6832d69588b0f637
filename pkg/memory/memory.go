// Package memory is what agents remember between tasks: entries that go before the prompt of a task, the tools remember
// and recall, and the entry that a finished task leaves behind.
//
// # Sessions
//
// Entries belong to a session: one agent in one conversation (see task.Task.Session). Tasks of the same agent and the same
// team share what is remembered, over runs and restarts; a trigger can name a conversation of its own. Agents never see
// each other's memory.
//
// # Backends
//
//	in-context    notes of one task in the memory of its process: nothing outlives the task
//	nats          ark's own queue, reached through the work service; the newest entries come first
//	redis         Redis or what speaks its protocol; the newest entries come first
//	vector-store  PostgreSQL with pgvector, or Qdrant; the entries that mean the like of the prompt come first
//
// A vector store needs vectors, which cost tokens. They are made by the Embed function that the caller gives for each
// task: it alone can reserve tokens.
//
// # Outages
//
// Memory is a help and no duty: no error of it ends a task. An operation takes Config.Timeout at most. After a failure
// the store rests: for a few seconds every operation fails at once, then one tries again. The first failure and the
// recovery are logged, Status tells the state, the model hears of it from the tools, and the task's notes say that it went
// without. No error shows a secret of the configuration.
//
// All types are safe for concurrent use.
package memory

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// Store keeps entries by session.
type Store interface {
	// Put stores an entry. It can be repeated: an entry with the same id replaces the one that is there.
	Put(ctx context.Context, session string, e Entry) error
	// Find returns up to n entries: the most similar ones to like first, or the newest ones where like is nil or the store
	// knows nothing of vectors.
	Find(ctx context.Context, session string, like []float32, n int) ([]Entry, error)
}

// Kind says where an entry comes from.
type Kind string

const (
	KindNote Kind = "note" // the model remembered it
	KindTask Kind = "task" // a finished task left it behind
)

// Entry is one thing that is remembered.
type Entry struct {
	ID   string // a UUID, derived from the task and the call that made it
	Kind Kind
	Text string
	// At is when it was stored, by the store's clock; a store sets it.
	At time.Time
	// Vector is only set on the way into a vector store.
	Vector []float32
}

// entryID names what a task remembers under a key: the same after a replay.
func entryID(taskID, key string) string {
	h := sha256.Sum256([]byte("memory\x00" + taskID + "\x00" + key))
	h[6] = h[6]&0x0f | 0x80 // version 8: made up by the application
	h[8] = h[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", h[:4], h[4:6], h[6:8], h[8:10], h[10:16])
}

// Embed makes the vector of a text on behalf of one task: it reserves the tokens, makes the call and settles it. key names
// the call within the task and is the same after a replay, so that an answer which is in the task's journal is not paid
// for again. The text has at most EmbedBytes bytes. It may be called by several goroutines at once, and its context may
// end while the call is under way.
type Embed func(ctx context.Context, key, text string) ([]float32, error)

// Memory is the memory of an agent. Make it with New, give it to every task with For, and close it in the end.
type Memory struct {
	config  Config
	health  *health // of the store
	vectors *health // of the model that makes vectors
	secrets secrets
	// store gives a task its store, which most backends share among all tasks.
	store func(*work.Session) Store
	close func() error
}

// New makes a memory. It waits for no connection: a store that is down when the agent starts is an outage like any other.
// The error says what is wrong with the configuration, without its secrets. log may be nil.
func New(ctx context.Context, c Config, log *slog.Logger) (*Memory, error) {
	c = c.withDefaults()
	if err := c.Validate(); err != nil {
		return nil, fmt.Errorf("memory: %w", err)
	}
	if log == nil {
		log = slog.Default()
	}
	m := &Memory{config: c, secrets: c.secrets(), close: func() error { return nil }}
	m.health, m.vectors = newHealth(c, log), newHealth(c, log)
	if err := m.connect(ctx); err != nil {
		return nil, fmt.Errorf("memory: %s", m.secrets.hide(err.Error()))
	}
	return m, nil
}

func (m *Memory) connect(ctx context.Context) error {
	c := m.config
	switch c.Backend {
	case InContext:
		m.store = func(*work.Session) Store { return newNotes() }
	case NATS:
		limits := work.MemoryLimits{TTL: c.TTL(), MaxEntries: c.NATS.MaxEntries}
		m.store = func(s *work.Session) Store { return natsStore{s, limits} }
	case Redis:
		s, err := newRedis(c)
		if err != nil {
			return err
		}
		m.share(s, s.close)
	case VectorStore:
		if c.Vector.Provider == Qdrant {
			s, err := newQdrant(c)
			if err != nil {
				return err
			}
			m.share(s, s.close)
			return nil
		}
		s, err := newPgvector(ctx, c)
		if err != nil {
			return err
		}
		m.share(s, s.close)
	}
	return nil
}

func (m *Memory) share(s Store, stop func() error) {
	m.store = func(*work.Session) Store { return s }
	m.close = stop
}

// Close ends connections. Nothing may be asked afterwards.
func (m *Memory) Close() error {
	if err := m.close(); err != nil {
		return fmt.Errorf("close memory: %s", m.secrets.hide(err.Error()))
	}
	return nil
}

// Status is the state of the memory now.
func (m *Memory) Status() Status { return m.health.status().merge(m.vectors.status()) }

// Config is what the memory was made of, with its defaults filled in.
func (m *Memory) Config() Config { return m.config }

// For gives a task its memory. The session is that of the task, as the work service gave it; embed is asked for vectors
// and may be nil where the backend is not VectorStore.
func (m *Memory) For(s *work.Session, embed Embed) *Session {
	return m.session(s.Task(), s, embed)
}

func (m *Memory) session(t *task.Task, s *work.Session, embed Embed) *Session {
	return &Session{memory: m, task: t, key: work.MemoryKey(t), store: m.store(s), embed: embed}
}

// ask runs an operation on the store, within its time and only when the store is not resting. The error has no secrets.
func (m *Memory) ask(ctx context.Context, f func(context.Context) error) error {
	return m.attempt(ctx, m.health, m.config.Timeout, f)
}

// attempt runs an operation on what h knows the health of.
func (m *Memory) attempt(ctx context.Context, h *health, timeout time.Duration, f func(context.Context) error) error {
	if err := h.enter(); err != nil {
		return err
	}
	cause := fmt.Errorf("no answer within %s", timeout)
	bounded, cancel := context.WithTimeoutCause(ctx, timeout, cause)
	defer cancel()
	err := f(bounded)
	switch {
	case err == nil:
		h.worked()
		return nil
	case ctx.Err() != nil:
		h.interrupted()
		return context.Cause(ctx)
	case bounded.Err() != nil, errors.Is(err, context.DeadlineExceeded):
		err = cause
	}
	failure := &Error{Message: m.secrets.sentence(err), err: identity(err)}
	if failure.err != nil {
		h.interrupted() // nothing is wrong with it
		return failure
	}
	h.failed(failure.Message)
	failure.err = ErrUnavailable
	return failure
}

// ErrUnavailable says that the store, or the model that makes the vectors, cannot be reached.
var ErrUnavailable = errors.New("memory is unavailable")

// Error is a failed operation: a sentence without secrets.
type Error struct {
	Message string
	err     error
}

func (e *Error) Error() string { return e.Message }

// Unwrap is ErrUnavailable or what else the operation failed with.
func (e *Error) Unwrap() error { return e.err }

// identity is what an error is when it does not speak of an outage: the task may not, or cannot, do what it asked for.
func identity(err error) error {
	for _, sentinel := range []error{work.ErrFenced, work.ErrGone, work.ErrDone} {
		if errors.Is(err, sentinel) {
			return sentinel
		}
	}
	if refused, ok := errors.AsType[*work.RefusedError](err); ok {
		return refused
	}
	if budget, ok := errors.AsType[*work.BudgetError](err); ok {
		return budget
	}
	if known, ok := errors.AsType[*task.Error](err); ok {
		return known
	}
	if failure, ok := errors.AsType[*llm.Error](err); ok {
		if slices.Contains([]task.Code{task.CodeContextTooLong, task.CodeContentFiltered, task.CodeCancelled}, failure.Code) {
			return &task.Error{Code: failure.Code, Message: failure.Message}
		}
	}
	return nil
}
