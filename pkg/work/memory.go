package work

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"slices"
	"sync"
	"time"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// Verbs of an agent's memory.
const (
	verbMemoryPut = "memory-put"
	verbMemoryGet = "memory-get"
)

const (
	// RememberLimit is how long the text of an entry may be, in bytes.
	RememberLimit = 16 << 10
	// memoryBytes is how much a session remembers at most, in bytes of JSON: it is one value of the bucket.
	memoryBytes = 512 << 10
	// memoryTries is how often a write is tried that others got ahead of.
	memoryTries = 32
	// memoryVersion is the version of what is stored.
	memoryVersion = 1
)

// Remembered is one entry of what an agent remembers.
type Remembered struct {
	ID   string    `json:"id"` // an entry with the id of another one replaces it
	Kind string    `json:"kind,omitempty"`
	Text string    `json:"text"`
	At   time.Time `json:"at"` // when it was stored, by the service's clock
}

// MemoryLimits bound what a session remembers. Whatever they say, it is at most 512 KiB: the oldest entries go first.
type MemoryLimits struct {
	TTL        time.Duration `json:"ttl,omitempty"`        // 0: for ever
	MaxEntries int           `json:"maxEntries,omitempty"` // 0: as many as fit
}

// Remember stores an entry in the memory that the task shares with the other tasks of its agent and session (see
// task.Task.Session). It can be repeated: an entry with the same id is stored once. A *RefusedError says that the entry
// is none, or too long.
func (s *Session) Remember(ctx context.Context, e Remembered, l MemoryLimits) error {
	if err := s.ask(ctx, verbMemoryPut, memoryPutRequest{s.holder, e, l}, &struct{}{}, 0); err != nil {
		return fmt.Errorf("remember %s: %w", e.ID, err)
	}
	return nil
}

// Recall returns up to n entries of the task's memory, newest first.
func (s *Session) Recall(ctx context.Context, n int, l MemoryLimits) ([]Remembered, error) {
	var reply memoryGetReply
	if err := s.ask(ctx, verbMemoryGet, memoryGetRequest{s.holder, n, l}, &reply, 0); err != nil {
		return nil, fmt.Errorf("recall: %w", err)
	}
	return reply.Entries, nil
}

type memoryPutRequest struct {
	holder
	Entry  Remembered   `json:"entry"`
	Limits MemoryLimits `json:"limits"`
}

type memoryGetRequest struct {
	holder
	Count  int          `json:"count"`
	Limits MemoryLimits `json:"limits"`
}

type memoryGetReply struct {
	Entries []Remembered `json:"entries"`
}

// memories are what agents remember, a value of the bucket for each session.
type memories struct {
	bucket *queue.Bucket
	now    func() time.Time
	// locks keep the writers of this process from racing for the same value; other processes are told by the revision.
	locks [64]sync.Mutex
}

func newMemories(q *queue.Queue, now func() time.Time) *memories {
	return &memories{bucket: q.Bucket(queue.BucketMemory), now: now}
}

// memory is what one session remembers, oldest first.
type memory struct {
	Version int          `json:"v"`
	Entries []Remembered `json:"entries"`
}

func (s *Service) memoryPut(ctx context.Context, c caller, r memoryPutRequest) (*struct{}, error) {
	switch {
	case r.Entry.ID == "" || r.Entry.Text == "":
		return nil, refusef("an entry needs an id and a text")
	case len(r.Entry.ID)+len(r.Entry.Kind)+len(r.Entry.Text) > RememberLimit:
		return nil, refusef("an entry of %d bytes, at most %d are remembered", len(r.Entry.Text), RememberLimit)
	}
	key, err := s.memoryKey(ctx, c, r.holder)
	if err != nil {
		return nil, err
	}
	return &struct{}{}, s.memories.put(ctx, key, r.Entry, r.Limits)
}

func (s *Service) memoryGet(ctx context.Context, c caller, r memoryGetRequest) (*memoryGetReply, error) {
	key, err := s.memoryKey(ctx, c, r.holder)
	if err != nil {
		return nil, err
	}
	m, _, err := s.memories.read(ctx, key)
	if err != nil {
		return nil, err
	}
	m.forget(s.memories.now(), r.Limits)
	slices.Reverse(m.Entries)
	return &memoryGetReply{Entries: m.Entries[:max(0, min(r.Count, len(m.Entries)))]}, nil
}

