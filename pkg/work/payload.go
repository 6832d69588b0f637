package work

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// PutPayload returns a body of any size as a Text of the task's run: inline up to task.InlineLimit when it is text, and
// stored as a payload otherwise.
func (s *Session) PutPayload(ctx context.Context, body string) (task.Text, error) {
	if len(body) <= task.InlineLimit && utf8.ValidString(body) {
		return task.Text{Inline: body}, nil
	}
	ref, err := s.put(ctx, body)
	if err != nil {
		return task.Text{}, fmt.Errorf("store a payload of %d bytes: %w", len(body), err)
	}
	return task.Text{Ref: ref}, nil
}

// GetPayload returns up to n bytes of a payload from offset on, at most 512 KiB; fewer at its end, none behind it. Only
// payloads of the task's own run can be read; another one and one that does not exist is a *RefusedError.
func (s *Session) GetPayload(ctx context.Context, ref task.Ref, offset int64, n int) ([]byte, error) {
	m := &nats.Msg{Subject: s.subject(verbGet), Header: nats.Header{}}
	ref.Preview = ""
	if err := encode(m, getRequest{s.holder, ref, offset, min(n, chunkLimit)}, nil); err != nil {
		return nil, err
	}
	answer, err := s.client.send(ctx, m, 0)
	if err != nil {
		return nil, fmt.Errorf("read payload %s: %w", ref.Key, err)
	}
	return answer.Data, nil
}

// errUploadLost means that the instance that took the first chunks has gone.
var errUploadLost = errors.New("the upload was lost")

// uploadTries is how often an upload is begun anew.
const uploadTries = 3

// put stores a body. An upload that is lost each time is an ErrUnavailable: the store did not keep up, and may later.
func (s *Session) put(ctx context.Context, body string) (*task.Ref, error) {
	for try := 1; ; try++ {
		ref, err := s.upload(ctx, nuid.Next(), body)
		switch {
		case !errors.Is(err, errUploadLost):
			return ref, err
		case try == uploadTries && errors.Is(err, ErrUnavailable):
			return nil, err
		case try == uploadTries:
			return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
	}
}

// upload sends a body chunk by chunk. Whoever takes the first one takes all.
func (s *Session) upload(ctx context.Context, id string, body string) (*task.Ref, error) {
	subject := s.subject(verbPut)
	for offset := 0; ; {
		end := min(offset+chunkLimit, len(body))
		m := &nats.Msg{Subject: subject, Header: nats.Header{}}
		if err := encode(m, putRequest{s.holder, id, int64(offset), end == len(body)}, []byte(body[offset:end])); err != nil {
			return nil, err
		}
		answer, err := s.client.send(ctx, m, 0)
		if err != nil {
			if offset > 0 && ctx.Err() == nil && errors.Is(err, ErrUnavailable) {
				err = fmt.Errorf("%w: %w", errUploadLost, err)
			}
			return nil, err
		}
		var reply putReply
		if err := decode(answer, &reply); err != nil {
			return nil, err
		}
		if end == len(body) {
			return reply.Ref, nil
		}
		offset = end
		subject = s.subject(verbPut) + "." + queue.Token(reply.Instance)
	}
}

const (
	// uploadIdle is how long an upload waits for its next chunk, and its answer for being asked for again.
	uploadIdle = 30 * time.Second
	// maxUploads bounds the bodies that arrive at once, agentUploads those of one agent.
	maxUploads   = 256
	agentUploads = 32
	// uploadLimit is how large a body may be, and runUploads how much the tasks of a run may store, in bytes, as far as one
	// service knows. All payloads share a stream.
	uploadLimit = 64 << 20
	runUploads  = 512 << 20
	// runIdle is how long a service remembers what a run has stored, after the last time.
	runIdle = 24 * time.Hour
)

// uploads are payloads that arrive chunk by chunk. Nothing of a body is kept: each chunk goes to the store at once.
type uploads struct {
	q *queue.Queue

	mu     sync.Mutex
	bodies map[string]*incoming
	stored map[string]*storedBy // by run
	closed bool
}

// storedBy is what a run has stored.
type storedBy struct {
	bytes int64
	used  time.Time
}

// incoming is one body.
type incoming struct {
	from   caller
	run    string
	in     *io.PipeWriter
	stored chan struct{}
	ref    task.Ref // after stored
	err    error    // after stored
	idle   *time.Timer

	mu     sync.Mutex // one chunk at a time
	offset int64
}

func newUploads(q *queue.Queue) *uploads {
	return &uploads{q: q, bodies: map[string]*incoming{}, stored: map[string]*storedBy{}}
}

// allow refuses a chunk that is more than a payload may have, or than a run may store.
func (u *uploads) allow(r putRequest, size int) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	switch by := u.stored[r.Run]; {
	case r.Offset < 0 || r.Offset+int64(size) > uploadLimit:
		return refusef("a payload may have %d MiB", uploadLimit>>20)
	case by != nil && by.bytes+int64(size) > runUploads:
		return refusef("the tasks of this run have stored %d MiB of payloads, which is the limit", runUploads>>20)
	}
	return nil
}

