package mcp_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/tools"
	"arkonis.dev/ark/pkg/tools/mcp"
)

const (
	restartEvery = 100 * time.Millisecond
	callsToMake  = 1000
	callers      = 8
	workPerCall  = 5 * time.Millisecond
)

// restarting restarts a host again and again until the test's calls are made, and says how often it did. Each time the
// server lives until some calls have ended, however slow the machine is.
func restarting(h *host, c *client) (stop func() int) {
	done, restarts := make(chan struct{}), make(chan int)
	go func() {
		ticker := time.NewTicker(restartEvery)
		defer ticker.Stop()
		ended := c.ended.Load()
		for n := 0; ; {
			select {
			case <-ticker.C:
				if c.ended.Load() < ended+2*callers { // those that the last restart broke, and as many again
					continue
				}
				h.stop()
				h.start()
				ended = c.ended.Load()
				n++
			case <-done:
				restarts <- n
				return
			}
		}
	}()
	return func() int {
		close(done)
		return <-restarts
	}
}

// calls makes all calls of a test, each with a text of its own, and returns the results by that text.
func (c *client) calls(tool string) map[string]tools.Result {
	var mu sync.Mutex
	var group sync.WaitGroup
	results := map[string]tools.Result{}
	set := c.set()
	next := make(chan string)
	for range callers {
		group.Go(func() {
			for text := range next {
				r, err := prepare(set, tool, text).Call(c.t.Context(), "task", text)
				if err != nil {
					r = tools.Errorf("%v", err)
				}
				c.ended.Add(1)
				mu.Lock()
				results[text] = r
				mu.Unlock()
			}
		})
	}
	for n := range callsToMake {
		next <- fmt.Sprint(n)
	}
	close(next)
	group.Wait()
	return results
}

// working delays each call that an SDK server gets.
func working(s *sdk.Server) *sdk.Server {
	s.AddReceivingMiddleware(func(next sdk.MethodHandler) sdk.MethodHandler {
		return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
			result, err := next(ctx, method, req)
			if method == "tools/call" {
				select {
				case <-time.After(workPerCall):
				case <-ctx.Done():
				}
			}
			return result, err
		}
	})
	return s
}

func workingREST(inner http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(workPerCall):
		case <-r.Context().Done():
		}
		inner.ServeHTTP(w, r)
	})
}

// unstable are servers that are restarted while they are used.
var unstable = map[string]func(*world) http.Handler{
	"streamable HTTP": func(w *world) http.Handler { return streamable(working(newSDKServer(w, nil)), nil) },
	"SSE":             func(w *world) http.Handler { return sse(working(newSDKServer(w, nil))) },
	"REST":            func(w *world) http.Handler { return workingREST(rest(w)) },
}

func TestNoCallIsStuckOrLostWhileTheServerIsRestarted(t *testing.T) {
	t.Parallel()
	for name, handler := range unstable {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t, func() http.Handler { return handler(newWorld()) })
			c := connect(t, mcp.Config{Name: "s", URL: h.url()})
			stop := restarting(h, c)
			began := time.Now()
			results := c.calls("s__echo")
			t.Logf("%d calls in %v with %d restarts", len(results), time.Since(began).Round(time.Millisecond), stop())
			require.Len(t, results, callsToMake)
			for text, r := range results {
				require.Equal(t, ok("echo "+text), r)
			}
		})
	}
}

func TestACallThatIsNotSafeIsNeverMadeTwice(t *testing.T) {
	t.Parallel()
	for name, handler := range unstable {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			h := newHost(t, func() http.Handler { return handler(w) })
			c := connect(t, mcp.Config{Name: "s", URL: h.url()})
			stop := restarting(h, c)
			results := c.calls("s__count")
			restarts := stop()
			require.Len(t, results, callsToMake)
			unknown := 0
			for text, r := range results {
				if r.IsError {
					unknown++
					require.Contains(t, r.Text, "Whether the call was carried out is unknown. Find out before you call it again.")
					require.LessOrEqual(t, w.count(text), 1)
				} else {
					require.Equal(t, 1, w.count(text), text)
				}
			}
			t.Logf("%d of %d calls of unknown outcome with %d restarts", unknown, callsToMake, restarts)
			require.Positive(t, unknown, "nothing broke during a call: the test shows nothing")
		})
	}
}

