package work

import (
	"time"

	"github.com/nats-io/nats.go"
)

// NewImpatientClient sends requests again when no answer came within a time.
func NewImpatientClient(nc *nats.Conn, d time.Duration) *Client {
	return &Client{to: nc, timeout: d, poll: d}
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
