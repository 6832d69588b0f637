package runtime

import (
	"context"
	"fmt"
	"runtime/debug"
	"sync"

	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/telemetry"
	"arkonis.dev/ark/pkg/tools"
	"arkonis.dev/ark/pkg/work"
)

// ended is a tool call that came back.
type ended struct {
	call   toolCall
	result tools.Result
	err    error
}

// runTools runs the pending calls of the last answer, all at once. A result is journaled while other calls still run;
// the last ones go into one batch with the next intent.
func (a *attempt) runTools(ctx context.Context) error {
	pending := a.conv.pending()
	if len(pending) == 0 {
		return nil
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	replayed := a.replaying
	a.place.begin(len(pending))
	results := make(chan ended, len(pending))
	var group sync.WaitGroup
	for _, call := range pending {
		group.Go(func() {
			defer a.place.end()
			result, err := a.runTool(ctx, call, replayed)
			results <- ended{call, result, err}
		})
	}
	defer group.Wait()
	return a.collect(ctx, cancel, results, len(pending))
}

// collect takes in the results of n calls. After an error it stops the other calls and still takes in what they did.
func (a *attempt) collect(ctx context.Context, stop context.CancelFunc, results <-chan ended, n int) error {
	var failure error
	for n > 0 {
		batch := []ended{<-results}
		for len(results) > 0 {
			batch = append(batch, <-results)
		}
		n -= len(batch)
		for _, e := range batch {
			if err := a.takeIn(ctx, e); err != nil && failure == nil {
				failure = err
				stop()
			}
		}
		if n > 0 && failure == nil {
			if failure = a.flush(ctx); failure != nil {
				stop()
			}
		}
	}
	return failure
}

// runTool runs one call. A panic anywhere in it goes to the model as a failure of this call.
func (a *attempt) runTool(ctx context.Context, t toolCall, replayed bool) (result tools.Result, err error) {
	ctx, span := a.config.Telemetry.StartTool(ctx, telemetry.Tool{
		Name: a.toolName(t.call), CallID: t.id, Agent: a.task.Agent, Arguments: func() string { return t.call.Arguments },
	})
	defer func() {
		if v := recover(); v != nil {
			a.log.ErrorContext(ctx, "tool panicked", "tool", t.call.Name, "panic", v, "stack", string(debug.Stack()))
			result, err = tools.Errorf("%s failed internally; whether the call was carried out is unknown", t.call.Name), nil
		}
		span.Finish(ctx, errorType(result, err), func() string { return result.Text })
	}()
	invocation := a.tools.Prepare(t.call)
	if replayed && !invocation.Safe() {
		return tools.Errorf("the outcome of this call of %s is unknown: the agent was interrupted while it ran, and the "+
			"call may or may not have been carried out. It was not repeated. Find out before you call it again.", t.call.Name), nil
	}
	a.tell(ctx, queue.Progress{Event: queue.EventTool, Tool: t.call.Name})
	defer a.tell(ctx, queue.Progress{Event: queue.EventToolDone, Tool: t.call.Name})
	return invocation.Call(ctx, a.task.ID, t.id)
}

// toolName is the tool's name for telemetry; names that a model made up would have no bound.
func (a *attempt) toolName(call llm.ToolCall) string {
	if a.tools.Has(call.Name) {
		return call.Name
	}
	return "unknown"
}

func errorType(result tools.Result, err error) string {
	switch {
	case err != nil:
		return "interrupted"
	case result.IsError:
		return "tool_error"
	default:
		return ""
	}
}

// takeIn puts a result into the journal's next batch. A long one is stored; the model gets its first part and how to
// read on.
func (a *attempt) takeIn(ctx context.Context, e ended) error {
	if e.err != nil {
		return e.err
	}
	text := e.result.Text
	if len(text) > tools.InlineResult {
		stored, err := a.session.PutPayload(ctx, text)
		if err != nil {
			return fmt.Errorf("store the result of %s: %w", e.call.call.Name, err)
		}
		text = stored.Ref.Beginning(chars.Head(text, tools.FirstPart))
	}
	return a.put(work.Entry{ToolEnd: &work.ToolEnd{ID: e.call.id, Text: text, IsError: e.result.IsError}})
}
