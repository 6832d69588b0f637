// Package providers makes the provider of a model server. Agents with the same server and key share one, so that what it
// has learned of the server holds for all of them.
package providers

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/anthropic"
	"arkonis.dev/ark/pkg/llm/mock"
	"arkonis.dev/ark/pkg/llm/openai"
)

var (
	// ErrUnknown means that there is no such provider.
	ErrUnknown = errors.New("ark knows the providers openai, anthropic and mock")
	// ErrNoKey means that the server that is meant, by default the vendor's own, takes no call without a key.
	ErrNoKey = errors.New("a key is missing")
	// ErrNoVectors means that the provider has no models that make vectors.
	ErrNoVectors = errors.New("only openai, what is compatible with it, and mock make vectors")
)

// Server is a model server.
type Server struct {
	Provider string // as llm.Detect names it
	BaseURL  string // empty: the vendor's own, which needs a key
	Key      string
}

// Variables are the environment variables that usually hold key and address of a provider's server, such as
// OPENAI_API_KEY and OPENAI_BASE_URL; empty for a provider that needs none.
func Variables(provider string) (key, baseURL string) {
	switch provider {
	case llm.OpenAI, llm.Anthropic:
		name := strings.ToUpper(provider)
		return name + "_API_KEY", name + "_BASE_URL"
	default:
		return "", ""
	}
}

// Pool makes providers and shares them. It is safe for concurrent use.
type Pool struct {
	script mock.Script

	mu   sync.Mutex
	made map[Server]llm.Provider
}

// NewPool makes a pool whose mock answers from a script first.
func NewPool(script mock.Script) *Pool { return &Pool{script: script, made: map[Server]llm.Provider{}} }

// Get returns the provider of a server. It connects to nothing. Errors: ErrUnknown, ErrNoKey, or what is wrong with the
// address.
func (p *Pool) Get(s Server) (llm.Provider, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.Provider == llm.Mock {
		s = Server{Provider: llm.Mock}
	}
	if made := p.made[s]; made != nil {
		return made, nil
	}
	made, err := p.make(s)
	if err != nil {
		return nil, err
	}
	p.made[s] = made
	return made, nil
}

// Embedder returns what makes vectors on a server. Errors: those of Get, and ErrNoVectors.
func (p *Pool) Embedder(s Server) (llm.Embedder, error) {
	made, err := p.Get(s)
	if err != nil {
		return nil, err
	}
	e, ok := made.(llm.Embedder)
	if !ok {
		return nil, fmt.Errorf("provider %s: %w", s.Provider, ErrNoVectors)
	}
	return e, nil
}

// Used says whether a provider of that name was made.
func (p *Pool) Used(provider string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for s := range p.made {
		if s.Provider == provider {
			return true
		}
	}
	return false
}

func (p *Pool) make(s Server) (llm.Provider, error) {
	switch {
	case s.Provider == llm.Mock:
		return mock.New(p.script), nil
	case s.Provider != llm.OpenAI && s.Provider != llm.Anthropic:
		return nil, fmt.Errorf("provider %q: %w", s.Provider, ErrUnknown)
	case s.Key == "" && s.BaseURL == "":
		return nil, fmt.Errorf("provider %s: %w", s.Provider, ErrNoKey)
	case s.Provider == llm.Anthropic:
		return anthropic.New(anthropic.Config{BaseURL: s.BaseURL, APIKey: s.Key})
	default:
		return openai.New(openai.Config{BaseURL: s.BaseURL, APIKey: s.Key})
	}
}
