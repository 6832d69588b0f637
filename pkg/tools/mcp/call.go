package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/tools"
)

// tool is one tool of a server under the name that models know it by.
type tool struct {
	server *server
	listed listed
	spec   llm.Tool
}

var _ tools.Tool = (*tool)(nil)

// Spec is what the model sees.
func (t *tool) Spec() llm.Tool { return t.spec }

// Safe is true for tools that the server says only read or do the same when called twice, and for all tools of a
// server that is configured so.
func (t *tool) Safe() bool { return t.listed.safe }

// Call makes the call. What goes wrong is a result that tells the model; an error is only ever the context's.
func (t *tool) Call(ctx context.Context, call tools.Call) (tools.Result, error) {
	bounded, cancel := context.WithTimeout(ctx, t.server.config.CallTimeout)
	defer cancel()
	raw, err := t.attempts(bounded, call)
	switch {
	case err == nil:
		return render(raw, t.server.config.Name), nil
	case ctx.Err() != nil:
		return tools.Result{}, context.Cause(ctx)
	default:
		return t.told(bounded, err), nil
	}
}

// How often a call is repeated by itself.
const (
	maxAttempts    = 8
	pauseOfAttempt = 50 * time.Millisecond
)

// attempts makes the call, again and again as far as that is harmless.
func (t *tool) attempts(ctx context.Context, call tools.Call) (json.RawMessage, error) {
	for n := 1; ; n++ {
		raw, err := t.attempt(ctx, call)
		var f *failure
		if err == nil || !errors.As(err, &f) || ctx.Err() != nil {
			return raw, err
		}
		again := f.outcome == notDone || f.outcome == unknown && t.Safe()
		if !again || n == maxAttempts || !pause(ctx, jitter(time.Duration(n-1)*pauseOfAttempt)) {
			return nil, err
		}
	}
}

func (t *tool) attempt(ctx context.Context, call tools.Call) (json.RawMessage, error) {
	s, err := t.server.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer t.server.release(s)
	x := &exchange{idempotencyKey: call.IdempotencyKey(), safe: t.Safe()}
	raw, err := s.conn.call(ctx, x, request{tool: t.listed.name, args: call.Args})
	var f *failure
	if errors.As(err, &f) && ctx.Err() != nil {
		// The caller gave up; that says nothing about the connection.
		return nil, &lateError{sent: f.outcome != notDone}
	}
	if f != nil && f.lost {
		s.life.end(f)
	}
	if err == nil {
		s.served.Store(true)
	}
	return raw, err
}

// lateError is a call whose time ran out.
type lateError struct{ sent bool }

func (e *lateError) Error() string { return "the time is over" }

// absentError is a server that cannot be reached.
type absentError struct{ problem string }

func (e *absentError) Error() string { return e.problem }

// told is what the model hears of a call that brought no result.
func (t *tool) told(ctx context.Context, err error) tools.Result {
	name, wait := t.server.config.Name, t.server.config.CallTimeout
	var f *failure
	var late *lateError
	var absent *absentError
	switch {
	case errors.As(err, &absent):
		return tools.Errorf("the tool server %s cannot be reached: %s. The call was not made. Go on without it, or try again later.",
			name, absent.problem)
	case errors.As(err, &late) && late.sent:
		return tools.Errorf("the tool server %s gave no answer within %s; whether the call was carried out is unknown.%s",
			name, wait, t.advice())
	case errors.As(err, &late), ctx.Err() != nil:
		return tools.Errorf("the tool server %s could not be reached within %s. The call was not made.", name, wait)
	case errors.As(err, &f) && f.outcome == unknown:
		return tools.Errorf("the connection to the tool server %s broke during the call (%s); whether it was carried out is unknown.%s",
			name, t.server.creds.wording(f.cause), t.advice())
	case errors.As(err, &f) && f.outcome == notDone:
		return tools.Errorf("the tool server %s did not take the call: %s. It was not carried out.", name, t.server.creds.wording(f.cause))
	default:
		return tools.Errorf("the call of the tool server %s failed: %s", name, t.server.creds.wording(err))
	}
}

func (t *tool) advice() string {
	if t.Safe() {
		return " It may be called again."
	}
	return " Find out before you call it again."
}
