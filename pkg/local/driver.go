package local

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

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

	records  chan queue.Record
	caughtUp chan struct{}
	cancels  chan string

	mu       sync.Mutex
	children map[string]*driver // by the task that a child run carries out
	running  sync.WaitGroup     // children
}

func (h *host) newDriver(r *record, recovered bool) *driver {
	return &driver{
		host: h, record: r, recovered: recovered,
		records: make(chan queue.Record, 64), caughtUp: make(chan struct{}), cancels: make(chan string, 1),
		children: map[string]*driver{},
	}
}

// cancel asks for the run's end; only the first reason counts. It may be called at any time by anybody.
func (d *driver) cancel(reason string) {
	select {
	case d.cancels <- reason:
	default:
	}
}

// run drives the run and returns its whole output when it has ended; the end is in d.record then. When ctx ends, the
// run stays as it is.
func (d *driver) run(ctx context.Context) (string, error) {
	if d.record.Run.Status.Phase.Terminal() {
		return d.output(ctx)
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var err error
	d.live, err = runner.New(ctx, d.config())
	if err != nil {
		return "", err
	}
	defer d.live.Close()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.follow(ctx) })
	g.Go(func() error {
		defer stop()
		defer d.running.Wait() // the children: a run ends after them, or they end with ctx
		return d.drive(ctx)
	})
	if err := g.Wait(); err != nil && !(errors.Is(err, context.Canceled) && d.live.Ended()) {
		return "", fmt.Errorf("drive run %s: %w", d.record.Run.Name, err)
	}
	d.record.Run.Status = d.live.Status(time.Now())
	return d.live.Output(), nil
}

// follow passes the records of the run on to drive.
func (d *driver) follow(ctx context.Context) error {
	pass := func(r queue.Record) error {
		select {
		case d.records <- r:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	caughtUp := func() error {
		close(d.caughtUp)
		return nil
	}
	return d.host.queue.Results(ctx, string(d.record.Run.UID), pass, caughtUp)
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
		case r := <-d.records:
			err = d.fold(ctx, r)
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
	for {
		select {
		case r := <-d.records:
			if err := d.fold(ctx, r); err != nil {
				return err
			}
		case <-d.caughtUp:
			return d.drain(ctx)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// fold takes in a record and all others that are there.
func (d *driver) fold(ctx context.Context, r queue.Record) error {
	if err := d.foldOne(ctx, r); err != nil {
		return err
	}
	return d.drain(ctx)
}

func (d *driver) drain(ctx context.Context) error {
	for {
		select {
		case r := <-d.records:
			if err := d.foldOne(ctx, r); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

func (d *driver) foldOne(ctx context.Context, r queue.Record) error {
	return persist(ctx, func() error { return d.live.Fold(ctx, r) })
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
		if !transient(err) || ctx.Err() != nil {
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

func transient(err error) bool {
	return errors.Is(err, queue.ErrUnavailable) || errors.Is(err, queue.ErrUnknownOutcome) || errors.Is(err, queue.ErrFull) ||
		errors.Is(err, context.DeadlineExceeded)
}

// show tells whoever looks on how far the run is.
func (d *driver) show() {
	if o := d.host.observer; o != nil {
		task := ""
		if d.record.Parent != nil {
			task = d.record.Parent.TaskID
		}
		o.run(string(d.record.Run.UID), task, d.live.Status(time.Now()))
	}
}

// config is what the run is driven with.
func (d *driver) config() runner.Config {
	r := d.record
	return runner.Config{
		Run: &r.Run, Started: r.Run.Spec.Trigger.FiredAt.Time, Pipeline: engineOptions(),
		Queue: d.host.queue, Store: d, Budgets: r.Budgets, Deadline: r.Deadline, Telemetry: d.host.tel,
	}
}

// Commit implements runner.Store.
func (d *driver) Commit(ctx context.Context, run *v1alpha1.ArkRun, status v1alpha1.ArkRunStatus) (v1alpha1.ArkRunStatus, error) {
	return d.host.runs.end(ctx, run.Name, status)
}

// stepOutput is the whole output of a step, when this process drove the run.
func (d *driver) stepOutput(step string) (string, bool) {
	if d.live == nil {
		return "", false
	}
	return d.live.StepOutput(step)
}

// output reads the output of a run that had ended before this process began.
func (d *driver) output(ctx context.Context) (string, error) {
	s := &d.record.Run.Status
	if s.OutputRef == nil {
		return s.Output, nil
	}
	return d.host.queue.Text(ctx, task.Text{Ref: &task.Ref{Key: s.OutputRef.Key, Size: s.OutputRef.Size, SHA256: s.OutputRef.SHA256}}, s.OutputRef.Size)
}
