package work

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/nuid"
	"golang.org/x/sync/errgroup"

	"arkonis.dev/ark/pkg/task"
)

// pending is an append that was sent and whose outcome is not known.
type pending struct {
	n       int
	id      string
	entries []Entry  // as they are sent
	texts   [][]byte // as the caller gave them, to recognise them
	givenUp bool     // the service was told, and may have heard it
}

// Append stores entries at the end of the journal and moves the budgets that they are about, all in one atomic batch. At
// most one of the entries is an Intent. When it returns nil, everything is stored. When it returns an error that says
// why, nothing is, or only entries before the Intent are, because the calls that they end were not to hold others up
// while it waited:
//
//   - *BudgetError: the reservation does not fit, no call may be made
//   - ErrFenced: another process has the task
//   - ErrDone: the task has a result. Entries without an Intent are still taken for a while, so that what was paid is
//     charged as it was
//   - ErrGone
//
// A reservation that only other calls' open reservations stand in the way of waits until it fits or the context ends.
//
// After ErrUnavailable and after the context's error the entries may be stored. Whatever was returned, append them again,
// or others: what is stored already is not stored twice, and a reservation that was made meanwhile for an Intent that is
// not appended again is given back. An Append without entries does only that.
func (s *Session) Append(ctx context.Context, entries ...Entry) error {
	return s.Reserve(ctx, s.client.poll, func() {}, entries...)
}

// Reserve is Append whose caller wants to know that an Intent waits for others' open reservations: waits is called, by this
// goroutine, each time it has waited that long, or for as long as the service lets anybody wait for an answer if that is
// shorter. It keeps its turn meanwhile. Of a service that is merely slow waits does not hear.
func (s *Session) Reserve(ctx context.Context, every time.Duration, waits func(), entries ...Entry) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.append(ctx, every, waits, entries); err != nil {
		return fmt.Errorf("append to the journal of task %s: %w", s.holder.Task, err)
	}
	return nil
}

func (s *Session) append(ctx context.Context, every time.Duration, waits func(), entries []Entry) error {
	texts, err := encodeEntries(entries)
	if err != nil {
		return err
	}
	if s.pending != nil && (s.pending.givenUp || !equal(s.pending.texts, texts)) {
		if entries, texts, err = s.settlePending(ctx, entries, texts); err != nil {
			return err
		}
	}
	if len(entries) == 0 {
		return nil
	}
	if s.pending == nil {
		sent, err := s.moveLarge(ctx, entries, texts)
		if err != nil {
			return err
		}
		s.pending = &pending{n: s.appends + 1, id: nuid.Next(), entries: sent, texts: texts}
	}
	return s.sendPending(ctx, every, waits)
}

func encodeEntries(entries []Entry) ([][]byte, error) {
	texts := make([][]byte, len(entries))
	for i, e := range entries {
		if err := e.check(); err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		text, err := json.Marshal(e)
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		texts[i] = text
	}
	return texts, nil
}

func equal(a, b [][]byte) bool { return len(a) == len(b) && common(a, b) == len(a) }

// common is how many entries both begin with.
func common(a, b [][]byte) int {
	n := 0
	for n < len(a) && n < len(b) && bytes.Equal(a[n], b[n]) {
		n++
	}
	return n
}

// sendPending sends the pending append until it is decided.
func (s *Session) sendPending(ctx context.Context, every time.Duration, waits func()) error {
	limit := min(settleLimit, s.client.poll)
	if slices.ContainsFunc(s.pending.entries, func(e Entry) bool { return e.Intent != nil }) {
		limit = min(every, s.client.poll)
	}
	for {
		p, wait := s.pending, untilEnd(ctx, limit)
		var reply appendReply
		err := s.ask(ctx, verbAppend, appendRequest{s.holder, p.n, p.id, wait.Milliseconds(), p.entries}, &reply, wait)
		switch {
		case err != nil:
			return s.notAppended(ctx, err)
		case reply.Waiting:
			if reply.Blocked {
				waits()
			}
			continue
		}
		s.appends, s.pending = p.n, nil
		return nil
	}
}

