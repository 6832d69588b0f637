package mcp_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/tools"
	"arkonis.dev/ark/pkg/tools/mcp"
)

// stdioVariable makes the test binary a server that is spoken to over stdin and stdout.
const stdioVariable = "ARK_TEST_STDIO_SERVER"

func TestMain(m *testing.M) {
	if kind := os.Getenv(stdioVariable); kind != "" {
		serveStdio(kind)
		return
	}
	os.Exit(m.Run())
}

// world is what all incarnations of a server share.
type world struct {
	mu     sync.Mutex
	counts map[string]int // calls of "count" by their argument

	arrived chan struct{} // "slow" says that it was called
	gone    chan struct{} // "slow" says that it was cancelled
}

func newWorld() *world {
	return &world{counts: map[string]int{}, arrived: make(chan struct{}, 100), gone: make(chan struct{}, 100)}
}

func (w *world) count(key string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts[key]
}

func (w *world) add(key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.counts[key]++
}

var object = json.RawMessage(`{"type":"object","properties":{"text":{"type":"string"}}}`)

type handler func(ctx context.Context, text string) (*sdk.CallToolResult, error)

func text(s string) *sdk.CallToolResult {
	return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: s}}}
}

func add(s *sdk.Server, t *sdk.Tool, h handler) {
	if t.InputSchema == nil {
		t.InputSchema = object
	}
	s.AddTool(t, func(ctx context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
		var args struct{ Text string }
		if err := json.Unmarshal(req.Params.Arguments, &args); err != nil {
			return nil, err
		}
		return h(ctx, args.Text)
	})
}

// newSDKServer is a server of the official SDK with one tool of each kind.
func newSDKServer(w *world, options *sdk.ServerOptions) *sdk.Server {
	s := sdk.NewServer(&sdk.Implementation{Name: "test", Version: "1"}, options)
	readOnly := &sdk.ToolAnnotations{ReadOnlyHint: true}
	add(s, &sdk.Tool{Name: "echo", Description: "says it again", Annotations: readOnly}, func(_ context.Context, in string) (*sdk.CallToolResult, error) {
		return text("echo " + in), nil
	})
	add(s, &sdk.Tool{Name: "count"}, func(_ context.Context, in string) (*sdk.CallToolResult, error) {
		w.add(in)
		return text("counted " + in), nil
	})
	add(s, &sdk.Tool{Name: "slow"}, func(ctx context.Context, in string) (*sdk.CallToolResult, error) {
		w.add(in)
		w.arrived <- struct{}{}
		<-ctx.Done()
		w.gone <- struct{}{}
		return nil, ctx.Err()
	})
	add(s, &sdk.Tool{Name: "big", Annotations: readOnly}, func(context.Context, string) (*sdk.CallToolResult, error) {
		return text(strings.Repeat("x", 1<<20)), nil
	})
	add(s, &sdk.Tool{Name: "fail"}, func(_ context.Context, in string) (*sdk.CallToolResult, error) {
		r := text("no " + in)
		r.IsError = true
		return r, nil
	})
	return s
}

// host is an HTTP server that can be restarted at the same address.
type host struct {
	t    testing.TB
	make func() http.Handler
	addr string

	mu       sync.Mutex
	server   *http.Server
	listener net.Listener
	requests atomic.Int64
}

func newHost(t testing.TB, handler func() http.Handler) *host {
	h := &host{t: t, make: handler}
	for h.server == nil {
		// No port that the system gives to outgoing connections: it must be free again after a restart.
		h.addr = fmt.Sprintf("127.0.0.1:%d", 20000+rand.N(10000))
		if listener, err := net.Listen("tcp", h.addr); err == nil {
			h.serve(listener)
		}
	}
	t.Cleanup(h.stop)
	return h
}

func (h *host) start() {
	h.mu.Lock()
	defer h.mu.Unlock()
	listener, err := net.Listen("tcp", h.addr)
	if err != nil {
		h.t.Errorf("listen again: %v", err)
		return
	}
	h.serve(listener)
}

func (h *host) serve(listener net.Listener) {
	h.listener = listener
	inner := h.make()
	h.server = &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.requests.Add(1)
		inner.ServeHTTP(w, r)
	}), ReadHeaderTimeout: time.Minute}
	go func(s *http.Server) { _ = s.Serve(listener) }(h.server)
}

