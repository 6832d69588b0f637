package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

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
