package anthropic

import (
	"context"
	"net/http"
	"slices"

	"github.com/anthropics/anthropic-sdk-go/option"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/exchange"
	"arkonis.dev/ark/pkg/task"
)

// call is one Chat.
type call struct {
	p       *Provider
	req     llm.Request
	without exchange.Features // refused before
	out     *outgoing
	answer  answer
}

func (c *call) do(ctx context.Context) (*llm.Response, *llm.Error) {
	if err := c.req.Validate(); err != nil {
		return nil, err
	}
	var err error
	if c.out, err = newOutgoing(c.req, c.without); err != nil {
		return nil, &llm.Error{Code: task.CodeBadTask, Message: c.p.server.Excerpt(err.Error()), Err: err}
	}
	failure := c.p.server.Exchange(ctx, exchange.Call{Model: c.req.Model, Send: c.send, Answer: &c.answer, Fallback: c.fallback, Room: c.req.Room})
	if failure != nil {
		return nil, failure
	}
	return c.whole()
}

// send makes the request. The SDK's own method for messages would set a time limit of its own.
func (c *call) send(ctx context.Context, once exchange.Middleware) (*http.Response, error) {
	var res *http.Response
	opts := slices.Concat(c.out.opts, []option.RequestOption{option.WithMiddleware(once)})
	err := c.p.client.Post(ctx, "v1/messages", c.out.params, &res, opts...)
	return res, err
}

// fallback remembers the feature that the server refuses, if that is what it says.
func (c *call) fallback(status int, said exchange.Said) string {
	f := refusedFeature(status, said, c.out.used)
	if f == 0 {
		return ""
	}
	c.p.refused.Add(c.req.Model, f)
	return note(f, c.req.Model, c.p.server.String())
}

// whole makes the response, or the error that a whole answer can still be.
func (c *call) whole() (*llm.Response, *llm.Error) {
	if e := c.stopped(); e != nil {
		e.Status, e.Usage, e.Unknown = http.StatusOK, c.answer.Usage(), c.answer.Usage() == nil
		return nil, e
	}
	r := c.answer.response(c.req)
	c.out.lost.Each(func(f exchange.Features) {
		r.Notes = append(r.Notes, note(f, c.req.Model, c.p.server.String()))
	})
	return r, nil
}

// stopped explains a stop reason that is no end of an answer; nil for those that are.
func (c *call) stopped() *llm.Error {
	s := c.p.server
	switch c.answer.stop {
	case stopRefusal:
		said := c.answer.explanation
		if said == "" {
			said = "its safety filter stopped the answer"
		}
		return &llm.Error{Code: task.CodeContentFiltered, Message: s.Sentence("withheld the answer", said, "change the prompt")}
	case stopContext:
		return &llm.Error{Code: task.CodeContextTooLong, Message: s.Sentence("had no room left for the answer in the model's context window", "",
			"shorten the prompt or the tool results, or use a model with a larger context")}
	case stopPause:
		return &llm.Error{Code: task.CodeProviderFailed, Message: s.Sentence("paused in the middle of the answer, as it does for tools of its own", "",
			"take those tools away from the model")}
	default:
		return nil
	}
}
