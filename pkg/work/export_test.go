package work

import (
	"context"
	"time"

	"github.com/nats-io/nats.go"
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
