package tools

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"go.opentelemetry.io/otel/propagation"

	"arkonis.dev/ark/pkg/llm"
)

// Defaults of a webhook.
const (
	DefaultWebhookTimeout = 30 * time.Second
	// DefaultResponseLimit is how much of a response is read, in bytes.
	DefaultResponseLimit = 4 << 20
	// errorBody is how much of a failed response the model gets to read, in bytes.
	errorBody = 4 << 10
)

var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// WebhookConfig describes an HTTP endpoint as a tool.
type WebhookConfig struct {
	Name        string
	Description string
	URL         string            // http or https; its query parameters stay
	Method      string            // GET, POST, PUT, PATCH or DELETE; empty: POST
	Headers     map[string]string // may hold secrets: they are never logged or told to the model
	HeaderFiles map[string]string // files with the values of more headers, read for every call
	InputSchema json.RawMessage   // JSON Schema of the arguments; empty: an object without declared properties
	Timeout     time.Duration     // of one call; 0: DefaultWebhookTimeout
	// Idempotent says that the endpoint recognises the Idempotency-Key header, or does the same when called twice.
	// A GET is safe to repeat anyhow.
	Idempotent    bool
	ResponseLimit int64 // bytes; 0: DefaultResponseLimit
}

func (c WebhookConfig) withDefaults() WebhookConfig {
	if c.Method == "" {
		c.Method = http.MethodPost
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultWebhookTimeout
	}
	if c.ResponseLimit == 0 {
		c.ResponseLimit = DefaultResponseLimit
	}
	if len(c.InputSchema) == 0 {
		c.InputSchema = json.RawMessage(`{"type":"object","additionalProperties":true}`)
	}
	// What a model is told, and so what it costs, does not depend on how the schema was written down.
	var compact bytes.Buffer
	if json.Compact(&compact, c.InputSchema) == nil {
		c.InputSchema = compact.Bytes()
	}
	return c
}

func (c WebhookConfig) validate() (*url.URL, error) {
	u, err := url.Parse(c.URL)
	switch {
	case err != nil:
		return nil, fmt.Errorf("tool %q: url does not parse: %w", c.Name, errors.Unwrap(err))
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("tool %q: url must begin with http:// or https://", c.Name)
	case u.Hostname() == "":
		return nil, fmt.Errorf("tool %q: url names no host", c.Name)
	case !slices.Contains(methods, c.Method):
		return nil, fmt.Errorf("tool %q: method %q is not one of %s", c.Name, c.Method, strings.Join(methods, ", "))
	case c.Timeout < 0:
		return nil, fmt.Errorf("tool %q: the time-out is negative", c.Name)
	case c.ResponseLimit < 0:
		return nil, fmt.Errorf("tool %q: the response limit is negative", c.Name)
	}
	return u, nil
}

// Webhook calls an HTTP endpoint. Arguments are the JSON body, or query parameters for GET and DELETE. A response
// of 2xx is the result as it is; any other status is an error result that begins with the status. Nothing is ever
// sent twice by itself.
type Webhook struct {
	config WebhookConfig
	files  *FileHeaders
	url    *url.URL
	client *http.Client
}

// NewWebhook makes the tool.
func NewWebhook(config WebhookConfig, network *Network) (*Webhook, error) {
	config = config.withDefaults()
	u, err := config.validate()
	if err != nil {
		return nil, err
	}
	return &Webhook{config: config, files: NewFileHeaders(config.HeaderFiles), url: u, client: &http.Client{Transport: network, CheckRedirect: confined}}, nil
}

// Spec is what the model sees.
func (w *Webhook) Spec() llm.Tool {
	return llm.Tool{Name: w.config.Name, Description: w.config.Description, Schema: w.config.InputSchema}
}

// Safe is true for GET and for endpoints declared idempotent.
func (w *Webhook) Safe() bool { return w.config.Idempotent || w.config.Method == http.MethodGet }

// Call makes the request.
func (w *Webhook) Call(ctx context.Context, call Call) (Result, error) {
	bounded, cancel := context.WithTimeout(ctx, w.config.Timeout)
	defer cancel()
	req, err := w.request(bounded, call)
	if err != nil {
		return Errorf("%s: %v", w.config.Name, err), nil
	}
	resp, err := w.client.Do(req)
	if err == nil {
		defer func() { _ = resp.Body.Close() }()
		var result Result
		if result, err = w.read(resp); err == nil {
			return result, nil
		}
	}
	if ctx.Err() != nil {
		return Result{}, context.Cause(ctx)
	}
	return w.failed(bounded, err), nil
}

