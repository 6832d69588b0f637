package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"arkonis.dev/ark/pkg/local/progress"
	"arkonis.dev/ark/pkg/memory"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runner"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/telemetry"
	"arkonis.dev/ark/pkg/tools/mcp"
	"arkonis.dev/ark/pkg/work"
)

// host is what a cluster is elsewhere: the queue server, the work service, a runtime for each agent, and a store of
// runs, all in this process. Any number of runs may be driven in it at once. Whoever starts one closes it.
type host struct {
	catalog  *catalog
	agents   map[string]*agent
	log      *slog.Logger
	tel      *telemetry.Telemetry
	observer *progress.Observer // nil: nobody looks on
	stream   bool

	server  *queue.Server
	js      jetstream.JetStream
	queue   *queue.Queue
	runs    *runStore
	service *work.Service

	agentsUp, serviceUp, resultsUp part
	mail                           *runner.Post
	unwatch                        []func()
	servers                        []*mcp.Servers   // of the agents
	memories                       []*memory.Memory // of the agents
	private                        string           // folder for their certificates, "" for none
	failed                         context.Context  //nolint:containedctx // ends when new results are followed no more; its cause says why
}

// part is a number of goroutines that end together.
type part struct {
	stop  context.CancelFunc
	group *errgroup.Group
}

// newPart makes a part that outlives ctx; a goroutine that fails ends all.
func newPart(ctx context.Context) (part, context.Context) {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	group, ctx := errgroup.WithContext(ctx)
	return part{stop: stop, group: group}, ctx
}

// end stops the part and waits for it. It may be one that was never started.
func (p part) end() error {
	if p.group == nil {
		return nil
	}
	p.stop()
	if err := p.group.Wait(); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// hostConfig says what a host is made of.
type hostConfig struct {
	store    string // folder, or empty for memory
	log      *slog.Logger
	tel      *telemetry.Telemetry
	observer *progress.Observer
	stream   bool
}

// newHost starts the queue server and opens the store. Agents follow with equip, when the manifests are known.
func newHost(ctx context.Context, c hostConfig) (*host, error) {
	h := &host{mail: runner.NewPost(nil), log: c.log, tel: c.tel, observer: c.observer, stream: c.stream}
	var err error
	// On disk every write is synced: what was paid for outlives a power cut.
	h.server, err = queue.StartServer(ctx, queue.ServerConfig{StoreDir: c.store, SyncAlways: c.store != "", Logger: c.log})
	if err != nil {
		if errors.Is(err, queue.ErrLocked) {
			return nil, &ConfigError{Problems: []string{"--store: " + err.Error()}}
		}
		return nil, fmt.Errorf("start the queue: %w", err)
	}
	if err := h.open(ctx, c.store); err != nil {
		h.server.Shutdown()
		return nil, err
	}
	return h, nil
}

func (h *host) open(ctx context.Context, store string) error {
	nc, err := h.server.Connect("ark run")
	if err != nil {
		return err
	}
	js, err := jetstream.New(nc)
	if err != nil {
		return fmt.Errorf("open the queue: %w", err)
	}
	storage := jetstream.FileStorage
	if store == "" {
		storage = jetstream.MemoryStorage
	}
	h.js = js
	var g errgroup.Group
	g.Go(func() (err error) {
		h.queue, err = queue.Open(ctx, nc, queue.Config{Storage: storage, Logger: h.log})
		return err
	})
	g.Go(func() error {
		kv, err := openRuns(ctx, js, storage)
		if err != nil {
			return fmt.Errorf("open the store of runs: %w", err)
		}
		h.runs = &runStore{kv: kv}
		return nil
	})
	return g.Wait()
}

// openRuns opens the bucket, and makes it only when it is not there. An update, even to the same configuration, has the
// server write the stream's description anew, in two files: a process that is killed between them leaves a stream that
// the next one does not find.
func openRuns(ctx context.Context, js jetstream.JetStream, storage jetstream.StorageType) (jetstream.KeyValue, error) {
	kv, err := js.KeyValue(ctx, bucket)
	if !errors.Is(err, jetstream.ErrBucketNotFound) {
		return kv, err
	}
	return js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: bucket, Description: "runs and how they ended", Storage: storage, MaxBytes: storeLimit,
	})
}

// storeLimit bounds the records of all runs of a host, in bytes.
const storeLimit = 256 << 20

// inherit makes a store that a dead process left behind fit for this one, which goes on with the given runs only. What
// the dead agents held is delivered again at once, instead of when their time to acknowledge is over. Tasks of other
// runs are taken off the queue, as nobody is there to use their results; whoever goes on with those runs derives the
// tasks again.
func (h *host) inherit(ctx context.Context, runs map[string]bool) error {
	stream, err := h.js.Stream(ctx, queue.StreamTasks)
	if err != nil {
		return fmt.Errorf("take the store over: %w", err)
	}
	consumers := stream.ConsumerNames(ctx)
	for name := range consumers.Name() {
		if err := stream.DeleteConsumer(ctx, name); err != nil {
			return fmt.Errorf("take the store over: forget a dead agent: %w", err)
		}
	}
	if err := consumers.Err(); err != nil {
		return fmt.Errorf("take the store over: %w", err)
	}
	if err := dropTasks(ctx, stream, runs); err != nil {
		return fmt.Errorf("take the store over: remove tasks of other runs: %w", err)
	}
	return nil
}

// dropTasks removes the tasks of all runs but some. Those of the others must stay: the server would take them, queued
// again, for doubles of what it has.
func dropTasks(ctx context.Context, stream jetstream.Stream, keep map[string]bool) error {
	for seq := uint64(1); ; seq++ {
		m, err := stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject("ark.task.>"))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		seq = m.Sequence
		if t, err := task.Decode[task.Task](m.Data); err == nil && keep[t.Run.UID] {
			continue
		}
		if err := stream.DeleteMsg(ctx, seq); err != nil {
			return err
		}
	}
}