func TestAProcessThatDiesIsStartedAgain(t *testing.T) {
	t.Parallel()
	c := connect(t, stdioConfig(t, "mortal"))
	results := c.calls("s__echo")
	require.Len(t, results, callsToMake)
	for text, r := range results {
		require.Equal(t, ok("echo "+text), r)
	}
	require.Regexp(t, `(?s)unreachable.*the process ended \(exit status 7\): out of luck`, c.logs.String())
}

func TestASessionThatTheServerForgotIsOpenedAnew(t *testing.T) {
	t.Parallel()
	for name, refuse := range map[string]http.HandlerFunc{
		"404": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "session not found", http.StatusNotFound) },
		"400": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusBadRequest)
			fmt.Fprint(w, `{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: No valid session ID provided"}}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld()
			var mu sync.Mutex
			forgotten, last := map[string]bool{}, ""
			inner := streamable(newSDKServer(w, nil), nil)
			h := newHost(t, func() http.Handler {
				return http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
					mu.Lock()
					last = r.Header.Get("Mcp-Session-Id")
					lost := forgotten[last]
					mu.Unlock()
					if lost {
						refuse(out, r)
						return
					}
					inner.ServeHTTP(out, r)
				})
			})
			c := connect(t, mcp.Config{Name: "s", URL: h.url()})
			for round := range 3 {
				text := fmt.Sprint(round)
				require.Equal(t, ok("counted "+text), c.call("s__count", text))
				require.Equal(t, 1, w.count(text))
				mu.Lock()
				require.NotEmpty(t, last)
				forgotten[last] = true
				mu.Unlock()
			}
		})
	}
}

func TestAServerThatIsDownKeepsItsToolsAndSaysWhatToDo(t *testing.T) {
	t.Parallel()
	h := newHost(t, func() http.Handler { return streamable(newSDKServer(newWorld(), nil), nil) })
	other := newHost(t, func() http.Handler { return rest(newWorld()) })
	c := connect(t,
		mcp.Config{Name: "s", URL: h.url(), Patience: 100 * time.Millisecond, Required: true},
		mcp.Config{Name: "o", URL: other.url(), Required: true})
	require.NoError(t, c.Ready())
	h.stop()
	c.until(func() bool { return !c.Health()[0].Healthy })

	require.Contains(t, c.names(), "s__echo")
	require.Contains(t, c.Health()[0].Tools, "echo")
	require.Equal(t, ok("echo 1"), c.call("o__echo", "1"), "another server suffers")
	r := c.call("s__echo", "2")
	require.True(t, r.IsError)
	require.Regexp(t, `^the tool server s cannot be reached: .*connection refused\. The call was not carried out\. Go on without it, or try again later\.$`, r.Text)
	require.ErrorContains(t, c.Ready(), "required tool server s: ")
	require.NotContains(t, c.Ready().Error(), "server o")

	h.start()
	require.Equal(t, ok("echo 3"), c.reached("s__echo", "3"), "a call finds the server that came back")
	require.NoError(t, c.Ready())
}

func TestACallWaitsForAServerThatIsJustRestarted(t *testing.T) {
	t.Parallel()
	h := newHost(t, func() http.Handler { return streamable(newSDKServer(newWorld(), nil), nil) })
	c := connect(t, mcp.Config{Name: "s", URL: h.url()})
	h.stop()
	c.until(func() bool { return !c.Health()[0].Healthy })
	answer := make(chan tools.Result)
	go func() { answer <- c.call("s__echo", "1") }()
	c.until(func() bool { return strings.Contains(c.Health()[0].Message, "refused") })
	h.start()
	require.Equal(t, ok("echo 1"), <-answer)
}
