package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/memory"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/tools"
	"arkonis.dev/ark/pkg/work"
)

// attempt is one take-over of one task: from its journal to its end, or to being stopped on the way. It belongs to
// one goroutine; only embed is called by others, by tools that this one waits for.
type attempt struct {
	config  *Config
	session *work.Session
	task    *task.Task
	place   *place
	room    room
	log     *slog.Logger
	giveWay context.CancelCauseFunc // ends the attempt

	model     string
	prompt    string // the task's own
	tools     *tools.Set
	memory    *memory.Session // nil: none
	embedding chan struct{}   // held by the one that makes a vector

	mu        sync.Mutex // of conv and carry while tools run
	conv      *conversation
	carry     []work.Entry // applied, and to be journaled with the next batch
	replaying bool         // the pending tool calls were begun by an earlier attempt
	partial   partial      // of the last model call, while it has not ended
	answered  func()       // hears of every answer of the model
}

// newAttempt replays the journal of a session.
func (r *Runtime) newAttempt(ctx context.Context, s *work.Session, p *place, giveWay context.CancelCauseFunc, log *slog.Logger) (*attempt, error) {
	c := &r.config
	a := &attempt{config: c, session: s, task: s.Task(), place: p, giveWay: giveWay, room: r.room, log: log, tools: c.Tools, replaying: true, model: c.Model, embedding: make(chan struct{}, 1)}
	a.answered = func() { r.health.proven(time.Now(), a.model) }
	if a.task.Model != "" {
		a.model = a.task.Model
	}
	text, err := tools.ReadText(ctx, s, a.task.Prompt)
	if err != nil {
		return nil, fmt.Errorf("read the task's prompt: %w", err)
	}
	a.prompt = text
	messages, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	a.conv = newConversation(messages)
	for _, e := range s.Journal() {
		if err := a.conv.apply(e); err != nil {
			return nil, err
		}
	}
	return a, a.remember(ctx)
}

// open builds the first messages and the tools, as the task's kind wants them: a judge and a router see neither the
// agent's system prompt nor its tools.
func (a *attempt) open(ctx context.Context) ([]llm.Message, error) {
	user := llm.Message{Role: llm.RoleUser, Text: a.prompt}
	switch a.task.Kind {
	case task.KindJudge, task.KindRoute:
		none, err := tools.NewSet()
		a.tools = none
		return []llm.Message{user}, err
	case task.KindStep, task.KindDelegate:
		var more []tools.Tool
		if len(a.task.Attached) > 0 {
			more = append(more, tools.NewReadPayload(a.session))
		}
		if len(a.task.CanDelegate) > 0 {
			d := &tools.Delegation{
				Session: a.session, Roles: a.task.CanDelegate, Prompt: a.prompt, Wait: a.place.wait, Telemetry: a.config.Telemetry,
			}
			more = append(more, d.Tools()...)
		}
		if a.config.Memory != nil {
			a.memory = a.config.Memory.For(a.session, a.embed)
			more = append(more, a.memory.Tools()...)
		}
		set, err := a.tools.With(more...)
		if err == nil && a.config.Servers != nil {
			set, err = a.config.Servers.Offer(ctx, set)
		}
		if err != nil {
			return nil, task.Errorf(task.CodeBadTask, "%v", err)
		}
		a.tools = set
		return []llm.Message{{Role: llm.RoleSystem, Text: a.config.SystemPrompt}, user}, nil
	default:
		return nil, task.Errorf(task.CodeBadTask, "this agent does not know tasks of kind %q; is it older than the operator?", a.task.Kind)
	}
}

// equip gives the model a tool to read large results on, once there is one.
func (a *attempt) equip() error {
	if !a.conv.stored || a.tools.Has(task.ReadPayloadName) {
		return nil
	}
	more, err := a.tools.With(tools.NewReadPayload(a.session))
	if err != nil {
		return err
	}
	a.tools = more
	return nil
}

// put applies entries and carries them to the next batch.
func (a *attempt) put(entries ...work.Entry) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range entries {
		if err := a.conv.apply(e); err != nil {
			return err
		}
	}
	a.carry = append(a.carry, entries...)
	return nil
}

// flush journals what is carried, also when ctx just ended: what was paid for and done is not to be lost.
func (a *attempt) flush(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.carry) == 0 {
		return nil
	}
	ctx, cancel := lingering(ctx)
	defer cancel()
	if err := a.append(ctx, a.carry...); err != nil {
		return err
	}
	a.carry = nil
	return nil
}

// append journals entries in one batch. Nothing may go on without it.
func (a *attempt) append(ctx context.Context, entries ...work.Entry) error {
	return a.insist(ctx, func() error { return a.session.Reserve(ctx, a.config.Heartbeat, a.stall, entries...) })
}

// insist asks again while the work service cannot be reached.
func (a *attempt) insist(ctx context.Context, ask func() error) error {
	for tries := 1; ; tries++ {
		err := ask()
		if err == nil || !errors.Is(err, work.ErrUnavailable) {
			return err
		}
		if tries == 1 {
			a.log.WarnContext(ctx, "work service cannot be reached, trying again", "error", err)
		}
		if !sleep(ctx, a.config.Backoff.wait(tries, 0, 1)) {
			return err
		}
	}
}

// stall hears that a reservation waits for others. Only reserve appends intents, and unstalls.
func (a *attempt) stall() {
	if a.place.stall() {
		a.giveWay(errGiveWay)
	}
}

// lingerTime is how long what was done may still be recorded after a task's context ended.
const lingerTime = 5 * time.Second

// lingering is a context that ends lingerTime after ctx.
func lingering(ctx context.Context) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(lingerTime, cancel) })
	return longer, func() {
		stop()
		cancel()
	}
}

// sleep waits, and says whether ctx is still alive.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// keep journals what is carried before the task is handed back, and tells the work service that this was no crash.
// What cannot be kept is done again.
func (a *attempt) keep(ctx context.Context) {
	if a == nil {
		return
	}
	if err := a.flush(ctx); err != nil {
		a.log.WarnContext(ctx, "the last results of tools were not journaled", "error", err)
	}
	if err := a.session.Release(ctx); err != nil {
		a.log.DebugContext(ctx, "the task was not released", "error", err)
	}
}
