package mcp_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/tools"
	"arkonis.dev/ark/pkg/tools/mcp"
)

func TestContentsBecomeText(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer string
		want   tools.Result
	}{
		"texts":                            {`{"content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}`, ok("a\nb")},
		"an error":                         {`{"content":[{"type":"text","text":"a"}],"isError":true}`, tools.Result{Text: "a", IsError: true}},
		"nothing":                          {`{"content":[]}`, ok("(the tool returned nothing)")},
		"image":                            {`{"content":[{"type":"image","data":"aGVsbG8=","mimeType":"image/png"}]}`, ok("(image: image/png, 5 bytes, not shown)")},
		"audio":                            {`{"content":[{"type":"audio","data":"aGVsbG8h","mimeType":"audio/wav"}]}`, ok("(audio: audio/wav, 6 bytes, not shown)")},
		"resource":                         {`{"content":[{"type":"resource","resource":{"uri":"file:///a","mimeType":"text/plain","text":"hello"}}]}`, ok("resource file:///a (text/plain):\nhello")},
		"blob":                             {`{"content":[{"type":"resource","resource":{"uri":"file:///a","blob":"aGVsbG8="}}]}`, ok("(resource file:///a: unknown type, 5 bytes, not shown)")},
		"link":                             {`{"content":[{"type":"resource_link","uri":"file:///a","name":"n","mimeType":"text/plain","size":7}]}`, ok("(resource link: file:///a, n, text/plain, 7 bytes)")},
		"unknown":                          {`{"content":[{"type":"hologram","data":"x"},{"type":"text","text":"a"}]}`, ok("(a content of the unknown type \"hologram\", 30 bytes)\na")},
		"structured":                       {`{"content":[],"structuredContent":{"a":1}}`, ok(`{"a":1}`)},
		"structured, told as text":         {`{"content":[{"type":"text","text":"{\"b\":2, \"a\":1}"}],"structuredContent":{"a":1,"b":2}}`, ok(`{"b":2, "a":1}`)},
		"structured, wrapped":              {`{"content":[{"type":"text","text":"hello"}],"structuredContent":{"result":"hello"}}`, ok("hello")},
		"structured, told in other words":  {`{"content":[{"type":"text","text":"one"}],"structuredContent":{"a":1}}`, ok("one\n{\"a\":1}")},
		"numbers beyond floats stay whole": {`{"content":[],"structuredContent":{"id":9007199254740993}}`, ok(`{"id":9007199254740993}`)},
		"a question for a person": {`{"resultType":"input_required","inputRequests":{}}`, tools.Errorf(
			"the tool server s wants to ask a person before it goes on, and no person is there. The call was not finished.")},
		"nonsense": {`[1]`, tools.Errorf(
			"the tool server s gave an answer that cannot be read: json: cannot unmarshal array into Go value of type mcp.callResult")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url := restWith(t, writes(listOf("x")), writes(test.answer))
			c := connect(t, mcp.Config{Name: "s", URL: url, Transport: mcp.REST})
			require.Equal(t, test.want, c.call("s__x", ""))
		})
	}
}

func TestContentsOfTheOfficialSDKBecomeText(t *testing.T) {
	t.Parallel()
	s := newSDKServer(newWorld(), nil)
	add(s, &sdk.Tool{Name: "all"}, func(context.Context, string) (*sdk.CallToolResult, error) {
		return &sdk.CallToolResult{
			Content: []sdk.Content{
				&sdk.TextContent{Text: "hello"},
				&sdk.ImageContent{Data: []byte("12345"), MIMEType: "image/png"},
				&sdk.AudioContent{Data: []byte("123"), MIMEType: "audio/wav"},
				&sdk.EmbeddedResource{Resource: &sdk.ResourceContents{URI: "file:///a", MIMEType: "text/plain", Text: "inside"}},
				&sdk.ResourceLink{URI: "file:///b", Name: "b"},
			},
			StructuredContent: map[string]any{"n": 1},
		}, nil
	})
	h := newHost(t, func() http.Handler { return streamable(s, nil) })
	c := connect(t, mcp.Config{Name: "s", URL: h.url()})
	require.Equal(t, ok("hello\n(image: image/png, 5 bytes, not shown)\n(audio: audio/wav, 3 bytes, not shown)\n"+
		"resource file:///a (text/plain):\ninside\n(resource link: file:///b, b)\n{\"n\":1}"), c.call("s__all", ""))
	require.Equal(t, tools.Result{Text: "no luck", IsError: true}, c.call("s__fail", "luck"))
}

