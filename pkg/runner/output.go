package runner

import (
	"context"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// OutputOf is the whole output of a run that has ended, wherever it is.
func OutputOf(s *v1alpha1.ArkRunStatus) task.Text {
	if s.OutputRef == nil {
		return task.Text{Inline: s.Output}
	}
	return StoredText(s.OutputRef)
}

// StoredText is the text that an object refers to.
func StoredText(r *v1alpha1.PayloadRef) task.Text {
	return task.Text{Ref: &task.Ref{Key: r.Key, Size: r.Size, SHA256: r.SHA256}}
}

// readText reads the first n bytes of a text, up to its last whole character. Of a text that is read to its end the hash is
// checked.
func readText(ctx context.Context, q *queue.Queue, t task.Text, n int64) (string, error) {
	if t.Ref == nil || n >= t.Ref.Size {
		return q.Text(ctx, t, n)
	}
	head, err := q.ReadPayload(ctx, *t.Ref, 0, int(n))
	if err != nil {
		return "", err
	}
	return string(chars.Whole(head)), nil
}

// copyText stores a text under another run: from where it is stored, if it is. It holds only a few chunks of it.
func copyText(ctx context.Context, q *queue.Queue, uid string, t task.Text) (task.Text, error) {
	if t.Ref == nil {
		return q.PutText(ctx, uid, t.Inline)
	}
	body, err := q.GetPayload(ctx, *t.Ref)
	if err != nil {
		return task.Text{}, err
	}
	copied, err := q.PutPayload(ctx, uid, body)
	return task.Text{Ref: &copied}, err
}
