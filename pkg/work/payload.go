package work

import (
	"context"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// PutPayload returns a body of any size as a Text of the task's run: inline up to task.InlineLimit when it is text, and
// stored as a payload otherwise.
func (s *Session) PutPayload(ctx context.Context, body []byte) (task.Text, error) {
	if len(body) <= task.InlineLimit && utf8.Valid(body) {
		return task.Text{Inline: string(body)}, nil
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

// put stores a body.
func (s *Session) put(ctx context.Context, body []byte) (*task.Ref, error) {
	for try := 1; ; try++ {
		ref, err := s.upload(ctx, nuid.Next(), body)
		if !errors.Is(err, errUploadLost) || try == uploadTries {
			return ref, err
		}
	}
}

// upload sends a body chunk by chunk. Whoever takes the first one takes all.
func (s *Session) upload(ctx context.Context, id string, body []byte) (*task.Ref, error) {
	subject := s.subject(verbPut)
	for offset := 0; ; {
		end := min(offset+chunkLimit, len(body))
		m := &nats.Msg{Subject: subject, Header: nats.Header{}}
		if err := encode(m, putRequest{s.holder, id, int64(offset), end == len(body)}, body[offset:end]); err != nil {
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
