package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"

	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/telemetry"
	"arkonis.dev/ark/pkg/tools"
	"arkonis.dev/ark/pkg/work"
)

// converse runs the turn loop until the model answers without calling tools.
func (a *attempt) converse(ctx context.Context) error {
	for {
		if a.conv.final != nil {
			return a.judgeFinal()
		}
		if a.conv.turns >= a.config.Limits.MaxTurns {
			return task.Errorf(task.CodeMaxTurns,
				"the model still called tools after %d turns; raise limits.maxTurns, or tell it in its prompt when to stop", a.conv.turns)
		}
		if err := a.equip(); err != nil {
			return err
		}
		if err := a.runTools(ctx); err != nil {
			return err
		}
		if err := a.equip(); err != nil {
			return err
		}
		if err := a.callModel(ctx); err != nil {
			return err
		}
	}
}

// judgeFinal says whether the last answer is a whole one.
func (a *attempt) judgeFinal() error {
	if a.conv.final.Finish == llm.FinishLength {
		return task.Errorf(task.CodeTruncated,
			"the answer was cut at %d tokens; raise limits.maxTokensPerCall, or ask for less", a.config.Limits.MaxTokensPerCall)
	}
	return nil
}

func (a *attempt) request() llm.Request {
	return llm.Request{
		Model:        a.model,
		Messages:     a.conv.messages,
		Tools:        a.tools.Specs(),
		Schema:       a.task.OutputSchema,
		MaxTokens:    a.config.Limits.MaxTokensPerCall,
		Temperature:  a.config.Temperature,
		TopP:         a.config.TopP,
		Key:          fmt.Sprintf("%s-%d", a.task.ID, a.conv.nextCall),
		Purpose:      purpose(a.task.Kind),
		Capabilities: a.task.Capabilities,
		Agent:        a.task.Agent,
	}
}

func purpose(k task.Kind) string {
	if k == task.KindDelegate {
		return string(task.KindStep)
	}
	return string(k)
}

// callModel makes one call, and where it fails in a way that may pass, another, each with its own reservation and
// intent. It returns with the answer in the journal.
func (a *attempt) callModel(ctx context.Context) error {
	for failed := 0; ; {
		req := a.request()
		intent := &work.Intent{Call: a.conv.nextCall, Reserve: llm.InputBound(req) + req.MaxTokens, Model: req.Model}
		if err := a.reserve(ctx, intent); err != nil {
			return err
		}
		a.tell(ctx, queue.Progress{Event: queue.EventCall})
		failure, err := a.ask(ctx, req, intent)
		if failure == nil {
			return err
		}
		if err := a.put(failedEntries(intent, failure)...); err != nil {
			return err
		}
		if failure.Fallback && ctx.Err() == nil {
			continue // the refusal and the next intent go into one batch
		}
		if err := a.flush(ctx); err != nil {
			return err
		}
		failed++
		if err := a.pause(ctx, failure, failed); err != nil {
			return err
		}
	}
}

// ask makes a call whose intent is stored, and journals its answer. failure is that of the call.
func (a *attempt) ask(ctx context.Context, req llm.Request, intent *work.Intent) (failure *llm.Error, err error) {
	v := &visit{room: a.room}
	defer v.leave()
	req.Room = v.enter
	a.partial.reset()
	resp, failure := a.config.chat(ctx, a.task.ID, req, a.chunk(ctx, intent.Call))
	v.settle()
	if failure != nil {
		return failure, nil
	}
	a.partial.reset()
	a.answered()
	return nil, a.journalAnswer(ctx, intent, resp)
}

// reserve journals the intent of the next call together with what is carried. One that was stored although its time was over
// is given back: the call is not made, and nobody is to wait for its end or to pay for it.
func (a *attempt) reserve(ctx context.Context, intent *work.Intent) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	entry := work.Entry{Intent: intent}
	err := a.append(ctx, append(a.carry, entry)...)
	back := a.place.unstall(ctx)
	if _, refused := errors.AsType[*work.BudgetError](err); refused {
		a.config.Telemetry.BudgetRefused(ctx, a.task.Agent)
	}
	if err != nil {
		if ctx.Err() != nil {
			a.giveBack(ctx)
		}
		return err
	}
	a.carry = nil
	if err := a.conv.apply(entry); err != nil || back == nil {
		return err
	}
	unused := work.Entry{Failed: &work.CallFailed{Call: intent.Call, Code: task.CodeCancelled, Message: "the call was not made: its task ended before it had its place again"}}
	if err := a.conv.apply(unused); err != nil {
		return err
	}
	a.carry = append(a.carry, unused)
	a.giveBack(ctx)
	return back
}

