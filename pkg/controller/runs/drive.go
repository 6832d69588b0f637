package runs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runner"
	"arkonis.dev/ark/pkg/task"
)

// drive is the fold of a live run in this process. Only the worker that has its key touches it, but for progressed and
// the mailbox.
type drive struct {
	c      *Controller
	key    controller.Key
	object *v1alpha1.ArkRun // as it was last read or written; its spec is shared with the cache and never changed
	live   *runner.Live
	mail   *runner.Mailbox
	agents []string

	opened, written time.Time             // written is when the status was last
	changed         bool                  // something happened that the status may show
	told            v1alpha1.ArkRunStatus // as it was last written and announced
	seen            map[string]pipeline.AgentReadiness
	missing         map[string]time.Time // agents that do not exist, and since when
	cancelling      bool
	checked         time.Time // when the sweep last looked whether the open tasks are there

	mu       sync.Mutex
	starts   []started
	troubles map[string]string // what open tasks wait for, by their id, for people
	stirred  bool              // troubles have changed since they were last taken in
	apart    bool              // a goroutine of its own carries out the end: nobody else touches live
}

func (d *drive) uid() string { return string(d.object.UID) }

func (d *drive) settling() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.apart
}

// settle carries out the end of the run beside the workers: it may have to wait for agents that are stopping.
func (d *drive) settle(ctx context.Context) {
	d.mu.Lock()
	d.apart = true
	d.mu.Unlock()
	d.c.settlers.Go(func() {
		if _, err := d.live.Advance(ctx, time.Now()); err != nil && ctx.Err() == nil {
			d.c.log.WarnContext(ctx, "the end of a run is not stored yet, it is tried again", "run", d.key.String(), "error", err)
			select {
			case <-time.After(retryQueue):
			case <-ctx.Done():
			}
		}
		d.mu.Lock()
		d.apart = false
		d.mu.Unlock()
		d.c.loop.Add(d.key)
	})
}

// fold takes in what is in the mailbox. After an error the rest is still there.
func (d *drive) fold(ctx context.Context) error {
	records := d.mail.Take()
	for i, r := range records {
		d.changed = true
		if err := d.live.Fold(ctx, r); err != nil {
			d.mail.Return(records[i:])
			return err
		}
	}
	d.mu.Lock()
	starts := d.starts
	d.starts = nil
	d.changed, d.stirred = d.changed || d.stirred, false
	for _, r := range records {
		delete(d.troubles, r.Key.TaskID)
	}
	d.mu.Unlock()
	for _, s := range starts {
		d.changed = true
		d.live.Started(s.task, s.pod, s.at)
	}
	return nil
}

// see takes in how agents are.
func (d *drive) see(agents []pipeline.AgentReadiness) {
	for _, a := range agents {
		if before, ok := d.seen[a.Agent]; ok && before == a {
			continue
		}
		d.seen[a.Agent], d.changed = a, true
		d.live.Ready(a)
	}
}

// failAbandoned ends the tasks that wait for agents which have been missing for too long. next is when to look again.
func (d *drive) failAbandoned(ctx context.Context, now time.Time) (next time.Time, err error) {
	if len(d.missing) == 0 {
		return time.Time{}, nil
	}
	for _, t := range d.live.Open() {
		since, missing := d.missing[t.Key.Agent]
		if !missing || !t.Issued && !t.Delegated {
			continue
		}
		if until := since.Add(agentGrace); now.Before(until) {
			next = earliest(next, until)
			continue
		}
		message := fmt.Sprintf("the ArkAgent %q does not exist (any more): create it, or give the work to another one", t.Key.Agent)
		_, err := d.c.cfg.Queue.PublishResult(ctx, t.Key, &task.Result{
			Version: task.Version, TaskID: t.Key.TaskID, Status: task.Failed, Error: &task.Error{Code: task.CodeAgentRemoved, Message: message},
			Completed: now,
		})
		if err != nil {
			return next, err
		}
	}
	return next, nil
}

// report writes the status when it is due and differs. next is when to come back for it.
func (d *drive) report(ctx context.Context, now time.Time) (next time.Time, err error) {
	due := statusDue(d.changed, d.opened, d.written, pace(d.c.Live()))
	if due.IsZero() || now.Before(due) {
		return due, nil
	}
	status := d.fill(d.live.Status(now))
	if equality.Semantic.DeepEqual(status, d.told) {
		d.changed = false
		return time.Time{}, nil
	}
	held, err := d.write(ctx, status)
	if _, ok := errors.AsType[refusedError](err); ok { // it goes on without it
		d.told, d.written, d.changed = status, now, false
		return time.Time{}, nil
	}
	if err != nil {
		return time.Time{}, err
	}
	if held.Phase.Terminal() { // another process ended it
		return now, nil
	}
	d.c.voice.tell(d.object, &d.told, &status)
	d.told, d.written, d.changed = status, now, false
	return time.Time{}, nil
}

