// Package exchange is the HTTP side of a model provider: one request to a model server, its answer read within bounds,
// and a sentence for whatever goes wrong.
//
// The vendor's SDK builds and sends the request; the answer is read here, because SDKs neither report a stream that
// ends too early nor bound what they read. One Exchange is one HTTP request: the transport's own replay of requests and
// redirects are off, as the provider turns the SDK's retries off.
//
// How a call ends when the server misbehaves:
//
//	server                                     code             again  unknown outcome
//	cannot be reached, refuses the connection  ProviderFailed   yes    no
//	certificate not trusted, HTTP for HTTPS    ProviderFailed   no     no
//	401, 403                                   ProviderAuth     no     no
//	402, 429 without credit                    RateLimited      no     no
//	429                                        RateLimited      yes    no
//	529, overloaded                            ProviderFailed   yes    no
//	408, other 5xx but 501                     ProviderFailed   yes    yes
//	501                                        ProviderFailed   no     no
//	3xx, other 4xx                             ProviderRefused  no     no
//	the prompt does not fit                    ContextTooLong   no     no
//	a filter withheld prompt or answer         ContentFiltered  no     unless the usage was told
//	an error in the middle of an answer        as above         as above  yes
//	reset, silence, cut stream, garbage        ProviderFailed   yes    yes
//	no finish reason                           ProviderFailed   yes    yes
//	more than what bounds an answer            ProviderFailed   no     yes
//	the context ends                           Timeout or Cancelled    unless nothing was sent
//
// No error shows a secret: not the key, not a header's value, not what stands in the base URL.
package exchange

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/propagation"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/task"
)

// Bounds of one answer. They stand far above what a model can write, and keep a broken server from exhausting its
// client.
const (
	MaxAnswer    = 64 << 20      // bytes of text
	MaxBeside    = 8 << 20       // bytes of reasoning, names and arguments together
	MaxPiece     = 2 * MaxAnswer // bytes of one event of a stream, or of an answer that does not stream, as JSON
	MaxToolCalls = 256           // in one answer

	// maxBody is how many bytes a response body may have after decompression, and bodyPerByte how many more with each byte
	// of the answer that it brought: a server frames every few letters with some hundred bytes, and one that sends
	// nothing but frames is soon cut off. Once an answer is a large one, a piece may come on top.
	maxBody     = 64 << 20
	bodyPerByte = 128

	MaxRetryAfter = 5 * time.Minute
)

// Within is an *Excess for an answer with more bytes of text, or beside it, than an answer may have.
func Within(text, beside int) error {
	switch {
	case text > MaxAnswer:
		return &Excess{Of: fmt.Sprintf("%d MiB of text", MaxAnswer>>20)}
	case beside > MaxBeside:
		return &Excess{Of: fmt.Sprintf("%d MiB of reasoning and tool calls", MaxBeside>>20)}
	default:
		return nil
	}
}

// Excess says of what an answer has more than answers may have. It is ErrTooMuch.
type Excess struct {
	Of string // the bound and what it counts: "64 MiB of text"
}

func (e *Excess) Error() string { return "more than " + e.Of }

// Is says that it is ErrTooMuch.
func (e *Excess) Is(target error) bool { return target == ErrTooMuch }

const errorBodyLimit = 64 << 10

// Answer gathers the pieces of one answer. It is used by one goroutine.
type Answer interface {
	// Add takes in one piece: the data of an event, or a whole answer that did not stream. done is the server's own
	// mark of the end. The error is a *Said that the server told, or an *Excess, or wraps ErrNoAnswer.
	Add(piece []byte) (done bool, err error)
	// Size is how many bytes of what the model wrote have arrived.
	Size() int
	// Finished says that the answer is whole: the reason why it ended has arrived.
	Finished() bool
	// Usage is what the server said the whole call used; nil if it has not said so.
	Usage() *task.Usage
}

// Middleware wraps a request, in the shape that the vendors' SDKs take.
type Middleware = func(*http.Request, func(*http.Request) (*http.Response, error)) (*http.Response, error)

