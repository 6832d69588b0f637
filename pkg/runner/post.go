package runner

import (
	"slices"
	"sync"

	"arkonis.dev/ark/pkg/queue"
)

// Post hands the records of runs to whoever drives them: one reader of the results stream delivers, each run has a
// mailbox. Delivering never blocks, so that a slow run holds up no other one. It is safe for concurrent use.
type Post struct {
	keep func(uid string) bool

	mu    sync.Mutex
	boxes map[string]*Mailbox
	kept  map[string][]queue.Record // of runs without a mailbox
}

// NewPost makes a Post without mailboxes. Records of a run that has none are kept for it if keep says so, and are dropped
// otherwise; a nil keep keeps none.
func NewPost(keep func(uid string) bool) *Post {
	if keep == nil {
		keep = func(string) bool { return false }
	}
	return &Post{keep: keep, boxes: map[string]*Mailbox{}, kept: map[string][]queue.Record{}}
}

// Open gives a run a mailbox with the records that were kept for it. wake is called after each delivery and must not
// block.
func (p *Post) Open(uid string, wake func()) *Mailbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	box := NewMailbox(wake)
	box.records = p.kept[uid]
	delete(p.kept, uid)
	p.boxes[uid] = box
	return box
}

// Close takes the mailbox of a run away, and what was kept for it.
func (p *Post) Close(uid string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.boxes, uid)
	delete(p.kept, uid)
}

// Deliver puts a record into its run's mailbox. It always returns nil.
func (p *Post) Deliver(r queue.Record) error {
	uid := r.Key.RunUID
	p.mu.Lock()
	box := p.boxes[uid]
	if box == nil && p.keep(uid) {
		p.kept[uid] = append(p.kept[uid], r)
	}
	p.mu.Unlock()
	if box != nil {
		box.Put(r)
	}
	return nil
}

// Mailbox holds records that were not folded yet. A run has as many as it has tasks.
type Mailbox struct {
	wake    func()
	mu      sync.Mutex
	records []queue.Record
}

// NewMailbox makes an empty one. wake is called after each Put and must not block.
func NewMailbox(wake func()) *Mailbox { return &Mailbox{wake: wake} }

// Put adds a record.
func (m *Mailbox) Put(r queue.Record) {
	m.mu.Lock()
	m.records = append(m.records, r)
	m.mu.Unlock()
	m.wake()
}

// Take empties the box.
func (m *Mailbox) Take() []queue.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	records := m.records
	m.records = nil
	return records
}

// Return puts records back that were taken and not folded, before all others.
func (m *Mailbox) Return(records []queue.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records = append(slices.Clip(records), m.records...)
}
