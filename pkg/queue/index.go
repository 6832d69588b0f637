package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"time"
)

// ref names a write: the sequence of its record and its place there.
type ref uint64

// partBits is the room for the place; it bounds the writes in a record.
const partBits = 10

func refAt(seq uint64, part int) ref { return ref(seq<<partBits | uint64(part)) }
func (r ref) record() uint64         { return uint64(r) >> partBits }
func (r ref) part() int              { return int(r & (1<<partBits - 1)) }

// What a part of a record does.
const (
	partAppend byte = iota // adds a body to a subject
	partState              // replaces all that a subject holds
	partForget             // drops all subjects of a run; the subject is the run's token
)

type part struct {
	kind    byte
	subject string
	body    []byte
}

// record is one message of the log.
type record struct {
	seq   uint64
	at    time.Time
	parts []part
}

// index is what the log says, without the bodies. It is a fold: the same records make the same index, and so do the
// records without those that remove takes out.
type index struct {
	last     uint64               // sequence up to which the log is folded
	subjects map[string][]ref     // writes to a subject, oldest first
	runs     map[string]*runIndex // by the run's token
	uses     map[uint64]int       // writes of a record that a subject still holds
	dead     []uint64             // records that no subject holds a write of

	// A record that forgets a run must stay as long as any record with a write of that run is needed for something
	// else, or that write would come back.
	forgets map[uint64]int      // of a record that forgets: how many records it must outlive
	pins    map[uint64][]uint64 // of such an older record: the records that forget a part of it
}

// runIndex is what a run has in the ledger.
type runIndex struct {
	subjects map[string]struct{}
	records  map[uint64]struct{} // every one that has a write of the run, also one that was replaced
}

func newIndex() *index {
	return &index{
		subjects: map[string][]ref{}, runs: map[string]*runIndex{}, uses: map[uint64]int{},
		forgets: map[uint64]int{}, pins: map[uint64][]uint64{},
	}
}

// head is the sequence of the last write to a subject, 0 if there is none.
func (x *index) head(subject string) uint64 {
	refs := x.subjects[subject]
	if len(refs) == 0 {
		return 0
	}
	return uint64(refs[len(refs)-1])
}

func (x *index) apply(r record) {
	if r.seq <= x.last {
		return
	}
	x.last = r.seq
	for i, p := range r.parts {
		switch p.kind {
		case partForget:
			x.forget(r.seq, p.subject)
		case partState:
			x.drop(p.subject)
			x.add(p.subject, refAt(r.seq, i))
		default:
			x.add(p.subject, refAt(r.seq, i))
		}
	}
}

func (x *index) add(subject string, at ref) {
	x.subjects[subject] = append(x.subjects[subject], at)
	x.uses[at.record()]++
	token := runOf(subject)
	if token == "" {
		return
	}
	run := x.runs[token]
	if run == nil {
		run = &runIndex{subjects: map[string]struct{}{}, records: map[uint64]struct{}{}}
		x.runs[token] = run
	}
	run.subjects[subject] = struct{}{}
	run.records[at.record()] = struct{}{}
}

// drop takes away all that a subject holds.
func (x *index) drop(subject string) {
	for _, at := range x.subjects[subject] {
		x.uses[at.record()]--
		if x.uses[at.record()] == 0 {
			x.die(at.record())
		}
	}
	delete(x.subjects, subject)
}

func (x *index) die(seq uint64) {
	delete(x.uses, seq)
	x.dead = append(x.dead, seq)
	for _, f := range x.pins[seq] {
		x.forgets[f]--
	}
	delete(x.pins, seq)
}

func (x *index) forget(seq uint64, token string) {
	x.forgets[seq] += 0
	run := x.runs[token]
	if run == nil {
		return
	}
	for subject := range run.subjects {
		x.drop(subject)
	}
	for older := range run.records {
		if x.uses[older] > 0 {
			x.forgets[seq]++
			x.pins[older] = append(x.pins[older], seq)
		}
	}
	delete(x.runs, token)
}

// remove passes the records that the log does not need any more to del, in an order in which it may stop after any.
func (x *index) remove(del func(seq uint64) error) error {
	for len(x.dead) > 0 {
		if err := del(x.dead[0]); err != nil {
			return err
		}
		x.dead = x.dead[1:]
	}
	for seq, outlives := range x.forgets {
		if outlives > 0 {
			continue
		}
		if err := del(seq); err != nil {
			return err
		}
		delete(x.forgets, seq)
	}
	return nil
}

// runOf is the token of the run that a subject of the ledger belongs to, "" when it outlives runs.
func runOf(subject string) string {
	tokens := strings.SplitN(subject, ".", 6)
	switch {
	case len(tokens) == 6 && tokens[1] == "call":
		return tokens[4]
	case len(tokens) >= 5 && tokens[1] == "budget" && (tokens[3] == "run" || tokens[3] == "step"):
		return tokens[4]
	default:
		return ""
	}
}

// recordVersion is the first byte of a record.
const recordVersion = 1

var errRecord = errors.New("the record cannot be read")

func encodeRecord(parts []part) []byte {
	size := 1 + binary.MaxVarintLen64
	for _, p := range parts {
		size += p.size()
	}
	b := append(make([]byte, 0, size), recordVersion)
	b = binary.AppendUvarint(b, uint64(len(parts)))
	for _, p := range parts {
		b = append(b, p.kind)
		b = binary.AppendUvarint(b, uint64(len(p.subject)))
		b = append(b, p.subject...)
		b = binary.AppendUvarint(b, uint64(len(p.body)))
		b = append(b, p.body...)
	}
	return b
}

// size bounds what the part takes in a record.
func (p part) size() int { return 1 + 2*binary.MaxVarintLen64 + len(p.subject) + len(p.body) }

// decodeRecord reads a message of the log. The bodies are parts of data.
func decodeRecord(seq uint64, at time.Time, data []byte) (record, error) {
	r := record{seq: seq, at: at}
	d := reader{rest: data}
	if v := d.byte(); v != recordVersion {
		return r, fmt.Errorf("ledger record %d: %w: version %d", seq, errRecord, v)
	}
	n := d.number()
	if n > 1<<partBits {
		return r, fmt.Errorf("ledger record %d: %w: %d parts", seq, errRecord, n)
	}
	for range n {
		r.parts = append(r.parts, part{kind: d.byte(), subject: string(d.bytes()), body: d.bytes()})
	}
	if d.bad || len(d.rest) > 0 {
		return r, fmt.Errorf("ledger record %d: %w: it is cut or damaged", seq, errRecord)
	}
	return r, nil
}

// reader takes values off the front of a buffer; bad says that one was not there.
type reader struct {
	rest []byte
	bad  bool
}

func (d *reader) byte() byte {
	if len(d.rest) == 0 {
		d.bad = true
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *reader) number() uint64 {
	n, size := binary.Uvarint(d.rest)
	if size <= 0 {
		d.bad = true
		return 0
	}
	d.rest = d.rest[size:]
	return n
}

func (d *reader) bytes() []byte {
	n := d.number()
	if n > uint64(len(d.rest)) {
		d.bad = true
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}