func TestASlowServerIsGivenUpAloneAndToldSo(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]func(*sdk.Server) http.Handler{
		"streamable HTTP": func(s *sdk.Server) http.Handler { return streamable(s, nil) },
		"SSE":             sse,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			s := newSDKServer(w, nil)
			h := newHost(t, func() http.Handler { return handler(s) })
			c := connect(t, mcp.Config{Name: "s", URL: h.url(), CallTimeout: 3 * time.Second})
			require.Equal(t, tools.Errorf("the tool server s gave no answer within 3s. Whether the call was carried out is unknown."+
				" Find out before you call it again."), c.call("s__slow", "1"))
			<-w.gone // the server is told to stop
			require.Equal(t, ok("echo 1"), c.call("s__echo", "1"))
			require.True(t, c.Health()[0].Healthy)
			require.Equal(t, 1, w.count("1"))
		})
	}
}

func TestAServerThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	hung := make(chan struct{})
	hangs := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // only then is it seen that the client goes away
		select {
		case <-hung:
			<-r.Context().Done()
		default:
			fmt.Fprint(w, listOf("x"))
		}
	}
	c := connect(t, mcp.Config{
		Name: "s", URL: restWith(t, hangs, hangs), Transport: mcp.REST, Refresh: time.Hour,
		CallTimeout: 2 * time.Second, ConnectTimeout: 2 * time.Second,
	})
	close(hung)
	require.Contains(t, c.call("s__x", "1").Text, "gave no answer within 2s")
	c.until(func() bool { return c.Health()[0].Message == "no answer within 2s" })
}

func TestARepeatedCallThatFailsInTheEndSaysThatItMayHaveBeenMade(t *testing.T) {
	t.Parallel()
	var h *host
	h = newHost(t, func() http.Handler {
		inner := rest(newWorld())
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/tools/call") {
				h.stop()
				return
			}
			inner.ServeHTTP(w, r)
		})
	})
	c := connect(t, mcp.Config{Name: "s", URL: h.url(), Transport: mcp.REST, Patience: 100 * time.Millisecond})
	r := c.call("s__echo", "1")
	require.Regexp(t, `^the tool server s cannot be reached: .*\. Whether the call was carried out is unknown\. It may be called again\.`, r.Text)
}

func TestACancelledTaskEndsItsCalls(t *testing.T) {
	t.Parallel()
	w := newWorld()
	h := newHost(t, func() http.Handler { return streamable(newSDKServer(w, nil), nil) })
	for name, config := range map[string]mcp.Config{"stdio": stdioConfig(t, "tools"), "HTTP": {Name: "s", URL: h.url()}} {
		c := connect(t, config)
		ctx, cancel := context.WithCancelCause(t.Context())
		stopped := errors.New("the task was cancelled")
		if name == "HTTP" {
			go func() {
				<-w.arrived
				cancel(stopped)
			}()
		} else {
			cancel(stopped)
		}
		_, err := c.try(ctx, "s__slow", "1")
		require.ErrorIs(t, err, stopped, name)
	}
}

func TestAProcessThatDoesNotReadHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	config := stdioConfig(t, "deaf")
	config.CallTimeout = 300 * time.Millisecond
	c := connect(t, config)
	r := c.call("s__echo", strings.Repeat("x", 1<<20))
	require.True(t, r.IsError)
	require.Contains(t, r.Text, "gave no answer within 300ms")
	c.Close()
}

func TestAProcessThatSaysNothingIsGivenUp(t *testing.T) {
	t.Parallel()
	config := stdioConfig(t, "silent")
	config.ConnectTimeout = 300 * time.Millisecond
	c := connect(t, config)
	require.Equal(t, mcp.Health{Name: "s", Message: "no answer within 300ms"}, c.Health()[0])
}

