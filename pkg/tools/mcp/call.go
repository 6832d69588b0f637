package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/mark3labs/mcp-go/client/transport"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/tools"
)

// tool is one tool of a server under the name that models know it by.
type tool struct {
	server *server
	listed listed
	spec   llm.Tool
}

var _ tools.Tool = (*tool)(nil)

// Spec is what the model sees.
func (t *tool) Spec() llm.Tool { return t.spec }

// Safe is true for tools that the server says only read or do the same when called twice, and for all tools of a
// server that is configured so.
func (t *tool) Safe() bool { return t.listed.safe }

// Call makes the call. What goes wrong is a result that tells the model; an error is only ever the context's.
func (t *tool) Call(ctx context.Context, call tools.Call) (tools.Result, error) {
	bounded, cancel := context.WithTimeout(ctx, t.server.config.CallTimeout)
	defer cancel()
	raw, unsure, err := t.attempts(bounded, call)
	switch {
	case err == nil:
		return render(raw, t.server.config.Name), nil
	case ctx.Err() != nil:
		return tools.Result{}, context.Cause(ctx)
	default:
		return t.told(err, unsure), nil
	}
}

// How often a call is repeated by itself.
const (
	maxAttempts    = 8
	pauseOfAttempt = 50 * time.Millisecond
)

// attempts makes the call, again and again as far as that is harmless. unsure says that it may have been carried out
// although there is an error.
func (t *tool) attempts(ctx context.Context, call tools.Call) (raw json.RawMessage, unsure bool, err error) {
	for n := 1; ; n++ {
		raw, err = t.attempt(ctx, call)
		f, ok := errors.AsType[*failure](err)
		unsure = unsure || ok && f.outcome == unknown
		again := ok && (f.outcome == notDone || f.outcome == unknown && t.Safe())
		if !again || n == maxAttempts || !pause(ctx, jitter(time.Duration(n-1)*pauseOfAttempt)) {
			return raw, unsure, err
		}
	}
}

func (t *tool) attempt(ctx context.Context, call tools.Call) (json.RawMessage, error) {
	s, err := t.server.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer t.server.release(s)
	x := &exchange{idempotencyKey: call.IdempotencyKey(), safe: t.Safe()}
	raw, err := s.conn.call(ctx, x, request{tool: t.listed.name, args: call.Args})
	f, failed := errors.AsType[*failure](err)
	switch {
	case failed && ctx.Err() != nil:
		// The caller gave up. That says nothing about the connection by itself, but is a reason to look.
		s.late.Store(s.late.Load() || errors.Is(ctx.Err(), context.DeadlineExceeded))
		s.life.listChanged()
		return nil, &lateError{sent: f.outcome != notDone}
	case failed && f.lost:
		s.life.end(f)
	case !failed:
		s.served.Store(true)
		s.late.Store(false)
	}
	return raw, err
}

// lateError is a call whose time ran out.
type lateError struct{ sent bool }

func (e *lateError) Error() string { return "the time is over" }

// absentError is a server that cannot be reached.
type absentError struct{ problem string }

func (e *absentError) Error() string { return e.problem }

// told is what the model hears of a call that brought no result.
func (t *tool) told(err error, unsure bool) tools.Result {
	name, wait := t.server.config.Name, t.server.config.CallTimeout
	f, failed := errors.AsType[*failure](err)
	if absent, ok := errors.AsType[*absentError](err); ok {
		return tools.Errorf("the tool server %s cannot be reached: %s. %s Go on without it, or try again later.",
			name, absent.problem, t.fate(unsure))
	}
	if late, ok := errors.AsType[*lateError](err); ok {
		return tools.Errorf("the tool server %s gave no answer within %s. %s", name, wait, t.fate(unsure || late.sent))
	}
	switch {
	case failed && f.outcome == unknown:
		return tools.Errorf("the connection to the tool server %s broke during the call (%s). %s",
			name, t.server.creds.wording(f.cause), t.fate(true))
	case failed && f.outcome == notDone:
		return tools.Errorf("the tool server %s did not take the call: %s. %s", name, t.server.creds.wording(f.cause), t.fate(unsure))
	default:
		return tools.Errorf("the call of the tool server %s failed: %s", name, t.server.creds.wording(err))
	}
}

