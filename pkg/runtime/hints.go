package runtime

import (
	"context"
	"time"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// maxHint is how large a piece of an answer may be that is passed on, in bytes. One that is larger does not stream.
const maxHint = 256 << 10

// chunk passes a streamed answer on, and keeps its beginning: it is the partial answer of a call that does not end.
func (a *attempt) chunk(ctx context.Context, call int) func(llm.Chunk) {
	return func(c llm.Chunk) {
		if c.Text == "" {
			return
		}
		a.partial.add(c.Text)
		if a.config.NoChunks || len(c.Text) > maxHint {
			return
		}
		if err := a.config.Queue.HintChunk(queue.KeyOf(a.task), queue.Chunk{Step: a.step(), Call: call, Text: c.Text}); err != nil {
			a.log.DebugContext(ctx, "chunk was not passed on", "error", err)
		}
	}
}

// tell passes news of the task to whoever looks on; nothing depends on it.
func (a *attempt) tell(ctx context.Context, p queue.Progress) {
	if a.config.NoProgress {
		return
	}
	p.Step, p.Pod, p.At = a.step(), a.config.Pod, time.Now().UTC()
	if err := a.config.Queue.HintProgress(queue.KeyOf(a.task), p); err != nil {
		a.log.DebugContext(ctx, "progress was not told", "error", err)
	}
}

// step is the step that the task itself is, empty if it is something else.
func (a *attempt) step() string {
	if a.task.Kind == task.KindStep {
		return a.task.Step
	}
	return ""
}
