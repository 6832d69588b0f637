package memory

import (
	"context"

	"arkonis.dev/ark/pkg/work"
)

// natsStore keeps entries in ark's own queue. The work service finds the session by the task that is held.
type natsStore struct {
	session *work.Session
	limits  work.MemoryLimits
}

// Put stores an entry through the work service.
func (s natsStore) Put(ctx context.Context, _ string, e Entry) error {
	return s.session.Remember(ctx, work.Remembered{ID: e.ID, Kind: string(e.Kind), Text: e.Text}, s.limits)
}

// Find returns the newest entries.
func (s natsStore) Find(ctx context.Context, _ string, _ []float32, n int) ([]Entry, error) {
	found, err := s.session.Recall(ctx, n, s.limits)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, len(found))
	for i, r := range found {
		entries[i] = Entry{ID: r.ID, Kind: Kind(r.Kind), Text: r.Text, At: r.At}
	}
	return entries, nil
}
