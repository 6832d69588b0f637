package openai

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/task"
)

// sentence names the server, what happened, what it said and what to do.
func (c *call) sentence(what, said, todo string) string {
	s := "model server " + c.p.server + " " + what
	if said = c.p.secrets.excerpt(said); said != "" {
		s += fmt.Sprintf(": %q", said)
	}
	if todo != "" {
		s += "; " + todo
	}
	return s
}

// failed explains a request without a 2xx.
func (c *call) failed(parent, ctx context.Context, err error) *llm.Error {
	if se, ok := errors.AsType[*statusError](err); ok {
		return c.refused(se)
	}
	return c.broken(parent, ctx, err, nil, nil)
}

// broken explains a connection or an answer that broke. a is what had arrived, head the beginning of the body.
func (c *call) broken(parent, ctx context.Context, err error, a *answer, head []byte) *llm.Error {
	if told, ok := errors.AsType[*toldError](err); ok {
		return c.told(told.serverError, a)
	}
	e := &llm.Error{Code: task.CodeProviderFailed, Retry: true}
	switch {
	case parent.Err() != nil:
		e = c.ended(parent)
	case errors.Is(context.Cause(ctx), errIdle):
		e.Message, e.Err = c.sentence(fmt.Sprintf("was silent for %s", c.p.idle), "", "see whether it is overloaded"), errIdle
	case errors.Is(err, errTooMuch):
		e.Retry, e.Err = false, errTooMuch
		e.Message = c.sentence("answered more than any model writes", "", "see what answers at this address")
	case errors.Is(err, errNoAnswer), errors.Is(err, errEncoded):
		e.Err = errNoAnswer
		e.Message = c.sentence("answered something that is no answer of chat completions", garbage(err, head), "check the base URL")
	case errors.Is(err, errCut):
		e.Err = errCut
		e.Message = c.sentence("ended its answer before it was whole, without a finish reason", "", "")
	default:
		c.unreachable(e, err)
	}
	e.Unknown = !c.unsent()
	if a != nil {
		e.Usage = a.usage
	}
	return e
}

func garbage(err error, head []byte) string {
	if len(head) > 0 {
		return string(head)
	}
	return err.Error()
}

// unreachable explains an error of the network.
func (c *call) unreachable(e *llm.Error, err error) {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err // the outer one quotes the URL
	}
	// What the network says may quote the address with its secrets; only its kind goes on.
	said := c.p.secrets.excerpt(err.Error())
	e.Err = errors.New(said)
	var (
		dns    *net.DNSError
		record tls.RecordHeaderError
		cert   *tls.CertificateVerificationError
		auth   x509.UnknownAuthorityError
	)
	switch {
	case errors.As(err, &dns):
		e.Message = c.sentence("cannot be found", said, "check the host in the base URL")
	case errors.As(err, &record), strings.Contains(said, "server gave HTTP response to HTTPS client"):
		e.Retry = false
		e.Message = c.sentence("does not speak TLS", said, "use http:// in the base URL")
	case errors.As(err, &cert), errors.As(err, &auth):
		e.Retry = false
		e.Message = c.sentence("shows a certificate that is not trusted", said, "add its authority to the system's certificates")
	case c.unsent():
		e.Message = c.sentence("cannot be reached", said, "check the base URL and whether the server runs")
	default:
		e.Message = c.sentence("broke the connection", said, "")
	}
}

// refused explains a status other than 2xx.
func (c *call) refused(se *statusError) *llm.Error {
	said := parseError(se.body)
	e := c.classify(se.status, said)
	e.Status = se.status
	e.RetryAfter = 0
	if e.Retry {
		e.RetryAfter = retryAfter(se.header, time.Now())
	}
	// Whoever refuses a request has not run it; a server that breaks, or a proxy that waited for one, may have.
	e.Unknown = se.status >= 500 && se.status != http.StatusNotImplemented || se.status == http.StatusRequestTimeout
	if se.status/100 == 3 {
		to := "nowhere"
		if u, err := url.Parse(se.header.Get("Location")); err == nil && u.Host != "" {
			to = publicURL(u)
		}
		e.Message = c.sentence(fmt.Sprintf("answered %d: it redirects", se.status), to, "put the address that answers into the base URL")
	}
	return e
}

