// Package agent is the process of an agent, `ark runtime`: it reads its environment, connects to the queue server and to
// its tools, runs its tasks until it is told to stop, and says how it is.
//
// The environment is checked before anything is connected; all that is wrong is told at once. Everything after that is
// waited for: a queue server or an operator that is not there yet, one that goes away, a tool server that is down. The
// process ends only when its context does, and then in good order.
package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/nats-io/nats.go"

	"arkonis.dev/ark/pkg/environ"
	"arkonis.dev/ark/pkg/memory"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/telemetry"
	"arkonis.dev/ark/pkg/tools/mcp"
	"arkonis.dev/ark/pkg/work"
)

// Config says how the process runs; what the agent is stands in its environment. Required are Env, Grace and Logger.
type Config struct {
	Env environ.Source
	// Environ is the environment as the commands of tool servers get it, without the secrets of ark: "NAME=value".
	Environ []string
	// Listen is the address of the probes and metrics; empty for none.
	Listen string
	// Grace is the time from the end of Run's context to the return of Run: tasks that do not end in the greater part of
	// it are handed back.
	Grace time.Duration
	// AckWait is how long the queue waits for a sign of life of the process before it gives its tasks to another one; 0:
	// queue.DefaultAckWait. All pods of an agent should have the same.
	AckWait time.Duration

	Logger    *slog.Logger
	Telemetry *telemetry.Telemetry // nil: off
}

func (c *Config) validate() error {
	switch {
	case c.Env.Getenv == nil || c.Env.ReadFile == nil:
		return errors.New("agent: Env is missing")
	case c.Logger == nil:
		return errors.New("agent: Logger is missing")
	case c.Grace <= 0:
		return errors.New("agent: Grace must be above 0")
	case c.AckWait < 0:
		return errors.New("agent: AckWait must not be negative")
	default:
		return nil
	}
}

// Agent is the process of one agent. Make it with New and run it once.
type Agent struct {
	config Config
	env    *environ.Agent
	outfit *outfit
	log    *slog.Logger

	trimmed sync.Once // what the start has needed is given back

	mu      sync.Mutex
	runtime *runtime.Runtime // nil until the queue is there
	servers *mcp.Servers     // nil for none
	memory  *memory.Memory   // nil for none
	waiting string           // why the runtime is not there
}

// New makes the agent of an environment and connects to nothing. An *environ.Error says all that is wrong with it.
func New(c Config) (*Agent, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	env, faults := environ.Read(c.Env)
	outfit, more := newOutfit(env, c.Environ)
	if faults = append(faults, more...); len(faults) > 0 {
		return nil, &environ.Error{Faults: faults}
	}
	return &Agent{
		config: c, env: env, outfit: outfit, waiting: "not connected to the queue server yet",
		log: c.Logger.With("agent", env.Name, "namespace", env.Namespace, "pod", env.Pod),
	}, nil
}

// Run works until ctx ends; then it lets running tasks finish, as far as Config.Grace allows, hands the rest back, and
// returns. The error is of the start: an address that cannot be listened on.
func (a *Agent) Run(ctx context.Context) error {
	listener, err := a.listen(ctx)
	if err != nil {
		return err
	}
	// The probes answer until everything else has ended.
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	var group sync.WaitGroup
	if listener != nil {
		group.Go(func() { a.serve(serving, listener) })
	}
	err = a.work(ctx)
	stop()
	group.Wait()
	return err
}

func (a *Agent) listen(ctx context.Context) (net.Listener, error) {
	if a.config.Listen == "" {
		return nil, nil
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a.config.Listen)
	if err != nil {
		return nil, fmt.Errorf("listen for probes on %s: %w", a.config.Listen, err)
	}
	a.log.InfoContext(ctx, "answering probes", "address", l.Addr().String())
	return l, nil
}

func (a *Agent) work(ctx context.Context) error {
	defer a.outfit.network.Close()
	nc, err := queue.Connect(queue.Address{URL: a.env.NATSURL, Credentials: a.env.NATSCreds, CA: a.env.NATSCA}, "ark runtime "+a.env.Namespace+"/"+a.env.Name+" "+a.env.Pod, a.log)
	if err != nil {
		return fmt.Errorf("%s: %w", environ.NATSURL, err)
	}
	defer hangUp(nc)
	servers, err := a.connectTools(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", environ.MCPServers, err)
	}
	if servers != nil {
		defer servers.Close()
	}
	if err := a.connectMemory(ctx); err != nil {
		return fmt.Errorf("%s: %w", environ.MemoryBackend, err)
	}
	defer a.closeMemory(ctx)
	for tries := 0; ctx.Err() == nil; tries++ {
		err := a.runOnce(ctx, nc, servers)
		if err == nil {
			return nil
		}
		a.wait(ctx, nc, tries, err)
	}
	return nil
}

