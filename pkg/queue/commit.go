package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// MaxBatch is the number of writes that one batch may hold.
const MaxBatch = 1000

const (
	headerBatchID     = "Nats-Batch-Id"
	headerBatchSeq    = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"

	// headRoom is left in a message for its headers and subject.
	headRoom = 4 << 10
)

// Write is one entry of a batch.
type Write struct {
	Subject string // CallSubject or BudgetSubject
	Body    []byte
	// Expect is the sequence of the last write to the subject, 0 for none: the batch is refused with ErrStale when it
	// is another one. Only the first write to a subject in a batch may carry an expectation; nil has none.
	Expect *uint64
	// Rollup drops the older writes to the subject. Only the first write to a subject in a batch may ask for it.
	Rollup bool
}

// Batch stores all writes in the ledger, or none, and returns their sequences, which rise in the order of the writes.
// No other write comes between them, and no reader sees a part of them.
//
// Errors: ErrStale, ErrFull, ErrTooLarge and ErrUnavailable mean that nothing was stored. After ErrUnknownOutcome the
// writes may have been stored or may still be: read the subjects (Last), and write again with expectations, which let
// only one of both attempts through.
func (q *Queue) Batch(ctx context.Context, writes ...Write) ([]uint64, error) {
	if err := checkBatch(writes); err != nil {
		return nil, fmt.Errorf("write batch: %w", err)
	}
	seqs, err := q.log.batch(ctx, writes)
	if err != nil {
		return nil, fmt.Errorf("write batch of %d: %w", len(writes), err)
	}
	return seqs, nil
}

func checkBatch(writes []Write) error {
	if len(writes) == 0 {
		return errors.New("nothing to write")
	}
	if len(writes) > MaxBatch {
		return fmt.Errorf("%w: %d writes, the limit is %d", ErrTooLarge, len(writes), MaxBatch)
	}
	seen := make(map[string]bool, len(writes))
	for _, w := range writes {
		if len(w.Subject) > maxSubject {
			return fmt.Errorf("subject of %d bytes: %w", len(w.Subject), errSubject)
		}
		if seen[w.Subject] && (w.Expect != nil || w.Rollup) {
			return fmt.Errorf("subject %s: expectation and rollup belong to the first write to a subject", w.Subject)
		}
		seen[w.Subject] = true
	}
	return nil
}

func (l *ledger) batch(ctx context.Context, writes []Write) ([]uint64, error) {
	ctx, cancel := l.q.bounded(ctx)
	defer cancel()
	unlock, err := l.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	parts := make([]part, len(writes))
	for i, w := range writes {
		parts[i] = part{kind: partAppend, subject: w.Subject, body: w.Body}
		if w.Rollup {
			parts[i].kind = partState
		}
	}
	return l.append(ctx, parts, writes)
}

// append commits the parts when the expectations of the writes are met, however many others write at the same time.
func (l *ledger) append(ctx context.Context, parts []part, writes []Write) ([]uint64, error) {
	for range commitAttempts {
		if err := l.expected(ctx, writes); err != nil {
			return nil, err
		}
		seqs, err := l.commit(ctx, parts)
		if !errors.Is(err, ErrStale) {
			return seqs, err
		}
	}
	return nil, fmt.Errorf("%w: other writers are always faster", ErrUnavailable)
}

// expected compares the expectations of the writes with the index. Another writer may have been at work, or the store
// may be another one: before it says no, it looks at the log.
func (l *ledger) expected(ctx context.Context, writes []Write) error {
	if err := l.resume(ctx); err != nil {
		return err
	}
	if l.stale(writes) == "" {
		return nil
	}
	l.doubt = true
	if err := l.resume(ctx); err != nil {
		return err
	}
	if subject := l.stale(writes); subject != "" {
		return fmt.Errorf("%w: %s is at %d", ErrStale, subject, l.index.head(subject))
	}
	return nil
}

// stale returns the first subject whose expectation is not met.
func (l *ledger) stale(writes []Write) string {
	for _, w := range writes {
		if w.Expect != nil && *w.Expect != l.index.head(w.Subject) {
			return w.Subject
		}
	}
	return ""
}

