package runtime

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// Run pulls and runs tasks until ctx ends. Then it drains: it takes no more tasks, lets the running ones go on for
// Config.Grace, hands the rest back, and returns. The error is of the start; a queue that goes away later is waited
// for.
func (r *Runtime) Run(ctx context.Context) error {
	tasks, err := r.config.Queue.Tasks(ctx, r.config.Namespace, r.config.Agent, queue.TasksConfig{
		Slots: r.config.Limits.MaxConcurrentTasks, AckWait: r.config.AckWait,
	})
	if err != nil {
		return fmt.Errorf("start agent %s/%s: %w", r.config.Namespace, r.config.Agent, err)
	}
	unwatch, err := r.config.Queue.WatchCancel(r.config.Namespace, r.config.Agent, r.cancelTask)
	if err != nil {
		return errors.Join(fmt.Errorf("start agent %s/%s: %w", r.config.Namespace, r.config.Agent, err), tasks.Stop(ctx))
	}
	defer unwatch()

	working, handBack := context.WithCancelCause(context.WithoutCancel(ctx))
	defer handBack(nil)
	var group sync.WaitGroup
	for {
		d, err := tasks.Next(ctx)
		if err != nil {
			break
		}
		if !r.slots.try() {
			// A waiting task came back while this one was on its way: another pod may have a place.
			r.logError(ctx, "task was not handed back", d.Nak(0))
			continue
		}
		group.Go(func() { r.work(working, d) })
	}
	r.drain(working, tasks, handBack, &group)
	return nil
}

// drain hands back what was pulled and not begun, and waits for the running tasks.
func (r *Runtime) drain(ctx context.Context, tasks *queue.Tasks, handBack context.CancelCauseFunc, group *sync.WaitGroup) {
	stopped, cancel := context.WithTimeout(ctx, lingerTime)
	defer cancel()
	r.logError(ctx, "pulled tasks were not handed back", tasks.Stop(stopped))
	timer := time.AfterFunc(r.config.Grace, func() { handBack(errHandBack) })
	defer timer.Stop()
	group.Wait()
}

func (r *Runtime) logError(ctx context.Context, message string, err error) {
	if err != nil {
		r.log.WarnContext(ctx, message, "error", err) //nolint:sloglint // constant at every caller
	}
}

// cancelTask stops a running task. The hint comes after the Cancelled result was stored, which decides.
func (r *Runtime) cancelTask(taskID, reason string) {
	r.mu.Lock()
	cancel := r.running[taskID]
	r.mu.Unlock()
	if cancel != nil {
		cancel(task.Errorf(task.CodeCancelled, "%s", reason))
	}
}

// register makes a task known to cancelTask.
func (r *Runtime) register(ctx context.Context, taskID string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	r.mu.Lock()
	r.running[taskID] = cancel
	r.mu.Unlock()
	return ctx, func() {
		r.mu.Lock()
		delete(r.running, taskID)
		r.mu.Unlock()
		cancel(nil)
	}
}
