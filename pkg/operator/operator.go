// Package operator is ark in a cluster, `ark operator`: the queue server with its streams, the work service that agents
// ask, the informers, the controllers, and the endpoints for probes and metrics, in one process.
//
// Everything that it knows can be read again: from the API server and from the queue's store. It may be killed at any
// moment; the next one goes on. Run ends when its context does, in good order: first the controllers, then the work
// service, then the queue.
package operator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"arkonis.dev/ark/pkg/controller/agents"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/telemetry"
	"arkonis.dev/ark/pkg/work"
)

// Config says how the operator runs. Required are Clients, Namespace, Logger, and either Store or NATSURL.
type Config struct {
	Clients *kube.Clients
	// Namespace is that of the operator: its Lease and its keys are there.
	Namespace string
	// Identity tells this process from others in the Lease: the pod's name.
	Identity string
	// Watch are the namespaces whose objects it looks after; none means all.
	Watch []string

	Queue QueueConfig
	// Agents is what the pods of agents are made with.
	Agents agents.Pods

	// TriggersKept is how long the ArkEvent of a manual trigger is there after it was made, an hour if 0.
	TriggersKept time.Duration

	// Listen is the address of /healthz, /readyz and /metrics; empty for none.
	Listen string
	// APIListen is the address of the aggregated API data.arkonis.dev; empty for none.
	APIListen string
	// Workers is how many objects of one kind are reconciled at once.
	Workers int
	// LeaderElect has only one of several operators act. With an embedded queue the store's lock does that already.
	LeaderElect bool

	Logger    *slog.Logger
	Telemetry *telemetry.Telemetry // nil: off
}

func (c *Config) validate() error {
	switch {
	case c.Clients == nil:
		return errors.New("operator: Clients is missing")
	case c.Namespace == "":
		return errors.New("operator: Namespace is missing")
	case c.Logger == nil:
		return errors.New("operator: Logger is missing")
	case c.LeaderElect && c.Identity == "":
		return errors.New("operator: LeaderElect needs an Identity")
	}
	if c.Workers == 0 {
		c.Workers = defaultWorkers
	}
	if c.TriggersKept == 0 {
		c.TriggersKept = defaultTriggersKept
	}
	return c.Queue.validate()
}

const (
	defaultWorkers      = 8
	defaultTriggersKept = time.Hour
)

// Operator is the process. Make it with New and run it once.
type Operator struct {
	cfg   Config
	log   *slog.Logger
	cache *kube.Cache
	apply *kube.Applier

	queue       *queueParts
	service     *work.Service
	api         *api // nil without APIListen
	agents      *agents.Agents
	controllers []runner

	stage   atomic.Pointer[string] // what is waited for; nil when ready
	leading atomic.Bool
}

// New makes an operator that is not running and connects to nothing.
func New(c Config) (*Operator, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	o := &Operator{cfg: c, log: c.Logger, apply: kube.NewApplier()}
	o.waiting("starting")
	var err error
	if o.cache, err = kube.NewCache(c.Clients, c.Watch); err != nil {
		return nil, fmt.Errorf("operator: %w", err)
	}
	return o, nil
}

func (o *Operator) waiting(what string) { o.stage.Store(&what) }

// Run works until ctx ends. The error is of the start, or of a part without which nothing goes on.
func (o *Operator) Run(ctx context.Context) error {
	stopServing, err := o.serve(ctx)
	if err != nil {
		return err
	}
	defer stopServing()
	o.waiting("the queue is not there yet")
	if o.queue, err = openQueue(ctx, &o.cfg, o.waiting); err != nil {
		if ctx.Err() != nil {
			return nil // it was asked to end while it waited
		}
		return err
	}
	defer o.queue.close()
	if o.service, err = work.NewService(o.queue.Queue, o.queue.agents, o.workConfig()); err != nil {
		return fmt.Errorf("operator: %w", err)
	}
	if err := errors.Join(o.followAgents(), o.addControllers()); err != nil {
		return fmt.Errorf("operator: %w", err)
	}
	if o.cfg.APIListen != "" {
		if o.api, err = o.openAPI(ctx); err != nil {
			return err
		}
	}
	return o.work(ctx)
}

// work runs the informers, then what agents ask, then the controllers of the operator that leads. They end in the other
// order. Nothing is answered before every object is known: a budget that was not seen yet would not be kept.
func (o *Operator) work(ctx context.Context) error {
	o.waiting("not all objects are known yet")
	background := context.WithoutCancel(ctx)
	watching, unwatch := context.WithCancel(background)
	defer unwatch()
	var watched sync.WaitGroup
	defer watched.Wait()
	defer unwatch()
	synced := make(chan struct{})
	watched.Go(func() { o.cache.Run(watching, o.log, func() { close(synced) }) })
	select {
	case <-synced:
	case <-ctx.Done():
		return nil
	}
	o.waiting("the daily budgets are not known yet")
	if err := o.openBudgets(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	serving, stop := context.WithCancel(background)
	defer stop()
	services, serving := errgroup.WithContext(serving)
	services.Go(func() error { return o.service.Run(serving) })
	services.Go(func() error {
		o.renewKeys(serving)
		return nil
	})
	if o.api != nil {
		services.Go(func() error { return o.api.run(serving) })
	}
	control, end := context.WithCancelCause(ctx)
	defer end(nil)
	context.AfterFunc(serving, func() { end(context.Cause(serving)) })
	err := o.service.Ready(control)
	if err == nil {
		err = o.lead(control)
	}
	stop()
	if ctx.Err() != nil && errors.Is(err, context.Cause(ctx)) {
		err = nil
	}
	return errors.Join(err, services.Wait())
}

// control runs the controllers until ctx ends.
func (o *Operator) control(ctx context.Context) {
	o.log.InfoContext(ctx, "controllers start")
	o.stage.Store(nil)
	var group sync.WaitGroup
	for _, c := range o.controllers {
		group.Go(func() { c.Run(ctx) })
	}
	<-ctx.Done()
	o.log.InfoContext(ctx, "controllers stop")
	group.Wait()
}

// Ready is nil when the operator works, or says what it waits for.
func (o *Operator) Ready() error {
	if what := o.stage.Load(); what != nil {
		return errors.New(*what)
	}
	return nil
}
