package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
)

// The ledger is a log: one message of StreamLedger is one commit and holds all its writes, however many subjects they
// are about. That makes a commit atomic with one stored message, which costs one sync; JetStream's own atomic batches
// stage every batch in a folder of its own and cost twenty times as much on a synced disk. They are used for the rare
// commit that is larger than a message. What the subjects hold is an index in memory, folded from the log.

const (
	logSubject = "ark.ledger.log"

	// readBatch is how many messages of the log are asked for in one request.
	readBatch = 256
	// commitAttempts bounds how often a commit is sent again because another writer was faster.
	commitAttempts = 8
	// collectAbove is how many records without a use may stay in the log.
	collectAbove = 512
)

// Stored is a write as the ledger holds it.
type Stored struct {
	Subject string
	Seq     uint64    // of the write, rising and unique in the ledger
	At      time.Time // when the server stored it, by its clock
	Body    []byte
}

// Last returns the last write to a subject. ok is false when there is none.
func (q *Queue) Last(ctx context.Context, subject string) (s Stored, ok bool, err error) {
	all, err := q.log.stored(ctx, subject, lookLast)
	if err != nil {
		return Stored{}, false, fmt.Errorf("read last of %s: %w", subject, err)
	}
	if len(all) == 0 {
		return Stored{}, false, nil
	}
	return all[0], true, nil
}

// History returns all writes to a subject, in the order in which they were stored: since the last one that rolled
// it up. It sees all of a batch or nothing of it.
func (q *Queue) History(ctx context.Context, subject string) ([]Stored, error) {
	all, err := q.log.stored(ctx, subject, lookAll)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", subject, err)
	}
	return all, nil
}

// Known is History as far as this process knows it: what other processes have written since it last read or wrote may be
// missing. It asks the server for bodies only, so it costs nothing for a subject that holds nothing. It is for those who
// go on to write with the sequence that they found as their expectation, and read again when that is ErrStale.
func (q *Queue) Known(ctx context.Context, subject string) ([]Stored, error) {
	all, err := q.log.stored(ctx, subject, lookKnown)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", subject, err)
	}
	return all, nil
}

// Heads returns the sequence of the last write to each of some subjects, 0 where there is none. It costs one look at the
// log, however many they are.
func (q *Queue) Heads(ctx context.Context, subjects []string) ([]uint64, error) {
	heads, err := q.log.heads(ctx, subjects)
	if err != nil {
		return nil, fmt.Errorf("look at the ledger: %w", err)
	}
	return heads, nil
}

// look is how the writes to a subject are looked for.
type look int

const (
	lookAll   look = iota
	lookLast       // the last one only
	lookKnown      // all that the index has, without looking for more
)

// ledger reads and writes the log. It is used by one goroutine at a time: busy is its lock.
type ledger struct {
	q      *Queue
	busy   chan struct{}
	index  *index
	doubt  bool // the end of an attempt is not known: look before the next one
	loaded bool
}

func newLedger(q *Queue) *ledger {
	return &ledger{q: q, busy: make(chan struct{}, 1), index: newIndex()}
}

// lock waits for the ledger, but no longer than the context. unlock gives it back.
func (l *ledger) lock(ctx context.Context) (unlock func(), err error) {
	if err := ended(ctx); err != nil {
		return nil, err
	}
	select {
	case l.busy <- struct{}{}:
		return func() { <-l.busy }, nil
	case <-ctx.Done():
		return nil, ended(ctx)
	}
}

// stored returns the writes to a subject.
func (l *ledger) stored(ctx context.Context, subject string, how look) ([]Stored, error) {
	ctx, cancel := l.q.bounded(ctx)
	defer cancel()
	var all []Stored
	var err error
	// Records may be removed while they are fetched. When they are gone a second time, another process has removed
	// them, or the store is not the one that the index was made from.
	for _, anew := range []bool{false, false, true} {
		var refs []ref
		if refs, err = l.refs(ctx, subject, how, anew); err != nil {
			return nil, err
		}
		if all, err = l.fetch(ctx, subject, refs); !errors.Is(err, errGone) {
			return all, err
		}
	}
	return nil, err
}

// refs are the writes to a subject that the log knows of. anew makes the index anew first.
func (l *ledger) refs(ctx context.Context, subject string, how look, anew bool) ([]ref, error) {
	unlock, err := l.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if anew {
		l.index = newIndex()
	}
	if anew || how != lookKnown || !l.loaded || l.doubt {
		if err := l.catchUp(ctx); err != nil {
			return nil, err
		}
	}
	refs := l.index.subjects[subject]
	if how == lookLast && len(refs) > 1 {
		refs = refs[len(refs)-1:]
	}
	return slices.Clone(refs), nil
}

func (l *ledger) heads(ctx context.Context, subjects []string) ([]uint64, error) {
	ctx, cancel := l.q.bounded(ctx)
	defer cancel()
	unlock, err := l.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	l.doubt = true // also of the store: it may be another one
	if err := l.resume(ctx); err != nil {
		return nil, err
	}
	heads := make([]uint64, len(subjects))
	for i, subject := range subjects {
		heads[i] = l.index.head(subject)
	}
	return heads, nil
}

var errGone = errors.New("the record was removed meanwhile")