// notAppended forgets the pending append when it is known not to be stored. A reservation that still waits for its turn
// must not be granted when its caller has gone.
func (s *Session) notAppended(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		part, stored := errors.AsType[*partError](err)
		switch {
		case stored:
			return part.error
		case !errors.Is(err, ErrUnavailable):
			s.pending = nil
		}
		return err
	}
	quick, cancel := context.WithTimeout(context.WithoutCancel(ctx), giveUpTimeout)
	defer cancel()
	if have, withdrawErr := s.withdraw(quick); withdrawErr == nil && have == 0 {
		s.appends, s.pending = s.pending.n, nil
	}
	return err
}

// withdraw gives the pending append up and returns how many of its entries are stored.
func (s *Session) withdraw(ctx context.Context) (have int, err error) {
	var reply withdrawReply
	s.pending.givenUp = true
	err = s.ask(ctx, verbWithdraw, withdrawRequest{s.holder, s.pending.n, s.pending.id}, &reply, 0)
	return min(reply.Have, len(s.pending.entries)), err
}

// settlePending gives the pending append up, because other entries are to be appended now. It returns what is left of
// these: without those at the beginning that are stored, and with the end of a call that nobody is going to make.
func (s *Session) settlePending(ctx context.Context, entries []Entry, texts [][]byte) ([]Entry, [][]byte, error) {
	have, err := s.withdraw(ctx)
	if err != nil {
		return nil, nil, err
	}
	p := s.pending
	s.appends, s.pending = p.n, nil
	if have == 0 {
		return entries, texts, nil
	}
	stored := common(p.texts[:have], texts)
	left := make([]Entry, 0, len(entries)+1)
	for _, e := range p.entries[stored:have] {
		if e.Intent != nil {
			left = append(left, Entry{Failed: &CallFailed{
				Call: e.Intent.Call, Code: task.CodeCancelled, Message: "the call was not made: it was given up before its reservation was granted",
			}})
		}
	}
	left = append(left, entries[stored:]...)
	texts, err = encodeEntries(left)
	return left, texts, err
}

// moveLarge stores the entries that are too large for the journal as payloads: those above task.InlineLimit, and the
// largest others while all together are above appendLimit.
func (s *Session) moveLarge(ctx context.Context, entries []Entry, texts [][]byte) ([]Entry, error) {
	limit, total := task.InlineLimit, size(texts, task.InlineLimit)
	for total > appendLimit && limit > task.PreviewLimit {
		limit /= 2
		total = size(texts, limit)
	}
	sent := append([]Entry(nil), entries...)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i, text := range texts {
		if len(text) <= limit {
			continue
		}
		g.Go(func() error {
			ref, err := s.put(ctx, string(text))
			if err != nil {
				return fmt.Errorf("store entry %d: %w", i, err)
			}
			sent[i] = entries[i].shell(ref)
			return nil
		})
	}
	return sent, g.Wait()
}

// size is that of an append when entries above limit are moved.
func size(texts [][]byte, limit int) int {
	const shellSize = 512
	n := 0
	for _, t := range texts {
		if len(t) > limit {
			n += shellSize
			continue
		}
		n += len(t)
	}
	return n
}

// complete fetches what was moved out of an entry.
func (s *Session) complete(ctx context.Context, e *Entry) error {
	ref := *e.moved
	text := make([]byte, 0, ref.Size)
	for int64(len(text)) < ref.Size {
		part, err := s.GetPayload(ctx, ref, int64(len(text)), chunkLimit)
		if err != nil {
			return err
		}
		if len(part) == 0 {
			return fmt.Errorf("payload %s ends after %d of %d bytes", ref.Key, len(text), ref.Size)
		}
		text = append(text, part...)
	}
	var whole Entry
	if err := json.Unmarshal(text, &whole); err != nil {
		return fmt.Errorf("payload %s: %w", ref.Key, err)
	}
	*e = whole
	return nil
}
