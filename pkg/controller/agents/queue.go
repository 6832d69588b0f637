package agents

import (
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

const (
	// paceScaling is how often an agent whose tasks come and go is looked at when their number sets that of its pods, or they
	// fail because its budget is used up, and paceStatus when it only stands in the status.
	paceScaling = time.Second
	paceStatus  = statusPause
	// absentTime is how long tasks wait for an agent that was never there, such as one that is applied after its run.
	absentTime = time.Minute
	// settledAfter is when the last calls of a removed agent are settled: that may bring its budget back.
	settledAfter = 2 * work.DefaultSettleAfter
	// watchRetry is the pause after the queue could not be watched.
	watchRetry = 5 * time.Second
)

// followQueue hears of tasks until ctx ends, and looks once at every agent that has some.
func (a *Agents) followQueue(ctx context.Context) {
	for ctx.Err() == nil {
		err := a.watchQueue(ctx)
		if ctx.Err() != nil {
			return
		}
		a.log.WarnContext(ctx, "the queue cannot be watched, it is tried again", "error", err)
		timer := time.NewTimer(watchRetry)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

func (a *Agents) watchQueue(ctx context.Context) error {
	stop, err := a.cfg.Queue.WatchBacklog(a.hint)
	if err != nil {
		return err
	}
	defer stop()
	err = a.cfg.Queue.EachAgent(ctx, func(namespace, agent string) {
		a.loop.Add(controller.Key{Namespace: namespace, Name: agent})
	})
	if err == nil {
		<-ctx.Done()
	}
	return err
}

// hint has an agent looked at because its tasks or its pods have changed: at once, but only so often.
func (a *Agents) hint(namespace, agent string) {
	interval := paceScaling
	if o, ok := a.cfg.Cache.Agents.Get(namespace, agent); ok && o.Spec.Autoscaling == nil &&
		!meta.IsStatusConditionTrue(o.Status.Conditions, v1alpha1.ConditionBudgetExceeded) {
		interval = paceStatus
	}
	key := controller.Key{Namespace: namespace, Name: agent}
	switch wait, due := a.pace.next(key, interval, a.now()); {
	case due:
		a.loop.Add(key)
	case wait > 0:
		a.loop.AddAfter(key, wait)
	}
}

// pace thins out hints. It is safe for concurrent use.
type pace struct {
	mu   sync.Mutex
	last map[controller.Key]time.Time // when the agent is looked at because of the last hint that was not covered
}

func newPace() *pace { return &pace{last: map[controller.Key]time.Time{}} }

// next says what becomes of a hint: it is due, or due after a while, or covered by one that is due after a while. The
// interval may be another one each time.
func (p *pace) next(k controller.Key, interval time.Duration, now time.Time) (wait time.Duration, due bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.last[k]
	if last.After(now) {
		return 0, false
	}
	wait = max(last.Add(interval).Sub(now), 0)
	p.last[k] = now.Add(wait)
	return wait, wait == 0
}

func (p *pace) forget(k controller.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.last, k)
}

// removed ends what waits for an agent that does not exist.
func (a *Agents) removed(ctx context.Context, key controller.Key) (controller.Result, error) {
	todo, err := a.cfg.Queue.Backlog(ctx, key.Namespace, key.Name)
	if err != nil {
		return controller.Result{}, err
	}
	m := a.memo(key)
	if m.absent.IsZero() {
		m.absent = a.now()
	}
	if todo.Waiting+todo.Held > 0 && !m.known {
		if wait := absentTime - a.now().Sub(m.absent); wait > 0 {
			return controller.Result{After: wait}, nil
		}
	}
	// The cache may be behind: what follows cannot be undone.
	_, err = a.cfg.Clients.Agents(key.Namespace).Get(ctx, key.Name, metav1.GetOptions{})
	switch {
	case err == nil:
		return controller.Result{After: time.Second}, nil
	case a.cfg.Cache.Missing(ctx, key.Namespace, err):
	case apierrors.IsForbidden(err): // a namespace that another operator looks after
		return controller.Result{}, nil
	default:
		return controller.Result{}, fmt.Errorf("look for %s: %w", kube.Describe("ArkAgent", key.Namespace, key.Name), err)
	}
	n, err := a.cfg.Queue.RemoveAgent(ctx, key.Namespace, key.Name,
		task.Errorf(task.CodeAgentRemoved, "the ArkAgent %s does not exist any more: create it again and start the run anew", key.Name))
	if err != nil {
		return controller.Result{}, err
	}
	if n > 0 {
		a.log.InfoContext(ctx, "tasks of a removed agent have failed", "namespace", key.Namespace, "agent", key.Name, "tasks", n)
	}
	found, err := a.cfg.Queue.ForgetAgent(ctx, key.Namespace, key.Name)
	if err != nil {
		return controller.Result{}, err
	}
	a.forget(key)
	if found {
		return controller.Result{After: settledAfter}, nil
	}
	return controller.Result{}, nil
}