// fetch reads writes, a few records at a time. It does not need the lock: others go on committing.
func (l *ledger) fetch(ctx context.Context, subject string, refs []ref) ([]Stored, error) {
	out := make([]Stored, len(refs))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for from := 0; from < len(refs); {
		to := from + 1
		for to < len(refs) && refs[to].record() == refs[from].record() {
			to++
		}
		some, into := refs[from:to], out[from:to]
		g.Go(func() error { return l.fetchRecord(ctx, subject, some, into) })
		from = to
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	return out, nil
}

// fetchRecord reads writes that one record holds.
func (l *ledger) fetchRecord(ctx context.Context, subject string, refs []ref, out []Stored) error {
	seq := refs[0].record()
	m, err := l.q.ledger.GetMsg(ctx, seq)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("ledger record %d: %w", seq, errGone)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	rec, err := decodeRecord(m.Sequence, m.Time, m.Data)
	if err != nil {
		return err
	}
	for i, ref := range refs {
		if ref.part() >= len(rec.parts) || rec.parts[ref.part()].subject != subject {
			return fmt.Errorf("ledger record %d: %w", seq, errGone)
		}
		out[i] = Stored{Subject: subject, Seq: uint64(ref), At: rec.at, Body: rec.parts[ref.part()].body}
	}
	return nil
}

// catchUp folds what was added to the log since the last look.
func (l *ledger) catchUp(ctx context.Context) error {
	for {
		records, more, err := l.read(ctx, l.index.last+1)
		if err != nil {
			return err
		}
		for _, r := range records {
			l.index.apply(r)
		}
		if !more || len(records) == 0 {
			l.loaded, l.doubt = true, false
			return nil
		}
	}
}

// resume makes the index fit to commit on: it is loaded, and no outcome is in doubt.
func (l *ledger) resume(ctx context.Context) error {
	if l.loaded && !l.doubt {
		return nil
	}
	info, err := l.q.ledger.Info(ctx)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	if info.State.LastSeq < l.index.last {
		l.index = newIndex() // the store was lost
	}
	if err := l.catchUp(ctx); err != nil {
		return err
	}
	// Records at the end may have been removed; the server still counts on from them.
	l.index.last = max(l.index.last, info.State.LastSeq)
	return nil
}

// read fetches the next records of the log in one round trip.
func (l *ledger) read(ctx context.Context, from uint64) (records []record, more bool, err error) {
	req, err := json.Marshal(map[string]any{"seq": from, "next_by_subj": logSubject, "batch": readBatch})
	if err != nil {
		return nil, false, err
	}
	nc := l.q.nc
	// A channel of its own, because that of SubscribeSync has half a megabyte.
	answers := make(chan *nats.Msg, readBatch+1)
	sub, err := nc.ChanSubscribe(nc.NewInbox(), answers)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := nc.PublishRequest("$JS.API.DIRECT.GET."+StreamLedger, sub.Subject, req); err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	for {
		var m *nats.Msg
		select {
		case m = <-answers:
		case <-ctx.Done():
			return nil, false, fmt.Errorf("%w: %w", ErrUnavailable, context.Cause(ctx))
		}
		switch status := m.Header.Get("Status"); status {
		case "":
			r, err := recordFrom(m)
			if err != nil {
				return nil, false, err
			}
			records = append(records, r)
		case "204": // end of the batch
			return records, m.Header.Get("Nats-Num-Pending") != "0", nil
		case "404":
			return nil, false, nil
		default:
			return nil, false, fmt.Errorf("%w: server answers %s %s", ErrUnavailable, status, m.Header.Get("Description"))
		}
	}
}

func recordFrom(m *nats.Msg) (record, error) {
	seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return record{}, fmt.Errorf("sequence of a ledger record: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
	if err != nil {
		return record{}, fmt.Errorf("time of ledger record %d: %w", seq, err)
	}
	return decodeRecord(seq, at, m.Data)
}

// forget drops everything that belongs to owners, and removes the records that nothing else needs. It says whether there
// was anything.
func (l *ledger) forget(ctx context.Context, owners []string) (found bool, err error) {
	ctx, cancel := l.q.bounded(ctx)
	defer cancel()
	unlock, err := l.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	if err := l.catchUp(ctx); err != nil {
		return false, err
	}
	var parts []part
	for _, owner := range owners {
		if l.index.runs[owner] != nil {
			parts = append(parts, part{kind: partForget, subject: owner})
		}
	}
	for some := range slices.Chunk(parts, MaxBatch) {
		if _, err := l.append(ctx, some, nil); err != nil {
			return false, err
		}
	}
	return len(parts) > 0, l.collect(ctx)
}

// collect removes the records that the log does not need any more.
func (l *ledger) collect(ctx context.Context) error {
	return l.index.remove(func(seq uint64) error {
		err := l.q.ledger.DeleteMsg(ctx, seq)
		if err == nil {
			return nil
		}
		// It may be gone already: an earlier attempt whose answer was lost, or another process.
		if _, getErr := l.q.ledger.GetMsg(ctx, seq); errors.Is(getErr, jetstream.ErrMsgNotFound) {
			return nil
		}
		return fmt.Errorf("remove ledger record %d: %w", seq, err)
	})
}
