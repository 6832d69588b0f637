package tools_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/tools"
)

// seen is what a server got of one request.
type seen struct {
	Method, Path, Query, Body string
	Header                    http.Header
}

type recorder struct {
	mu       sync.Mutex
	requests []seen
}

func (r *recorder) record(req *http.Request) seen {
	body, _ := io.ReadAll(req.Body)
	s := seen{Method: req.Method, Path: req.URL.Path, Query: req.URL.RawQuery, Body: string(body), Header: req.Header.Clone()}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, s)
	return s
}

func (r *recorder) all() []seen {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.requests
}

func serve(t *testing.T, answer func(http.ResponseWriter, *http.Request)) (*httptest.Server, *recorder) {
	t.Helper()
	rec := &recorder{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec.record(r)
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s, rec
}

func webhook(t *testing.T, c tools.WebhookConfig, guard tools.Guard) *tools.Webhook {
	t.Helper()
	network := tools.NewNetwork(guard, nil)
	t.Cleanup(network.Close)
	w, err := tools.NewWebhook(c, network)
	require.NoError(t, err)
	return w
}

func call(args string) tools.Call {
	return tools.Call{ID: "2.0", TaskID: "t1", Args: json.RawMessage(args)}
}

func TestWebhookSendsArguments(t *testing.T) {
	t.Parallel()
	const args = `{"q":"a b&c","n":3,"on":true,"tags":["x","y"],"deep":{"k":1},"none":null}`
	for method, want := range map[string]seen{
		"":       {Method: "POST", Path: "/hook", Query: "v=1", Body: args},
		"PUT":    {Method: "PUT", Path: "/hook", Query: "v=1", Body: args},
		"PATCH":  {Method: "PATCH", Path: "/hook", Query: "v=1", Body: args},
		"GET":    {Method: "GET", Path: "/hook", Query: "deep=%7B%22k%22%3A1%7D&n=3&on=true&q=a+b%26c&tags=x&tags=y&v=1"},
		"DELETE": {Method: "DELETE", Path: "/hook", Query: "deep=%7B%22k%22%3A1%7D&n=3&on=true&q=a+b%26c&tags=x&tags=y&v=1"},
	} {
		t.Run(want.Method, func(t *testing.T) {
			t.Parallel()
			s, rec := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, `{"ok":true}`) })
			w := webhook(t, tools.WebhookConfig{
				Name: "hook", URL: s.URL + "/hook?v=1", Method: method, Headers: map[string]string{"X-Api-Key": "secret"},
			}, tools.Guard{})
			got, err := w.Call(t.Context(), call(args))
			require.NoError(t, err)
			require.Equal(t, tools.Result{Text: `{"ok":true}`}, got)

			require.Len(t, rec.all(), 1)
			header := rec.all()[0].Header
			require.Equal(t, "t1-2.0", header.Get("Idempotency-Key"))
			require.Equal(t, "secret", header.Get("X-Api-Key"))
			request := rec.all()[0]
			request.Header = nil
			require.Equal(t, want, request)
			if want.Body != "" {
				require.Equal(t, "application/json", header.Get("Content-Type"))
			}
		})
	}
}

func TestWebhookTellsTheModelWhatWentWrong(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("é", 100)
	for name, c := range map[string]struct {
		answer func(http.ResponseWriter, *http.Request)
		limit  int64
		want   tools.Result
	}{
		"status": {
			answer: func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no such order", http.StatusNotFound) },
			want:   tools.Result{Text: "HTTP 404 Not Found: no such order\n", IsError: true},
		},
		"empty": {
			answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) },
			want:   tools.Result{Text: "(empty response)"},
		},
		"binary": {
			answer: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "image/png")
				_, _ = w.Write([]byte{0x89, 'P', 'N', 'G', 0})
			},
			want: tools.Result{Text: "(the response is not text: 5 bytes of image/png)", IsError: true},
		},
		"cut at a character": {
			answer: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, long) },
			limit:  5,
			want:   tools.Result{Text: "éé\n(the response was cut after 5 bytes)"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := serve(t, c.answer)
			got, err := webhook(t, tools.WebhookConfig{Name: "hook", URL: s.URL, ResponseLimit: c.limit}, tools.Guard{}).Call(t.Context(), call("{}"))
			require.NoError(t, err)
			require.Equal(t, c.want, got)
		})
	}
}

func TestWebhookReadsNoEndlessResponse(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
		for block := []byte(strings.Repeat("x", 1<<16)); r.Context().Err() == nil; {
			if _, err := w.Write(block); err != nil {
				return
			}
		}
	})
	got, err := webhook(t, tools.WebhookConfig{Name: "hook", URL: s.URL, ResponseLimit: 1 << 20}, tools.Guard{}).Call(t.Context(), call("{}"))
	require.NoError(t, err)
	require.False(t, got.IsError)
	require.Less(t, len(got.Text), 1<<20+100)
}