func TestAProcessThatDoesNotStartSaysWhyWithoutItsSecrets(t *testing.T) {
	t.Parallel()
	config := stdioConfig(t, "dies")
	config.Env = append(config.Env, "SERVICE_TOKEN=very-secret")
	c := connect(t, config)
	require.Equal(t, "the process ended (exit status 3): cannot start: the key [redacted] is wrong", c.Health()[0].Message)
	require.NotContains(t, c.logs.String(), "very-secret")

	missing := connect(t, mcp.Config{Name: "s", Command: "/no/such/program"})
	require.Equal(t, "start /no/such/program: fork/exec /no/such/program: no such file or directory", missing.Health()[0].Message)
}

func TestCloseLeavesNothingRunning(t *testing.T) {
	t.Parallel()
	w := newWorld()
	configs := []mcp.Config{stdioConfig(t, "tools")}
	for name, handler := range map[string]func() http.Handler{
		"streamable": func() http.Handler { return streamable(newSDKServer(w, nil), nil) },
		"stateless": func() http.Handler {
			return withoutHandshake(streamable(newSDKServer(w, nil), &sdk.StreamableHTTPOptions{Stateless: true}))
		},
		"sse":  func() http.Handler { return sse(newSDKServer(w, nil)) },
		"rest": func() http.Handler { return rest(w) },
	} {
		configs = append(configs, mcp.Config{Name: name, URL: newHost(t, handler).url()})
	}
	dark, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0") // accepts and never answers
	require.NoError(t, err)
	t.Cleanup(func() { _ = dark.Close() })
	configs = append(configs, mcp.Config{Name: "dark", URL: "http://" + dark.Addr().String(), ConnectTimeout: 200 * time.Millisecond})

	const label = "close-test"
	pprof.Do(t.Context(), pprof.Labels(label, "1"), func(context.Context) {
		c := connect(t, configs...)
		for _, config := range configs[:5] {
			require.Equal(t, ok("echo 1"), c.call(config.Name+"__echo", "1"))
		}
		running := make(chan error)
		go func() {
			_, err := c.try(t.Context(), "streamable__slow", "1")
			running <- err
		}()
		<-w.arrived
		require.Positive(t, labelled(t, label))
		c.Close()
		require.NoError(t, <-running)
	})
	require.Eventually(t, func() bool { return labelled(t, label) == 0 }, time.Minute, 10*time.Millisecond)
}

// labelled counts the goroutines of ark and the library that descend from a labelled one.
func labelled(t *testing.T, label string) int {
	var b strings.Builder
	require.NoError(t, pprof.Lookup("goroutine").WriteTo(&b, 1))
	n := 0
	for block := range strings.SplitSeq(b.String(), "\n\n") {
		if strings.Contains(block, label) && (strings.Contains(block, "ark/pkg/tools/mcp.") || strings.Contains(block, "mark3labs/mcp-go")) {
			n++
		}
	}
	return n
}

func TestWhatTheServerSaysOfAFailureReachesTheModel(t *testing.T) {
	t.Parallel()
	status := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { http.Error(w, body, code) }
	}
	for name, test := range map[string]struct {
		call http.HandlerFunc
		want string
	}{
		"401": {status(401, "who are you"), "the call of the tool server s failed: the server refused the credentials (HTTP 401 Unauthorized: who are you): check headers and auth"},
		"429": {status(429, ""), "the call of the tool server s failed: the server is busy (HTTP 429 Too Many Requests): try again later"},
		"500": {status(500, "no disk"), "the call of the tool server s failed: HTTP 500 Internal Server Error: no disk"},
		"422": {status(422, "the date is in the past"), "the call of the tool server s failed: HTTP 422 Unprocessable Entity: the date is in the past"},
		"503": {status(503, ""), "the connection to the tool server s broke during the call (HTTP 503 Service Unavailable). Whether the call was carried out is unknown. Find out before you call it again."},
		"404": {status(404, "gone"), "the tool server s did not take the call: HTTP 404 Not Found: gone. The call was not carried out."},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, mcp.Config{Name: "s", URL: restWith(t, writes(listOf("x")), test.call), Transport: mcp.REST})
			require.Equal(t, tools.Result{Text: test.want, IsError: true}, c.call("s__x", ""))
		})
	}
	t.Run("an error of the protocol", func(t *testing.T) {
		t.Parallel()
		s := newSDKServer(newWorld(), nil)
		h := newHost(t, func() http.Handler { return streamable(s, nil) })
		c := connect(t, mcp.Config{Name: "s", URL: h.url()})
		set := c.set()
		s.RemoveTools("count")
		r, err := prepare(set, "s__count", "").Call(t.Context(), "task", "1")
		require.NoError(t, err)
		require.True(t, r.IsError)
		require.Regexp(t, `^the call of the tool server s failed: the server refused it: .*count.* \(error -32602\)$`, r.Text)
	})
}