// charge counts what a run has stored; what of that was lost is given back as less than nothing.
func (u *uploads) charge(run string, size int64, now time.Time) {
	u.mu.Lock()
	defer u.mu.Unlock()
	by := u.stored[run]
	if by == nil {
		maps.DeleteFunc(u.stored, func(_ string, old *storedBy) bool { return now.Sub(old.used) > runIdle })
		by = &storedBy{}
		u.stored[run] = by
	}
	by.bytes += size
	by.used = now
}

// take stores a chunk. ref is set after the last one.
func (u *uploads) take(ctx context.Context, from caller, r putRequest, body []byte) (*task.Ref, error) {
	if err := u.allow(r, len(body)); err != nil {
		return nil, err
	}
	if r.Offset == 0 && r.Last {
		ref, err := u.q.PutPayload(ctx, r.Run, bytes.NewReader(body))
		if err != nil {
			return nil, unavailable(err)
		}
		u.charge(r.Run, int64(len(body)), time.Now())
		return &ref, nil
	}
	up, err := u.find(ctx, from, r)
	if err != nil {
		return nil, err
	}
	up.mu.Lock()
	defer up.mu.Unlock()
	up.idle.Reset(uploadIdle)
	end := r.Offset + int64(len(body))
	if r.Offset != up.offset && end > up.offset {
		return nil, fmt.Errorf("%w: a chunk is missing", errUploadLost)
	}
	if r.Offset == up.offset {
		if _, err := up.in.Write(body); err != nil {
			return nil, fmt.Errorf("%w: %w", errUploadLost, err)
		}
		up.offset = end
		u.charge(r.Run, int64(len(body)), time.Now())
	}
	if !r.Last {
		return nil, nil
	}
	return up.finish(ctx)
}

func (up *incoming) finish(ctx context.Context) (*task.Ref, error) {
	if err := up.in.Close(); err != nil {
		return nil, err
	}
	select {
	case <-up.stored:
	case <-ctx.Done():
		return nil, errStopping
	}
	if up.err != nil {
		return nil, unavailable(up.err)
	}
	return &up.ref, nil
}

// find returns the upload that a chunk belongs to; the first chunk begins it.
func (u *uploads) find(ctx context.Context, from caller, r putRequest) (*incoming, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	up := u.bodies[r.Upload]
	switch {
	case up != nil && up.run == r.Run && up.from == from:
		return up, nil
	case up != nil || r.Offset != 0:
		return nil, errUploadLost
	case u.closed:
		return nil, errStopping
	}
	if all, own := u.arriving(from); all >= maxUploads || own >= agentUploads {
		return nil, fmt.Errorf("%w: it takes no more uploads", errAskAgain)
	}
	out, in := io.Pipe()
	up = &incoming{from: from, run: r.Run, in: in, stored: make(chan struct{})}
	up.idle = time.AfterFunc(uploadIdle, func() { u.drop(r.Upload) })
	u.bodies[r.Upload] = up
	go func() {
		up.ref, up.err = u.q.PutPayload(ctx, r.Run, out)
		out.CloseWithError(errors.Join(up.err, io.ErrClosedPipe)) // no chunk is taken from now on
		close(up.stored)
		if up.err != nil {
			up.mu.Lock()
			lost := up.offset
			up.mu.Unlock()
			u.charge(r.Run, -lost, time.Now())
		}
	}()
	return up, nil
}

// arriving counts the bodies that are not stored yet, and those of one agent.
func (u *uploads) arriving(from caller) (all, own int) {
	for _, up := range u.bodies {
		select {
		case <-up.stored:
			continue
		default:
		}
		all++
		if up.from == from {
			own++
		}
	}
	return all, own
}

func (u *uploads) drop(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if up := u.bodies[id]; up != nil {
		up.idle.Stop()
		up.in.CloseWithError(errUploadLost)
		delete(u.bodies, id)
	}
}

// close ends all uploads and waits for them.
func (u *uploads) close() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closed = true
	for _, up := range u.bodies {
		up.idle.Stop()
		up.in.CloseWithError(errUploadLost)
		<-up.stored
	}
	clear(u.bodies)
}