// told explains an error that came in a 200: nobody knows what ran before it.
func (c *call) told(said serverError, a *answer) *llm.Error {
	status := 0
	if said.Number >= 400 && said.Number < 600 {
		status = said.Number
	}
	e := c.classify(status, said)
	if a != nil {
		e.Usage = a.usage
		if a.size > 0 {
			e.Fallback, e.Note = false, ""
		}
	}
	e.Status, e.Unknown = http.StatusOK, true
	return e
}

// classify maps what a server said to a code. status is 0 for an error without one.
func (c *call) classify(status int, said serverError) *llm.Error {
	text := strings.ToLower(said.Message + " " + said.Code + " " + said.Type)
	answered := "answered an error"
	if status != 0 {
		answered = strings.TrimSpace(fmt.Sprintf("answered %d %s", status, http.StatusText(status)))
	}
	e := &llm.Error{}
	set := func(code task.Code, retry bool, todo string) *llm.Error {
		e.Code, e.Retry, e.Message = code, retry, c.sentence(answered, said.Message, todo)
		return e
	}
	switch {
	case status == http.StatusRequestEntityTooLarge, containsAny(text, contextWords...):
		return set(task.CodeContextTooLong, false, "shorten the prompt or the tool results, or use a model with a larger context")
	case status == http.StatusPaymentRequired, containsAny(text, creditWords...):
		return set(task.CodeRateLimited, false, "the account has no credit left: raise its limit")
	case containsAny(text, filterWords...):
		return set(task.CodeContentFiltered, false, "change the prompt")
	}
	if f := refusedFeature(status, said, c.out.used, c.out.sentLimit); f != 0 && c.without&f == 0 {
		c.p.refused.add(c.req.Model, f)
		e.Fallback, e.Note = true, f.note(c.req.Model, c.p.server)
		return set(task.CodeProviderRefused, true, "the next call goes without it")
	}
	switch {
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		return set(task.CodeProviderAuth, false, "check the API key and what it may use")
	case status == http.StatusTooManyRequests && strings.Contains(text, "request too large"):
		return set(task.CodeRateLimited, false, "shorten the prompt, or lower the token limit of a call")
	case status == http.StatusTooManyRequests, status == 0 && containsAny(text, "rate limit", "rate_limit", "too many requests"):
		return set(task.CodeRateLimited, true, "wait, or run fewer tasks at once")
	case status == http.StatusNotImplemented:
		return set(task.CodeProviderFailed, false, "check the base URL")
	case status == 0, status >= 500, status == http.StatusRequestTimeout:
		return set(task.CodeProviderFailed, true, "")
	case status == http.StatusNotFound:
		return set(task.CodeProviderRefused, false, "check the model's name "+strconv.Quote(c.p.secrets.excerpt(c.req.Model))+" and the base URL, which mostly ends in /v1")
	default:
		return set(task.CodeProviderRefused, false, "")
	}
}

var (
	contextWords = []string{
		"context_length_exceeded", "maximum context length", "context length", "context window", "exceed_context_size",
		"exceeds the available context", "prompt is too long", "input is too long", "maximum prompt length", "string_above_max_length",
		"too many tokens in the prompt", "request_too_large",
	}
	creditWords = []string{"insufficient_quota", "exceeded your current quota", "insufficient balance", "insufficient credits", "billing_hard_limit"}
	filterWords = []string{"content_filter", "content_policy_violation", "content management policy", "responsibleaipolicyviolation", "requires moderation", "content filter"}
)

// retryAfter is how long a server asks to wait, at most MaxRetryAfter; 0 if it does not say, or says nonsense.
func retryAfter(h http.Header, now time.Time) time.Duration {
	if ms, err := strconv.ParseFloat(h.Get("Retry-After-Ms"), 64); err == nil {
		return wait(ms / 1000)
	}
	v := strings.TrimSpace(h.Get("Retry-After"))
	if s, err := strconv.ParseFloat(v, 64); err == nil || errors.Is(err, strconv.ErrRange) {
		return wait(s)
	}
	if at, err := http.ParseTime(v); err == nil {
		return wait(at.Sub(now).Seconds())
	}
	return 0
}

func wait(seconds float64) time.Duration {
	switch {
	case math.IsNaN(seconds) || seconds <= 0:
		return 0
	case seconds >= MaxRetryAfter.Seconds():
		return MaxRetryAfter
	default:
		return time.Duration(seconds * float64(time.Second))
	}
}
