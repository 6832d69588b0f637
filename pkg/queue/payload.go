package queue

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"

	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/task"
)

// A payload is one message under ark.payload.<run uid>.m.<sha256>. It holds the body itself when that fits into one
// chunk, and otherwise names an upload, whose chunks are ark.payload.<run uid>.c.<upload>.<number>. The message is
// written last and only once: whoever finds it finds all chunks, and of two uploads of one body the second is removed.
// All of a run is one pattern, so that it can be removed in one request.

const (
	chunkSize = 128 << 10 // bytes
	inFlight  = 16        // chunks sent and not confirmed

	headerSize   = "Ark-Size"
	headerUpload = "Ark-Upload"
)

// PutPayload stores a body of any size under its run and content and returns the reference to it. Storing the same
// body again is fine and keeps one. It reads r once and holds only a few chunks in memory.
func (q *Queue) PutPayload(ctx context.Context, runUID string, r io.Reader) (task.Ref, error) {
	head := make([]byte, chunkSize)
	n, err := io.ReadFull(r, head)
	head = head[:n]
	var ref task.Ref
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		ref, err = q.putSmall(ctx, runUID, head)
	case err == nil:
		ref, err = q.putLarge(ctx, runUID, head, r)
	}
	if err != nil {
		return task.Ref{}, fmt.Errorf("store payload of run %s: %w", runUID, err)
	}
	ref.Preview = preview(head)
	return ref, nil
}

// PutText returns s as a Text: inline up to task.InlineLimit, and stored as a payload above.
func (q *Queue) PutText(ctx context.Context, runUID, s string) (task.Text, error) {
	if len(s) <= task.InlineLimit {
		return task.Text{Inline: s}, nil
	}
	ref, err := q.PutPayload(ctx, runUID, strings.NewReader(s))
	if err != nil {
		return task.Text{}, err
	}
	return task.Text{Ref: &ref}, nil
}

func (q *Queue) putSmall(ctx context.Context, runUID string, body []byte) (task.Ref, error) {
	sum := sha256.Sum256(body)
	ref := newRef(runUID, hex.EncodeToString(sum[:]), int64(len(body)))
	if _, err := q.putHead(ctx, runUID, ref, "", body); err != nil {
		return task.Ref{}, err
	}
	return ref, nil
}

func (q *Queue) putLarge(ctx context.Context, runUID string, head []byte, r io.Reader) (ref task.Ref, err error) {
	u := &upload{q: q, prefix: payloadPrefix(runUID) + "c." + nuid.Next(), hash: sha256.New()}
	defer func() {
		if err != nil {
			u.remove(ctx)
		}
	}()
	if err := u.send(ctx, io.MultiReader(bytes.NewReader(head), r)); err != nil {
		return task.Ref{}, err
	}
	ref = newRef(runUID, hex.EncodeToString(u.hash.Sum(nil)), u.size)
	stored, err := q.putHead(ctx, runUID, ref, u.prefix, nil)
	if err != nil {
		return task.Ref{}, err
	}
	if !stored {
		u.remove(ctx)
	}
	return ref, nil
}

// putHead writes the message that makes a payload exist. stored is false when it existed before.
func (q *Queue) putHead(ctx context.Context, runUID string, ref task.Ref, upload string, body []byte) (stored bool, err error) {
	m := message(ctx, payloadPrefix(runUID)+"m."+ref.SHA256, body)
	m.Header.Set(headerSize, strconv.FormatInt(ref.Size, 10))
	if upload != "" {
		m.Header.Set(headerUpload, upload)
	}
	err = q.publish(ctx, m, "")
	if errors.Is(err, ErrExists) {
		return false, nil
	}
	return err == nil, err
}

// upload sends the chunks of one body.
type upload struct {
	q      *Queue
	prefix string
	hash   hash.Hash
	size   int64
	chunks int
	acks   []jetstream.PubAckFuture
}

func (u *upload) send(ctx context.Context, r io.Reader) error {
	for {
		chunk := make([]byte, chunkSize)
		n, err := io.ReadFull(r, chunk)
		if n > 0 {
			if err := u.chunk(ctx, chunk[:n]); err != nil {
				return err
			}
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return u.confirm(ctx, 0)
		default:
			return fmt.Errorf("read body: %w", err)
		}
	}
}

func (u *upload) chunk(ctx context.Context, body []byte) error {
	if err := u.confirm(ctx, inFlight-1); err != nil {
		return err
	}
	ack, err := u.q.js.PublishMsgAsync(message(ctx, u.prefix+"."+strconv.Itoa(u.chunks), body))
	if err != nil {
		return notStored(err)
	}
	u.acks = append(u.acks, ack)
	u.hash.Write(body)
	u.size += int64(len(body))
	u.chunks++
	return nil
}

// confirm waits until at most n chunks are not confirmed.
func (u *upload) confirm(ctx context.Context, n int) error {
	ctx, cancel := u.q.bounded(ctx)
	defer cancel()
	for len(u.acks) > n {
		select {
		case <-u.acks[0].Ok():
			u.acks = u.acks[1:]
		case err := <-u.acks[0].Err():
			return classify(err)
		case <-ctx.Done():
			return classify(context.Cause(ctx))
		}
	}
	return nil
}

// remove deletes what was sent; what it cannot delete goes with the run.
func (u *upload) remove(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), u.q.cfg.Timeout)
	defer cancel()
	if err := u.q.payloads.Purge(ctx, jetstream.WithPurgeSubject(u.prefix+".*")); err != nil {
		u.q.cfg.Logger.Debug("chunks of an unfinished upload stay until their run is removed", "error", err)
	}
}

