package exchange

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

// Sentence names the server, what happened, what it said and what to do; the last two may be empty.
func (s *Server) Sentence(what, said, todo string) string {
	out := "model server " + s.name + " " + what
	if said = s.Excerpt(said); said != "" {
		out += fmt.Sprintf(": %q", said)
	}
	if todo != "" {
		out += "; " + todo
	}
	return out
}

// failed explains an exchange without a whole answer. head is the beginning of the answer's body.
func (x *running) failed(parent, ctx context.Context, err error, head []byte) *llm.Error {
	if r, ok := errors.AsType[*refusal](err); ok {
		return x.refused(r)
	}
	e := x.broken(parent, ctx, err, head)
	e.Usage = x.Answer.Usage()
	return e
}

// broken explains a connection or an answer that broke.
func (x *running) broken(parent, ctx context.Context, err error, head []byte) *llm.Error {
	if said, ok := errors.AsType[*Said](err); ok {
		return x.told(*said)
	}
	s := x.server
	e := &llm.Error{Code: task.CodeProviderFailed, Retry: true}
	switch {
	case parent.Err() != nil:
		e = s.ended(parent)
	case errors.Is(context.Cause(ctx), errIdle):
		e.Message, e.Err = s.Sentence(fmt.Sprintf("was silent for %s", s.idle), "", "see whether it is overloaded"), errIdle
	case errors.Is(err, ErrTooMuch):
		e.Retry, e.Err = false, ErrTooMuch
		e.Message = s.Sentence("answered with "+err.Error()+", which is the limit", "", "ask for less, or see what answers at this address")
	case errors.Is(err, ErrNoAnswer), errors.Is(err, errEncoded):
		e.Err = ErrNoAnswer
		e.Message = s.Sentence("answered something that is no answer of "+s.protocol.Name, garbage(err, head), "check the base URL")
	case errors.Is(err, errCut):
		e.Err = errCut
		e.Message = s.Sentence("ended its answer before it was whole, without a finish reason", "", "")
	default:
		x.unreachable(e, err)
	}
	e.Unknown = !x.unsent()
	return e
}

func garbage(err error, head []byte) string {
	if len(head) > 0 {
		return string(head)
	}
	return err.Error()
}

// unreachable explains an error of the network.
func (x *running) unreachable(e *llm.Error, err error) {
	if ue, ok := errors.AsType[*url.Error](err); ok {
		err = ue.Err // the outer one quotes the URL
	}
	// What the network says may quote the address with its secrets; only its kind goes on.
	s := x.server
	said := s.Excerpt(err.Error())
	e.Err = errors.New(said)
	var (
		dns    *net.DNSError
		record tls.RecordHeaderError
		cert   *tls.CertificateVerificationError
		auth   x509.UnknownAuthorityError
	)
	switch {
	case errors.As(err, &dns):
		e.Message = s.Sentence("cannot be found", said, "check the host in the base URL")
	case errors.As(err, &record), strings.Contains(said, "server gave HTTP response to HTTPS client"):
		e.Retry = false
		e.Message = s.Sentence("does not speak TLS", said, "use http:// in the base URL")
	case errors.As(err, &cert), errors.As(err, &auth):
		e.Retry = false
		e.Message = s.Sentence("shows a certificate that is not trusted", said, "add its authority to the system's certificates")
	case x.unsent():
		e.Message = s.Sentence("cannot be reached", said, "check the base URL and whether the server runs")
	default:
		e.Message = s.Sentence("broke the connection", said, "")
	}
}

// statusOverloaded is what Anthropic answers when its servers are busy.
const statusOverloaded = 529

// refused explains an answer other than 2xx.
func (x *running) refused(r *refusal) *llm.Error {
	e := x.classify(r.status, ParseError(r.body))
	e.Status = r.status
	if e.Retry {
		e.RetryAfter = retryAfter(r.header, time.Now())
	}
	// Whoever refuses a request has not run it; a server that breaks, or a proxy that waited for one, may have.
	switch r.status {
	case http.StatusNotImplemented, statusOverloaded:
	default:
		e.Unknown = r.status >= 500 || r.status == http.StatusRequestTimeout
	}
	if r.status/100 == 3 {
		to := "nowhere"
		if u, err := url.Parse(r.header.Get("Location")); err == nil && u.Host != "" {
			to = publicURL(u)
		}
		e.Message = x.server.Sentence(fmt.Sprintf("answered %d: it redirects", r.status), to, "put the address that answers into the base URL")
	}
	return e
}

// told explains an error that came in a 200: nobody knows what ran before it. After a part of the answer, what is
// refused is not the request.
func (x *running) told(said Said) *llm.Error {
	status := 0
	if said.Number >= 400 && said.Number < 600 {
		status = said.Number
	}
	e := x.classify(status, said)
	if x.Answer.Size() > 0 {
		e.Fallback, e.Note = false, ""
	}
	e.Status, e.Unknown = http.StatusOK, true
	return e
}

// classify maps what a server said to a code. status is 0 for an error without one.
func (x *running) classify(status int, said Said) *llm.Error {
	text := strings.ToLower(said.Message + " " + said.Code + " " + said.Type)
	answered := "answered an error"
	if status != 0 {
		answered = strings.TrimSpace(fmt.Sprintf("answered %d %s", status, http.StatusText(status)))
	}
	e := &llm.Error{}
	set := func(code task.Code, retry bool, todo string) *llm.Error {
		e.Code, e.Retry, e.Message = code, retry, x.server.Sentence(answered, said.Message, todo)
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
	if note := x.Fallback(status, said); note != "" {
		e.Fallback, e.Note = true, note
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
	case status == statusOverloaded:
		return set(task.CodeProviderFailed, true, "wait, or run fewer tasks at once")
	case status == 0, status >= 500, status == http.StatusRequestTimeout:
		return set(task.CodeProviderFailed, true, "")
	case status == http.StatusNotFound:
		return set(task.CodeProviderRefused, false, "check the model's name "+strconv.Quote(x.server.Excerpt(x.Model))+" and the base URL, "+x.server.protocol.URLHint)
	default:
		return set(task.CodeProviderRefused, false, "")
	}
}

// What servers say, in lower case; gateways pass on the words of others.
var (
	contextWords = []string{
		"context_length_exceeded", "maximum context length", "context length", "context window", "exceed_context_size",
		"exceeds the available context", "exceed context limit", "prompt is too long", "input is too long",
		"maximum prompt length", "string_above_max_length", "too many tokens in the prompt", "request_too_large",
	}
	creditWords = []string{
		"insufficient_quota", "exceeded your current quota", "insufficient balance", "insufficient credits",
		"billing_hard_limit", "billing_error", "credit balance is too low", "specified api usage limits",
	}
	filterWords = []string{
		"content_filter", "content_policy_violation", "content management policy", "responsibleaipolicyviolation",
		"requires moderation", "content filter",
	}
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
