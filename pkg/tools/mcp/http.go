package mcp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"time"

	"go.opentelemetry.io/otel/propagation"
)

// exchange notes what is known of one request while it is made. It travels in the request's context through the
// library. It is safe for concurrent use.
type exchange struct {
	idempotencyKey string
	safe           bool

	mu      sync.Mutex
	sent    bool   // it may have reached the server
	status  int    // the last HTTP status, 0 without one
	session bool   // it named a session
	body    string // the beginning of a body that came with a status from 400
	cut     *sizeError
	result  []byte // of the JSON-RPC response
	refusal *refusal
}

// refusal is a JSON-RPC error.
type refusal struct {
	code    int
	message string
}

type exchangeKey struct{}

func withExchange(ctx context.Context, x *exchange) context.Context {
	return context.WithValue(ctx, exchangeKey{}, x)
}

// exchangeOf is the exchange that a context carries, or one that nobody looks at.
func exchangeOf(ctx context.Context) *exchange {
	if x, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		return x
	}
	return &exchange{}
}

func (x *exchange) note(f func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	f()
}

// sizeError is an answer that was too large to read.
type sizeError struct{ limit int64 }

func (e *sizeError) Error() string { return fmt.Sprintf("the answer is larger than %d bytes", e.limit) }

var (
	errElsewhere  = errors.New("the server sent the request to another address, which is refused")
	errNotAStream = errors.New("the address does not answer with an event stream")
	errSpokeHTML  = errors.New("the address answers with a web page: check its path")
)

const (
	maxErrorBody = 64 << 10 // bytes that are read of a body that comes with an error
	eventStream  = "text/event-stream"
	farewell     = 2 * time.Second // for the server to end a session
)

// wire is how requests to a server are made: with its credentials, to its host only, and with answers that end.
type wire struct {
	config Config
	base   *url.URL
	creds  *credentials
	life   *life
	// streamOnly refuses answers to GET that are not event streams, which the library would wait on.
	streamOnly bool
}

func (w *wire) client() *http.Client {
	return &http.Client{Transport: w, CheckRedirect: w.creds.plain.CheckRedirect}
}

// RoundTrip makes one request.
func (w *wire) RoundTrip(req *http.Request) (*http.Response, error) {
	x := exchangeOf(req.Context())
	if req.Method == http.MethodDelete {
		// The farewell to a server that may be busy; the library does not read its answer.
		ctx, cancel := context.WithTimeout(req.Context(), farewell)
		defer cancel()
		req = req.WithContext(ctx)
	}
	out, err := w.prepare(req, x)
	if err != nil {
		closeBody(req)
		return nil, err
	}
	network, err := w.creds.network()
	if err != nil {
		closeBody(req)
		return nil, err
	}
	resp, err := network.RoundTrip(out)
	if err != nil {
		return nil, err
	}
	return w.receive(resp, x)
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		_ = req.Body.Close()
	}
}

func (w *wire) prepare(req *http.Request, x *exchange) (*http.Request, error) {
	if !w.home(req.URL) {
		return nil, errElsewhere
	}
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { x.note(func() { x.sent = true }) },
	})
	out := req.Clone(ctx)
	out.Header.Set("User-Agent", "ark")
	headers, err := w.creds.files.With(w.config.Headers)
	if err != nil {
		return nil, err
	}
	for name, value := range headers {
		if value = strings.TrimSpace(value); http.CanonicalHeaderKey(name) == "Host" {
			out.Host = value
		} else {
			out.Header.Set(name, value)
		}
	}
	token, err := w.creds.bearer()
	if err != nil {
		return nil, err
	}
	if token != "" {
		out.Header.Set("Authorization", "Bearer "+token)
	}
	propagation.TraceContext{}.Inject(ctx, propagation.HeaderCarrier(out.Header))
	// In SSE every POST belongs to a session, which its address names.
	x.note(func() { x.session = w.streamOnly || out.Header.Get("Mcp-Session-Id") != "" })
	identify(out, x)
	return out, nil
}

// identify adds the idempotency key. Go's transport sends a request again by itself when a kept-alive connection
// breaks and the request carries this header in its canonical spelling; where that could be a second call, the
// header is spelled in a way that means the same to the receiver and nothing to the transport.
func identify(req *http.Request, x *exchange) {
	switch {
	case x.idempotencyKey == "":
	case x.safe:
		req.Header.Set("Idempotency-Key", x.idempotencyKey)
	default:
		req.Header["idempotency-key"] = []string{x.idempotencyKey}
	}
}

// home says whether an address is the configured server's. The library follows addresses that servers name.
func (w *wire) home(u *url.URL) bool {
	return u.Host == w.base.Host && (u.Scheme == w.base.Scheme || u.Scheme == "https")
}

func (w *wire) receive(resp *http.Response, x *exchange) (*http.Response, error) {
	mediaType, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	x.note(func() { x.status = resp.StatusCode })
	if resp.StatusCode >= http.StatusBadRequest {
		return withError(resp, x), nil
	}
	if mediaType == "text/html" {
		_ = resp.Body.Close()
		return nil, errSpokeHTML
	}
	if w.streamOnly && resp.Request.Method == http.MethodGet && resp.StatusCode == http.StatusOK && mediaType != eventStream {
		_ = resp.Body.Close()
		return nil, errNotAStream
	}
	b := &bounded{
		body: resp.Body, limit: w.config.ResponseLimit, events: mediaType == eventStream,
		onCut: func(e *sizeError) { x.note(func() { x.cut = e }) },
	}
	if b.events && resp.Request.Method == http.MethodGet {
		// A stream of notifications that breaks off may mean that the server is gone, and before one stands notices are
		// missed: time to ask for the list.
		b.onEnd = w.life.listChanged
		if !w.streamOnly {
			w.life.listChanged()
		}
	}
	resp.Body = b
	return resp, nil
}

// withError reads what came with an error, as the library would without a limit.
func withError(resp *http.Response, x *exchange) *http.Response {
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	_ = resp.Body.Close()
	x.note(func() { x.body = string(body) })
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp
}

// bounded ends bodies that are too large: whole ones, or single events of a stream.
type bounded struct {
	body   io.ReadCloser
	limit  int64
	events bool
	onCut  func(*sizeError)
	onEnd  func() // called when the body ends or breaks off; may be nil

	meter meter
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if err != nil && b.onEnd != nil {
		b.onEnd()
	}
	if b.meter.add(p[:n], b.events) <= b.limit {
		return n, err
	}
	cut := &sizeError{b.limit}
	b.onCut(cut)
	return 0, cut
}

func (b *bounded) Close() error { return b.body.Close() }

// meter counts the bytes of a message. In a stream of events, whose messages end with an empty line, it also counts
// the work of the library's reader, which copies an event for each of its lines.
type meter struct {
	size int64
	line int64 // of the current line
	work int64
}

// copies is how many bytes of copying are allowed for each byte of the limit.
const copies = 64

func (m *meter) add(p []byte, events bool) (size int64) {
	if !events {
		m.size += int64(len(p))
		return m.size
	}
	var most int64
	for len(p) > 0 {
		line, rest, ended := bytes.Cut(p, []byte("\n"))
		m.size += int64(len(p) - len(rest))
		m.line += int64(len(bytes.TrimSuffix(line, []byte("\r"))))
		most = max(most, m.size, m.work/copies)
		p = rest
		if !ended {
			break
		}
		m.work += m.size
		if m.line == 0 {
			m.size, m.work = 0, 0
		}
		m.line = 0
	}
	return most
}
