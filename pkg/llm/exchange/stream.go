package exchange

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

var (
	// ErrNoAnswer says that what arrived is no answer of the protocol.
	ErrNoAnswer = errors.New("not an answer of a model")

	errCut = errors.New("the answer ends in the middle")
)

const headLimit = 2 << 10 // bytes of a body kept for the error's excerpt

// reader reads one response body into an answer, whichever form the server chose: server-sent events or one object.
type reader struct {
	br      *bufio.Reader
	line    []byte
	pending []byte // data lines of an event that is not yet whole
	head    []byte // the beginning of the body, for errors
	answer  Answer
	// finished is called once, when the finish reason has arrived.
	finished func()
}

func newReader(r io.Reader, a Answer, finished func()) *reader {
	return &reader{br: bufio.NewReaderSize(r, 16<<10), answer: a, finished: finished}
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
		if !r.answer.Begun() && len(bytes.TrimSpace(r.head)) > 0 && !r.sawData() {
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
	b, err := io.ReadAll(io.LimitReader(r.br, 2*MaxAnswer+1))
	r.keepHead(b)
	switch {
	case errors.Is(err, ErrTooMuch), len(b) > 2*MaxAnswer:
		return ErrTooMuch
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
	if len(r.pending)+len(value) > MaxAnswer {
		return false, ErrTooMuch
	}
	r.pending = append(append(r.pending, value...), '\n')
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
	before := r.answer.Finished()
	if done, err = r.answer.Add(b); err != nil {
		return false, err
	}
	if !before && r.answer.Finished() {
		r.finished()
	}
	return done, nil
}

// readLine reads a line with its end; the slice is good until the next call. The error io.EOF comes with the rest.
func (r *reader) readLine() ([]byte, error) {
	r.line = r.line[:0]
	for {
		b, err := r.br.ReadSlice('\n')
		if len(r.line) == 0 && err == nil {
			return b, nil
		}
		if len(r.line)+len(b) > MaxAnswer {
			return nil, fmt.Errorf("read a line: %w", ErrTooMuch)
		}
		r.line = append(r.line, b...)
		if !errors.Is(err, bufio.ErrBufferFull) {
			return r.line, err
		}
	}
}

func (r *reader) keepHead(b []byte) {
	if room := headLimit - len(r.head); room > 0 {
		r.head = append(r.head, b[:min(room, len(b))]...)
	}
}
