package tools

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

const (
	// InlineResult is the size in bytes up to which a tool's result goes to the model whole.
	InlineResult = 64 << 10
	// FirstPart is how much of a longer one goes to the model at once.
	FirstPart = 16 << 10

	// maxPage is how much of a payload a model reads with one call, in bytes.
	maxPage = 32 << 10
	// readSize is how much of a payload is read at once, in bytes.
	readSize = 256 << 10
)

// ReadPayload lets a model page through a result that was too large to be given to it whole. Only payloads of the
// task's own run can be read.
type ReadPayload struct{ session *work.Session }

// NewReadPayload makes the tool for the task of a session.
func NewReadPayload(s *work.Session) *ReadPayload { return &ReadPayload{session: s} }

// Spec is what the model sees.
func (*ReadPayload) Spec() llm.Tool {
	return llm.Tool{
		Name:        task.ReadPayloadName,
		Description: "Read on in a large result. Returns the text from a byte offset on and says where the next part begins.",
		Schema: json.RawMessage(fmt.Sprintf(`{"type":"object","properties":{`+
			`"id":{"type":"string","description":"the id that stands below the first part of the result"},`+
			`"offset":{"type":"integer","minimum":0,"description":"in bytes, default 0"},`+
			`"length":{"type":"integer","minimum":64,"maximum":%d,"description":"in bytes, default %d"}},`+
			`"required":["id"],"additionalProperties":false}`, maxPage, maxPage)),
	}
}

// Safe is true: it only reads.
func (*ReadPayload) Safe() bool { return true }

// Call reads one part.
func (r *ReadPayload) Call(ctx context.Context, call Call) (Result, error) {
	args := struct {
		ID     string `json:"id"`
		Offset int64  `json:"offset"`
		Length int    `json:"length"`
	}{Length: maxPage}
	if err := json.Unmarshal(call.Args, &args); err != nil {
		return Errorf("%s: %v", task.ReadPayloadName, err), nil
	}
	ref, ok := task.ParsePayloadID(r.session.Task().Run.UID, args.ID)
	if !ok {
		return Errorf("%s: %q is not the id of a stored result", task.ReadPayloadName, args.ID), nil
	}
	if args.Offset >= ref.Size {
		return Errorf("%s: offset %d is behind the end, the text has %d bytes", task.ReadPayloadName, args.Offset, ref.Size), nil
	}
	page, err := r.session.GetPayload(ctx, ref, args.Offset, args.Length)
	if err != nil {
		return refused(err)
	}
	text, from := whole(page, args.Offset)
	next := from + int64(len(text))
	if next >= ref.Size {
		return Result{Text: text + "\n\n(This is the end.)"}, nil
	}
	return Result{Text: fmt.Sprintf("%s\n\n(Bytes %d to %d of %d. The next part begins at offset %d.)", text, from, next, ref.Size, next)}, nil
}

// whole cuts a page so that it begins and ends with a whole character, and says where it begins.
func whole(page []byte, offset int64) (string, int64) {
	for n := 0; n < utf8.UTFMax && len(page) > 0 && !utf8.RuneStart(page[0]); n++ {
		page = page[1:]
		offset++
	}
	if cut := chars.Whole(page); len(cut) > 0 { // else there is no more than a part of a character, as a text may end
		page = cut
	}
	return string(page), offset
}

// ReadText is the whole of a text, wherever it is stored.
func ReadText(ctx context.Context, s *work.Session, t task.Text) (string, error) {
	if t.Ref == nil {
		return t.Inline, nil
	}
	var b strings.Builder
	for int64(b.Len()) < t.Ref.Size {
		page, err := s.GetPayload(ctx, *t.Ref, int64(b.Len()), readSize)
		if err != nil {
			return "", err
		}
		if len(page) == 0 {
			return "", fmt.Errorf("payload %s ends after %d of %d bytes", t.Ref.Key, b.Len(), t.Ref.Size)
		}
		b.Write(page)
	}
	return b.String(), nil
}

// shown is a text as a model is given it: whole up to InlineResult, else its first part and how to read on.
func shown(ctx context.Context, s *work.Session, t task.Text) (string, error) {
	if t.Ref == nil || t.Ref.Size <= InlineResult {
		return ReadText(ctx, s, t)
	}
	page, err := s.GetPayload(ctx, *t.Ref, 0, FirstPart)
	if err != nil {
		return "", err
	}
	first, _ := whole(page, 0)
	return t.Ref.Beginning(first), nil
}

// refused turns what the work service refuses into a result: the model asked for it. Other errors end the task.
func refused(err error) (Result, error) {
	if no, ok := errors.AsType[*work.RefusedError](err); ok {
		return Errorf("%s", no.Message), nil
	}
	return Result{}, err
}