// Send makes one request through an SDK, with once as its innermost middleware, and gives the response with its body
// unread.
type Send func(ctx context.Context, once Middleware) (*http.Response, error)

// Call is what a provider knows of one call.
type Call struct {
	Model  string
	Send   Send
	Answer Answer
	// Fallback finds out whether what a server said refuses a feature that the request used, and remembers it. The
	// note says what the next call goes without; "" is none. status is 0 for an error without one.
	Fallback func(status int, said Said) (note string)
	// Room is llm.Request's.
	Room func(context.Context) error
}

// refusal is an answer other than 2xx.
type refusal struct {
	status int
	header http.Header
	body   []byte // bounded
}

func (r *refusal) Error() string { return http.StatusText(r.status) }

// running is one exchange on its way.
type running struct {
	Call
	server  *Server
	dog     *watchdog
	dialled atomic.Bool // the transport tells what it does
	sent    atomic.Bool // something of the request has gone out
}

// Exchange sends one request and reads its answer. The error is nil for a whole answer.
func (s *Server) Exchange(parent context.Context, c Call) *llm.Error {
	if parent.Err() != nil {
		return s.ended(parent)
	}
	ctx, dog := watch(parent, s.idle)
	defer dog.stop()
	x := &running{Call: c, server: s, dog: dog}
	res, err := c.Send(x.traced(ctx), x.once)
	if err != nil {
		return x.failed(parent, ctx, err, nil)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := newBody(res, maxBody, dog)
	if err != nil {
		return x.failed(parent, ctx, err, nil)
	}
	r := newReader(b, c.Answer, func() { dog.tighten(s.grace) })
	r.room = x.room(ctx)
	if err := r.read(); err != nil {
		return x.failed(parent, ctx, err, r.head)
	}
	drain(b, dog)
	return nil
}

// room waits for the room that a large answer needs. The server is not silent meanwhile: it is not listened to.
func (x *running) room(ctx context.Context) func() error {
	if x.Room == nil {
		return nil
	}
	return func() error {
		x.dog.pause()
		defer x.dog.alive()
		return x.Room(ctx)
	}
}

// traced hears from the transport how far the request has come.
func (x *running) traced(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn:      func(string) { x.dialled.Store(true) },
		WroteHeaders: func() { x.sent.Store(true) },
	})
}

// unsent says that the server surely has not got the request.
func (x *running) unsent() bool { return x.dialled.Load() && !x.sent.Load() }

// once sends a request one single time, and reads what a refusal says within bounds; an SDK would read it without any.
func (x *running) once(req *http.Request, next func(*http.Request) (*http.Response, error)) (*http.Response, error) {
	// With the body's replay, net/http sends a POST that carries an Idempotency-Key a second time when a kept
	// connection breaks.
	req.GetBody = nil
	// The server's trace goes on from the call's span.
	propagation.TraceContext{}.Inject(req.Context(), propagation.HeaderCarrier(req.Header))
	res, err := next(req)
	if err != nil || res.StatusCode/100 == 2 {
		return res, err
	}
	defer func() { _ = res.Body.Close() }()
	r := &refusal{status: res.StatusCode, header: res.Header}
	if b, err := newBody(res, errorBodyLimit, x.dog); err == nil {
		// Whatever arrived of the explanation is good enough.
		r.body, _ = io.ReadAll(b)
	}
	return nil, r
}

// drain reads the rest after a whole answer, so that the connection can be used again. A server that leaves it open
// loses it.
func drain(b io.Reader, dog *watchdog) {
	const wait, most = 50 * time.Millisecond, 64 << 10
	dog.tighten(wait)
	_, _ = io.CopyN(io.Discard, b, most)
}

// ended is a call whose own time is up, or that was cancelled.
func (s *Server) ended(ctx context.Context) *llm.Error {
	e := &llm.Error{Code: task.CodeCancelled, Err: ctx.Err()}
	what := "had not answered when the call was cancelled"
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		e.Code, what = task.CodeTimeout, "had not answered when the call's time was up"
	}
	e.Message = s.Sentence(what, "", "")
	return e
}
