package queue

import (
	"strings"
	"sync"
)

// Shares bound what each agent has under way at once at a service that answers many, so that one that asks without end takes
// up its share and no more. They are safe for concurrent use.
type Shares struct {
	requests int
	bytes    int

	mu     sync.Mutex
	agents map[string]*share // by the agent's two tokens
}

type share struct{ requests, bytes int }

// NewShares makes shares of so many requests, and so many bytes of them.
func NewShares(requests, bytes int) *Shares {
	return &Shares{requests: requests, bytes: bytes, agents: map[string]*share{}}
}

// Take counts a request of some bytes to a subject ark.<service>.<namespace>.<agent>.<more> until done is called. ok is false
// when the agent has its share under way; a single request is never more than that.
func (s *Shares) Take(subject string, bytes int) (done func(), ok bool) {
	agent := agentTokens(subject)
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.agents[agent]
	if a == nil {
		a = &share{}
		s.agents[agent] = a
	}
	if a.requests >= s.requests || a.requests > 0 && a.bytes+bytes > s.bytes {
		return nil, false
	}
	a.requests++
	a.bytes += bytes
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		a.bytes -= bytes
		if a.requests--; a.requests == 0 {
			delete(s.agents, agent)
		}
	}, true
}

// agentTokens are the third and the fourth token of a subject.
func agentTokens(subject string) string {
	tokens := strings.SplitN(subject, ".", 5)
	if len(tokens) < 4 {
		return ""
	}
	return tokens[2] + "." + tokens[3]
}
