// Package controller is the one worker loop of all controllers: keys come from informers, go through a queue that
// limits repetitions, and are reconciled by a few workers, never the same key twice at once.
//
// A reconcile is three steps: gather what is, decide (pure: what shall be, and what follows), apply. It is handed a key
// and nothing else; what has happened does not matter, only what is. Its error has the key tried again later and later,
// its Result when to come back without one.
package controller

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/workqueue"
)

// Key names an object.
type Key struct{ Namespace, Name string }

// KeyOf is the key of an object.
func KeyOf(o metav1.Object) Key { return Key{o.GetNamespace(), o.GetName()} }

func (k Key) String() string { return k.Namespace + "/" + k.Name }

// Result says when a key is looked at again although nothing has changed; 0 is never.
type Result struct{ After time.Duration }

// Reconcile brings what a key names to what it shall be.
type Reconcile func(ctx context.Context, key Key) (Result, error)

// Pauses between tries at a key that fails, doubled each time.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = time.Minute
)

// Observer hears of every reconcile that ended: for metrics. It may be nil.
type Observer func(ctx context.Context, controller string, took time.Duration, err error)

// Controller reconciles the keys of one kind.
type Controller struct {
	name      string
	workers   int
	reconcile Reconcile
	queue     workqueue.TypedRateLimitingInterface[Key]
	order     *lanes
	log       *slog.Logger
	observe   Observer
}

// New makes a controller that is not running. Keys may be added before Run.
func New(name string, workers int, reconcile Reconcile, log *slog.Logger, observe Observer) *Controller {
	if observe == nil {
		observe = func(context.Context, string, time.Duration, error) {}
	}
	limiter := workqueue.NewTypedItemExponentialFailureRateLimiter[Key](firstPause, lastPause)
	order := &lanes{}
	waiting := workqueue.NewTypedDelayingQueueWithConfig(workqueue.TypedDelayingQueueConfig[Key]{
		Name: name, Queue: workqueue.NewTypedWithConfig(workqueue.TypedQueueConfig[Key]{Name: name, Queue: order}),
	})
	return &Controller{
		name: name, workers: max(workers, 1), reconcile: reconcile, log: log.With("controller", name), observe: observe, order: order,
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(limiter, workqueue.TypedRateLimitingQueueConfig[Key]{Name: name, DelayingQueue: waiting}),
	}
}

// Prefer has the keys of which f says so reconciled before others that wait. It is called before any key is added. f is
// called whenever a key is added, under the queue's lock: it must not add keys itself, nor wait for who does.
func (c *Controller) Prefer(f func(Key) bool) { c.order.prefer = f }

// Name is that of the controller.
func (c *Controller) Name() string { return c.name }

// Add has a key reconciled soon. A key that is waiting already is not added a second time.
func (c *Controller) Add(k Key) { c.queue.Add(k) }

// AddAfter has a key reconciled after a while.
func (c *Controller) AddAfter(k Key, d time.Duration) { c.queue.AddAfter(k, d) }

// Depth is how many keys wait.
func (c *Controller) Depth() int { return c.queue.Len() }

// Run reconciles until the context ends, and returns when every worker has stopped.
func (c *Controller) Run(ctx context.Context) {
	stop := context.AfterFunc(ctx, c.queue.ShutDown)
	defer stop()
	var group sync.WaitGroup
	for range c.workers {
		group.Go(func() {
			for c.next(ctx) {
			}
		})
	}
	group.Wait()
}

// next reconciles one key. It is false when the queue has been shut down.
func (c *Controller) next(ctx context.Context) bool {
	key, down := c.queue.Get()
	if down {
		return false
	}
	defer c.queue.Done(key)
	if ctx.Err() != nil {
		return true
	}
	began := time.Now()
	result, err := c.guarded(ctx, key)
	c.observe(ctx, c.name, time.Since(began), err)
	switch {
	case err != nil && ctx.Err() != nil:
		// The operator is ending; the next one does it.
	case apierrors.IsConflict(err):
		// The cache was older than the object: it comes again with the next change.
		c.log.DebugContext(ctx, "object had changed, it is reconciled again", "key", key.String(), "error", err)
		c.queue.AddRateLimited(key)
	case err != nil:
		c.log.ErrorContext(ctx, "reconcile failed, it is tried again", "key", key.String(), "tries", c.queue.NumRequeues(key)+1, "error", err)
		c.queue.AddRateLimited(key)
	case result.After > 0:
		c.queue.Forget(key)
		c.queue.AddAfter(key, result.After)
	default:
		c.queue.Forget(key)
	}
	return true
}

// PanicError is a reconcile that panicked. The controller lives on.
type PanicError struct {
	Value any
	Stack []byte
}

func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

func (c *Controller) guarded(ctx context.Context, key Key) (result Result, err error) {
	defer func() {
		if v := recover(); v != nil {
			stack := debug.Stack()
			c.log.ErrorContext(ctx, "reconcile panicked", "key", key.String(), "panic", fmt.Sprint(v), "stack", string(stack))
			err = errors.Join(err, &PanicError{Value: v, Stack: stack})
		}
	}()
	return c.reconcile(ctx, key)
}
