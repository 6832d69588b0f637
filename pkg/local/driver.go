package local

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runner"
	"arkonis.dev/ark/pkg/task"
)

// Bounds of trying again when the queue cannot be reached or is full.
const (
	retryFirst = 50 * time.Millisecond
	retryMost  = 2 * time.Second
	retryUntil = 30 * time.Second
)

// driver drives one run to its end.
type driver struct {
	host   *host
	record *record
	// recovered says that an earlier process may have driven the run: all it did is folded before anything is decided.
	recovered bool
	live      *runner.Live

	mail     *runner.Mailbox
	full     chan struct{} // holds a token when there may be records
	caughtUp chan struct{} // closed when all earlier records are in the mailbox
	cancels  chan string

	mu       sync.Mutex
	children map[string]*driver // by the task that a child run carries out
	running  sync.WaitGroup     // children
}

func (h *host) newDriver(r *record, recovered bool) *driver {
	return &driver{
		host: h, record: r, recovered: recovered, full: make(chan struct{}, 1),
		caughtUp: make(chan struct{}), cancels: make(chan string, 1), children: map[string]*driver{},
	}
}

// wake says that there are records.
func (d *driver) wake() {
	select {
	case d.full <- struct{}{}:
	default:
	}
}

// cancel asks for the run's end; only the first reason counts. It may be called at any time by anybody.
func (d *driver) cancel(reason string) {
	select {
	case d.cancels <- reason:
	default:
	}
}