func (w *Webhook) request(ctx context.Context, call Call) (*http.Request, error) {
	u, body := *w.url, io.Reader(nil)
	inQuery := w.config.Method == http.MethodGet || w.config.Method == http.MethodDelete
	if inQuery {
		query, err := parameters(u.Query(), call.Args)
		if err != nil {
			return nil, err
		}
		u.RawQuery = query.Encode()
	} else {
		body = bytes.NewReader(call.Args)
	}
	req, err := http.NewRequestWithContext(ctx, w.config.Method, u.String(), body)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	req.Header.Set("Accept", "application/json, text/*;q=0.9, */*;q=0.5")
	req.Header.Set("User-Agent", "ark")
	if !inQuery {
		req.Header.Set("Content-Type", "application/json")
	}
	w.identify(req, call)
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(req.Header))
	headers, err := w.files.With(w.config.Headers)
	if err != nil {
		return nil, err
	}
	for name, value := range headers {
		if http.CanonicalHeaderKey(name) == "Host" {
			req.Host = value
			continue
		}
		req.Header.Set(name, value)
	}
	return req, nil
}

// identify adds the idempotency key. Go's transport sends a request again by itself when a kept-alive connection
// breaks and the request carries this header in its canonical spelling; where that would be a second call, the
// header is spelled in a way that means the same to the receiver and nothing to the transport.
func (w *Webhook) identify(req *http.Request, call Call) {
	if w.Safe() {
		req.Header.Set("Idempotency-Key", call.IdempotencyKey())
		return
	}
	req.Header["idempotency-key"] = []string{call.IdempotencyKey()}
}

// parameters adds arguments to a query: lists as repeated parameters, objects as JSON text, null not at all.
func parameters(query url.Values, args json.RawMessage) (url.Values, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(args, &fields); err != nil {
		return nil, fmt.Errorf("read the arguments: %w", err)
	}
	for name, raw := range fields {
		var list []json.RawMessage
		if json.Unmarshal(raw, &list) != nil {
			list = []json.RawMessage{raw}
		}
		query.Del(name)
		for _, item := range list {
			if text, ok := parameter(item); ok {
				query.Add(name, text)
			}
		}
	}
	return query, nil
}

func parameter(raw json.RawMessage) (text string, ok bool) {
	if string(raw) == "null" {
		return "", false
	}
	if json.Unmarshal(raw, &text) == nil {
		return text, true
	}
	return string(raw), true
}

func (w *Webhook) read(resp *http.Response) (Result, error) {
	limit := w.config.ResponseLimit
	ok := resp.StatusCode >= 200 && resp.StatusCode < 300
	if !ok {
		limit = min(limit, errorBody)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err != nil {
		return Result{}, fmt.Errorf("read the response: %w", err)
	}
	cut := int64(len(body)) > limit
	if cut {
		body = body[:limit]
	}
	text, isText := readable(body, cut)
	switch {
	case !isText:
		text = fmt.Sprintf("(the response is not text: %d bytes of %s)", len(body), resp.Header.Get("Content-Type"))
	case cut:
		text += fmt.Sprintf("\n(the response was cut after %d bytes)", limit)
	case text == "":
		text = "(empty response)"
	}
	if ok {
		return Result{Text: text, IsError: !isText}, nil
	}
	return Errorf("HTTP %d %s: %s", resp.StatusCode, http.StatusText(resp.StatusCode), text), nil
}

// readable is the body as text. A cut one may end within a character.
func readable(body []byte, cut bool) (string, bool) {
	for n := 0; cut && n < utf8.UTFMax && !utf8.Valid(body); n++ {
		body = body[:len(body)-1]
	}
	if !utf8.Valid(body) || bytes.IndexByte(body, 0) >= 0 {
		return "", false
	}
	return string(body), true
}

// failed tells the model about a call that got no response, and whether it may have been carried out.
func (w *Webhook) failed(ctx context.Context, err error) Result {
	// The URL may hold a secret: only what lies below it is told.
	if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	var refused *AddressError
	switch {
	case errors.As(err, &refused):
		return Errorf("%s: %v", w.config.Name, refused)
	case errors.Is(err, errRedirect):
		return Errorf("%s: %v", w.config.Name, err)
	case errors.Is(ctx.Err(), context.DeadlineExceeded):
		return Errorf("%s: no answer from %s within %s; whether the call was carried out is unknown",
			w.config.Name, w.url.Host, w.config.Timeout)
	default:
		return Errorf("%s: the call to %s failed: %v", w.config.Name, w.url.Host, err)
	}
}
