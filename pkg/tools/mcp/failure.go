package mcp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/mark3labs/mcp-go/client/transport"

	"arkonis.dev/ark/pkg/tools"
)

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

func fail(o outcome, lost bool, format string, args ...any) *failure {
	return &failure{outcome: o, lost: lost, cause: fmt.Errorf(format, args...)}
}

// judge finds out how a request ended that brought no result.
func judge(x *exchange, err error, l *life) *failure {
	x.mu.Lock()
	defer x.mu.Unlock()
	var size *sizeError
	var address *tools.AddressError
	switch {
	case x.cut != nil:
		return fail(refusedIt, false, "%w, and was not read; the call was made", x.cut)
	case errors.As(context.Cause(l.ctx), &size):
		return fail(refusedIt, true, "the connection was given up: %w; whether this call was carried out is unknown", size)
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
	var f *failure
	if errors.As(err, &f) {
		return f.wrongTransport
	}
	return errors.Is(err, errNotAStream) || errors.Is(err, errSpokeHTML) || errors.Is(err, transport.ErrLegacySSEServer)
}
