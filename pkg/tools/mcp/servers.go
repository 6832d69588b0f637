package mcp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/tools"
)

// Health is how a server is.
type Health struct {
	Name     string   `json:"name"`
	Healthy  bool     `json:"healthy"`
	Required bool     `json:"required,omitempty"`
	Message  string   `json:"message,omitempty"` // why it is not healthy, or what was left out of its list
	Tools    []string `json:"tools,omitempty"`   // the server's names of its tools, the last known ones while it is down
}

// Servers are the servers of one agent. All methods are safe for concurrent use.
type Servers struct {
	all  []*server
	stop context.CancelFunc
	log  *slog.Logger

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change of any server
}

// Start begins to connect to the servers in the background and returns at once. It fails only on a configuration that
// is not valid. Close, or the end of ctx, ends it. The network stays the caller's to close.
func Start(ctx context.Context, configs []Config, network *tools.Network, log *slog.Logger) (*Servers, error) {
	if err := validate(configs); err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	s := &Servers{stop: stop, log: log, changed: make(chan struct{})}
	for _, config := range configs {
		s.all = append(s.all, newServer(config.withDefaults(), network, log, s.tell))
	}
	for _, one := range s.all {
		one.group.Go(func() { one.run(ctx) })
	}
	return s, nil
}

func validate(configs []Config) error {
	var faults []error
	names := map[string]bool{}
	for _, config := range configs {
		faults = append(faults, config.Validate())
		if names[config.Name] {
			faults = append(faults, fmt.Errorf("mcp server %q stands twice: give each server a name of its own", config.Name))
		}
		names[config.Name] = true
	}
	return errors.Join(faults...)
}

func (s *Servers) tell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// Changed is closed when the health or the tools of a server may have changed. Ask for it before looking at them.
func (s *Servers) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

// Close ends all connections and child processes and waits for them. Calls that still run are cut short.
func (s *Servers) Close() {
	s.stop()
	for _, one := range s.all {
		one.group.Wait()
		one.creds.close()
	}
}

// Settle waits until every server was tried once, or ctx ends. A task that starts after it sees the tools of all
// servers that are there.
func (s *Servers) Settle(ctx context.Context) error {
	for _, one := range s.all {
		if err := one.settle(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) settle(ctx context.Context) error {
	for {
		s.mu.Lock()
		tried, changed := s.ended > 0 && (s.current != nil || s.problem != notReached) || s.closed, s.changed
		s.mu.Unlock()
		if tried {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Tools are the tools of all servers, as known now: in the order of the servers, sorted by name within each. Their
// names are unique and valid, and their schemas compile, so that a Set takes them.
func (s *Servers) Tools() []tools.Tool {
	var found []*tool
	var pairs []pair
	for _, one := range s.all {
		for _, l := range one.known() {
			found = append(found, &tool{server: one, listed: l})
			pairs = append(pairs, pair{one.config.Name, l.name})
		}
	}
	names := modelNames(pairs)
	taken := map[string]bool{}
	offered := make([]tools.Tool, 0, len(found))
	for _, t := range found {
		name := names[pair{t.server.config.Name, t.listed.name}]
		if taken[name] {
			continue // two hashes are the same: the first one stays
		}
		taken[name] = true
		t.spec = llm.Tool{Name: name, Description: t.listed.description, Schema: t.listed.schema}
		offered = append(offered, t)
	}
	return offered
}

func (s *server) known() []listed {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.catalog == nil {
		return nil
	}
	return s.catalog.tools
}

// Offer is a set with the tools of all servers, for one task. Tools of servers whose names the set already has are
// left out.
func (s *Servers) Offer(ctx context.Context, set *tools.Set) (*tools.Set, error) {
	fitting := slices.DeleteFunc(s.Tools(), func(t tools.Tool) bool {
		taken := set.Has(t.Spec().Name)
		if taken {
			s.log.WarnContext(ctx, "tool left out: its name is taken", "tool", t.Spec().Name)
		}
		return taken
	})
	return set.With(fitting...)
}

// Guidance is what the system prompt should say of the servers, in their order. What the servers themselves say of
// their use is not part of it: their words are data, not orders.
func (s *Servers) Guidance() []string {
	var texts []string
	for _, one := range s.all {
		if text := strings.TrimSpace(one.config.Guidance); text != "" {
			texts = append(texts, text)
		}
	}
	return texts
}

// Health is how each server is now, in their order.
func (s *Servers) Health() []Health {
	all := make([]Health, 0, len(s.all))
	for _, one := range s.all {
		all = append(all, one.health())
	}
	return all
}

func (s *server) health() Health {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := Health{Name: s.config.Name, Healthy: s.current != nil, Required: s.config.Required, Message: s.problem}
	if s.catalog != nil {
		h.Tools = s.catalog.names()
	}
	if h.Healthy {
		h.Message = s.creds.sentence(s.catalog.note())
	}
	return h
}

// Ready is nil when every required server is there. The error names the others, and why they are not.
func (s *Servers) Ready() error {
	var missing []error
	for _, h := range s.Health() {
		if h.Required && !h.Healthy {
			missing = append(missing, fmt.Errorf("required tool server %s: %s", h.Name, cmp.Or(h.Message, "not connected")))
		}
	}
	return errors.Join(missing...)
}
