package runtime

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"go.opentelemetry.io/otel/trace"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/telemetry"
	"arkonis.dev/ark/pkg/work"
)

// outcome is what becomes of a delivery. Exactly one field is set, and keep perhaps beside result.
type outcome struct {
	result   *task.Result          // publish it, then acknowledge
	keep     func(context.Context) // before that: what is remembered of the task
	done     bool                  // there is a result already: acknowledge
	lost     error                 // why the task is not this pod's any more: say nothing
	handBack *time.Duration        // to be delivered again after this time
}

func handBack(after time.Duration) outcome { return outcome{handBack: &after} }

// unavailableDelay is how long a task rests when the work service cannot be reached.
const unavailableDelay = time.Second

// work runs one delivery to its end.
func (r *Runtime) work(ctx context.Context, d *queue.Delivery) {
	ctx, span := r.config.Telemetry.Start(d.Context(ctx), "task process", trace.SpanKindConsumer,
		telemetry.KeyTask.String(d.Task.ID), telemetry.KeyKind.String(string(d.Task.Kind)), telemetry.KeyRun.String(d.Task.Run.Name),
		telemetry.KeyStep.String(d.Task.Step), telemetry.KeyAgent.String(d.Task.Agent), telemetry.KeyNamespace.String(d.Task.Namespace))
	log := r.log.With("task", d.Task.ID, "run", d.Task.Run.Name, "step", d.Task.Step)
	place := newPlace(r.slots, d.Yield, d.Resume)
	started := time.Now()

	out := r.attempt(ctx, d, place, log)
	place.close()
	r.conclude(ctx, d, out, log)
	switch {
	case out.result == nil:
		span.End("", "")
	case out.result.Error == nil:
		span.SetUsage(usage(out.result.Usage))
		span.End("", "")
		r.config.Telemetry.TaskDone(ctx, d.Task.Agent, string(out.result.Status), time.Since(started))
	default:
		span.End(string(out.result.Error.Code), out.result.Error.Message)
		r.config.Telemetry.TaskDone(ctx, d.Task.Agent, string(out.result.Error.Code), time.Since(started))
	}
}

// attempt takes a task over and works on it until it ends or has to be given up. A panic ends this task only.
func (r *Runtime) attempt(ctx context.Context, d *queue.Delivery, p *place, log *slog.Logger) (out outcome) {
	defer func() {
		if v := recover(); v != nil {
			log.ErrorContext(ctx, "task panicked", "panic", v, "stack", string(debug.Stack()))
			out = outcome{result: r.bare(d.Task, task.Errorf(task.CodeInternal, "the agent failed internally: %v", v))}
		}
	}()
	session, err := r.takeOver(ctx, d)
	if err != nil {
		return r.notTaken(ctx, d, err, log)
	}
	r.taken(ctx, d, session, log)
	ctx, cancel := within(ctx, session.Task(), workedSince(session), r.config.Limits.Timeout)
	defer cancel()
	defer r.keepAlive(ctx, d, log)()
	ctx, giveWay := context.WithCancelCause(ctx)
	defer giveWay(nil)
	a, err := r.newAttempt(ctx, session, p, giveWay, log)
	if err != nil {
		return r.ended(ctx, a, d, err)
	}
	a.tell(ctx, queue.Progress{Event: queue.EventStarted})
	return r.ended(ctx, a, d, a.converse(ctx))
}

func (r *Runtime) takeOver(ctx context.Context, d *queue.Delivery) (*work.Session, error) {
	return r.config.Work.TakeOver(ctx, d.Key(), r.config.Pod, r.quiet())
}

// quiet is how long nothing was stored of a task at least that the queue rightly takes from a pod: AckWait after the last
// heartbeat, and no more than the time between two of them after what was stored last.
func (r *Runtime) quiet() time.Duration { return r.config.AckWait - r.config.Heartbeat }

// rest is how long a task is handed back for that has to wait for what other pods do.
func (r *Runtime) rest() time.Duration { return max(r.quiet(), 2*r.config.Heartbeat) }

func (r *Runtime) taken(ctx context.Context, d *queue.Delivery, s *work.Session, log *slog.Logger) {
	again := s.TakeOvers() > 1
	r.config.Telemetry.TaskTaken(ctx, d.Task.Agent, s.TakenAt().Sub(d.Task.Created), again)
	if again {
		log.InfoContext(ctx, "task taken over", "take_over", s.TakeOvers(), "journal", len(s.Journal()))
	}
}