// commit appends one commit to the log and to the index. It is ErrStale when another writer was faster.
func (l *ledger) commit(ctx context.Context, parts []part) ([]uint64, error) {
	chunks, err := l.split(parts)
	if err != nil {
		return nil, err
	}
	last, err := l.send(ctx, chunks)
	if err != nil && len(l.index.dead) > 0 && errors.Is(err, ErrFull) {
		if err := l.collect(ctx); err != nil {
			return nil, err
		}
		last, err = l.send(ctx, chunks)
	}
	if err != nil {
		l.doubt = true
		return nil, err
	}
	seqs := make([]uint64, 0, len(parts))
	for i, c := range chunks {
		seq := last - uint64(len(chunks)-1-i)
		l.index.apply(record{seq: seq, parts: c})
		for j := range c {
			seqs = append(seqs, uint64(refAt(seq, j)))
		}
	}
	if len(l.index.dead) > collectAbove {
		if err := l.collect(ctx); err != nil {
			l.q.cfg.Logger.Debug("ledger records without a use stay for now", "error", err)
		}
	}
	return seqs, nil
}

// split shares out the parts among as few messages as the server's limit allows: nearly always one.
func (l *ledger) split(parts []part) ([][]part, error) {
	limit := int(l.q.nc.MaxPayload()) - headRoom
	var chunks [][]part
	size := limit
	for i, p := range parts {
		if p.size() > limit {
			return nil, fmt.Errorf("%w: %d bytes on %s, the limit is %d", ErrTooLarge, p.size(), p.subject, limit)
		}
		if size += p.size(); size > limit {
			chunks, size = append(chunks, parts[i:i]), p.size()
		}
		chunks[len(chunks)-1] = append(chunks[len(chunks)-1], p)
	}
	return chunks, nil
}

// send stores the chunks, all or none, behind the last record that the index knows, and returns the sequence of the
// last one.
func (l *ledger) send(ctx context.Context, chunks [][]part) (uint64, error) {
	if len(chunks) == 1 {
		ack, err := l.q.js.PublishMsg(ctx, l.first(ctx, chunks[0]))
		if err != nil {
			return 0, classify(err)
		}
		return ack.Sequence, nil
	}
	last, err := l.atomic(ctx, chunks, false)
	if isAPI(err, codeBatchIncomplete) {
		// A message before the last was refused, and nothing was stored. Ask for the answer to each, to learn why.
		last, err = l.atomic(ctx, chunks, true)
	}
	return last, err
}

func (l *ledger) first(ctx context.Context, parts []part) *nats.Msg {
	m := message(ctx, logSubject, encodeRecord(parts))
	m.Header.Set(jetstream.ExpectedLastSeqHeader, strconv.FormatUint(l.index.last, 10))
	return m
}

// atomic sends the chunks as one of JetStream's batches. Only the last message asks for an answer, unless each is to.
func (l *ledger) atomic(ctx context.Context, chunks [][]part, each bool) (uint64, error) {
	id := nuid.Next()
	for i, c := range chunks {
		m := message(ctx, logSubject, encodeRecord(c))
		if i == 0 {
			m = l.first(ctx, c)
		}
		m.Header.Set(headerBatchID, id)
		m.Header.Set(headerBatchSeq, strconv.Itoa(i+1))
		if i == len(chunks)-1 {
			m.Header.Set(headerBatchCommit, "1")
			resp, err := l.q.nc.RequestMsgWithContext(ctx, m)
			if err != nil {
				return 0, classify(err)
			}
			return batchAnswer(resp.Data, len(chunks))
		}
		if err := l.stage(ctx, m, each); err != nil {
			return 0, err
		}
	}
	return 0, errors.New("nothing to write")
}

// stage sends a message before the last one. What fails here was not committed.
func (l *ledger) stage(ctx context.Context, m *nats.Msg, answer bool) error {
	if !answer {
		if err := l.q.nc.PublishMsg(m); err != nil {
			return notStored(err)
		}
		return nil
	}
	resp, err := l.q.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return notStored(err)
	}
	if len(resp.Data) == 0 {
		return nil
	}
	_, err = batchAnswer(resp.Data, 0)
	return err
}

// notStored classifies an error before the commit: whatever it was, the message will not be stored.
func notStored(err error) error {
	if classified := classify(err); !errors.Is(classified, ErrUnknownOutcome) {
		return classified
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

func batchAnswer(data []byte, count int) (uint64, error) {
	var ack struct {
		Error *jetstream.APIError `json:"error"`
		Seq   uint64              `json:"seq"`
		Count int                 `json:"count"`
	}
	if err := json.Unmarshal(data, &ack); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	if ack.Error != nil {
		return 0, classifyAPI(ack.Error)
	}
	if ack.Count != count {
		return 0, fmt.Errorf("%w: %d of %d messages confirmed", ErrUnknownOutcome, ack.Count, count)
	}
	return ack.Seq, nil
}
