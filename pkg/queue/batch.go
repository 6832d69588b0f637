package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// MaxBatch is the number of messages that one batch may hold.
const MaxBatch = 1000

const (
	headerBatchID     = "Nats-Batch-Id"
	headerBatchSeq    = "Nats-Batch-Sequence"
	headerBatchCommit = "Nats-Batch-Commit"
)

// Write is one message of a batch.
type Write struct {
	Subject string // CallSubject or BudgetSubject
	Body    []byte
	// Expect is the sequence of the last message on the subject, 0 for none: the batch is refused with ErrStale when
	// it is another one. Only the first write of a subject in a batch may carry an expectation; nil has none.
	Expect *uint64
	// Rollup removes the older messages of the subject. Only the first write of a subject in a batch may ask for it.
	Rollup bool
}

// At makes an expectation.
func At(seq uint64) *uint64 { return &seq }

// Batch stores all writes in StreamLedger, or none, and returns their sequences in the order of the writes. They are
// neighbours: no other message comes between them, and no reader sees a part of them.
//
// Errors: ErrStale, ErrFull, ErrTooLarge and ErrUnavailable mean that nothing was stored. After ErrUnknownOutcome the
// writes may have been stored or may still be: read the last messages of the subjects (Last), and write again with
// expectations, which let only one of both attempts through.
func (q *Queue) Batch(ctx context.Context, writes ...Write) ([]uint64, error) {
	if err := checkBatch(writes); err != nil {
		return nil, fmt.Errorf("write batch: %w", err)
	}
	if err := ended(ctx); err != nil {
		return nil, fmt.Errorf("write batch: %w", err)
	}
	ctx, cancel := q.bounded(ctx)
	defer cancel()
	last, err := q.commit(ctx, writes)
	if err != nil {
		return nil, fmt.Errorf("write batch of %d: %w", len(writes), err)
	}
	seqs := make([]uint64, len(writes))
	for i := range seqs {
		seqs[i] = last - uint64(len(writes)-1-i)
	}
	return seqs, nil
}

func checkBatch(writes []Write) error {
	if len(writes) == 0 {
		return errors.New("nothing to write")
	}
	if len(writes) > MaxBatch {
		return fmt.Errorf("%w: %d messages, the limit is %d", ErrTooLarge, len(writes), MaxBatch)
	}
	seen := make(map[string]bool, len(writes))
	for _, w := range writes {
		if len(w.Subject) > maxSubject {
			return fmt.Errorf("subject of %d bytes: %w", len(w.Subject), errSubject)
		}
		if seen[w.Subject] && (w.Expect != nil || w.Rollup) {
			return fmt.Errorf("subject %s: expectation and rollup belong to the first write of a subject", w.Subject)
		}
		seen[w.Subject] = true
	}
	return nil
}

// commit returns the sequence of the last write. A single write is a plain publish; it costs the server less.
func (q *Queue) commit(ctx context.Context, writes []Write) (uint64, error) {
	if len(writes) == 1 {
		ack, err := q.js.PublishMsg(ctx, writes[0].message(ctx))
		if err != nil {
			return 0, classify(err)
		}
		return ack.Sequence, nil
	}
	last, err := q.atomic(ctx, writes, false)
	var api *jetstream.APIError
	if errors.As(err, &api) && api.ErrorCode == codeBatchIncomplete {
		// A message before the last was refused, and nothing was stored. Ask for the answer to each, to learn why.
		last, err = q.atomic(ctx, writes, true)
	}
	return last, err
}

// atomic sends the writes as one batch. Only the last message asks for an answer, unless each is to.
func (q *Queue) atomic(ctx context.Context, writes []Write, each bool) (uint64, error) {
	id := nuid.Next()
	for i, w := range writes[:len(writes)-1] {
		m := w.message(ctx)
		m.Header.Set(headerBatchID, id)
		m.Header.Set(headerBatchSeq, strconv.Itoa(i+1))
		if err := q.stage(ctx, m, each); err != nil {
			return 0, err
		}
	}
	m := writes[len(writes)-1].message(ctx)
	m.Header.Set(headerBatchID, id)
	m.Header.Set(headerBatchSeq, strconv.Itoa(len(writes)))
	m.Header.Set(headerBatchCommit, "1")
	resp, err := q.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return 0, classify(err)
	}
	return batchAnswer(resp.Data, len(writes))
}

// stage sends a message before the last one. What fails here was not committed.
func (q *Queue) stage(ctx context.Context, m *nats.Msg, answer bool) error {
	if !answer {
		if err := q.nc.PublishMsg(m); err != nil {
			return notStored(err)
		}
		return nil
	}
	resp, err := q.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return notStored(err)
	}
	if len(resp.Data) == 0 {
		return nil
	}
	_, err = batchAnswer(resp.Data, 0)
	return err
}

// notStored classifies an error before the commit: whatever it was, the batch will not be stored.
func notStored(err error) error {
	if err = classify(err); errors.Is(err, ErrUnknownOutcome) {
		return fmt.Errorf("%w: %w", ErrUnavailable, errors.Unwrap(err))
	}
	return err
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

func (w Write) message(ctx context.Context) *nats.Msg {
	m := message(ctx, w.Subject, w.Body)
	m.Header.Set(jetstream.ExpectedStreamHeader, StreamLedger)
	if w.Expect != nil {
		m.Header.Set(jetstream.ExpectedLastSubjSeqHeader, strconv.FormatUint(*w.Expect, 10))
	}
	if w.Rollup {
		m.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	}
	return m
}

// Stored is a message as the ledger holds it.
type Stored struct {
	Subject string
	Seq     uint64
	At      time.Time // when the server stored it, by its clock
	Body    []byte
}