// stop ends the server and breaks all of its connections.
func (h *host) stop() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.server != nil {
		_ = h.server.Close()
		_ = h.listener.Close() // the server knows it only once it serves
	}
}

func (h *host) url() string { return "http://" + h.addr + "/mcp" }

func streamable(s *sdk.Server, options *sdk.StreamableHTTPOptions) http.Handler {
	return sdk.NewStreamableHTTPHandler(func(*http.Request) *sdk.Server { return s }, options)
}

func sse(s *sdk.Server) http.Handler {
	return sdk.NewSSEHandler(func(*http.Request) *sdk.Server { return s }, nil)
}

// rest is a server of the plain form.
func rest(w *world) http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /mcp/tools/list", func(out http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(out, `{"tools":[
			{"name":"echo","description":"says it again","inputSchema":{"type":"object","properties":{"text":{"type":"string"}}},"annotations":{"readOnlyHint":true}},
			{"name":"count","inputSchema":{}}]}`)
	})
	mux.HandleFunc("POST /mcp/tools/call", func(out http.ResponseWriter, r *http.Request) {
		var call struct {
			Name      string
			Arguments struct{ Text string }
		}
		if err := json.NewDecoder(r.Body).Decode(&call); err != nil {
			http.Error(out, err.Error(), http.StatusBadRequest)
			return
		}
		if call.Name == "count" {
			w.add(call.Arguments.Text)
		}
		_ = json.NewEncoder(out).Encode(map[string]any{
			"content": []any{map[string]any{"type": "text", "text": call.Name + " " + call.Arguments.Text}},
		})
	})
	return mux
}

// logs keeps what is logged.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// client is the servers under test, as an agent uses them.
type client struct {
	*mcp.Servers
	t     *testing.T
	logs  *logs
	ended atomic.Int64 // calls of calls
}

// connect starts the servers and waits until each was tried.
func connect(t *testing.T, configs ...mcp.Config) *client {
	t.Helper()
	network := tools.NewNetwork(tools.Guard{}, nil)
	c := &client{t: t, logs: &logs{}}
	log := slog.New(slog.NewTextHandler(c.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))
	servers, err := mcp.Start(t.Context(), configs, network, log)
	require.NoError(t, err)
	c.Servers = servers
	t.Cleanup(network.Close)
	t.Cleanup(servers.Close)
	require.NoError(t, servers.Settle(t.Context()))
	return c
}

func (c *client) set() *tools.Set {
	empty, err := tools.NewSet()
	require.NoError(c.t, err)
	set, err := c.Offer(c.t.Context(), empty)
	require.NoError(c.t, err)
	return set
}

// call calls a tool as a model does.
func (c *client) call(name, text string) tools.Result {
	result, err := c.try(c.t.Context(), name, text)
	require.NoError(c.t, err)
	return result
}

// reached calls a tool of a server that has just come back. A call waits for it only for a while, which may be too short for
// a machine that is busy with other things.
func (c *client) reached(name, text string) tools.Result {
	for end := time.Now().Add(2 * time.Minute); ; {
		r := c.call(name, text)
		if !strings.Contains(r.Text, "cannot be reached") || time.Now().After(end) {
			return r
		}
	}
}

func (c *client) try(ctx context.Context, name, text string) (tools.Result, error) {
	return prepare(c.set(), name, text).Call(ctx, "task", text)
}

func (c *client) names() []string {
	names := []string{}
	for _, t := range c.Tools() {
		names = append(names, t.Spec().Name)
	}
	return names
}

// until waits for a change that makes the condition true.
func (c *client) until(condition func() bool) {
	c.t.Helper()
	for {
		changed := c.Changed()
		if condition() {
			return
		}
		select {
		case <-changed:
		case <-c.t.Context().Done():
			c.t.Fatal("it did not happen")
		case <-time.After(2 * time.Minute):
			c.t.Fatalf("it did not happen: %+v", c.Health())
		}
	}
}

func ok(text string) tools.Result { return tools.Result{Text: text} }

func contextOfProcess() context.Context { return context.Background() }

// prepare is a call as a model makes it.
func prepare(set *tools.Set, name, text string) tools.Invocation {
	args, err := json.Marshal(map[string]string{"text": text})
	if err != nil {
		panic(err)
	}
	return set.Prepare(llm.ToolCall{ID: "1", Name: name, Arguments: string(args)})
}
