package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/propagation"

	"arkonis.dev/ark/pkg/task"
)

// Headers of ark's messages, beside the W3C trace context.
const (
	headerVersion = "Ark-Version" // of the body
	headerRun     = "Ark-Run"     // uid of the run, where the subject does not hold it
)

var errSubject = errors.New("the names in it are too long")

// message makes a message that carries the version and the trace of the context.
func message(ctx context.Context, subject string, body []byte) *nats.Msg {
	m := &nats.Msg{Subject: subject, Data: body, Header: nats.Header{}}
	m.Header.Set(headerVersion, strconv.Itoa(task.Version))
	Inject(ctx, m.Header)
	return m
}

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
	if err = checkSubject(m.Subject); err == nil {
		err = q.awaitedBy(ctx, t.Namespace, t.Agent)
	}
	if err != nil {
		return fmt.Errorf("submit %s: %w", KeyOf(t), err)
	}
	m.Header.Set(headerRun, Token(t.Run.UID))
	if err = q.publish(ctx, m, Token(t.ID)); err != nil && !errors.Is(err, ErrExists) {
		return fmt.Errorf("submit %s: %w", KeyOf(t), err)
	}
	return nil
}

// Task returns a task as the queue holds it, ErrNoTask when it holds none. It takes nothing out of the queue.
func (q *Queue) Task(ctx context.Context, namespace, agent, id string) (*task.Task, error) {
	t, err := q.lookUp(ctx, taskSubject(namespace, agent, id))
	if err != nil {
		return nil, fmt.Errorf("task %s of agent %s/%s: %w", id, namespace, agent, err)
	}
	return t, nil
}

func (q *Queue) lookUp(ctx context.Context, subject string) (*task.Task, error) {
	ctx, cancel := q.bounded(ctx)
	defer cancel()
	m, err := q.tasks.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, ErrNoTask
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	t, err := task.Decode[task.Task](m.Data)
	if err != nil {
		return nil, err
	}
	if taskSubject(t.Namespace, t.Agent, t.ID) != subject {
		return nil, fmt.Errorf("subject %s holds %s", subject, KeyOf(t))
	}
	return t, nil
}

// publish stores a message and says in its error whether it was stored. id is Nats-Msg-Id: a help against doubles for
// as long as the server remembers it, no guarantee.
func (q *Queue) publish(ctx context.Context, m *nats.Msg, id string) error {
	if err := checkSubject(m.Subject); err != nil {
		return err
	}
	if err := ended(ctx); err != nil {
		return err
	}
	if id != "" {
		m.Header.Set(jetstream.MsgIDHeader, id)
	}
	ctx, cancel := q.bounded(ctx)
	defer cancel()
	_, err := q.js.PublishMsg(ctx, m)
	return classify(err)
}

func checkSubject(subject string) error {
	if len(subject) > maxSubject {
		return fmt.Errorf("subject of %d bytes: %w", len(subject), errSubject)
	}
	return nil
}

// bounded gives a context without a deadline one.
func (q *Queue) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, q.cfg.Timeout)
}

// Inject writes the trace of the context into the headers of a message, as W3C traceparent and tracestate.
func Inject(ctx context.Context, h nats.Header) {
	propagation.TraceContext{}.Inject(ctx, carrier(h))
}

// Extract returns ctx with the trace that the headers of a message carry.
func Extract(ctx context.Context, h nats.Header) context.Context {
	return propagation.TraceContext{}.Extract(ctx, carrier(h))
}

// carrier reads and writes NATS headers, whose names are case-sensitive, without canonical upper case.
type carrier nats.Header

