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
	r.prepare()
	unwatchMemory, err := r.watchMemory()
	if err != nil {
		return fmt.Errorf("start agent %s/%s: %w", r.config.Namespace, r.config.Agent, err)
	}
	defer unwatchMemory()
	tasks, err := r.config.Queue.Tasks(ctx, r.config.Namespace, r.config.Agent, queue.TasksConfig{
		Slots: r.config.Limits.MaxConcurrentTasks, AckWait: r.config.AckWait, Paused: r.config.Probe != nil || r.config.Servers != nil,
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
	var group, watching sync.WaitGroup
	watching.Go(func() { r.watch(ctx, tasks) })
	r.health.set(faultRunning, "")
	for {
		d, err := r.next(ctx, tasks)
		if err != nil {
			break
		}
		r.begin(ctx, working, d, &group)
	}
	r.health.set(faultDrain, "shutting down: no more tasks are taken")
	watching.Wait()
	r.drain(working, tasks, handBack, &group)
	return nil
}

// next waits for a task and shows meanwhile that the loop is alive.
func (r *Runtime) next(ctx context.Context, tasks *queue.Tasks) (*queue.Delivery, error) {
	for {
		r.health.beat(time.Now())
		short, cancel := context.WithTimeout(ctx, pulseEvery)
		d, err := tasks.Next(short)
		cancel()
		if err == nil || ctx.Err() != nil || errors.Is(err, queue.ErrStopped) {
			return d, err
		}
	}
}

// begin works on a task beside the others.
func (r *Runtime) begin(ctx, working context.Context, d *queue.Delivery, group *sync.WaitGroup) {
	switch {
	case r.works(d.Task.ID):
		// The queue heard nothing of it for too long, because the connection was cut: it goes on where it is. What keeps
		// the one delivery alive, and what ends it, holds for both.
		r.logError(ctx, "heartbeat was not sent", d.InProgress())
		d.Release()
	case !r.slots.try():
		// A waiting task came back while this one was on its way: another pod may have a place.
		r.logError(ctx, "task was not handed back", d.Nak(0))
	default:
		ctx, unregister := r.register(working, d.Task.ID)
		group.Go(func() {
			defer unregister()
			r.work(ctx, d)
		})
	}
}

// works says whether a task runs here.
func (r *Runtime) works(taskID string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.running[taskID] != nil
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

// cancelTask stops a running task, or all of them when the agent is gone. The hint comes after the Cancelled result was
// stored, which decides; of an agent that is gone, the operator ends the tasks.
func (r *Runtime) cancelTask(taskID, reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if taskID == "" {
		r.log.Warn("the agent was removed, its tasks are given up", "tasks", len(r.running), "reason", reason)
		for _, cancel := range r.running {
			cancel(errRemoved)
		}
		return
	}
	if cancel := r.running[taskID]; cancel != nil {
		cancel(task.Errorf(task.CodeCancelled, "%s", reason))
	}
}

// register makes a task known to cancelTask.
func (r *Runtime) register(ctx context.Context, taskID string) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	r.mu.Lock()
	r.running[taskID] = cancel
	r.mu.Unlock()
	r.health.touch()
	return ctx, func() {
		r.mu.Lock()
		delete(r.running, taskID)
		r.mu.Unlock()
		r.health.touch()
		cancel(nil)
	}
}
