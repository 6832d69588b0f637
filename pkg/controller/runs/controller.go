// Package runs drives ArkRuns: it joins the engine (pkg/pipeline, through pkg/runner) with the API server, where runs and
// their ends are kept, and the queue, where their tasks and results are.
//
// A run that is worked on has a drive: the fold of what has happened to it so far. A drive does nothing on its own. It is
// advanced by the controller's workers whenever its run's key is in their queue: when the run has changed, a result was
// stored, an agent became ready or a time has come. One reader of the results stream feeds the drives of all runs.
//
// A drive can be lost at any moment. A new one is made from the ArkRun and the results stream, and decides the same: what
// two processes could decide differently - the snapshot of a run that was applied without one, the choice among agents,
// the end - is written into the ArkRun's status, under its resource version, before anything follows from it.
//
// There is no finalizer. What the queue holds of a run that is gone is removed as soon as its removal is seen, and by a
// sweep that compares the stores with the API server.
package runs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runner"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/telemetry"
)

// Config is what the controller works with. Observe and Telemetry may be left out.
type Config struct {
	Clients *kube.Clients
	Cache   *kube.Cache
	Queue   *queue.Queue
	// Account says what a task that did not succeed has cost: that of the work service in the same process.
	Account func(context.Context, queue.Key) (task.Usage, error)
	// Watch are the namespaces that Cache is of; none means all.
	Watch     []string
	Workers   int
	Logger    *slog.Logger
	Observe   controller.Observer
	Telemetry *telemetry.Telemetry
}

// Controller drives the runs. Make it before the cache runs, and run it once.
type Controller struct {
	cfg      Config
	log      *slog.Logger
	loop     *controller.Controller
	post     *runner.Post
	purge    *purger
	began    time.Time // of Run: what was made before may have been driven by another process
	voice    *announcer
	settlers sync.WaitGroup // that carry out ends beside the workers

	mu     sync.Mutex
	drives map[controller.Key]*drive
	keys   map[string]controller.Key                      // of drives, by the run's uid
	users  map[controller.Key]map[controller.Key]struct{} // runs by the agents that may work for them
}

// Indexes of the cache of runs.
const (
	byUID    = "uid"
	byParent = "parent"
)

// New makes the controller. It registers with the cache.
func New(c Config) (*Controller, error) {
	r := &Controller{
		cfg: c, log: c.Logger.With("controller", "runs"), drives: map[controller.Key]*drive{}, keys: map[string]controller.Key{},
		users: map[controller.Key]map[controller.Key]struct{}{},
	}
	r.loop = controller.New("runs", c.Workers, r.reconcile, c.Logger, c.Observe)
	// What has begun goes on before more is begun: many runs at once end one after the other, not all at the end.
	r.loop.Prefer(func(k controller.Key) bool { return r.find(k) != nil })
	r.post = runner.NewPost(r.mayBeLive)
	r.purge = newPurger(c.Queue, r.log)
	r.voice = newAnnouncer(c.Clients)
	uid := func(run *v1alpha1.ArkRun) []string { return []string{string(run.UID)} }
	parent := func(run *v1alpha1.ArkRun) []string {
		if p := run.Spec.Parent; p != nil {
			return []string{p.RunUID}
		}
		return nil
	}
	err := errors.Join(
		c.Cache.Runs.Index(byUID, uid), c.Cache.Runs.Index(byParent, parent),
		c.Cache.Runs.OnChange(r.runChanged), c.Cache.Agents.OnChange(r.agentChanged),
		c.Cache.Teams.OnChange(r.teamChanged), c.Cache.Namespaces.OnChange(r.namespaceChanged),
	)
	if err != nil {
		return nil, fmt.Errorf("runs: %w", err)
	}
	return r, nil
}

// Name is that of the controller.
func (c *Controller) Name() string { return c.loop.Name() }

// Add has a run looked at soon.
func (c *Controller) Add(k controller.Key) { c.loop.Add(k) }

// Run drives runs until ctx ends, and returns when everything of it has stopped. Runs stay as they are then.
func (c *Controller) Run(ctx context.Context) {
	c.began = time.Now()
	var group sync.WaitGroup
	defer group.Wait()
	caughtUp := make(chan struct{})
	group.Go(func() { c.readResults(ctx, caughtUp) })
	group.Go(func() { c.voice.run(ctx) })
	group.Go(func() { c.purge.run(ctx) })
	select {
	case <-caughtUp: // every earlier record has been delivered: drives may be made
	case <-ctx.Done():
		return
	}
	group.Go(func() { c.watchProgress(ctx) })
	group.Go(func() { c.sweepRegularly(ctx) })
	c.loop.Run(ctx)
	c.settlers.Wait()
	c.closeAll()
}

