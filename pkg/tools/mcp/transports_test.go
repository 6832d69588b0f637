package mcp_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/tools/mcp"
)

// serveStdio is the life of this binary as a server.
func serveStdio(kind string) {
	w := newWorld()
	s := newSDKServer(w, nil)
	switch kind {
	case "silent":
		_, _ = io.Copy(io.Discard, os.Stdin)
		return
	case "deaf":
		deaf()
	case "family":
		family()
	case "dies":
		fmt.Fprintln(os.Stderr, "cannot start: the key "+os.Getenv("SERVICE_TOKEN")+" is wrong")
		os.Exit(3)
	case "mortal":
		mortal(s)
	case "endless":
		for line := strings.Repeat("x", 1<<16); ; {
			if _, err := io.WriteString(os.Stdout, line); err != nil {
				return
			}
		}
	}
	_ = s.Run(contextOfProcess(), &sdk.StdioTransport{})
}

// mortal makes a server die during one call in a hundred.
func mortal(s *sdk.Server) {
	var calls atomic.Int64
	s.AddReceivingMiddleware(func(next sdk.MethodHandler) sdk.MethodHandler {
		return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
			if method == "tools/call" && calls.Add(1) == 100 {
				fmt.Fprintln(os.Stderr, "out of luck")
				os.Exit(7)
			}
			return next(ctx, method, req)
		}
	})
}

// deaf answers until its tools are listed and then reads no more.
func deaf() {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var req struct {
			ID     json.RawMessage
			Method string
		}
		if err := json.Unmarshal(in.Bytes(), &req); err != nil {
			os.Exit(1)
		}
		switch req.Method {
		case "initialize":
			_, _ = fmt.Fprintf(os.Stdout, `{"jsonrpc":"2.0","id":%s,"result":{"protocolVersion":"2025-06-18","capabilities":{"tools":{}},"serverInfo":{"name":"deaf","version":"1"}}}`+"\n", req.ID)
		case "tools/list":
			_, _ = fmt.Fprintf(os.Stdout, `{"jsonrpc":"2.0","id":%s,"result":{"tools":[{"name":"echo","inputSchema":{"type":"object"}}]}}`+"\n", req.ID)
			<-make(chan struct{})
		}
	}
}

// family leaves a child behind that holds on to what it inherited, and tells its number. It stays when asked to end.
func family() {
	child := exec.Command("sleep", "1000")
	child.Stdout, child.Stderr = os.Stdout, os.Stderr
	if err := child.Start(); err != nil {
		os.Exit(1)
	}
	signal.Ignore(syscall.SIGTERM)
	if err := os.WriteFile(os.Getenv("FAMILY_FILE"), fmt.Appendf(nil, "%d %d", os.Getpid(), child.Process.Pid), 0o600); err != nil {
		os.Exit(1)
	}
	_ = newSDKServer(newWorld(), nil).Run(contextOfProcess(), &sdk.StdioTransport{})
	if os.Getenv("FAMILY_STAYS") != "" {
		<-make(chan struct{})
	}
}

func stdioConfig(t testing.TB, kind string) mcp.Config {
	binary, err := os.Executable()
	require.NoError(t, err)
	return mcp.Config{Name: "s", Command: binary, Env: []string{stdioVariable + "=" + kind}}
}