// notTaken says what becomes of a task that cannot be worked on.
func (r *Runtime) notTaken(ctx context.Context, d *queue.Delivery, err error, log *slog.Logger) outcome {
	var failure *task.Error
	switch {
	case errors.Is(context.Cause(ctx), errRemoved):
		return outcome{lost: errRemoved}
	case errors.Is(err, work.ErrDone), errors.Is(err, work.ErrGone):
		return outcome{done: true}
	case errors.Is(err, work.ErrHeld):
		// The heartbeats of a pod that is alive keep the task from coming back.
		log.DebugContext(ctx, "task was not taken over, another pod is at work on it")
		return handBack(r.rest())
	case errors.As(err, &failure):
		return outcome{result: r.bare(d.Task, failure)}
	case ctx.Err() != nil && errors.As(context.Cause(ctx), &failure):
		return outcome{result: r.bare(d.Task, failure)}
	case ctx.Err() != nil:
		return handBack(0)
	default:
		log.WarnContext(ctx, "task was not taken over, handing it back", "error", err)
		return handBack(unavailableDelay)
	}
}

// bare is a result of a task that was not worked on.
func (r *Runtime) bare(t *task.Task, failure *task.Error) *task.Result {
	status := task.Failed
	if failure.Code == task.CodeCancelled {
		status = task.Cancelled
	}
	return &task.Result{
		Version: task.Version, TaskID: t.ID, Status: status, Error: failure, Pod: r.config.Pod, Completed: time.Now().UTC(),
	}
}

// within bounds the work on a task: by its own time, which counts from since, and by its run's deadline.
func within(ctx context.Context, t *task.Task, since time.Time, timeout time.Duration) (context.Context, context.CancelFunc) {
	if t.TimeoutSeconds > 0 {
		timeout = time.Duration(t.TimeoutSeconds) * time.Second
	}
	deadline := since.Add(timeout)
	cause := task.Errorf(task.CodeTimeout, "the task did not end within its %s; raise timeoutSeconds of the step or of the agent's limits", timeout)
	if !t.Deadline.IsZero() && t.Deadline.Before(deadline) {
		deadline = t.Deadline
		cause = task.Errorf(task.CodeDeadline, "the run's deadline (%s) passed while the task ran", t.Deadline.UTC().Format(time.RFC3339))
	}
	return context.WithDeadlineCause(ctx, deadline, cause)
}

// waitedUntil begins the note of a task that waited for its budget; the time follows.
const waitedUntil = "waited for its budget until "

// workedSince is what a task's own time counts from: its first take-over, or the end of its last wait for a budget.
func workedSince(s *work.Session) time.Time {
	since := s.TakenAt()
	for _, e := range s.Journal() {
		if at, ok := strings.CutPrefix(e.Note, waitedUntil); ok {
			if t, err := time.Parse(time.RFC3339, at); err == nil && t.After(since) {
				since = t
			}
		}
	}
	return since
}

// heartbeatAgain is the pause before a heartbeat that could not be sent is tried again: the task must be heard of as
// soon as the connection is back.
const heartbeatAgain = 100 * time.Millisecond

