// Package modelserver is a model server for tests and benchmarks: it speaks OpenAI's chat completions and Anthropic's
// messages over HTTP, streaming and plain, with tools and usage, answers without a model, misbehaves on demand, and keeps
// a log of every call that it got.
//
// What it answers is decided in this order: Config.Answer, the first rule of Config.Rules that matches and is not
// used up, and else an echo of the last user message (see Echo). Tokens are a quarter of the bytes, rounded up: see
// Tokens.
//
// A Server is an http.Handler; Start gives it a port of its own. It is safe for concurrent use.
package modelserver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Config says how a server answers. The zero Config echoes.
type Config struct {
	// Addr is what Start listens on; "" is a free port of 127.0.0.1.
	Addr string
	// Answer decides the reply to a call; nil, or a nil reply, leaves it to Rules. It runs on the request's
	// goroutine.
	Answer func(Call) *Reply
	Rules  []Rule
	// Delay is how long the default answer takes, and any reply that has none of its own.
	Delay time.Duration
	// Refuse names the features that are answered with 400: "tools", "response_format", "stream_options", "stream",
	// "max_tokens", "max_completion_tokens"; of messages "tools", "output_config", "cache_control", "thinking", "stream";
	// of embeddings "dimensions".
	Refuse []string
	// Key, if set, is the bearer token or the X-Api-Key that every call must carry: others get a 401.
	Key string
	// Log, if set, gets every call as a line of JSON as soon as it has ended.
	Log io.Writer
}

// Call is one request as the server saw it.
type Call struct {
	N        int             `json:"n"` // from 1, in the order of arrival
	In       time.Time       `json:"in"`
	Answered time.Time       `json:"answered,omitzero"` // when the server was done with it
	API      string          `json:"api"`               // APIChat, APIMessages or APIEmbeddings
	URL      string          `json:"url"`               // path and query
	Key      string          `json:"key,omitempty"`     // Idempotency-Key
	Header   http.Header     `json:"-"`
	Body     json.RawMessage `json:"body"`   // the whole request
	Request  Request         `json:"-"`      // the same, decoded
	Status   int             `json:"status"` // 0: the connection was broken before one
	Fault    string          `json:"fault,omitempty"`
	Whole    bool            `json:"whole"` // the whole answer was written, and the client was still there
}

// Request is the part of a request that the server looks at, in the form of chat completions: the system prompt of the
// messages API is a message here, and so is every result of a tool; output_config is the ResponseFormat.
type Request struct {
	Model               string          `json:"model"`
	Messages            []Message       `json:"messages"`
	Tools               []Tool          `json:"tools"`
	ResponseFormat      json.RawMessage `json:"response_format"`
	Stream              bool            `json:"stream"`
	StreamOptions       *StreamOptions  `json:"stream_options"`
	MaxTokens           *int64          `json:"max_tokens"`
	MaxCompletionTokens *int64          `json:"max_completion_tokens"`

	marked   int  // cache_controls
	thinking bool // thoughts that went back

	dimensions *int // of embeddings
}

// StreamOptions asks for a last chunk with the usage.
type StreamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

// Message is one message of a request.
type Message struct {
	Role       string     `json:"role"`
	Content    string     `json:"content"`
	ToolCalls  []ToolCall `json:"tool_calls"`
	ToolCallID string     `json:"tool_call_id"`
}

// Tool is one tool of a request.
type Tool struct {
	Function struct {
		Name        string          `json:"name"`
		Description string          `json:"description"`
		Parameters  json.RawMessage `json:"parameters"`
	} `json:"function"`
}

// ToolCall is a call of a tool, in a request or in an answer.
type ToolCall struct {
	ID       string   `json:"id"`
	Type     string   `json:"type"`
	Function Function `json:"function"`
}

// Function is what a ToolCall calls. Arguments are JSON in a string.
type Function struct {
	Name      string `json:"name"`
	Arguments string `json:"arguments"`
}

// Prompt is the last user message.
func (r Request) Prompt() string { return r.last("user") }

// System is the last system message.
func (r Request) System() string { return r.last("system") }

func (r Request) last(role string) string {
	for _, m := range slices.Backward(r.Messages) {
		if m.Role == role {
			return m.Content
		}
	}
	return ""
}

// Server answers POST /v1/chat/completions and /chat/completions, POST /v1/messages and /messages, POST /v1/embeddings and
// /embeddings, GET /calls with its log as a JSON list, and GET /v1/models.
type Server struct {
	config Config
	mux    *http.ServeMux

	mu    sync.Mutex
	calls []Call
	used  []int // how often each rule was used
	ended int
	wake  chan struct{} // closed and replaced at every change

	stop   context.CancelFunc
	http   *http.Server
	addr   string
	served chan struct{}
}

// New makes a Server that listens nowhere: an http.Handler. Start makes one with a port.
func New(c Config) *Server {
	s := &Server{config: c, mux: http.NewServeMux(), used: make([]int, len(c.Rules)), wake: make(chan struct{})}
	for path, p := range map[string]protocol{"chat/completions": chatCompletions(), "messages": messagesAPI(), "embeddings": embeddings()} {
		handle := func(w http.ResponseWriter, r *http.Request) { s.call(w, r, p) }
		s.mux.HandleFunc("POST /v1/"+path, handle)
		s.mux.HandleFunc("POST /"+path, handle)
	}
	s.mux.HandleFunc("GET /v1/models", s.models)
	s.mux.HandleFunc("GET /calls", s.list)
	return s
}

