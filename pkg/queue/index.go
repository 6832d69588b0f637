package queue

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
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
	partForget             // drops all subjects of an owner, which stands in the place of the subject
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
	runs     map[string]*runIndex // by owner: see ownerOf
	uses     map[uint64]int       // writes of a record that a subject still holds
	dead     []uint64             // records that no subject holds a write of

	// A record that forgets a run must stay as long as any record with a write of that run is needed for something
	// else, or that write would come back.
	forgets map[uint64]int      // of a record that forgets: how many records it must outlive
	pins    map[uint64][]uint64 // of such an older record: the records that forget a part of it
}

// runIndex is what a run, or another owner, has in the ledger.
type runIndex struct {
	subjects map[string]struct{}
	records  map[uint64]struct{} // every one in use that has a write of the owner, also one that was replaced; and some more
	prune    int                 // how many records there may be before those without a use are dropped
}

// minPrune is the number of records of an owner that are kept without a look at them.
const minPrune = 64

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
	owner := ownerOf(subject)
	if owner == "" {
		return
	}
	run := x.runs[owner]
	if run == nil {
		run = &runIndex{subjects: map[string]struct{}{}, records: map[uint64]struct{}{}, prune: minPrune}
		x.runs[owner] = run
	}
	run.subjects[subject] = struct{}{}
	run.records[at.record()] = struct{}{}
	if len(run.records) > run.prune {
		maps.DeleteFunc(run.records, func(seq uint64, _ struct{}) bool { return x.uses[seq] == 0 })
		run.prune = max(minPrune, 2*len(run.records))
	}
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

func (x *index) forget(seq uint64, owner string) {
	x.forgets[seq] += 0
	run := x.runs[owner]
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
	delete(x.runs, owner)
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

// Kinds of owners that outlive runs, as they stand in the scopes of their budgets.
const (
	ownerAgent = "agent"
	ownerTeam  = "team"
)

// ownerOf is what a subject of the ledger goes with: the token of a run, or for the budget of an agent or a team, and the
// probes of an agent, what ownerName returns. It is "" for what belongs to nobody.
func ownerOf(subject string) string {
	tokens := strings.SplitN(subject, ".", 6)
	switch {
	case len(tokens) == 6 && tokens[1] == "call" && tokens[4] == Token(ProbeRun):
		namespace, agent, _ := agentOf(subject)
		return ownerName(ownerAgent, namespace, agent)
	case len(tokens) == 6 && tokens[1] == "call":
		return tokens[4]
	case len(tokens) >= 5 && tokens[1] == "budget" && (tokens[3] == "run" || tokens[3] == "step"):
		return tokens[4]
	case len(tokens) >= 5 && tokens[1] == "budget" && (tokens[3] == ownerAgent || tokens[3] == ownerTeam):
		return tokens[3] + "." + tokens[2] + "." + strings.Join(tokens[4:], ".")
	default:
		return ""
	}
}

// ownerName is how the ledger knows an agent or a team. No run has a token with dots.
func ownerName(kind, namespace, name string) string {
	return kind + "." + strings.TrimPrefix(BudgetSubject(namespace, name), "ark.budget.")
}

// parseOwner is the reverse of ownerName.
func parseOwner(owner string) (kind, namespace, name string, ok bool) {
	tokens := strings.Split(owner, ".")
	if len(tokens) < 3 {
		return "", "", "", false
	}
	names := make([]string, len(tokens)-1)
	for i, token := range tokens[1:] {
		var err error
		if names[i], err = Untoken(token); err != nil {
			return "", "", "", false
		}
	}
	return tokens[0], names[0], strings.Join(names[1:], "."), true
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
