package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"
)

// conn is one open connection to a server, safe for concurrent use. Its errors are failures.
type conn interface {
	list(ctx context.Context, cursor string) (page, error)
	// call makes one call and notes in x how it goes. The result is as the server wrote it.
	call(ctx context.Context, x *exchange, r request) (json.RawMessage, error)
	// drains says that running calls do not need the connection to stay open.
	drains() bool
	// close ends the connection and all that runs for it.
	close()
}

// form is how a server is spoken to.
type form struct {
	transport Transport
	dialect   dialect
}

func (f form) String() string {
	if f.dialect == stateless {
		return string(f.transport) + " (stateless)"
	}
	return string(f.transport)
}

// forms are what a transport may mean, in the order in which they are tried.
func forms(t Transport) []form {
	switch t {
	case Auto:
		return []form{{StreamableHTTP, handshake}, {StreamableHTTP, stateless}, {SSE, handshake}, {REST, handshake}}
	case StreamableHTTP, Stdio:
		return []form{{t, handshake}, {t, stateless}}
	default:
		return []form{{t, handshake}}
	}
}

// dialer opens connections to one server. It is used by one goroutine at a time.
type dialer struct {
	config Config
	base   *url.URL
	creds  *credentials
	worked []form // what worked last, or nothing
}

// opened is a connection that stands, with the server's tools.
type opened struct {
	conn    conn
	life    *life
	catalog *catalog
	form    form
}

// open connects: in the form that worked last, or else in the first that works. The connection outlives ctx and ends
// with parent.
func (d *dialer) open(ctx, parent context.Context) (*opened, error) {
	order := slices.Clone(d.worked)
	for _, f := range forms(d.config.Transport) {
		if !slices.Contains(order, f) {
			order = append(order, f)
		}
	}
	var faults []error
	for _, f := range order {
		o, err := d.try(ctx, parent, f)
		if err == nil {
			d.worked = []form{f}
			return o, nil
		}
		faults = append(faults, fmt.Errorf("%s: %w", f, err))
		if !speaksOtherwise(err) {
			return nil, err
		}
	}
	if len(faults) == 1 {
		return nil, errors.Unwrap(faults[0])
	}
	return nil, &mismatchError{faults}
}

// mismatchError is a server that answers, but not in any form that it may be spoken to.
type mismatchError struct{ faults []error }

func (e *mismatchError) Unwrap() []error { return e.faults }

func (e *mismatchError) Error() string {
	return fmt.Sprintf("it answers, but speaks none of the transports that were tried (%v)", errors.Join(e.faults...))
}

func (d *dialer) try(ctx, parent context.Context, f form) (*opened, error) {
	l := newLife(parent)
	stop := context.AfterFunc(ctx, func() { l.end(context.Cause(ctx)) })
	// A connection that is lost meanwhile will not answer any more.
	live, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.ctx, cancel)()
	c, err := d.connect(live, l, f)
	if err != nil {
		l.wait()
		return nil, err
	}
	found, err := list(live, c, d.config)
	if err == nil && !stop() {
		err = context.Cause(l.ctx)
	}
	if err != nil {
		c.close()
		return nil, err
	}
	return &opened{conn: c, life: l, catalog: found, form: f}, nil
}

func (d *dialer) connect(ctx context.Context, l *life, f form) (conn, error) {
	if f.transport == REST {
		return &restConn{life: l, base: d.base, client: d.wire(l, false).client()}, nil
	}
	c := &libraryConn{life: l, alone: f.transport == StreamableHTTP}
	x := &exchange{}
	start := l.ctx
	if f.transport == SSE {
		start = withExchange(start, x) // its stream is opened by the start
	}
	t, err := d.transport(c, f)
	if err != nil {
		return nil, err
	}
	options := []client.ClientOption{}
	if f.dialect == handshake {
		options = append(options, client.WithProtocolVersion(mcp.LATEST_LEGACY_PROTOCOL_VERSION))
	}
	c.client = client.NewClient(t, options...)
	if err := c.shake(withExchange(ctx, x), start, f.dialect); err != nil {
		f := judge(x, err, l)
		c.close()
		return nil, f
	}
	return c, nil
}

func (d *dialer) wire(l *life, streamOnly bool) *wire {
	return &wire{config: d.config, base: d.base, creds: d.creds, life: l, streamOnly: streamOnly}
}

// transport makes the library's transport. What the library logs is dropped: it quotes addresses, and what matters is
// in its errors.
func (d *dialer) transport(c *libraryConn, f form) (transport.Interface, error) {
	silent := slog.New(slog.DiscardHandler)
	switch f.transport {
	case StreamableHTTP:
		t, err := transport.NewStreamableHTTP(d.config.URL, transport.WithHTTPBasicClient(d.wire(c.life, false).client()),
			transport.WithHTTPLogger(silent),
			transport.WithContinuousListening()) //nolint:staticcheck // it is how servers of the handshake say what changed
		return &httpTap{tap{Interface: t, life: c.life, cancels: f.dialect == handshake}}, err
	case SSE:
		t, err := transport.NewSSE(d.config.URL, transport.WithHTTPClient(d.wire(c.life, true).client()),
			transport.WithSSELogger(silent), transport.WithEndpointTimeout(d.config.ConnectTimeout),
			transport.WithResponseTimeout(d.config.ConnectTimeout+d.config.CallTimeout))
		if err != nil {
			return nil, err
		}
		t.SetConnectionLostHandler(func(err error) {
			c.life.end(fmt.Errorf("the event stream broke off: %w", err))
		})
		return &httpTap{tap{Interface: t, life: c.life, cancels: true}}, nil
	default:
		p, err := startProcess(d.config, c.life)
		if err != nil {
			return nil, err
		}
		c.after = p.stop
		t := transport.NewIO(p, p, nil)
		return &tap{Interface: t, life: c.life, detached: true}, nil
	}
}

var _ http.RoundTripper = (*wire)(nil)