func TestWebhookTimeoutLeavesTheOutcomeOpen(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	got, err := webhook(t, tools.WebhookConfig{Name: "hook", URL: s.URL, Timeout: 20 * time.Millisecond}, tools.Guard{}).Call(t.Context(), call("{}"))
	require.NoError(t, err)
	require.True(t, got.IsError)
	require.Contains(t, got.Text, "within 20ms; whether the call was carried out is unknown")
}

func TestWebhookEndsWithItsTask(t *testing.T) {
	t.Parallel()
	cancelled := errors.New("cancelled")
	ctx, cancel := context.WithCancelCause(t.Context())
	s, _ := serve(t, func(_ http.ResponseWriter, r *http.Request) { cancel(cancelled); <-r.Context().Done() })
	_, err := webhook(t, tools.WebhookConfig{Name: "hook", URL: s.URL}, tools.Guard{}).Call(ctx, call("{}"))
	require.ErrorIs(t, err, cancelled)
}

func TestWebhookErrorsHideTheURL(t *testing.T) {
	t.Parallel()
	// Port 1 is one that the system gives to nobody.
	got, err := webhook(t, tools.WebhookConfig{Name: "hook", URL: "http://127.0.0.1:1/x?key=secret"}, tools.Guard{}).Call(t.Context(), call("{}"))
	require.NoError(t, err)
	require.True(t, got.IsError)
	require.Contains(t, got.Text, "connection refused")
	require.NotContains(t, got.Text, "secret")
}

func TestRedirectsAreConfined(t *testing.T) {
	t.Parallel()
	other, stolen := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "stolen") })
	for name, c := range map[string]struct {
		to   func(self string) string
		want tools.Result
	}{
		"same host":    {func(string) string { return "/done" }, tools.Result{Text: "done"}},
		"another port": {func(string) string { return other.URL }, tools.Result{IsError: true, Text: "hook: redirect refused: to another port (" + other.URL[strings.LastIndex(other.URL, ":")+1:] + ")"}},
		"another host": {func(string) string { return "http://localhost:1/" }, tools.Result{IsError: true, Text: "hook: redirect refused: to another host (localhost)"}},
		"for ever":     {func(string) string { return "/" }, tools.Result{IsError: true, Text: "hook: redirect refused: more than 5 of them"}},
		"a file":       {func(string) string { return "file:///etc/passwd" }, tools.Result{IsError: true, Text: "hook: redirect refused: from http to file"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/done" {
					_, _ = io.WriteString(w, "done")
					return
				}
				http.Redirect(w, r, c.to(r.Host), http.StatusTemporaryRedirect)
			})
			got, err := webhook(t, tools.WebhookConfig{Name: "hook", URL: s.URL}, tools.Guard{}).Call(t.Context(), call("{}"))
			require.NoError(t, err)
			require.Equal(t, c.want, got)
			require.Empty(t, stolen.all())
		})
	}
}

// A server that accepts a request on a kept-alive connection and drops it must not get it a second time unless the
// tool is safe to repeat: Go's transport repeats such requests by itself when they carry an idempotency key.
func TestUnsafeWebhookIsNeverSentTwice(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		method     string
		idempotent bool
		want       int32
	}{
		"post":            {method: "POST", want: 1},
		"delete":          {method: "DELETE", want: 1},
		"idempotent post": {method: "POST", idempotent: true, want: 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var calls atomic.Int32
			s, _ := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Query().Has("warm") || strings.Contains(r.Header.Get("Idempotency-Key"), "warm") {
					return
				}
				if calls.Add(1) == 1 {
					conn, _, err := http.NewResponseController(w).Hijack()
					if err == nil {
						_ = conn.Close()
					}
				}
			})
			w := webhook(t, tools.WebhookConfig{Name: "hook", URL: s.URL, Method: c.method, Idempotent: c.idempotent}, tools.Guard{})
			_, err := w.Call(t.Context(), tools.Call{ID: "1.0", TaskID: "warm", Args: json.RawMessage("{}")})
			require.NoError(t, err)
			got, err := w.Call(t.Context(), call("{}"))
			require.NoError(t, err)
			require.Equal(t, c.want, calls.Load())
			require.Equal(t, c.want == 1, got.IsError)
		})
	}
}

func TestWebhookConfigIsChecked(t *testing.T) {
	t.Parallel()
	network := tools.NewNetwork(tools.Guard{}, nil)
	for want, c := range map[string]tools.WebhookConfig{
		`tool "a": url must begin with http:// or https://`:                   {Name: "a", URL: "ftp://x"},
		`tool "a": url names no host`:                                         {Name: "a", URL: "http:///x"},
		`tool "a": url does not parse: invalid port ":x" after host`:          {Name: "a", URL: "http://h:x/"},
		`tool "a": method "HEAD" is not one of GET, POST, PUT, PATCH, DELETE`: {Name: "a", URL: "http://h", Method: "HEAD"},
		`tool "a": the time-out is negative`:                                  {Name: "a", URL: "http://h", Timeout: -1},
		`tool "a": the response limit is negative`:                            {Name: "a", URL: "http://h", ResponseLimit: -1},
	} {
		_, err := tools.NewWebhook(c, network)
		require.EqualError(t, err, want)
	}
}
