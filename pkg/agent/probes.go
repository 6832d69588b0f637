package agent

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	headerTimeout = 5 * time.Second
	closeTimeout  = time.Second
)

// State is what /readyz answers with.
type State struct {
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons,omitempty"` // why it is not
	// ToolConnections are the tool servers.
	ToolConnections []ToolConnection `json:"toolConnections,omitempty"`
}

// ToolConnection is the state of a tool server.
type ToolConnection struct {
	Name    string `json:"name"`
	Healthy bool   `json:"healthy"`
	Message string `json:"message,omitempty"`
}

// serve answers /healthz, /readyz and /metrics until ctx ends.
func (a *Agent) serve(ctx context.Context, l net.Listener) {
	server := &http.Server{Handler: a.handler(), ReadHeaderTimeout: headerTimeout, IdleTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			a.log.ErrorContext(ctx, "probes are answered no more", "error", err)
		}
	}()
	<-ctx.Done()
	closing, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	if server.Shutdown(closing) != nil {
		_ = server.Close()
	}
	<-done
}

func (a *Agent) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if err := a.Alive(); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		_, _ = w.Write([]byte("ok\n"))
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		s := a.State()
		w.Header().Set("Content-Type", "application/json")
		if !s.Ready {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		_ = json.NewEncoder(w).Encode(s)
	})
	mux.Handle("GET /metrics", a.config.Telemetry.Metrics())
	return mux
}

// State is whether the agent takes tasks, why not, and how its tool servers are.
func (a *Agent) State() State {
	s := State{Ready: true}
	if err := a.Ready(); err != nil {
		s.Ready = false
		s.Reasons = strings.Split(err.Error(), "\n")
	}
	a.mu.Lock()
	servers := a.servers
	a.mu.Unlock()
	if servers == nil {
		return s
	}
	for _, h := range servers.Health() {
		s.ToolConnections = append(s.ToolConnections, ToolConnection{Name: h.Name, Healthy: h.Healthy, Message: h.Message})
	}
	return s
}
