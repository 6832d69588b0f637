package work

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

const (
	// uploadIdle is how long an upload waits for its next chunk, and its answer for being asked for again.
	uploadIdle = 30 * time.Second
	// maxUploads bounds the bodies that arrive at once.
	maxUploads = 256
)

// uploads are payloads that arrive chunk by chunk. Nothing of a body is kept: each chunk goes to the store at once.
type uploads struct {
	q *queue.Queue

	mu     sync.Mutex
	bodies map[string]*incoming
	closed bool
}

// incoming is one body.
type incoming struct {
	run    string
	in     *io.PipeWriter
	stored chan struct{}
	ref    task.Ref // after stored
	err    error    // after stored
	idle   *time.Timer

	mu     sync.Mutex // one chunk at a time
	offset int64
}

func newUploads(q *queue.Queue) *uploads { return &uploads{q: q, bodies: map[string]*incoming{}} }

// take stores a chunk. ref is set after the last one.
func (u *uploads) take(ctx context.Context, r putRequest, body []byte) (*task.Ref, error) {
	if r.Offset == 0 && r.Last {
		ref, err := u.q.PutPayload(ctx, r.Run, bytes.NewReader(body))
		if err != nil {
			return nil, unavailable(err)
		}
		return &ref, nil
	}
	up, err := u.find(ctx, r)
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
func (u *uploads) find(ctx context.Context, r putRequest) (*incoming, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	up := u.bodies[r.Upload]
	switch {
	case up != nil && up.run == r.Run:
		return up, nil
	case up != nil || r.Offset != 0:
		return nil, errUploadLost
	case u.closed || len(u.bodies) >= maxUploads:
		return nil, fmt.Errorf("%w: it takes no more uploads now", ErrUnavailable)
	}
	out, in := io.Pipe()
	up = &incoming{run: r.Run, in: in, stored: make(chan struct{})}
	up.idle = time.AfterFunc(uploadIdle, func() { u.drop(r.Upload) })
	u.bodies[r.Upload] = up
	go func() {
		defer close(up.stored)
		up.ref, up.err = u.q.PutPayload(ctx, r.Run, out)
		out.CloseWithError(errors.Join(up.err, io.ErrClosedPipe))
	}()
	return up, nil
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
