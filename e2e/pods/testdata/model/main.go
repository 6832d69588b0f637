// Command model is the model server of the cluster's tests: it answers chat completions with an echo, or as the prompt of
// the agent tells it, and says under /calls what it was asked.
package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"arkonis.dev/ark/pkg/llm/modelserver"
)

// state can be changed while the server runs: PUT /say sets what it answers instead of an echo, PUT /hold has answers wait
// for PUT /release.
type state struct {
	say atomic.Pointer[string]

	mu   sync.Mutex
	held chan struct{} // closed by the release; nil when nothing is held
}

func (s *state) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held == nil {
		s.held = make(chan struct{})
	}
}

func (s *state) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held != nil {
		close(s.held)
		s.held = nil
	}
}

// wait returns when nothing holds an answer.
func (s *state) wait() {
	s.mu.Lock()
	held := s.held
	s.mu.Unlock()
	if held != nil {
		<-held
	}
}

func main() {
	var s state
	model := modelserver.New(modelserver.Config{Answer: s.answer})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /calls", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(model.Calls()) })
	mux.HandleFunc("PUT /say", func(_ http.ResponseWriter, r *http.Request) {
		text := r.URL.Query().Get("text")
		s.say.Store(&text)
	})
	mux.HandleFunc("PUT /hold", func(http.ResponseWriter, *http.Request) { s.hold() })
	mux.HandleFunc("PUT /release", func(http.ResponseWriter, *http.Request) { s.release() })
	mux.Handle("/", model)
	server := &http.Server{Addr: ":8080", Handler: mux, ReadHeaderTimeout: time.Minute}
	fmt.Fprintln(os.Stderr, server.ListenAndServe())
	os.Exit(1)
}

// answer echoes the last user message together with the agent's prompt, so that a test sees which prompt was at work. A
// prompt of the agent that is one of these words has it do something else.
func (s *state) answer(c modelserver.Call) *modelserver.Reply {
	switch firstLine(c.Request.System()) {
	case "refuse":
		return &modelserver.Reply{Status: http.StatusUnauthorized, Error: "Incorrect API key provided.", Code: "invalid_api_key"}
	case "limit":
		return &modelserver.Reply{Status: http.StatusTooManyRequests, Error: "Rate limit reached.", RetryAfter: "1"}
	case "endless":
		return &modelserver.Reply{Delay: 500 * time.Millisecond, Tools: []modelserver.Use{{
			ID: fmt.Sprintf("t-%d", c.N), Name: "remember", Arguments: fmt.Sprintf(`{"text":"note %d"}`, c.N),
		}}}
	case "ponder":
		return &modelserver.Reply{Text: "At last.", Delay: time.Hour}
	case "delegate":
		if last := c.Request.Messages[len(c.Request.Messages)-1]; last.Role == "user" {
			return &modelserver.Reply{Tools: []modelserver.Use{{Name: "delegate", Arguments: `{"role":"worker","prompt":"Do it."}`}}}
		}
	}
	text := "[" + firstLine(c.Request.System()) + "] " + c.Request.Prompt()
	if say := s.say.Load(); say != nil && *say != "" {
		text = *say
	}
	s.wait()
	return &modelserver.Reply{Text: text}
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