// giveBack journals what is carried without the intent that was to follow it.
func (a *attempt) giveBack(ctx context.Context) {
	ctx, cancel := lingering(ctx)
	defer cancel()
	if err := a.append(ctx, a.carry...); err != nil {
		a.log.WarnContext(ctx, "a reservation was perhaps not given back", "error", err)
		return
	}
	a.carry = nil
}

// failedEntries are the entries of a failed call: charged with what the server said it used, in full when nobody knows
// what it did, and not at all when it surely did nothing.
func failedEntries(intent *work.Intent, failure *llm.Error) []work.Entry {
	f := &work.CallFailed{Call: intent.Call, Code: failure.Code, Message: failure.Message, Unknown: failure.Unknown && failure.Usage == nil}
	switch {
	case failure.Usage != nil:
		f.Usage = *failure.Usage
		f.Charged = failure.Usage.Total()
	case failure.Unknown:
		f.Charged = intent.Reserve
	}
	entries := []work.Entry{{Failed: f}}
	if failure.Note != "" {
		entries = append(entries, work.Entry{Note: failure.Note})
	}
	return entries
}

// journalAnswer settles the call and records its answer, and the start of each tool call that it asks for.
func (a *attempt) journalAnswer(ctx context.Context, intent *work.Intent, resp *llm.Response) error {
	stored, err := a.storeLarge(ctx, resp)
	if err != nil {
		return a.lose(ctx, intent, resp, err)
	}
	body, err := json.Marshal(stored)
	if err != nil {
		return fmt.Errorf("journal the answer: %w", err)
	}
	entries := []work.Entry{{Answer: &work.Answer{Call: intent.Call, Response: body, Usage: resp.Usage}}}
	for i, call := range resp.Message.ToolCalls {
		entries = append(entries, work.Entry{ToolStart: &work.ToolStart{ID: toolID(intent.Call, i), Name: call.Name}})
	}
	if err := a.put(entries...); err != nil {
		return err
	}
	a.replaying = false
	return a.flush(ctx)
}

// inlineAnswer is the size in bytes up to which the text of an answer stands in the journal, and goes to the model whole in
// later turns.
const inlineAnswer = 1 << 20

// storeLarge is an answer as the journal has it: a text above inlineAnswer is a payload, which serves for the task's result
// too.
func (a *attempt) storeLarge(ctx context.Context, resp *llm.Response) (*answerBody, error) {
	text := resp.Message.Text
	if len(text) <= inlineAnswer {
		return &answerBody{Response: *resp}, nil
	}
	ctx, cancel := lingering(ctx)
	defer cancel()
	var stored task.Text
	err := a.insist(ctx, func() (err error) {
		stored, err = a.session.PutPayload(ctx, text)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("store the answer: %w", err)
	}
	body := &answerBody{Response: *resp, Whole: stored.Ref}
	body.Message.Text = chars.Head(text, tools.FirstPart)
	body.Message.Signed = nil // it goes with the whole text
	return body, nil
}

// lose accounts for an answer that could not be stored: it is paid for and lost.
func (a *attempt) lose(ctx context.Context, intent *work.Intent, resp *llm.Response, cause error) error {
	failed := &work.CallFailed{Call: intent.Call, Code: task.CodeInternal, Message: cause.Error(), Usage: resp.Usage, Charged: resp.Usage.Total()}
	if err := a.put(work.Entry{Failed: failed}); err != nil {
		return err
	}
	if err := a.flush(ctx); err != nil {
		return err
	}
	if refused, ok := errors.AsType[*work.RefusedError](cause); ok {
		return task.Errorf(task.CodeInternal, "the answer of agent %s has %d bytes and cannot be stored: %s; ask it for less",
			a.task.Agent, len(resp.Message.Text), refused.Message)
	}
	return cause
}

// pause waits before another attempt, or says why there is none.
func (a *attempt) pause(ctx context.Context, failure *llm.Error, failed int) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !failure.Retry || a.conv.empty >= emptyAnswers {
		return &task.Error{Code: failure.Code, Message: failure.Message}
	}
	wait := a.config.Backoff.wait(failed, failure.RetryAfter, rand.Float64())
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) <= wait {
		return task.Errorf(failure.Code, "%s (after %d attempts; the task's time does not allow another)", failure.Message, failed)
	}
	a.tell(ctx, queue.Progress{Event: queue.EventWait, Why: fmt.Sprintf("%s: %s; attempt %d in %s",
		failure.Code, chars.Head(failure.Message, maxMessage), failed+1, max(wait.Round(100*time.Millisecond), 100*time.Millisecond))})
	a.log.InfoContext(ctx, "model call failed, trying again", "code", failure.Code, "attempt", failed, "wait", wait, "error", failure.Message)
	if !sleep(ctx, wait) {
		return context.Cause(ctx)
	}
	return nil
}