// memoryKey is where the memory of a task that the caller holds is. It follows from the task, not from the request.
func (s *Service) memoryKey(ctx context.Context, c caller, h holder) (string, error) {
	t, err := inspect(ctx, s.book, c.key(h), h.Epoch, func(j *journal) *task.Task { return j.task })
	if err != nil {
		return "", err
	}
	if t == nil {
		return "", ErrGone
	}
	return MemoryKey(t), nil
}

// MemoryKey names the memory that a task shares with the other tasks of its agent and session: three subject tokens with
// dots between them.
func MemoryKey(t *task.Task) string {
	return queue.Token(t.Namespace) + "." + queue.Token(t.Agent) + "." + queue.Token(t.Session())
}

func (m *memories) put(ctx context.Context, key string, e Remembered, l MemoryLimits) error {
	lock := m.lock(key)
	lock.Lock()
	defer lock.Unlock()
	delay := time.Millisecond
	for range memoryTries {
		err := m.putOnce(ctx, key, e, l)
		if !errors.Is(err, queue.ErrStale) && !errors.Is(err, queue.ErrUnknownOutcome) {
			return err
		}
		if !pause(ctx, delay) {
			return errStopping
		}
		delay = min(2*delay, 50*time.Millisecond)
	}
	return fmt.Errorf("%w: other writers change the same memory all the time", ErrUnavailable)
}

func (m *memories) lock(key string) *sync.Mutex {
	h := fnv.New32a()
	_, _ = h.Write([]byte(key)) // never fails
	return &m.locks[h.Sum32()%uint32(len(m.locks))]
}

func (m *memories) putOnce(ctx context.Context, key string, e Remembered, l MemoryLimits) error {
	have, revision, err := m.read(ctx, key)
	if err != nil {
		return err
	}
	if !have.add(e, m.now()) {
		return nil
	}
	have.forget(m.now(), l)
	data, err := have.encode()
	if err != nil {
		return err
	}
	switch err := m.bucket.Put(ctx, key, data, revision, max(l.TTL, 0)); {
	case err == nil, errors.Is(err, queue.ErrStale), errors.Is(err, queue.ErrUnknownOutcome):
		return err
	case errors.Is(err, queue.ErrTooLarge):
		return refusef("the entry is too large to be stored: %v", err)
	default:
		return unavailable(err)
	}
}

func (m *memories) read(ctx context.Context, key string) (*memory, uint64, error) {
	v, err := m.bucket.Get(ctx, key)
	if err != nil {
		return nil, 0, unavailable(err)
	}
	have := &memory{Version: memoryVersion}
	if len(v.Data) == 0 {
		return have, v.Revision, nil
	}
	if err := json.Unmarshal(v.Data, have); err != nil || have.Version != memoryVersion {
		return nil, 0, fmt.Errorf("%w: what %s remembers cannot be read: it was not written by this version of ark", ErrUnavailable, key)
	}
	return have, v.Revision, nil
}

// add puts an entry last. It says whether that changed anything.
func (m *memory) add(e Remembered, now time.Time) bool {
	i := slices.IndexFunc(m.Entries, func(other Remembered) bool { return other.ID == e.ID })
	if i >= 0 {
		if old := m.Entries[i]; old.Kind == e.Kind && old.Text == e.Text {
			return false
		}
		m.Entries = slices.Delete(m.Entries, i, i+1)
	}
	e.At = now.UTC()
	m.Entries = append(m.Entries, e)
	return true
}

// forget drops what is too old or too much.
func (m *memory) forget(now time.Time, l MemoryLimits) {
	if l.TTL > 0 {
		m.Entries = slices.DeleteFunc(m.Entries, func(e Remembered) bool { return now.Sub(e.At) >= l.TTL })
	}
	if n := len(m.Entries) - l.MaxEntries; l.MaxEntries > 0 && n > 0 {
		m.Entries = slices.Delete(m.Entries, 0, n)
	}
}

// encode writes as many of the newest entries as the value may hold.
func (m *memory) encode() ([]byte, error) {
	for {
		data, err := json.Marshal(m)
		if err != nil {
			return nil, fmt.Errorf("encode memory: %w", err)
		}
		if len(data) <= memoryBytes {
			return data, nil
		}
		drop, size := 0, len(data)
		for size > memoryBytes && drop < len(m.Entries)-1 {
			size -= len(m.Entries[drop].Text) + len(m.Entries[drop].ID)
			drop++
		}
		m.Entries = slices.Delete(m.Entries, 0, max(drop, 1))
	}
}