func (c carrier) Get(key string) string {
	if v := c[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func (c carrier) Set(key, value string) { c[key] = []string{value} }

func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}

var (
	// ErrFull means that a stream has reached its byte limit. Nothing was stored; it is worth trying again after
	// finished runs were removed.
	ErrFull = errors.New("the queue is full")
	// ErrExists means that the subject holds another message already. Nothing was stored.
	ErrExists = errors.New("already there")
	// ErrStale means that a subject's last sequence is not the expected one. Nothing was stored.
	ErrStale = errors.New("the expected last sequence is stale")
	// ErrTooLarge means that a message or a batch is above what the server takes. Nothing was stored.
	ErrTooLarge = errors.New("too large for the queue")
	// ErrUnavailable means that the server or the stream cannot be reached. Nothing was stored.
	ErrUnavailable = errors.New("the queue cannot be reached")
	// ErrUnknownOutcome means that no answer came: the messages may have been stored, or may be stored later. The
	// last message of the subject tells, and an expected sequence decides between this attempt and the next.
	ErrUnknownOutcome = errors.New("the queue did not answer, the outcome is unknown")

	// ErrNoTask means that the queue holds no such task: it never did, or it was acknowledged.
	ErrNoTask = errors.New("no such task in the queue")
	// ErrNoResult means that a task has no result yet.
	ErrNoResult = errors.New("no result")
	// ErrNoPayload means that the payload store has no such body.
	ErrNoPayload = errors.New("no such payload")
	// ErrCorrupt means that a stored body does not have the size or hash that its reference promises.
	ErrCorrupt = errors.New("the payload does not match its reference")
	// ErrStopped means that the Tasks were stopped.
	ErrStopped = errors.New("no longer taking tasks")
	// ErrLocked means that another process uses the store; see LockedError.
	ErrLocked = errors.New("the store is in use")
)

// LockedError says who holds a store. It is ErrLocked.
type LockedError struct {
	Dir string
	PID int // 0 when it could not be read
}

func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("store %s is in use by another process: stop it or choose another folder", e.Dir)
	}
	return fmt.Sprintf("store %s is in use by process %d: stop it or choose another folder", e.Dir, e.PID)
}

// Is makes errors.Is(err, ErrLocked) true.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// Error codes of JetStream that decide something here.
const (
	codeAccountResources = 10002
	codeInsufficient     = 10023
	codeMemory           = 10028
	codeStorage          = 10047
	codeMessageTooLarge  = 10054
	codeWrongLastSeq     = 10071
	codeStoreFailed      = 10077
	codeWrongLastSeqAny  = 10164
	codeBatchIncomplete  = 10176
	codeBatchTooLarge    = 10199
)

// isAPI says whether the server refused with this code.
func isAPI(err error, code jetstream.ErrorCode) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == code
}

// classify wraps the error of a publish so that it says whether the message was stored.
func classify(err error) error {
	var api *jetstream.APIError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &api):
		return classifyAPI(api)
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders),
		errors.Is(err, nats.ErrReconnectBufExceeded):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	default:
		return fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
}

func classifyAPI(api *jetstream.APIError) error {
	switch api.ErrorCode {
	case codeWrongLastSeq, codeWrongLastSeqAny:
		return fmt.Errorf("%w: %w", ErrStale, api)
	case codeAccountResources, codeInsufficient, codeMemory, codeStorage:
		return fmt.Errorf("%w: %w", ErrFull, api)
	case codeMessageTooLarge, codeBatchTooLarge:
		return fmt.Errorf("%w: %w", ErrTooLarge, api)
	case codeStoreFailed:
		return classifyStore(api)
	default:
		return api
	}
}

// classifyStore tells the causes apart that share the code 10077; the server names them in words only.
func classifyStore(api *jetstream.APIError) error {
	switch {
	case strings.Contains(api.Description, "per subject"):
		return fmt.Errorf("%w: %w", ErrExists, api)
	case strings.Contains(api.Description, "maximum"):
		return fmt.Errorf("%w: %w", ErrFull, api)
	case strings.Contains(api.Description, "too large"):
		return fmt.Errorf("%w: %w", ErrTooLarge, api)
	default:
		return api
	}
}

// ended returns the context's own error when it ended before anything was sent.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("not sent: %w", context.Cause(ctx))
	}
	return nil
}
