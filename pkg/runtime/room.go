package runtime

import (
	"context"
	"runtime/debug"

	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/llm"
)

// room is the memory of a process for answers above llm.SmallAnswer. There is room for one at a time, however many tasks
// run at once: others wait, and their servers with them, until it is stored.
type room chan struct{}

func newRoom() room { return make(room, 1) }

// visit is one call's stay in a room. It belongs to one goroutine.
type visit struct {
	room    room
	entered bool
}

// enter waits for the room; it is llm.Request's Room.
func (v *visit) enter(ctx context.Context) error {
	select {
	case v.room <- struct{}{}:
		v.entered = true
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// settle frees what it took to read the answer, so that storing it does not come on top.
func (v *visit) settle() {
	if v.entered {
		debug.FreeOSMemory()
	}
}

// leave gives the room up, if the call has it. Nothing may hold the answer any more: its memory is free for the next one,
// or goes back to the system.
func (v *visit) leave() {
	if v.entered {
		debug.FreeOSMemory()
		<-v.room
	}
}

// partial is the beginning of an answer that streams: what is left of a call that does not end.
type partial struct {
	text []byte
	size int
}

// maxPartial is how much of such an answer is kept, in bytes.
const maxPartial = llm.SmallAnswer / 8

func (p *partial) add(text string) {
	p.size += len(text)
	if free := maxPartial - len(p.text); free > 0 {
		p.text = append(p.text, text[:min(free, len(text))]...)
	}
}

func (p *partial) reset() { *p = partial{} }

// String is the partial answer.
func (p *partial) String() string {
	if p.size == len(p.text) {
		return string(p.text)
	}
	return string(chars.Whole(p.text))
}
