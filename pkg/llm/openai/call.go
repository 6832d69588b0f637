package openai

import (
	"context"
	"net/http"
	"slices"

	"github.com/openai/openai-go/v3/option"

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
	if c.out, err = newOutgoing(c.req, c.without, c.p.newName); err != nil {
		return nil, &llm.Error{Code: task.CodeBadTask, Message: c.p.server.Excerpt(err.Error()), Err: err}
	}
	failure := c.p.server.Exchange(ctx, exchange.Call{Model: c.req.Model, Send: c.send, Answer: &c.answer, Fallback: c.fallback, Room: c.req.Room})
	if failure != nil {
		return nil, failure
	}
	return c.whole()
}

// send makes the request.
func (c *call) send(ctx context.Context, once exchange.Middleware) (*http.Response, error) {
	var res *http.Response
	opts := slices.Concat(c.out.opts, []option.RequestOption{option.WithResponseBodyInto(&res), option.WithMiddleware(once)})
	_, err := c.p.chat.New(ctx, c.out.params, opts...)
	return res, err
}

// fallback remembers the feature that the server refuses, if that is what it says.
func (c *call) fallback(status int, said exchange.Said) string {
	f := refusedFeature(status, said, c.out.used, c.out.sentLimit)
	if f == 0 || c.without&f != 0 {
		return ""
	}
	c.p.refused.Add(c.req.Model, f)
	return note(f, c.req.Model, c.p.server.String())
}

// whole makes the response, or the error that a whole answer can still be.
func (c *call) whole() (*llm.Response, *llm.Error) {
	a := &c.answer
	r := a.response(c.req)
	refusal := a.refusal.String()
	if r.Finish == llm.FinishFiltered || (refusal != "" && r.Message.Text == "") {
		e := &llm.Error{Code: task.CodeContentFiltered, Status: http.StatusOK, Usage: a.usage, Unknown: a.usage == nil}
		said := refusal
		if said == "" {
			said = "its content filter stopped the answer"
		}
		e.Message = c.p.server.Sentence("withheld the answer", said, "change the prompt")
		return nil, e
	}
	c.out.lost.Each(func(f exchange.Features) {
		r.Notes = append(r.Notes, note(f, c.req.Model, c.p.server.String()))
	})
	return r, nil
}