// chat makes a call. A panic of the provider is an error of this call, of unknown outcome.
func (c *Config) chat(ctx context.Context, taskID string, req llm.Request, onChunk func(llm.Chunk)) (resp *llm.Response, failure *llm.Error) {
	ctx, span := c.Telemetry.StartChat(ctx, telemetry.Chat{
		Provider: c.Provider.Name(), Model: req.Model, Agent: req.Agent, Task: taskID,
		MaxTokens: req.MaxTokens, Temperature: req.Temperature, TopP: req.TopP,
		Messages: func() string { return text(req.Messages) },
	})
	defer func() {
		if v := recover(); v != nil {
			c.Logger.ErrorContext(ctx, "provider panicked", "task", taskID, "panic", v, "stack", string(debug.Stack()))
			resp, failure = nil, unknownOutcome(fmt.Errorf("the %s provider failed internally: %v", c.Provider.Name(), v))
		}
		span.Finish(ctx, chatEnd(resp, failure))
	}()
	resp, err := c.Provider.Chat(ctx, req, onChunk)
	if err == nil && saysNothing(resp) {
		return nil, &llm.Error{
			Code: task.CodeEmptyAnswer, Retry: true, Usage: &resp.Usage,
			Message: fmt.Sprintf("model %s answered with neither text nor a tool call; tell it in its prompt how to answer, or take another model", req.Model),
		}
	}
	if err == nil {
		return resp, nil
	}
	if known, ok := errors.AsType[*llm.Error](err); ok {
		return nil, known
	}
	return nil, unknownOutcome(err)
}

// emptyAnswers is how often in a row a model may say nothing before its task fails. It is paid for each time.
const emptyAnswers = 3

// saysNothing says whether an answer that is whole has nothing in it that could be given on: thoughts are none.
func saysNothing(r *llm.Response) bool {
	return r.Finish != llm.FinishLength && len(r.Message.ToolCalls) == 0 && strings.TrimSpace(r.Message.Text) == ""
}

func unknownOutcome(err error) *llm.Error {
	return &llm.Error{Code: task.CodeInternal, Message: err.Error(), Unknown: true, Err: err}
}

func chatEnd(resp *llm.Response, failure *llm.Error) telemetry.ChatEnd {
	if failure != nil {
		return telemetry.ChatEnd{ErrorType: string(failure.Code), Message: failure.Message}
	}
	return telemetry.ChatEnd{
		Model: resp.Model, ID: resp.ID, Finish: string(resp.Finish), Usage: usage(resp.Usage),
		Answer: func() string {
			m := resp.Message
			m.Text = chars.Head(m.Text, inlineAnswer)
			return text(m)
		},
	}
}

func usage(u task.Usage) telemetry.Usage {
	return telemetry.Usage{Input: u.InputTokens, Output: u.OutputTokens, Cached: u.CachedTokens, Reasoning: u.ReasoningTokens}
}

// text is a value as JSON, for telemetry.
func text(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}