// Pauses between tries at a stream that cannot be read.
const (
	firstRetry = 100 * time.Millisecond
	lastRetry  = 5 * time.Second
)

// readResults delivers every record of the results stream, from the first one on. When it breaks it begins at the first
// one again: folding a record twice changes nothing, and the stream may be another one.
func (c *Controller) readResults(ctx context.Context, caughtUp chan struct{}) {
	told := sync.OnceFunc(func() { close(caughtUp) })
	for pause := firstRetry; ctx.Err() == nil; pause = min(2*pause, lastRetry) {
		err := c.cfg.Queue.Results(ctx, "", c.post.Deliver, func() error {
			told()
			pause = firstRetry
			return nil
		})
		if ctx.Err() != nil {
			return
		}
		c.log.WarnContext(ctx, "results cannot be read, it is tried again", "error", err)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// mayBeLive says whether the records of a run without a drive are kept for it. Those of a run that the cache does not
// know yet are: it may be behind. The sweep drops what is kept of runs that do not exist.
func (c *Controller) mayBeLive(uid string) bool {
	known := c.cfg.Cache.Runs.By(byUID, uid)
	return len(known) == 0 || !known[0].Status.Phase.Terminal()
}

// runChanged enqueues a run when more has changed than what this controller writes.
func (c *Controller) runChanged(old, now *v1alpha1.ArkRun) {
	switch {
	case now == nil:
		c.loop.Add(controller.KeyOf(old))
	case old == nil, old.UID != now.UID,
		old.Annotations[v1alpha1.AnnotationCancel] != now.Annotations[v1alpha1.AnnotationCancel],
		old.DeletionTimestamp.IsZero() != now.DeletionTimestamp.IsZero(),
		old.Status.Phase.Terminal() != now.Status.Phase.Terminal():
		c.loop.Add(controller.KeyOf(now))
	}
}

// agentChanged enqueues the live runs that an agent may work for.
func (c *Controller) agentChanged(old, now *v1alpha1.ArkAgent) {
	if old != nil && now != nil && readinessOf(old.Name, old) == readinessOf(now.Name, now) {
		return
	}
	agent := now
	if agent == nil {
		agent = old
	}
	c.mu.Lock()
	keys := slices.Collect(maps.Keys(c.users[controller.KeyOf(agent)]))
	c.mu.Unlock()
	for _, key := range keys {
		c.loop.Add(key)
	}
}

// find returns the drive of a key, nil when there is none.
func (c *Controller) find(key controller.Key) *drive {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drives[key]
}

// keep makes a drive known.
func (c *Controller) keep(d *drive) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drives[d.key] = d
	c.keys[d.uid()] = d.key
	for _, name := range d.agents {
		agent := controller.Key{Namespace: d.key.Namespace, Name: name}
		if c.users[agent] == nil {
			c.users[agent] = map[controller.Key]struct{}{}
		}
		c.users[agent][d.key] = struct{}{}
	}
}

// drop forgets a drive. The run stays as it is.
func (c *Controller) drop(d *drive) {
	c.mu.Lock()
	if c.drives[d.key] == d {
		delete(c.drives, d.key)
		delete(c.keys, d.uid())
		for _, name := range d.agents {
			agent := controller.Key{Namespace: d.key.Namespace, Name: name}
			delete(c.users[agent], d.key)
			if len(c.users[agent]) == 0 {
				delete(c.users, agent)
			}
		}
	}
	c.mu.Unlock()
	c.post.Close(d.uid())
	d.live.Close()
}

func (c *Controller) closeAll() {
	c.mu.Lock()
	all := make([]*drive, 0, len(c.drives))
	for _, d := range c.drives {
		all = append(all, d)
	}
	c.mu.Unlock()
	for _, d := range all {
		c.drop(d)
	}
}

// Live is how many runs have a drive.
func (c *Controller) Live() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.drives)
}

func (c *Controller) watches(namespace string) bool {
	return len(c.cfg.Watch) == 0 || slices.Contains(c.cfg.Watch, namespace)
}
