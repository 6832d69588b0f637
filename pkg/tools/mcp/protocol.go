package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/mark3labs/mcp-go/client"
	"github.com/mark3labs/mcp-go/client/transport"
	"github.com/mark3labs/mcp-go/mcp"
)

// page is one page of a list of tools, each as the server wrote it.
type page struct {
	Tools []json.RawMessage `json:"tools"`
	Next  string            `json:"nextCursor"`
}

// tap stands between the library's client and its transport. It keeps results as they came, as the client reads
// schemas only in part and gives up a whole answer for one tool or content that it does not know.
type tap struct {
	transport.Interface
	life *life
	// detached makes a caller not wait for a write to a server that does not read.
	detached bool
	// cancels makes the tap tell the server of requests that nobody waits for any more. The library does that for
	// stdio alone.
	cancels bool
}

// SendRequest makes one request.
func (t *tap) SendRequest(ctx context.Context, req transport.JSONRPCRequest) (*transport.JSONRPCResponse, error) {
	resp, err := t.send(ctx, req)
	if err != nil {
		if ctx.Err() != nil && t.cancels && req.Method == string(mcp.MethodToolsCall) {
			t.cancel(ctx, req)
		}
		return nil, err
	}
	x := exchangeOf(ctx)
	x.note(func() {
		x.result = resp.Result
		if resp.Error != nil {
			x.refusal = &refusal{code: resp.Error.Code, message: resp.Error.Message}
		}
	})
	if resp.Error == nil && req.Method == string(mcp.MethodToolsList) {
		return readable(resp)
	}
	return resp, nil
}

