package exchange

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"arkonis.dev/ark/pkg/llm"
)

var (
	// ErrNoAnswer says that what arrived is no answer of the protocol.
	ErrNoAnswer = errors.New("not an answer of a model")

	errCut = errors.New("the answer ends in the middle")
)

const (
	headLimit = 2 << 10  // bytes of a body kept for the error's excerpt
	keepLine  = 1 << 20  // bytes of a line whose memory serves for the next one
	readSize  = 64 << 10 // bytes read at once
)

// reader reads one response body into an answer, whichever form the server chose: server-sent events or one object.
type reader struct {
	body    *body
	br      *bufio.Reader
	line    []byte
	pending []byte // data lines of an event that is not yet whole
	head    []byte // the beginning of the body, for errors
	answer  Answer
	// finished is called once, when the finish reason has arrived.
	finished func()
	// room waits until there is room for an answer that is not small; nil: such an answer is too much. It is called
	// once, before more than that is held.
	room  func() error
	roomy bool // it was called
}

func newReader(b *body, a Answer, finished func()) *reader {
	return &reader{body: b, br: bufio.NewReaderSize(b, 16<<10), answer: a, finished: finished}
}

// read reads until the answer is whole. Once a finish reason is there, a connection that breaks only costs the usage.
func (r *reader) read() error {
	first, err := r.firstByte()
	if err == nil && first == '{' {
		return r.object()
	}
	for err == nil {
		var done bool
		if done, err = r.next(); done {
			return r.end(nil)
		}
	}
	return r.end(err)
}

func (r *reader) end(err error) error {
	_, told := errors.AsType[*Said](err)
	switch {
	case told, errors.Is(err, ErrTooMuch), errors.Is(err, ErrNoAnswer):
		return err
	case r.answer.Finished():
		return nil
	case err == nil, errors.Is(err, io.EOF):
		if r.answer.Size() == 0 && len(bytes.TrimSpace(r.head)) > 0 && !r.sawData() {
			return ErrNoAnswer
		}
		return errCut
	default:
		return err
	}
}

func (r *reader) sawData() bool { return bytes.Contains(r.head, []byte("data:")) }

// firstByte looks at the first byte that is no space, after a byte order mark if there is one.
func (r *reader) firstByte() (byte, error) {
	for {
		b, err := r.br.ReadByte()
		if err != nil {
			return 0, err
		}
		switch b {
		case ' ', '\t', '\r', '\n', 0xef, 0xbb, 0xbf:
			continue
		}
		return b, r.br.UnreadByte()
	}
}

// object reads an answer that did not stream.
func (r *reader) object() error {
	b, err := r.readAll()
	r.keepHead(b)
	switch {
	case errors.Is(err, ErrTooMuch):
		return err
	case err != nil && !json.Valid(b):
		return err
	case !json.Valid(b):
		var syntax *json.SyntaxError
		if e := json.Unmarshal(b, new(json.RawMessage)); errors.As(e, &syntax) && int(syntax.Offset) >= len(b) {
			return errCut
		}
		return ErrNoAnswer
	}
	if _, err := r.answer.Add(b); err != nil {
		return err
	}
	if !r.answer.Finished() {
		return errCut
	}
	return nil
}

// readAll reads to the end.
func (r *reader) readAll() (b []byte, err error) {
	part := make([]byte, readSize)
	for {
		n, readErr := r.br.Read(part)
		if b, err = r.join(b, part[:n]); err != nil {
			return nil, err
		}
		if errors.Is(readErr, io.EOF) {
			return b, nil
		}
		if readErr != nil {
			return b, readErr
		}
	}
}

// next takes in one line of an event stream. done is the server's own mark of the end. What is left when the
// connection ends counts if it is whole: a JSON object shows that by itself.
func (r *reader) next() (done bool, err error) {
	line, readErr := r.readLine()
	r.keepHead(line)
	name, value, _ := bytes.Cut(bytes.TrimRight(line, "\r\n"), []byte(":"))
	value = bytes.TrimPrefix(value, []byte(" "))
	switch {
	case len(bytes.TrimSpace(line)) == 0:
		done, err = r.dispatch()
	case string(name) == "data" && len(r.pending) == 0 && bytes.HasPrefix(value, []byte("[DONE]")):
		return true, nil
	case string(name) == "data":
		done, err = r.data(value)
	}
	if readErr == nil || done || err != nil {
		return done, err
	}
	if done, err = r.dispatch(); !done && err == nil || errors.Is(err, ErrNoAnswer) {
		err = readErr // the last event has lost its end
	}
	return done, err
}

// data takes in one data line. Nearly always it is a whole piece.
func (r *reader) data(value []byte) (done bool, err error) {
	if len(r.pending) == 0 && json.Valid(value) {
		return r.add(value)
	}
	for _, b := range [][]byte{value, {'\n'}} {
		if r.pending, err = r.join(r.pending, b); err != nil {
			return false, err
		}
	}
	return false, nil
}

func (r *reader) dispatch() (done bool, err error) {
	if len(bytes.TrimSpace(r.pending)) == 0 {
		r.pending = r.pending[:0]
		return false, nil
	}
	b := r.pending
	r.pending = nil
	return r.add(b)
}

func (r *reader) add(b []byte) (done bool, err error) {
	before, size := r.answer.Finished(), r.answer.Size()
	if done, err = r.answer.Add(b); err != nil {
		return false, err
	}
	r.body.left += bodyPerByte * int64(r.answer.Size()-size)
	if r.answer.Size() > llm.SmallAnswer {
		if err := r.grow(); err != nil {
			return false, err
		}
	}
	if !before && r.answer.Finished() {
		r.finished()
	}
	return done, nil
}

// readLine reads a line with its end; the slice is good until the next call. The error io.EOF comes with the rest.
func (r *reader) readLine() ([]byte, error) {
	if r.line = r.line[:0]; cap(r.line) > keepLine {
		r.line = nil
	}
	for {
		b, err := r.br.ReadSlice('\n')
		if len(r.line) == 0 && err == nil {
			return b, nil
		}
		var full error
		if r.line, full = r.join(r.line, b); full != nil {
			return nil, full
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return r.line, err
		}
	}
}

// join adds to a piece, within its bound. A large one is given all its memory at once: to grow step by step would take
// several times as much, and what is not written to costs nothing.
func (r *reader) join(piece, b []byte) ([]byte, error) {
	switch n := len(piece) + len(b); {
	case n > MaxPiece:
		return nil, &Excess{Of: fmt.Sprintf("%d MiB in one piece", MaxPiece>>20)}
	case n > llm.SmallAnswer && n > cap(piece):
		if err := r.grow(); err != nil {
			return nil, err
		}
		piece = append(make([]byte, 0, MaxPiece), piece...)
	}
	return append(piece, b...), nil
}

// grow waits for the room that a large answer needs, unless there is some.
func (r *reader) grow() error {
	if r.roomy {
		return nil
	}
	if r.room == nil {
		return &Excess{Of: fmt.Sprintf("%d MiB, where no long answer is asked for", llm.SmallAnswer>>20)}
	}
	r.roomy = true
	r.body.left += MaxPiece
	return r.room()
}

func (r *reader) keepHead(b []byte) {
	if room := headLimit - len(r.head); room > 0 {
		r.head = append(r.head, b[:min(room, len(b))]...)
	}
}
