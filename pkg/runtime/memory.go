package runtime

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime/debug"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/telemetry"
	"arkonis.dev/ark/pkg/work"
)

// openingID names the entry of a journal that holds what a task remembered before its first turn, as if a tool had
// returned it: whoever takes the task over goes on with the same words.
const openingID = "memory-opening"

// remember puts what the agent remembers before the task's prompt. A task that has had a turn keeps what it began with.
func (a *attempt) remember(ctx context.Context) error {
	if a.memory == nil || a.conv.opened || a.conv.turns > 0 {
		return nil
	}
	opening := a.memory.Open(ctx, a.prompt)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if opening.Note != "" {
		return a.put(work.Entry{Note: opening.Note})
	}
	if opening.Text == "" {
		return nil
	}
	return a.put(work.Entry{ToolEnd: &work.ToolEnd{ID: openingID, Text: opening.Text}})
}

// leave prepares what the task leaves behind in its memory. The returned function, nil for nothing, stores it right
// before the task's result is stored.
func (a *attempt) leave(ctx context.Context) (keep func(context.Context)) {
	if a.memory == nil {
		return nil
	}
	return a.memory.Close(ctx, a.prompt, a.conv.text)
}

// watchMemory has the state of the memory among the metrics.
func (r *Runtime) watchMemory() (stop func(), err error) {
	m := r.config.Memory
	if m == nil {
		return func() {}, nil
	}
	unregister, err := r.config.Telemetry.WatchMemory(r.config.Agent, string(m.Config().Backend), func() telemetry.Memory {
		s := m.Status()
		return telemetry.Memory{Healthy: s.Healthy, Operations: s.Operations, Failures: s.Failures}
	})
	if err != nil {
		return nil, fmt.Errorf("show the memory among the metrics: %w", err)
	}
	return func() { _ = unregister() }, nil // it never fails
}

// embed makes a vector for the task's memory: a model call like every other one, with a reservation, an intent and an
// answer in the journal. One that is in the journal is not made again. Tools that run at once take turns.
func (a *attempt) embed(ctx context.Context, key, text string) ([]float32, error) {
	select {
	case a.embedding <- struct{}{}:
		defer func() { <-a.embedding }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	call, known := a.nextVector(key)
	if known != nil {
		return known, nil
	}
	c := a.config.Memory.Config().Embedding
	req := llm.EmbedRequest{
		Model: c.Model, Texts: []string{text}, Dimensions: c.Dimensions, Key: fmt.Sprintf("%s-%d", a.task.ID, call),
	}
	intent := &work.Intent{Call: call, Reserve: llm.EmbedBound(req), Model: req.Model}
	if err := a.reserve(ctx, intent); err != nil {
		a.skipCall(call)
		return nil, err
	}
	resp, failure := a.config.embed(ctx, a.task, req)
	if failure != nil {
		return nil, errors.Join(failure, a.put(failedEntries(intent, failure)...), a.flush(ctx))
	}
	body, err := json.Marshal(answerBody{Vector: &vector{Key: key, Values: packed(resp.Vectors[0])}})
	if err == nil {
		err = a.put(work.Entry{Answer: &work.Answer{Call: call, Response: body, Usage: resp.Usage}})
	}
	if err == nil {
		err = a.flush(ctx)
	}
	if err != nil {
		return nil, fmt.Errorf("journal a vector: %w", err)
	}
	return resp.Vectors[0], nil
}

// nextVector is the vector of a key, if it was made already, else the number of the call that makes it.
func (a *attempt) nextVector(key string) (call int, known []float32) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.conv.nextCall, a.conv.vectors[key]
}

// skipCall leaves the number of a call out that was not made. Its intent may have been stored all the same: it is given
// back then, and its number is used up.
func (a *attempt) skipCall(call int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.conv.nextCall = max(a.conv.nextCall, call+1)
}

// embed makes a call. A panic of the provider is an error of this call, of unknown outcome.
func (c *Config) embed(ctx context.Context, t *task.Task, req llm.EmbedRequest) (resp *llm.EmbedResponse, failure *llm.Error) {
	ctx, span := c.Telemetry.StartChat(ctx, telemetry.Chat{
		Operation: telemetry.Embeddings, Provider: c.Embedder.Name(), Model: req.Model, Agent: t.Agent, Task: t.ID,
	})
	defer func() {
		if v := recover(); v != nil {
			c.Logger.ErrorContext(ctx, "provider panicked", "task", t.ID, "panic", v, "stack", string(debug.Stack()))
			resp, failure = nil, unknownOutcome(fmt.Errorf("the %s provider failed internally: %v", c.Embedder.Name(), v))
		}
		span.Finish(ctx, embedEnd(resp, failure))
	}()
	resp, err := c.Embedder.Embed(ctx, req)
	if err == nil {
		return resp, nil
	}
	if known, ok := errors.AsType[*llm.Error](err); ok {
		return nil, known
	}
	return nil, unknownOutcome(err)
}

func embedEnd(resp *llm.EmbedResponse, failure *llm.Error) telemetry.ChatEnd {
	if failure != nil {
		return telemetry.ChatEnd{ErrorType: string(failure.Code), Message: failure.Message}
	}
	return telemetry.ChatEnd{Model: resp.Model, Usage: usage(resp.Usage)}
}

// answerBody is the answer to a model call in the journal: that of a chat, or a vector.
type answerBody struct {
	llm.Response
	// Whole is where the text is when it is a large one; the message has its beginning then.
	Whole  *task.Ref `json:"whole,omitempty"`
	Vector *vector   `json:"vector,omitempty"`
}

// vector is what an embedding call returned.
type vector struct {
	Key    string `json:"key"`    // what it was made for, within the task
	Values []byte `json:"values"` // 32-bit floats, the least significant byte first
}

func packed(v []float32) []byte {
	b := make([]byte, 0, 4*len(v))
	for _, x := range v {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}

func unpacked(b []byte) []float32 {
	v := make([]float32, 0, len(b)/4)
	for ; len(b) >= 4; b = b[4:] {
		v = append(v, math.Float32frombits(binary.LittleEndian.Uint32(b)))
	}
	return v
}