// GetPayload returns a reader of the body that the context bounds. The reader ends with ErrCorrupt instead of io.EOF when size or hash are not
// those of the reference. ErrNoPayload says that there is no such body. The reader is for one goroutine.
func (q *Queue) GetPayload(ctx context.Context, ref task.Ref) (io.Reader, error) {
	p, err := q.find(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("payload %s: %w", ref.Key, err)
	}
	return &payloadReader{ctx: ctx, p: p, hash: sha256.New()}, nil
}

// ReadPayload returns up to n bytes of a body from offset on; fewer at its end, none behind it. Only the chunks that
// hold them are read, so that the hash of the whole is not checked.
func (q *Queue) ReadPayload(ctx context.Context, ref task.Ref, offset int64, n int) ([]byte, error) {
	if offset < 0 || n < 0 {
		return nil, fmt.Errorf("payload %s: range %d+%d is negative", ref.Key, offset, n)
	}
	p, err := q.find(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("payload %s: %w", ref.Key, err)
	}
	var out []byte
	for end := min(offset+int64(n), ref.Size); offset < end; {
		chunk, err := p.chunk(ctx, int(offset/chunkSize))
		if err != nil {
			return nil, fmt.Errorf("payload %s: %w", ref.Key, err)
		}
		from := offset % chunkSize
		part := chunk[from:min(int64(len(chunk)), from+end-offset)]
		out = append(out, part...)
		offset += int64(len(part))
	}
	return out, nil
}

// Text returns a text wherever it is, checked against its reference. It fails with ErrTooLarge above limit bytes.
func (q *Queue) Text(ctx context.Context, t task.Text, limit int64) (string, error) {
	if t.Ref == nil {
		return t.Inline, nil
	}
	if t.Ref.Size > limit {
		return "", fmt.Errorf("payload %s: %w: %d bytes, at most %d are read", t.Ref.Key, ErrTooLarge, t.Ref.Size, limit)
	}
	r, err := q.GetPayload(ctx, *t.Ref)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.Grow(int(max(t.Ref.Size, 0))) // it was found with that size
	if _, err := io.Copy(&b, r); err != nil {
		return "", err
	}
	return b.String(), nil
}

// stored is a payload that was found.
type stored struct {
	q      *Queue
	ref    task.Ref
	inline []byte
	upload string
}

func (q *Queue) find(ctx context.Context, ref task.Ref) (*stored, error) {
	i := strings.LastIndexByte(ref.Key, '/')
	if i < 0 || ref.Key[i+1:] != ref.SHA256 || ref.SHA256 == "" {
		return nil, fmt.Errorf("%w: the key is not <run uid>/<sha256>", ErrNoPayload)
	}
	m, err := q.payload(ctx, payloadPrefix(ref.Key[:i])+"m."+Token(ref.SHA256))
	if err != nil {
		return nil, err
	}
	if size := m.Header.Get(headerSize); size != strconv.FormatInt(ref.Size, 10) {
		return nil, fmt.Errorf("%w: it has %s bytes, not %d", ErrCorrupt, size, ref.Size)
	}
	return &stored{q: q, ref: ref, inline: m.Data, upload: m.Header.Get(headerUpload)}, nil
}

// chunk returns the body's chunk of a number; all but the last are full.
func (p *stored) chunk(ctx context.Context, number int) ([]byte, error) {
	body := p.inline
	if p.upload != "" {
		m, err := p.q.payload(ctx, p.upload+"."+strconv.Itoa(number))
		if err != nil {
			return nil, err
		}
		body = m.Data
	}
	if want := min(chunkSize, p.ref.Size-int64(number)*chunkSize); int64(len(body)) != want {
		return nil, fmt.Errorf("%w: chunk %d has %d bytes, not %d", ErrCorrupt, number, len(body), want)
	}
	return body, nil
}

func (q *Queue) payload(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := q.bounded(ctx)
	defer cancel()
	m, err := q.payloads.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) || errors.Is(err, nats.ErrBadSubject) {
		return nil, ErrNoPayload
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return m, nil
}

type payloadReader struct {
	ctx  context.Context // of the call that made the reader
	p    *stored
	hash hash.Hash
	next int
	rest []byte
	err  error
}

func (r *payloadReader) Read(b []byte) (int, error) {
	for len(r.rest) == 0 && r.err == nil {
		r.rest, r.err = r.load()
	}
	if len(r.rest) == 0 {
		return 0, r.err
	}
	n := copy(b, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

func (r *payloadReader) load() ([]byte, error) {
	if int64(r.next)*chunkSize >= r.p.ref.Size {
		if hex.EncodeToString(r.hash.Sum(nil)) != r.p.ref.SHA256 {
			return nil, fmt.Errorf("payload %s: %w: another hash", r.p.ref.Key, ErrCorrupt)
		}
		return nil, io.EOF
	}
	chunk, err := r.p.chunk(r.ctx, r.next)
	if err != nil {
		return nil, fmt.Errorf("payload %s: %w", r.p.ref.Key, err)
	}
	r.hash.Write(chunk)
	r.next++
	return chunk, nil
}

func payloadPrefix(runUID string) string { return "ark.payload." + Token(runUID) + "." }

func newRef(runUID, sum string, size int64) task.Ref {
	return task.Ref{Key: runUID + "/" + sum, Size: size, SHA256: sum}
}

// preview is the start of a body as text; of a body that is no text, nothing.
func preview(head []byte) string {
	s := chars.Head(string(head[:min(len(head), task.PreviewLimit+utf8.UTFMax)]), task.PreviewLimit)
	if !utf8.ValidString(s) {
		return ""
	}
	return s
}