func (t *tap) send(ctx context.Context, req transport.JSONRPCRequest) (*transport.JSONRPCResponse, error) {
	if !t.detached {
		return t.Interface.SendRequest(undated{ctx}, req)
	}
	x := exchangeOf(ctx)
	x.note(func() { x.sent = true })
	type answer struct {
		resp *transport.JSONRPCResponse
		err  error
	}
	answers := make(chan answer, 1)
	if !t.life.run(func() {
		resp, err := t.Interface.SendRequest(ctx, req)
		answers <- answer{resp, err}
	}) {
		return nil, errClosed
	}
	select {
	case a := <-answers:
		return a.resp, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// undated is a context that ends when it ends, but does not say when: the library keeps clocks of its own otherwise,
// which run out a moment earlier and with another error.
type undated struct{ context.Context }

// Deadline is none.
func (undated) Deadline() (time.Time, bool) { return time.Time{}, false }

// cancelTimeout bounds the notification that a request was given up.
const cancelTimeout = 5 * time.Second

func (t *tap) cancel(ctx context.Context, req transport.JSONRPCRequest) {
	notification := mcp.JSONRPCNotification{
		JSONRPC: mcp.JSONRPC_VERSION,
		Notification: mcp.Notification{
			Method: string(mcp.MethodNotificationCancelled),
			Params: mcp.NotificationParams{AdditionalFields: map[string]any{"requestId": req.ID, "reason": "no longer needed"}},
		},
	}
	t.life.run(func() {
		// Notes about this request are not notes about the one that was given up.
		ctx, cancel := context.WithTimeout(withExchange(context.WithoutCancel(ctx), &exchange{}), cancelTimeout)
		defer cancel()
		defer context.AfterFunc(t.life.ctx, cancel)()
		_ = t.SendNotification(ctx, notification)
	})
}

// SetRequestHandler lets the client answer requests of the server.
func (t *tap) SetRequestHandler(handler transport.RequestHandler) {
	if both, ok := t.Interface.(transport.BidirectionalInterface); ok {
		both.SetRequestHandler(handler)
	}
}

// readable leaves out of a list the tools that the library cannot read, as it would give up the list for one of them.
func readable(resp *transport.JSONRPCResponse) (*transport.JSONRPCResponse, error) {
	var listed page
	if err := json.Unmarshal(resp.Result, &listed); err != nil {
		return nil, fmt.Errorf("read the list of tools: %w", err)
	}
	known := page{Tools: []json.RawMessage{}, Next: listed.Next}
	for _, raw := range listed.Tools {
		if json.Unmarshal(raw, &mcp.Tool{}) == nil {
			known.Tools = append(known.Tools, raw)
		}
	}
	result, err := json.Marshal(known)
	if err != nil {
		return nil, fmt.Errorf("write the list of tools: %w", err)
	}
	out := *resp
	out.Result = result
	return &out, nil
}

// httpTap is a tap on a transport over HTTP.
type httpTap struct{ tap }

// SetProtocolVersion sets the version that goes into the header.
func (t *httpTap) SetProtocolVersion(version string) {
	if over, ok := t.Interface.(transport.HTTPConnection); ok {
		over.SetProtocolVersion(version)
	}
}

// life is how long a connection lasts, and what it tells on its own.
type life struct {
	// ctx ends when the connection is lost or closed; its cause says why.
	ctx context.Context
	end context.CancelCauseFunc

	mu    sync.Mutex
	over  bool           // nothing may be started any more
	group sync.WaitGroup // what runs for it

	changed chan struct{} // holds something when the server said that its list changed
}

func newLife(ctx context.Context) *life {
	l := &life{changed: make(chan struct{}, 1)}
	l.ctx, l.end = context.WithCancelCause(ctx)
	return l
}

// run starts something that ends with the connection. It says whether it did.
func (l *life) run(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.over {
		l.group.Go(f)
	}
	return !l.over
}

// wait ends the connection's life and waits for what runs for it.
func (l *life) wait() {
	l.end(errClosed)
	l.mu.Lock()
	l.over = true
	l.mu.Unlock()
	l.group.Wait()
}

func (l *life) listChanged() {
	select {
	case l.changed <- struct{}{}:
	default:
	}
}

// request is a call of a tool.
type request struct {
	tool string
	args json.RawMessage
}

// libraryConn is a connection that the library made.
type libraryConn struct {
	life   *life
	client *client.Client
	// alone says that each request stands for itself, so that others go on when the connection is given up.
	alone bool
	after func() // ends what the transport leaves behind
}

// dialect is an era of the protocol.
type dialect int

const (
	// handshake is the protocol up to 2025-11-25, which begins with initialize. It is tried first: every server of
	// today speaks it, and older ones fall over the requests of the newer one.
	handshake dialect = iota
	// stateless is the protocol since 2026-07-28.
	stateless
)

// shake begins a connection: start lasts as long as that, ctx as long as the beginning.
func (c *libraryConn) shake(ctx, start context.Context, d dialect) error {
	c.client.OnNotification(func(n mcp.JSONRPCNotification) {
		switch n.Method {
		case mcp.MethodNotificationToolsListChanged,
			mcp.MethodNotificationSubscriptionsAcknowledged: // changes before it were not told
			c.life.listChanged()
		}
	})
	if err := c.client.Start(start); err != nil {
		return err
	}
	hello := mcp.InitializeRequest{}
	hello.Params.ClientInfo = mcp.Implementation{Name: "ark", Version: "1"}
	if d == stateless {
		hello.Params.ProtocolVersion = mcp.LATEST_PROTOCOL_VERSION
	}
	if _, err := c.client.Initialize(ctx, hello); err != nil {
		return err
	}
	capabilities := c.client.GetServerCapabilities()
	if d == stateless && capabilities.Tools != nil && capabilities.Tools.ListChanged {
		c.life.run(c.listen)
	}
	return nil
}

// listenPause is the time between two streams of notifications.
const listenPause = 5 * time.Second

// listen hears of changes from servers of the stateless protocol.
func (c *libraryConn) listen() {
	ctx := c.life.ctx
	for ctx.Err() == nil {
		_ = c.client.Listen(ctx, mcp.SubscriptionFilter{ToolsListChanged: true})
		select {
		case <-ctx.Done():
		case <-time.After(jitter(listenPause)):
		}
	}
}

func (c *libraryConn) list(ctx context.Context, cursor string) (page, error) {
	req := mcp.ListToolsRequest{}
	req.Params.Cursor = mcp.Cursor(cursor)
	x := &exchange{safe: true}
	known, err := c.client.ListToolsByPage(withExchange(ctx, x), req)
	if err != nil {
		return page{}, judge(x, err, c.life)
	}
	var listed page
	if err := json.Unmarshal(x.result, &listed); err != nil {
		return page{}, fmt.Errorf("read the list of tools: %w", err)
	}
	return listed.without(known.Tools), nil
}

// without leaves out the tools that the library refused for the headers they ask for.
func (p page) without(known []mcp.Tool) page {
	names := map[string]bool{}
	for _, t := range known {
		names[t.Name] = true
	}
	kept := p.Tools[:0:0]
	for _, raw := range p.Tools {
		var t mcp.Tool
		if json.Unmarshal(raw, &t) != nil || names[t.Name] {
			kept = append(kept, raw)
		}
	}
	return page{Tools: kept, Next: p.Next}
}

func (c *libraryConn) call(ctx context.Context, x *exchange, r request) (json.RawMessage, error) {
	req := mcp.CallToolRequest{}
	req.Params.Name = r.tool
	req.Params.Arguments = r.args
	if x.idempotencyKey != "" {
		req.Params.Meta = mcp.NewMetaFromMap(map[string]any{idempotencyMeta: x.idempotencyKey})
	}
	_, err := c.client.CallTool(withExchange(ctx, x), req)
	x.mu.Lock()
	result, refused := x.result, x.refusal
	x.mu.Unlock()
	if len(result) > 0 && refused == nil {
		return result, nil
	}
	return nil, judge(x, err, c.life)
}

// idempotencyMeta is the key of the idempotency key in a call's _meta.
const idempotencyMeta = "arkonis.dev/idempotency-key"

func (c *libraryConn) drains() bool { return c.alone }

func (c *libraryConn) close() {
	// The transport's own farewell comes first: it needs the connection.
	_ = c.client.Close()
	if c.after != nil {
		c.after()
	}
	c.life.wait()
}

var errClosed = errors.New("the connection was closed")