// run drives the run until it has ended; the end is in d.record then. When ctx ends, the run stays as it is.
func (d *driver) run(ctx context.Context) error {
	if d.record.Run.Status.Phase.Terminal() {
		return nil
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var err error
	d.live, err = runner.New(ctx, d.config())
	if err != nil {
		return err
	}
	defer d.live.Close()
	if err := d.follow(ctx); err != nil {
		return fmt.Errorf("drive run %s: %w", d.record.Run.Name, err)
	}
	d.record.Run.Status = d.live.Status(time.Now())
	return nil
}

// follow drives the run with its records: with the new ones that the host passes on, or, if an earlier process may
// have driven the run, with all of them from the first on.
func (d *driver) follow(ctx context.Context) error {
	uid := string(d.record.Run.UID)
	if !d.recovered {
		d.mail = d.host.mail.Open(uid, d.wake)
		defer d.host.mail.Close(uid)
		return d.driveAll(ctx)
	}
	d.mail = runner.NewMailbox(d.wake)
	g, ctx := errgroup.WithContext(ctx)
	ctx, stop := context.WithCancel(ctx)
	g.Go(func() error {
		put := func(r queue.Record) error {
			d.mail.Put(r)
			return nil
		}
		caughtUp := func() error {
			close(d.caughtUp)
			return nil
		}
		return d.host.queue.Results(ctx, uid, put, caughtUp)
	})
	g.Go(func() error {
		defer stop()
		return d.driveAll(ctx)
	})
	// The reader is stopped when the run has ended.
	if err := g.Wait(); err != nil && (!errors.Is(err, context.Canceled) || !d.live.Ended()) {
		return err
	}
	return nil
}

// driveAll drives the run and waits for its child runs: a run ends after them, or they end with ctx.
func (d *driver) driveAll(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	err := d.drive(ctx)
	if err != nil {
		stop()
	}
	d.running.Wait()
	stop()
	return err
}

// drive folds and advances until the run has ended.
func (d *driver) drive(ctx context.Context) error {
	if d.recovered {
		if err := d.replay(ctx); err != nil {
			return err
		}
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		wake, err := d.advance(ctx)
		if err != nil {
			return err
		}
		d.show()
		if d.live.Ended() {
			return nil
		}
		timer.Stop()
		if !wake.IsZero() {
			timer.Reset(time.Until(wake))
		}
		select {
		case <-d.full:
			err = d.fold(ctx)
		case <-d.host.failed.Done():
			err = context.Cause(d.host.failed)
		case reason := <-d.cancels:
			d.live.Cancel(reason, time.Now())
		case <-timer.C:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			return err
		}
	}
}

// replay folds all that was there when this process began.
func (d *driver) replay(ctx context.Context) error {
	select {
	case <-d.caughtUp:
		return d.fold(ctx)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// fold takes in all records that are there.
func (d *driver) fold(ctx context.Context) error {
	for _, r := range d.mail.Take() {
		if err := persist(ctx, func() error { return d.live.Fold(ctx, r) }); err != nil {
			return err
		}
	}
	return nil
}

func (d *driver) advance(ctx context.Context) (wake time.Time, err error) {
	err = persist(ctx, func() error {
		wake, err = d.live.Advance(ctx, time.Now())
		return err
	})
	return wake, err
}

// persist tries again while the queue cannot be reached or is full, up to retryUntil.
func persist(ctx context.Context, f func() error) error {
	var first time.Time
	for delay := retryFirst; ; delay = min(2*delay, retryMost) {
		err := f()
		if !runner.Transient(err) || ctx.Err() != nil {
			return err
		}
		if first.IsZero() {
			first = time.Now()
		} else if time.Since(first) > retryUntil {
			return err
		}
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return err
		}
	}
}

// show tells whoever looks on how far the run is.
func (d *driver) show() {
	if o := d.host.observer; o != nil {
		task := ""
		if d.record.Parent != nil {
			task = d.record.Parent.TaskID
		}
		o.Run(string(d.record.Run.UID), task, d.live.Status(time.Now()))
	}
}

// config is what the run is driven with.
func (d *driver) config() runner.Config {
	r := d.record
	return runner.Config{
		Run: &r.Run, Started: r.Run.Spec.Trigger.FiredAt.Time, Pipeline: runner.Engine(),
		Queue: d.host.queue, Store: d, Account: d.host.service.Account, Budgets: r.Budgets, Deadline: r.Deadline, Telemetry: d.host.tel,
	}
}

// Commit implements runner.Store.
func (d *driver) Commit(ctx context.Context, _ *v1alpha1.ArkRun, status v1alpha1.ArkRunStatus) (v1alpha1.ArkRunStatus, error) {
	return d.host.runs.end(ctx, d.record, status)
}

// text reads a text of the run, wherever it is.
func (d *driver) text(ctx context.Context, t task.Text) (text string, err error) {
	if t.Ref == nil {
		return t.Inline, nil
	}
	err = persist(ctx, func() error {
		text, err = d.host.queue.Text(ctx, t, t.Ref.Size)
		return err
	})
	return text, err
}

// report tells how the run ended, with whole outputs: of the run, and of its steps when this process drove it.
func (d *driver) report(ctx context.Context) (*Report, error) {
	run := &d.record.Run
	output, err := d.text(ctx, runner.OutputOf(&run.Status))
	if err != nil {
		return nil, fmt.Errorf("read the output of run %s: %w", run.Name, err)
	}
	steps := map[string]string{}
	for i := range run.Status.Steps {
		name := run.Status.Steps[i].Name
		if d.live == nil {
			break
		}
		text, ok := d.live.StepOutput(name)
		if !ok {
			continue
		}
		if steps[name], err = d.text(ctx, text); err != nil {
			return nil, fmt.Errorf("read the output of step %s of run %s: %w", name, run.Name, err)
		}
	}
	return NewReport(run, output, steps), nil
}

// StartChild implements runner.Store: it makes the record of a child run, or finds it, and drives the run.
func (d *driver) StartChild(ctx context.Context, c runner.Child) error {
	d.mu.Lock()
	known := d.children[c.Key.TaskID] != nil
	d.mu.Unlock()
	if known {
		return nil
	}
	r, refused := d.childRecord(c)
	if refused != nil {
		return d.host.publishEnd(ctx, c.Key, refused)
	}
	found := false
	err := d.host.runs.create(ctx, r)
	if errors.Is(err, jetstream.ErrKeyExists) {
		found = true
		r, err = d.host.runs.get(ctx, c.Name)
	}
	if err != nil {
		return err
	}
	if r.Parent == nil || r.Parent.TaskID != c.Key.TaskID {
		return d.host.publishEnd(ctx, c.Key, runner.ChildRefused(c.Key, v1alpha1.ReasonNameConflict, fmt.Sprintf("another run has the name %s", c.Name), time.Now()))
	}
	d.adopt(ctx, r, found, c.Key)
	return nil
}

// childRecord is the record of a child run, or the result that says why there can be none.
func (d *driver) childRecord(c runner.Child) (*record, *task.Result) {
	team := d.host.catalog.teams[c.Team]
	if team == nil {
		return nil, runner.ChildRefused(c.Key, v1alpha1.ReasonTeamNotFound, fmt.Sprintf("ArkTeam %q is not among the manifests; there are: %s", c.Team, names(d.host.catalog.teams)), time.Now())
	}
	if c.Hops > runner.MaxHops {
		return nil, runner.ChildRefused(c.Key, v1alpha1.ReasonInvalidSpec, fmt.Sprintf("team %s stands more than %d teams deep", c.Team, runner.MaxHops), time.Now())
	}
	created := metav1.NewMicroTime(c.Created)
	spec, problems := d.host.catalog.snapshot(team, c.Input, v1alpha1.Trigger{
		Kind: v1alpha1.TriggerStep, Name: c.Parent.Name, ID: c.Key.TaskID, FiredAt: &created, Hops: c.Hops,
	})
	if len(problems) > 0 {
		return nil, runner.ChildRefused(c.Key, v1alpha1.ReasonInvalidInput, fmt.Sprintf("team %s: %v", c.Team, &ConfigError{Problems: problems}), time.Now())
	}
	if c.TimeoutSeconds > 0 && (spec.TimeoutSeconds == 0 || c.TimeoutSeconds < spec.TimeoutSeconds) {
		spec.TimeoutSeconds = c.TimeoutSeconds
	}
	return &record{
		Run: v1alpha1.ArkRun{
			TypeMeta: runType(),
			ObjectMeta: metav1.ObjectMeta{
				Name: c.Name, Namespace: c.Parent.Namespace, UID: types.UID("run-" + c.Key.TaskID), CreationTimestamp: metav1.NewTime(c.Created),
				Labels: map[string]string{v1alpha1.LabelTeam: c.Team},
			},
			Spec: spec,
		},
		Parent:  &parentTask{Namespace: c.Key.Namespace, RunUID: c.Key.RunUID, TaskID: c.Key.TaskID},
		Budgets: c.Budgets, Deadline: c.Deadline,
	}, nil
}

// runChild drives a child run and publishes its end. When the host goes down, the child stays as it is.
func (d *driver) runChild(ctx context.Context, child *driver, key queue.Key) {
	var end *task.Result
	err := child.run(ctx)
	if err == nil {
		err = persist(ctx, func() error {
			end, err = runner.ChildEnd(ctx, d.host.queue, key, child.record.Run.Name, &child.record.Run.Status)
			return err
		})
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		end = runner.ChildRefused(key, string(task.CodeInternal), err.Error(), time.Now())
	}
	if err := persist(ctx, func() error { return d.host.publishEnd(ctx, key, end) }); err != nil {
		d.host.log.ErrorContext(ctx, "end of a child run was not stored", "run", child.record.Run.Name, "error", err)
	}
}

// publishEnd stores the result of the task that a child run carries out. A withdrawal that came first holds.
func (h *host) publishEnd(ctx context.Context, key queue.Key, r *task.Result) error {
	_, err := h.queue.PublishResult(ctx, key, r)
	return err
}

// CancelChild implements runner.Store.
func (d *driver) CancelChild(ctx context.Context, name string, key queue.Key, reason string) error {
	d.mu.Lock()
	child := d.children[key.TaskID]
	d.mu.Unlock()
	if child == nil {
		r, err := d.host.runs.get(ctx, name)
		if errors.Is(err, errNoRun) {
			return d.host.publishEnd(ctx, key, runner.ChildCancelled(key, reason, time.Now()))
		}
		if err != nil {
			return err
		}
		child = d.adopt(ctx, r, true, key) // an earlier process made it
	}
	child.cancel(reason)
	return nil
}

// adopt drives a child run.
func (d *driver) adopt(ctx context.Context, r *record, recovered bool, key queue.Key) *driver {
	child := d.host.newDriver(r, recovered)
	d.mu.Lock()
	d.children[key.TaskID] = child
	d.mu.Unlock()
	d.running.Go(func() { d.runChild(ctx, child, key) })
	return child
}