// equip starts the work service and one runtime for each agent. They outlive an interrupted ctx: they are needed to
// cancel the run in good order.
func (h *host) equip(ctx context.Context, c *catalog, agents map[string]*agent, outfits []outfit) error {
	h.catalog, h.agents = c, agents
	service, err := h.startService(ctx)
	if err != nil {
		return fmt.Errorf("start the work service: %w", err)
	}
	if err := h.followResults(ctx); err != nil {
		return err
	}
	var up context.Context
	h.agentsUp, up = newPart(ctx)
	for _, o := range outfits {
		if err := h.startAgent(up, o, service); err != nil {
			return err
		}
	}
	return h.watch()
}

// startAgent starts the runtime of an agent and connects it to its MCP servers.
func (h *host) startAgent(ctx context.Context, o outfit, service *work.Service) (err error) {
	c := o.Config
	c.Queue, c.Work, c.Logger, c.Telemetry = h.queue, service.Client(), h.log, h.tel
	c.NoProgress, c.NoChunks = h.observer == nil, h.observer == nil || !h.stream
	if len(o.servers) > 0 {
		if h.private == "" {
			if h.private, err = os.MkdirTemp("", "ark-"); err != nil {
				return err
			}
		}
		if c.Servers, err = o.start(ctx, h.private, h.log); err != nil {
			return fmt.Errorf("start agent %s: %w", o.Agent, err)
		}
		h.servers = append(h.servers, c.Servers)
		if err := o.required(ctx, c.Servers); err != nil {
			return err
		}
	}
	if o.memory != nil {
		if c.Memory, err = memory.New(ctx, *o.memory, h.log.With("agent", o.Agent)); err != nil {
			return fmt.Errorf("start agent %s: %w", o.Agent, err)
		}
		h.memories = append(h.memories, c.Memory)
	}
	r, err := runtime.New(c)
	if err != nil {
		return fmt.Errorf("start agent %s: %w", o.Agent, err)
	}
	h.agentsUp.group.Go(func() error { return r.Run(ctx) })
	return nil
}

// followResults passes new records to the drivers of their runs, from its return on.
func (h *host) followResults(ctx context.Context) error {
	var up context.Context
	h.resultsUp, up = newPart(ctx)
	h.failed = up
	ready := make(chan struct{})
	h.resultsUp.group.Go(func() error {
		return h.queue.NewResults(up, h.mail.Deliver, func() { close(ready) })
	})
	select {
	case <-ready:
		return nil
	case <-up.Done():
		return context.Cause(up)
	}
}

func (h *host) startService(ctx context.Context) (*work.Service, error) {
	nc, err := h.server.Connect("work service")
	if err != nil {
		return nil, err
	}
	service, err := work.NewService(h.queue, nc, work.Config{Daily: h.daily, Retries: h.retries, Logger: h.log, Telemetry: h.tel})
	if err != nil {
		return nil, err
	}
	var up context.Context
	h.service = service
	h.serviceUp, up = newPart(ctx)
	h.serviceUp.group.Go(func() error { return service.Run(up) })
	return service, service.Ready(up)
}

// watch passes the hints of tasks on to whoever looks on.
func (h *host) watch() error {
	if h.observer == nil {
		return nil
	}
	stop, err := h.queue.WatchProgress("", h.observer.Progress)
	if err != nil {
		return fmt.Errorf("watch the agents: %w", err)
	}
	h.unwatch = append(h.unwatch, stop)
	if h.stream {
		if stop, err = h.queue.WatchChunks("", h.observer.Chunk); err != nil {
			return fmt.Errorf("watch the agents: %w", err)
		}
		h.unwatch = append(h.unwatch, stop)
	}
	return nil
}

// daily are the rolling budgets that a call is charged to: its agent's, and that of the team whose run it is.
func (h *host) daily(_, name, team string) []task.Budget {
	const day = 24 * 60 * 60
	var out []task.Budget
	if a := h.agents[name]; a != nil && a.spec.Limits != nil && a.spec.Limits.MaxDailyTokens > 0 {
		out = append(out, task.Budget{Scope: "agent." + name, Limit: a.spec.Limits.MaxDailyTokens, Window: day})
	}
	if t := h.catalog.teams[team]; t != nil && t.Spec.Limits != nil && t.Spec.Limits.MaxDailyTokens > 0 {
		out = append(out, task.Budget{Scope: "team." + team, Limit: t.Spec.Limits.MaxDailyTokens, Window: day})
	}
	return out
}

// retries is how often a task of an agent is taken over after the process that worked on it has died.
func (h *host) retries(_, name string) int {
	if a := h.agents[name]; a != nil && a.spec.Limits != nil && a.spec.Limits.Retries != nil {
		return int(*a.spec.Limits.Retries)
	}
	return work.DefaultRetries
}

// close ends agents, service and server, in this order, and waits for them.
func (h *host) close() error {
	for _, stop := range h.unwatch {
		stop()
	}
	err := errors.Join(h.agentsUp.end(), h.serviceUp.end(), h.resultsUp.end())
	for _, s := range h.servers {
		s.Close()
	}
	for _, m := range h.memories {
		if failure := m.Close(); failure != nil {
			h.log.Debug("a memory was not closed in good order", "error", failure)
		}
	}
	if h.private != "" {
		err = errors.Join(err, os.RemoveAll(h.private))
	}
	h.server.Shutdown()
	if err != nil {
		return fmt.Errorf("end the agents: %w", err)
	}
	return nil
}
