package work

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"

	"arkonis.dev/ark/pkg/queue"
)

// NewImpatientClient sends requests again when no answer came within a time.
func NewImpatientClient(nc *nats.Conn, d time.Duration) *Client {
	return &Client{to: nc, timeout: d, poll: d}
}

// Switch is a client's way to one service after another: which one, it is told for every request.
type Switch func() *Service

// RequestMsgWithContext asks the service that it is told.
func (f Switch) RequestMsgWithContext(ctx context.Context, m *nats.Msg) (*nats.Msg, error) {
	return direct{f()}.RequestMsgWithContext(ctx, m)
}

func (f Switch) ask(ctx context.Context, from caller, verb string, request, reply any) (told, lost error) {
	return direct{f()}.ask(ctx, from, verb, request, reply)
}

// NewSwitchedClient makes a client that asks again after poll, of whichever service it is told.
func NewSwitchedClient(to Switch, poll time.Duration) *Client {
	return &Client{to: to, timeout: answerTimeout, poll: poll}
}

// Waiting is how many reservations wait for others.
func Waiting(s *Service) int {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	return len(s.book.waiting)
}

// Journals is how many journals a service keeps in memory.
func Journals(s *Service) int {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	return len(s.book.journals)
}

// Knows says whether a service knows, of a task whose journal it has in memory or is reading, that it has a result. One that
// it has forgotten at its result counts.
func Knows(s *Service, key queue.Key) bool {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	if r := s.book.reading[key]; r != nil && (r.done || r.drops > 0) {
		return true
	}
	j := s.book.journals[key]
	return j != nil && j.done
}

// Tidy has a service drop what was not used for a while, as it would after so long a time.
func Tidy(s *Service, after time.Duration) { s.book.tidy(time.Now().Add(after)) }

// Through is a session in the same hands that asks through another client.
func (s *Session) Through(c *Client) *Session {
	return &Session{client: c, namespace: s.namespace, agent: s.agent, holder: s.holder, task: s.task, appends: s.appends}
}

// Reads says whether a service is reading the journal of a task.
func Reads(s *Service, key queue.Key) bool {
	s.book.mu.Lock()
	defer s.book.mu.Unlock()
	return s.book.reading[key] != nil
}

// SetPatience sets how long Account waits for calls that are under way.
func SetPatience(s *Service, d time.Duration) { s.patience = d }