// Start makes a Server and serves it until Close, or until ctx ends.
func Start(ctx context.Context, c Config) (*Server, error) {
	if c.Addr == "" {
		c.Addr = "127.0.0.1:0"
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Addr)
	if err != nil {
		return nil, fmt.Errorf("start the model server: %w", err)
	}
	s := New(c)
	// What a connection waits for ends with the server, also for a client that never goes away.
	ctx, s.stop = context.WithCancel(ctx)
	s.addr, s.served = l.Addr().String(), make(chan struct{})
	s.http = &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 30 * time.Second,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	go func() {
		defer close(s.served)
		_ = s.http.Serve(l) // always an error; after Close it says so
	}()
	context.AfterFunc(ctx, func() { _ = s.http.Close() })
	return s, nil
}

// URL is the base URL for a client of a started server: it ends in /v1, where both protocols begin.
func (s *Server) URL() string { return "http://" + s.addr + "/v1" }

// Close ends a started server and every call that it is busy with.
func (s *Server) Close() error {
	s.stop()
	err := s.http.Close()
	<-s.served
	return err
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Calls is the log so far, in the order of arrival. Calls that are not yet ended have no Answered.
func (s *Server) Calls() []Call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Wait blocks until n calls have ended, and returns the log.
func (s *Server) Wait(ctx context.Context, n int) ([]Call, error) {
	return s.wait(ctx, func() bool { return s.ended >= n })
}

// WaitIn blocks until n calls have arrived, and returns the log.
func (s *Server) WaitIn(ctx context.Context, n int) ([]Call, error) {
	return s.wait(ctx, func() bool { return len(s.calls) >= n })
}

func (s *Server) wait(ctx context.Context, there func() bool) ([]Call, error) {
	for {
		s.mu.Lock()
		ok, calls, wake := there(), slices.Clone(s.calls), s.wake
		s.mu.Unlock()
		if ok {
			return calls, nil
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return calls, fmt.Errorf("wait for calls of the model server: %w", context.Cause(ctx))
		}
	}
}

const requestLimit = 64 << 20

func (s *Server) call(w http.ResponseWriter, r *http.Request, p protocol) {
	call := Call{In: time.Now(), API: p.api, URL: r.URL.RequestURI(), Key: r.Header.Get("Idempotency-Key"), Header: r.Header.Clone()}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, requestLimit))
	call.Body = body
	if err == nil {
		call.Request, err = p.decode(r.Header, body)
	}
	if !json.Valid(body) {
		call.Body, _ = json.Marshal(string(body)) // a string always marshals
	}
	s.arrived(&call)
	out := &writer{w: w, r: r, proto: p}
	defer func() {
		// Also after http.ErrAbortHandler, which breaks the connection.
		call.Status, call.Whole, call.Fault, call.Answered = out.status, out.whole, out.fault, time.Now()
		s.done(call)
	}()
	if err != nil {
		out.reply(call.Request, Reply{Status: http.StatusBadRequest, Error: err.Error()})
		return
	}
	out.reply(call.Request, s.reply(call, p))
}

func (s *Server) arrived(c *Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.N = len(s.calls) + 1
	s.calls = append(s.calls, *c)
	s.signal()
}

func (s *Server) done(c Call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[c.N-1] = c
	s.ended++
	s.signal()
	if s.config.Log != nil {
		if b, err := json.Marshal(c); err == nil {
			_, _ = s.config.Log.Write(append(b, '\n'))
		}
	}
}

// signal wakes all who wait; the lock is held.
func (s *Server) signal() {
	close(s.wake)
	s.wake = make(chan struct{})
}

// reply decides what a call gets.
func (s *Server) reply(c Call, p protocol) Reply {
	if s.config.Key != "" && p.key(c.Header) != s.config.Key {
		return Reply{Status: http.StatusUnauthorized, Error: "Incorrect API key provided.", Code: "invalid_api_key"}
	}
	for _, f := range s.config.Refuse {
		if c.Request.uses(f) {
			return p.refusal(f)
		}
	}
	if s.config.Answer != nil {
		if r := s.config.Answer(c); r != nil {
			return s.delayed(*r)
		}
	}
	if r := s.ruled(c); r != nil {
		return s.delayed(*r)
	}
	return s.delayed(Reply{Text: Echo(c.Request)})
}

func (s *Server) delayed(r Reply) Reply {
	if r.Delay == 0 {
		r.Delay = s.config.Delay
	}
	return r
}

func (s *Server) ruled(c Call) *Reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range s.config.Rules {
		rule := &s.config.Rules[i]
		if (rule.Times > 0 && s.used[i] >= rule.Times) || !rule.When.matches(c) {
			continue
		}
		s.used[i]++
		return &rule.Reply
	}
	return nil
}

// uses says whether a request uses a feature that Config.Refuse names.
func (r Request) uses(feature string) bool {
	switch feature {
	case "tools":
		return len(r.Tools) > 0
	case "cache_control":
		return r.marked > 0
	case "thinking":
		return r.thinking
	case "response_format", "output_config":
		return len(r.ResponseFormat) > 0
	case "stream_options":
		return r.StreamOptions != nil
	case "stream":
		return r.Stream
	case "dimensions":
		return r.dimensions != nil
	case "max_tokens":
		return r.MaxTokens != nil
	case "max_completion_tokens":
		return r.MaxCompletionTokens != nil
	default:
		return false
	}
}

func (s *Server) models(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"object":"list","data":[{"id":"echo","object":"model","created":0,"owned_by":"ark"}]}`)
}

func (s *Server) list(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(s.Calls()) // the client may have gone
}