// keepAlive tells the queue that the task is worked on, at once and until ctx ends or the returned function is called. The
// first time matters: a NATS server that is started anew counts AckWait from the last sign of life, and before there is one
// from when the task was queued, so that it would give one that has waited for long to another pod as well.
func (r *Runtime) keepAlive(ctx context.Context, d *queue.Delivery, log *slog.Logger) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(r.config.Heartbeat)
		defer ticker.Stop()
		for {
			for d.InProgress() != nil && sleep(ctx, heartbeatAgain) {
				log.DebugContext(ctx, "heartbeat was not sent, trying again")
			}
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// ended says what becomes of a task whose conversation ended with err, nil for an answer.
func (r *Runtime) ended(ctx context.Context, a *attempt, d *queue.Delivery, err error) outcome {
	err = reason(ctx, err)
	linger, cancel := lingering(ctx)
	defer cancel()
	switch {
	case errors.Is(err, work.ErrFenced), errors.Is(err, errRemoved):
		return outcome{lost: err}
	case errors.Is(err, work.ErrDone), errors.Is(err, work.ErrGone):
		return outcome{done: true}
	case errors.Is(err, errHandBack):
		a.keep(linger)
		return handBack(0)
	case errors.Is(err, errGiveWay) && a != nil:
		return a.waits(linger, time.Now().Add(r.rest()), err)
	case errors.Is(err, errGiveWay):
		return handBack(r.rest())
	case errors.Is(err, work.ErrUnavailable):
		return handBack(unavailableDelay)
	}
	if until, ok := r.budgetFrees(err); ok && a != nil {
		return a.waits(linger, until, err)
	}
	if a == nil {
		return outcome{result: r.bare(d.Task, failure(err))}
	}
	var keep func(context.Context)
	if err == nil {
		keep = a.leave(ctx)
	}
	result, err := a.result(linger, err)
	if err != nil {
		a.log.WarnContext(ctx, "answer was not stored, handing the task back", "error", err)
		return handBack(unavailableDelay)
	}
	r.config.Telemetry.CallUnknown(ctx, d.Task.Agent, int(a.conv.usage.UnknownCalls))
	return outcome{result: result, keep: keep}
}

// waits hands a task back that waits for its budget: that was no crash, and is not the task's own time.
func (a *attempt) waits(ctx context.Context, until time.Time, why error) outcome {
	a.carry = append(a.carry, work.Entry{Note: waitedUntil + until.UTC().Format(time.RFC3339)})
	a.keep(ctx)
	a.tell(ctx, queue.Progress{Event: queue.EventWait, Why: failure(why).Error()})
	a.log.InfoContext(ctx, "task waits for its budget", "until", until, "error", why)
	return handBack(max(time.Until(until), unavailableDelay))
}

// reason is why a task ended: the end of its context explains errors that followed from it.
func reason(ctx context.Context, err error) error {
	var known *task.Error
	if err == nil || ctx.Err() == nil || errors.As(err, &known) || errors.Is(err, work.ErrFenced) {
		return err
	}
	return context.Cause(ctx)
}

// budgetFrees is when a task that waits for its budget goes on, if it does.
func (r *Runtime) budgetFrees(err error) (time.Time, bool) {
	var refused *work.BudgetError
	if !r.config.Limits.WaitForBudget || !errors.As(err, &refused) || refused.FreesAt.IsZero() {
		return time.Time{}, false
	}
	return refused.FreesAt, true
}

// conclude publishes the result and tells the queue.
func (r *Runtime) conclude(ctx context.Context, d *queue.Delivery, out outcome, log *slog.Logger) {
	ctx, cancel := lingering(ctx)
	defer cancel()
	var err error
	switch {
	case out.lost != nil:
		log.InfoContext(ctx, "task was given up", "cause", out.lost)
		d.Release()
	case out.handBack != nil:
		err = d.Nak(*out.handBack)
	case out.done:
		err = d.Ack(ctx)
	default:
		err = r.publish(ctx, d, out, log)
	}
	if err != nil {
		log.WarnContext(ctx, "task was not concluded, it will be delivered again", "error", err)
	}
}

// publish remembers the task, stores its result and acknowledges it, in this order: who waits for the result finds the task
// remembered, and the work service lets only the holder of an open task remember. A poisoned task is also put aside, for
// people to look at.
func (r *Runtime) publish(ctx context.Context, d *queue.Delivery, out outcome, log *slog.Logger) error {
	if out.keep != nil {
		out.keep(ctx)
	}
	result := out.result
	for tries := 1; ; tries++ {
		won, err := r.config.Queue.PublishResult(ctx, d.Key(), result)
		if err == nil {
			r.report(ctx, result, won, log)
			break
		}
		if errors.Is(err, queue.ErrTooLarge) {
			result = r.bare(d.Task, task.Errorf(task.CodeInternal, "the result is too large to be stored: %v", err))
		}
		log.WarnContext(ctx, "result was not stored, trying again", "error", err)
		if !sleep(ctx, r.config.Backoff.wait(tries, 0, 1)) {
			return errors.Join(err, d.Nak(unavailableDelay))
		}
	}
	if result.Error != nil && result.Error.Code == task.CodePoison {
		return d.Term(ctx, result.Error.Error())
	}
	return d.Ack(ctx)
}

func (r *Runtime) report(ctx context.Context, result *task.Result, won bool, log *slog.Logger) {
	if result.Error == nil {
		log.InfoContext(ctx, "task done", "won", won, "tokens", result.Usage.Total(), "model_calls", result.ModelCalls)
		return
	}
	log.InfoContext(ctx, "task ended", "won", won, "status", result.Status, "code", result.Error.Code, "error", result.Error.Message)
}
