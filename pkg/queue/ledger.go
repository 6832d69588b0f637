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
)

// readBatch is how many messages History asks for in one request.
const readBatch = 256

// Last returns the last message of a subject in StreamLedger. ok is false when there is none.
func (q *Queue) Last(ctx context.Context, subject string) (s Stored, ok bool, err error) {
	m, err := q.ledger.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return Stored{}, false, nil
	}
	if err != nil {
		return Stored{}, false, fmt.Errorf("read last of %s: %w", subject, err)
	}
	return Stored{Subject: m.Subject, Seq: m.Sequence, At: m.Time, Body: m.Data}, true, nil
}

// History returns all messages of a subject in StreamLedger, or of a pattern of subjects, in the order in which they
// were stored. It sees all of a batch or nothing of it.
func (q *Queue) History(ctx context.Context, subject string) ([]Stored, error) {
	var all []Stored
	for from := uint64(1); ; {
		part, more, err := q.read(ctx, subject, from)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", subject, err)
		}
		all = append(all, part...)
		if !more || len(part) == 0 {
			return all, nil
		}
		from = part[len(part)-1].Seq + 1
	}
}

// read fetches one batch of messages in one round trip.
func (q *Queue) read(ctx context.Context, subject string, from uint64) (part []Stored, more bool, err error) {
	ctx, cancel := q.bounded(ctx)
	defer cancel()
	req, err := json.Marshal(map[string]any{"seq": from, "next_by_subj": subject, "batch": readBatch})
	if err != nil {
		return nil, false, err
	}
	inbox := q.nc.NewInbox()
	sub, err := q.nc.SubscribeSync(inbox)
	if err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	defer func() { _ = sub.Unsubscribe() }()
	if err := q.nc.PublishRequest("$JS.API.DIRECT.GET."+StreamLedger, inbox, req); err != nil {
		return nil, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	for {
		m, err := sub.NextMsgWithContext(ctx)
		if err != nil {
			return nil, false, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		switch status := m.Header.Get("Status"); status {
		case "":
			s, err := storedFrom(m)
			if err != nil {
				return nil, false, err
			}
			part = append(part, s)
		case "204": // end of the batch
			return part, m.Header.Get("Nats-Num-Pending") != "0", nil
		case "404":
			return nil, false, nil
		default:
			return nil, false, fmt.Errorf("server answers %s %s", status, m.Header.Get("Description"))
		}
	}
}

func storedFrom(m *nats.Msg) (Stored, error) {
	seq, err := strconv.ParseUint(m.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return Stored{}, fmt.Errorf("sequence: %w", err)
	}
	at, err := time.Parse(time.RFC3339Nano, m.Header.Get("Nats-Time-Stamp"))
	if err != nil {
		return Stored{}, fmt.Errorf("time stamp: %w", err)
	}
	return Stored{Subject: m.Header.Get("Nats-Subject"), Seq: seq, At: at, Body: m.Data}, nil
}
