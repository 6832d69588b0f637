package memory

import (
	"context"
	"slices"
	"sync"
	"time"
)

// maxNotes bounds what one task keeps in its process.
const maxNotes = 256

// notes are the memory of one task: the backend in-context.
type notes struct {
	mu      sync.Mutex
	entries []Entry // oldest first
}

func newNotes() *notes { return &notes{} }

// Put keeps an entry, if need be in the place of the oldest one.
func (n *notes) Put(_ context.Context, _ string, e Entry) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.entries = slices.DeleteFunc(n.entries, func(other Entry) bool { return other.ID == e.ID })
	e.At = time.Now().UTC()
	n.entries = append(n.entries, e)
	n.entries = slices.Delete(n.entries, 0, max(len(n.entries)-maxNotes, 0))
	return nil
}

// Find returns the newest entries.
func (n *notes) Find(_ context.Context, _ string, _ []float32, count int) ([]Entry, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	found := slices.Clone(n.entries)
	slices.Reverse(found)
	return found[:min(count, len(found))], nil
}