// fate says whether the call was carried out, and what follows from that.
func (t *tool) fate(unsure bool) string {
	switch {
	case !unsure:
		return "The call was not carried out."
	case t.Safe():
		return "Whether the call was carried out is unknown. It may be called again."
	default:
		return "Whether the call was carried out is unknown. Find out before you call it again."
	}
}

// outcome is what is known of a request that brought no result.
type outcome int

const (
	// refused: the server answered, and said no. Asking again changes nothing.
	refusedIt outcome = iota
	// notDone: it surely was not carried out.
	notDone
	// unknown: it may have been carried out.
	unknown
)

// failure is a request that brought no result.
type failure struct {
	outcome outcome
	// lost says that the connection is of no more use.
	lost bool
	// wrongTransport says that the server seems to speak another transport.
	wrongTransport bool
	credentials    bool  // the server did not accept them
	cause          error // may hold secrets
}

func (f *failure) Error() string { return f.cause.Error() }
func (f *failure) Unwrap() error { return f.cause }

// refuse is a failure that no repetition changes.
func refuse(lost bool, format string, args ...any) *failure {
	return &failure{outcome: refusedIt, lost: lost, cause: fmt.Errorf(format, args...)}
}

// judge finds out how a request ended that brought no result.
func judge(x *exchange, err error, l *life) *failure {
	x.mu.Lock()
	defer x.mu.Unlock()
	var size *sizeError
	var address *tools.AddressError
	switch {
	case x.cut != nil:
		return refuse(false, "%w, and was not read; the call was made", x.cut)
	case errors.As(context.Cause(l.ctx), &size):
		return refuse(true, "the connection was given up: %w; whether this call was carried out is unknown", size)
	case x.status >= http.StatusBadRequest:
		return x.judgeStatus()
	case x.refusal != nil:
		return &failure{outcome: refusedIt, wrongTransport: true, cause: fmt.Errorf("the server refused it: %s (error %d)", x.refusal.message, x.refusal.code)}
	case errors.As(err, &address), errors.Is(err, errElsewhere):
		return &failure{outcome: refusedIt, cause: err}
	case !x.sent:
		return &failure{outcome: notDone, lost: true, cause: orCause(err, l)}
	default:
		return &failure{
			outcome: unknown, lost: true, cause: orCause(err, l),
			wrongTransport: x.status != 0 && !errors.Is(err, context.DeadlineExceeded),
		}
	}
}

// orCause prefers why a connection ended to that it ended.
func orCause(err error, l *life) error {
	if cause := context.Cause(l.ctx); cause != nil && !errors.Is(cause, errClosed) {
		return cause
	}
	if err == nil {
		return errors.New("the server gave an empty answer")
	}
	if wrapped := (*transport.Error)(nil); errors.As(err, &wrapped) {
		return wrapped.Err
	}
	return err
}

// judgeStatus tells what an HTTP status from 400 means.
func (x *exchange) judgeStatus() *failure {
	said := ""
	if body := strings.TrimSpace(x.body); body != "" {
		said = ": " + body
	}
	if x.refusal != nil && x.refusal.message != "" {
		said = ": " + x.refusal.message
	}
	cause := fmt.Errorf("HTTP %d %s%s", x.status, http.StatusText(x.status), said)
	f := &failure{outcome: refusedIt, cause: cause}
	switch x.status {
	case http.StatusUnauthorized, http.StatusForbidden:
		f.credentials = true
		f.cause = fmt.Errorf("the server refused the credentials (%w): check headers and auth", cause)
	case http.StatusTooManyRequests:
		f.cause = fmt.Errorf("the server is busy (%w): try again later", cause)
	case http.StatusNotFound, http.StatusBadRequest, http.StatusGone:
		f.wrongTransport = true
		// Servers that forgot a session say 404; some say 400 and why.
		if x.status != http.StatusBadRequest || x.session && strings.Contains(strings.ToLower(said), "session") {
			f.outcome, f.lost = notDone, true
		}
	case http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		// They come from what stands before the server, which may have passed the request on.
		f.outcome, f.lost = unknown, true
	default:
		f.wrongTransport = x.status != http.StatusRequestTimeout
	}
	return f
}

// speaksOtherwise says whether an attempt to connect failed in a way that leaves hope for another transport.
func speaksOtherwise(err error) bool {
	if f, ok := errors.AsType[*failure](err); ok {
		return f.wrongTransport
	}
	return errors.Is(err, errNotAStream) || errors.Is(err, errSpokeHTML) || errors.Is(err, transport.ErrLegacySSEServer)
}