func TestEveryTransportCallsTheToolsOfServersWrittenByOthers(t *testing.T) {
	t.Parallel()
	own := func(handler func(*world) http.Handler) func(*testing.T) mcp.Config {
		return func(t *testing.T) mcp.Config {
			h := newHost(t, func() http.Handler { return handler(newWorld()) })
			return mcp.Config{Name: "s", URL: h.url()}
		}
	}
	over := func(transport mcp.Transport, config func(*testing.T) mcp.Config) func(*testing.T) mcp.Config {
		return func(t *testing.T) mcp.Config {
			c := config(t)
			c.Transport = transport
			return c
		}
	}
	overStreamable := own(func(w *world) http.Handler { return streamable(newSDKServer(w, nil), nil) })
	overJSON := own(func(w *world) http.Handler {
		return streamable(newSDKServer(w, nil), &sdk.StreamableHTTPOptions{JSONResponse: true})
	})
	withoutSessions := own(func(w *world) http.Handler {
		return streamable(newSDKServer(w, nil), &sdk.StreamableHTTPOptions{Stateless: true})
	})
	modern := own(func(w *world) http.Handler {
		return withoutHandshake(streamable(newSDKServer(w, nil), &sdk.StreamableHTTPOptions{Stateless: true}))
	})
	overSSE := own(func(w *world) http.Handler { return sse(newSDKServer(w, nil)) })
	overREST := own(rest)
	overStdio := func(t *testing.T) mcp.Config { return stdioConfig(t, "tools") }
	for name, config := range map[string]func(*testing.T) mcp.Config{
		"streamable HTTP":                 over(mcp.StreamableHTTP, overStreamable),
		"streamable HTTP, JSON answers":   over(mcp.StreamableHTTP, overJSON),
		"streamable HTTP, no sessions":    over(mcp.StreamableHTTP, withoutSessions),
		"streamable HTTP, no handshake":   over(mcp.StreamableHTTP, modern),
		"SSE":                             over(mcp.SSE, overSSE),
		"REST":                            over(mcp.REST, overREST),
		"stdio":                           over(mcp.Stdio, overStdio),
		"auto finds streamable HTTP":      overStreamable,
		"auto finds it without handshake": modern,
		"auto finds SSE":                  overSSE,
		"auto finds REST":                 overREST,
		"auto finds stdio":                overStdio,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, config(t))
			require.Empty(t, c.Health()[0].Message)
			require.Equal(t, ok("echo hello"), c.call("s__echo", "hello"))
			safe := map[string]bool{}
			for _, tool := range c.Tools() {
				safe[tool.Spec().Name] = tool.Safe()
			}
			require.True(t, safe["s__echo"])
			require.Contains(t, safe, "s__count")
			require.False(t, safe["s__count"])
		})
	}
}

// withoutHandshake is a server that knows only the protocol without one.
func withoutHandshake(inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || bytes.Contains(body, []byte(`"initialize"`)) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"method not found"}}`)
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		inner.ServeHTTP(w, r)
	})
}

func TestAutoRemembersWhatWorked(t *testing.T) {
	t.Parallel()
	probes := make(chan string, 100)
	h := newHost(t, func() http.Handler {
		inner := rest(newWorld())
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			probes <- r.Method + " " + r.URL.Path
			inner.ServeHTTP(w, r)
		})
	})
	c := connect(t, mcp.Config{Name: "s", URL: h.url(), Patience: 100 * time.Millisecond})
	require.Equal(t, ok("echo 1"), c.call("s__echo", "1"))
	h.stop()
	require.True(t, c.call("s__echo", "2").IsError)
	for len(probes) > 0 {
		<-probes
	}
	h.start()
	require.Equal(t, ok("echo 3"), c.reached("s__echo", "3"))
	require.Equal(t, "POST /mcp/tools/list", <-probes)
}

func TestAServerThatSpeaksNothingKnownSaysSo(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.NotFoundHandler())
	defer s.Close()
	c := connect(t, mcp.Config{Name: "s", URL: s.URL})
	h := c.Health()[0]
	require.False(t, h.Healthy)
	require.Contains(t, h.Message, "speaks none of the transports")
	require.Contains(t, h.Message, "404")
}

func TestAWebPageIsNotAServer(t *testing.T) {
	t.Parallel()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprint(w, "<html></html>")
	}))
	defer s.Close()
	for _, transport := range []mcp.Transport{mcp.Auto, mcp.SSE, mcp.StreamableHTTP, mcp.REST} {
		c := connect(t, mcp.Config{Name: "s", URL: s.URL, Transport: transport})
		require.Contains(t, c.Health()[0].Message, "web page", transport)
	}
}

func TestAStreamThatBreaksWhileConnectingIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	posted := make(chan struct{}, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusAccepted)
			posted <- struct{}{}
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprint(w, "event: endpoint\ndata: /messages\n\n")
		w.(http.Flusher).Flush()
		<-posted
	}))
	t.Cleanup(s.Close)
	c := connect(t, mcp.Config{Name: "s", URL: s.URL, Transport: mcp.SSE, ConnectTimeout: time.Hour})
	require.Equal(t, "the event stream broke off: EOF", c.Health()[0].Message)
}