func TestCallsCarryTheirIdempotencyKeyAndTrace(t *testing.T) {
	t.Parallel()
	headers := make(chan http.Header, 10)
	url := restWith(t, writes(listOf("x")), func(w http.ResponseWriter, r *http.Request) {
		headers <- r.Header
		fmt.Fprint(w, `{"content":[]}`)
	})
	c := connect(t, mcp.Config{Name: "s", URL: url, Transport: mcp.REST, Headers: map[string]string{"X-Team": "blue"}})
	c.call("s__x", "7")
	got := <-headers
	require.Equal(t, "task-7", got.Get("Idempotency-Key"))
	require.Equal(t, "blue", got.Get("X-Team"))

	metas := make(chan sdk.Meta, 1)
	s := newSDKServer(newWorld(), nil)
	s.AddTool(&sdk.Tool{Name: "meta", InputSchema: json.RawMessage(`{"type":"object"}`)},
		func(_ context.Context, req *sdk.CallToolRequest) (*sdk.CallToolResult, error) {
			metas <- req.Params.Meta
			return text(""), nil
		})
	h := newHost(t, func() http.Handler { return streamable(s, nil) })
	connect(t, mcp.Config{Name: "s", URL: h.url()}).call("s__meta", "8")
	require.Equal(t, "task-8", (<-metas)["arkonis.dev/idempotency-key"])
}

func TestAddressesAreGuarded(t *testing.T) {
	t.Parallel()
	c := connect(t, mcp.Config{Name: "s", URL: "http://169.254.169.254/latest"}, mcp.Config{Name: "l", URL: "http://[::ffff:169.254.1.1]/"})
	require.Equal(t, "address 169.254.169.254 is a link-local address, which tools may not connect to", c.Health()[0].Message)
	require.Contains(t, c.Health()[1].Message, "link-local")
}

func TestServersCannotSendRequestsElsewhere(t *testing.T) {
	t.Parallel()
	stolen := make(chan string, 10)
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { stolen <- r.Header.Get("Authorization") }))
	t.Cleanup(thief.Close)
	redirecting := httptest.NewServer(http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
	t.Cleanup(redirecting.Close)
	sending := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "event: endpoint\ndata: https://%s/x\n\n", strings.TrimPrefix(thief.URL, "http://"))
	}))
	t.Cleanup(sending.Close)
	for url, transport := range map[string]mcp.Transport{redirecting.URL: mcp.Auto, sending.URL: mcp.SSE} {
		c := connect(t, mcp.Config{Name: "s", URL: url, Transport: transport, Token: "secret", ConnectTimeout: time.Second})
		require.False(t, c.Health()[0].Healthy)
	}
	require.Empty(t, stolen)

	// The same host without encryption is elsewhere, too: the token would be seen on the way.
	encrypted := httptest.NewUnstartedServer(nil)
	encrypted.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "event: endpoint\ndata: http://%s/x\n\n", encrypted.Listener.Addr())
		w.(http.Flusher).Flush()
		<-t.Context().Done()
	})
	encrypted.StartTLS()
	t.Cleanup(encrypted.CloseClientConnections)
	file := filepath.Join(t.TempDir(), "ca.crt")
	write(t, file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: encrypted.Certificate().Raw}))
	c := connect(t, mcp.Config{Name: "s", URL: encrypted.URL, Transport: mcp.SSE, Token: "secret", CAFile: file})
	require.Equal(t, "the server sent the request to another address, which is refused", c.Health()[0].Message)
}