// fill adds to a status of the engine what the engine does not know.
func (d *drive) fill(s v1alpha1.ArkRunStatus) v1alpha1.ArkRunStatus {
	d.showTroubles(s.Steps)
	s.Resolved, s.Reused = d.object.Status.Resolved, d.object.Status.Reused
	s.ObservedGeneration = d.object.Generation
	for i := range s.Conditions {
		s.Conditions[i].ObservedGeneration = d.object.Generation
	}
	if s.TraceID == "" {
		s.TraceID = d.object.Status.TraceID
	}
	return s
}

// write stores a status, unless the run has ended in the API server meanwhile, and returns the one that it then has.
func (d *drive) write(ctx context.Context, status v1alpha1.ArkRunStatus) (v1alpha1.ArkRunStatus, error) {
	now, err := d.c.writeStatus(ctx, d.object, status)
	if err != nil {
		return v1alpha1.ArkRunStatus{}, err
	}
	object := *d.object
	object.ObjectMeta = now.ObjectMeta
	object.ManagedFields = nil
	object.Status = v1alpha1.ArkRunStatus{Resolved: now.Status.Resolved, Reused: now.Status.Reused, TraceID: now.Status.TraceID, StartTime: now.Status.StartTime}
	d.object = &object
	return now.Status, nil
}

// open makes the drive of a run. It is nil when there is nothing to drive: the run cannot start, which is its end.
func (c *Controller) open(ctx context.Context, key controller.Key, run *v1alpha1.ArkRun, now time.Time) (*drive, error) {
	if run.CreationTimestamp.After(c.began.Add(clockMargin)) {
		run = run.DeepCopy()
	} else { // an earlier process may have driven it: the cache may be older than its decisions
		var err error
		if run, err = c.live(ctx, key, string(run.UID)); err != nil {
			return nil, err
		}
		if run.Status.Phase.Terminal() {
			return nil, c.settle(ctx, nil, run)
		}
	}
	if store := run.Annotations[v1alpha1.AnnotationStore]; store != "" && store != c.cfg.Queue.StoreID() {
		return nil, c.storeLost(ctx, run, now)
	}
	run, spec, err := c.admit(ctx, run, now)
	if run == nil || err != nil {
		return nil, err
	}
	if run.Spec.Parent != nil { // before anything is paid for
		if err := c.cfg.Queue.MarkBegun(ctx, parentKey(run), string(run.UID)); err != nil {
			return nil, err
		}
	}
	d := &drive{
		c: c, key: key, object: run, opened: now, changed: true, told: run.Status, checked: now,
		seen: map[string]pipeline.AgentReadiness{}, missing: map[string]time.Time{},
	}
	if run.Status.Phase == v1alpha1.RunRunning {
		d.written = now
	}
	driven := *run
	driven.Spec = *spec
	config := c.runnerConfig(d, &driven)
	var gone bool
	if config.Reused, gone, err = runner.ReadReused(ctx, c.cfg.Queue, run); err != nil {
		return nil, err
	}
	if gone {
		c.log.WarnContext(ctx, "what a run had taken over is lost, its steps are worked on", "run", key.String())
	}
	if d.live, err = runner.New(ctx, config); err != nil {
		return nil, c.fail(ctx, run, v1alpha1.ReasonInvalidSpec, err.Error(), now)
	}
	d.agents = d.live.Agents()
	d.mail = c.post.Open(d.uid(), func() { c.loop.Add(key) })
	c.keep(d)
	return d, nil
}

// clockMargin is how far the clocks of this machine and of the API server may be apart.
const clockMargin = 10 * time.Second

func (c *Controller) runnerConfig(d *drive, run *v1alpha1.ArkRun) runner.Config {
	config := runner.Config{
		Run: run, Started: startOf(run), Pipeline: runner.Engine(), Queue: c.cfg.Queue, Store: store{d},
		Account: c.cfg.Account, Telemetry: c.cfg.Telemetry,
	}
	if p := run.Spec.Parent; p != nil {
		if p.Deadline != nil {
			config.Deadline = p.Deadline.Time
		}
		for _, b := range p.Budgets {
			config.Budgets = append(config.Budgets, task.Budget{Scope: b.Scope, Limit: b.Limit, Window: b.WindowSeconds})
		}
	}
	return config
}

// replay gives a drive all records of its run anew.
func (c *Controller) replay(ctx context.Context, d *drive) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	err := c.cfg.Queue.Results(ctx, d.uid(), func(r queue.Record) error {
		d.mail.Put(r)
		return nil
	}, func() error { return errCaughtUp })
	if err != nil && !isCaughtUp(err) {
		return fmt.Errorf("read the results of run %s: %w", d.key, err)
	}
	return nil
}