// connectTools begins to connect to the tool servers. Running tasks need them until the last one has ended.
func (a *Agent) connectTools(ctx context.Context) (*mcp.Servers, error) {
	if len(a.outfit.servers) == 0 {
		return nil, nil
	}
	servers, err := mcp.Start(context.WithoutCancel(ctx), a.outfit.servers, a.outfit.network, a.log)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.servers = servers
	a.mu.Unlock()
	return servers, nil
}

// connectMemory begins to connect to what the agent remembers with. Running tasks need it until the last one has ended.
func (a *Agent) connectMemory(ctx context.Context) error {
	if a.outfit.memory == nil {
		return nil
	}
	m, err := memory.New(context.WithoutCancel(ctx), *a.outfit.memory, a.log)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.memory = m
	a.mu.Unlock()
	return nil
}

func (a *Agent) closeMemory(ctx context.Context) {
	if a.memory == nil {
		return
	}
	if err := a.memory.Close(); err != nil {
		a.log.DebugContext(ctx, "the memory was not closed in good order", "error", err)
	}
}

// runOnce attaches to the queue and runs the agent's tasks until ctx ends. An error is of the start.
func (a *Agent) runOnce(ctx context.Context, nc *nats.Conn, servers *mcp.Servers) error {
	q, err := queue.Attach(ctx, nc, a.env.Namespace, a.env.Name, queue.Config{Logger: a.log})
	if err != nil {
		return err
	}
	c := a.outfit.config
	c.Queue, c.Work, c.Servers, c.Memory = q, work.NewClient(nc), servers, a.memory
	c.Logger, c.Telemetry = a.config.Logger.With("pod", a.env.Pod), a.config.Telemetry
	c.AckWait, c.Heartbeat = a.config.AckWait, a.config.AckWait/heartbeats
	c.Grace = a.config.Grace - handBackTime(a.config.Grace)
	r, err := runtime.New(c)
	if err != nil {
		return err
	}
	a.mu.Lock()
	a.runtime = r
	a.mu.Unlock()
	// It is reported how the pod is until its last task has ended.
	reporting, stop := context.WithCancel(context.WithoutCancel(ctx))
	var group sync.WaitGroup
	group.Go(func() { a.report(reporting, c.Work) })
	err = r.Run(ctx)
	stop()
	group.Wait()
	return err
}

const (
	// heartbeats is how many there are in AckWait.
	heartbeats = 3
	// retryFirst and retryMost bound the pauses between attempts to attach to the queue.
	retryFirst = 50 * time.Millisecond
	retryMost  = 2 * time.Second
	// retryTell is how many attempts fail between two lines of the log.
	retryTell = 30
	// hangUpTime bounds the last words to the queue.
	hangUpTime = 2 * time.Second
)

// handBackTime is what is kept of the grace period to hand tasks back in.
func handBackTime(grace time.Duration) time.Duration { return min(grace/3, 10*time.Second) }

// wait pauses before another attempt to attach: until the connection is there, or else a growing while.
func (a *Agent) wait(ctx context.Context, nc *nats.Conn, tries int, err error) {
	a.mu.Lock()
	a.waiting = err.Error()
	a.runtime = nil
	a.mu.Unlock()
	if tries%retryTell == 1 && ctx.Err() == nil {
		a.log.WarnContext(ctx, "the queue is not there yet, trying again", "error", err)
	}
	var connected chan nats.Status
	if !nc.IsConnected() {
		connected = nc.StatusChanged(nats.CONNECTED)
		defer nc.RemoveStatusListener(connected)
	}
	timer := time.NewTimer(min(retryFirst<<min(tries, 10), retryMost))
	defer timer.Stop()
	select {
	case <-connected:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// hangUp sends what is still on its way, such as tasks that are handed back, and closes the connection.
func hangUp(nc *nats.Conn) {
	_ = nc.FlushTimeout(hangUpTime) // what cannot be sent comes again after AckWait
	nc.Close()
}

// Alive is nil unless the loop that takes tasks stands still.
func (a *Agent) Alive() error {
	a.mu.Lock()
	r := a.runtime
	a.mu.Unlock()
	if r == nil {
		return nil
	}
	return r.Alive()
}
