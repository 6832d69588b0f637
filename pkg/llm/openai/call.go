package openai

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"slices"
	"sync/atomic"
	"time"

	"github.com/openai/openai-go/v3/option"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/task"
)

// call is one Chat.
type call struct {
	p       *Provider
	req     llm.Request
	without features // refused before
	out     *outgoing
	onChunk func(llm.Chunk)

	dialled atomic.Bool // the transport tells what it does
	sent    atomic.Bool // something of the request has gone out
}

// statusError is an answer other than 2xx.
type statusError struct {
	status int
	header http.Header
	body   []byte
}

func (e *statusError) Error() string { return http.StatusText(e.status) }

const errorBodyLimit = 64 << 10

func (c *call) do(parent context.Context) (*llm.Response, *llm.Error) {
	if c.req.Model == "" || c.req.MaxTokens <= 0 || len(c.req.Messages) == 0 {
		return nil, &llm.Error{Code: task.CodeInternal, Message: "a model call needs a model, messages and a token limit above 0"}
	}
	var err error
	if c.out, err = newOutgoing(c.req, c.without, c.p.newName); err != nil {
		return nil, &llm.Error{Code: task.CodeBadTask, Message: c.p.secrets.excerpt(err.Error()), Err: err}
	}
	if parent.Err() != nil {
		return nil, c.ended(parent)
	}
	ctx, dog := watch(parent, c.p.idle)
	defer dog.stop()
	res, err := c.send(ctx, dog)
	if err != nil {
		return nil, c.failed(parent, ctx, err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := newBody(res, MaxBody, dog)
	if err != nil {
		return nil, c.broken(parent, ctx, err, nil, nil)
	}
	a := &answer{byIndex: map[int]*partCall{}, onChunk: c.onChunk}
	r := newReader(b, a, func() { dog.tighten(c.p.grace) })
	if err := r.read(); err != nil {
		return nil, c.broken(parent, ctx, err, a, r.head)
	}
	drain(b, dog)
	return c.whole(a)
}

// send makes the request. An answer other than 2xx is a *statusError.
func (c *call) send(ctx context.Context, dog *watchdog) (*http.Response, error) {
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GetConn:      func(string) { c.dialled.Store(true) },
		WroteHeaders: func() { c.sent.Store(true) },
	})
	var res *http.Response
	opts := slices.Concat(c.out.opts, []option.RequestOption{
		option.WithResponseBodyInto(&res),
		option.WithMiddleware(func(req *http.Request, next option.MiddlewareNext) (*http.Response, error) {
			return onlySuccess(req, next, dog)
		}),
	})
	if _, err := c.p.chat.New(ctx, c.out.params, opts...); err != nil {
		return nil, err
	}
	return res, nil
}

// onlySuccess reads what a refusal says, within bounds; the SDK would read it without any.
func onlySuccess(req *http.Request, next option.MiddlewareNext, dog *watchdog) (*http.Response, error) {
	res, err := next(req)
	if err != nil || res.StatusCode/100 == 2 {
		return res, err
	}
	defer func() { _ = res.Body.Close() }()
	e := &statusError{status: res.StatusCode, header: res.Header}
	if b, err := newBody(res, errorBodyLimit, dog); err == nil {
		// Whatever arrived of the explanation is good enough.
		e.body, _ = io.ReadAll(b)
	}
	return nil, e
}

// drain reads the rest after a whole answer, so that the connection can be used again. A server that leaves it open
// loses it.
func drain(b io.Reader, dog *watchdog) {
	const wait, most = 50 * time.Millisecond, 64 << 10
	dog.tighten(wait)
	_, _ = io.CopyN(io.Discard, b, most)
}

// whole makes the response, or the error that a whole answer can still be.
func (c *call) whole(a *answer) (*llm.Response, *llm.Error) {
	r := a.response(c.req)
	refusal := a.refusal.String()
	if r.Finish == llm.FinishFiltered || (refusal != "" && r.Message.Text == "") {
		e := &llm.Error{Code: task.CodeContentFiltered, Status: http.StatusOK, Usage: a.usage, Unknown: a.usage == nil}
		said := refusal
		if said == "" {
			said = "its content filter stopped the answer"
		}
		e.Message = c.sentence("withheld the answer", said, "change the prompt")
		return nil, e
	}
	c.out.lost.each(func(f features) {
		r.Notes = append(r.Notes, f.note(c.req.Model, c.p.server))
	})
	return r, nil
}

// unsent says that the server surely has not got the request.
func (c *call) unsent() bool { return c.dialled.Load() && !c.sent.Load() }

// ended is a call whose own time is up, or that was cancelled.
func (c *call) ended(ctx context.Context) *llm.Error {
	e := &llm.Error{Code: task.CodeCancelled, Err: ctx.Err()}
	what := "had not answered when the call was cancelled"
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		e.Code, what = task.CodeTimeout, "had not answered when the call's time was up"
	}
	e.Message = c.sentence(what, "", "")
	return e
}
