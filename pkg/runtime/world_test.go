package runtime_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"maps"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/llm/openai"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/tools"
	"arkonis.dev/ark/pkg/work"
)

const (
	namespace = "default"
	runUID    = "run-1"

	// patience is how long a test waits for what merely has to happen, on a machine that is busy with other things too.
	patience = 2 * time.Minute
)

// patiently tries a scenario that depends on how far a process gets in some time: with more and more of it, until the
// outcome fits. The last one is returned as it is: it has had so much time that the machine is no excuse.
func patiently[T any](fits func(T) bool, try func(scale int) T) T {
	for scale := 1; ; scale *= 4 {
		if got := try(scale); fits(got) || scale == 16 {
			return got
		}
	}
}

// world is everything around a runtime, for real: a queue on an embedded server, the work service, a model server
// behind HTTP.
type world struct {
	t      *testing.T
	server *queue.Server
	nc     *nats.Conn
	queue  *queue.Queue
	models *modelserver.Server
	tasks  atomic.Int32

	mu      sync.Mutex
	records []queue.Record
	arrived chan struct{} // closed and replaced when a record arrives
}

func newWorld(t *testing.T, models modelserver.Config) *world {
	t.Helper()
	return newWorldWith(t, models, work.Config{Logger: quiet()})
}

func newWorldWith(t *testing.T, models modelserver.Config, service work.Config) *world {
	t.Helper()
	w := &world{t: t, arrived: make(chan struct{})}
	server, err := queue.StartServer(t.Context(), queue.ServerConfig{Logger: quiet()})
	require.NoError(t, err)
	t.Cleanup(server.Shutdown)
	w.server = server
	w.nc, err = server.Connect("test")
	require.NoError(t, err)
	w.open(models, service)
	return w
}

// open starts what works on the connection.
func (w *world) open(models modelserver.Config, config work.Config) {
	w.t.Helper()
	var err error
	w.queue, err = queue.Open(w.t.Context(), w.nc, queue.Config{Storage: jetstream.MemoryStorage, Logger: quiet()})
	require.NoError(w.t, err)
	service, err := work.NewService(w.queue, w.nc, config)
	require.NoError(w.t, err)
	w.background(service.Run)
	require.NoError(w.t, service.Ready(w.t.Context()))
	w.background(func(ctx context.Context) error {
		return w.queue.Results(ctx, "", func(r queue.Record) error { w.record(r); return nil }, nil)
	})
	w.models, err = modelserver.Start(w.t.Context(), models)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = w.models.Close() })
}

// background runs fn until the test ends, and waits for it.
func (w *world) background(fn func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(w.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := fn(ctx); err != nil && ctx.Err() == nil {
			w.t.Errorf("stopped early: %v", err)
		}
	}()
	stop = func() {
		cancel()
		<-done
	}
	w.t.Cleanup(stop)
	return stop
}

func (w *world) record(r queue.Record) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.records = append(w.records, r)
	close(w.arrived)
	w.arrived = make(chan struct{})
}

// result waits for the result of a task.
func (w *world) result(id string) *task.Result {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	for {
		w.mu.Lock()
		for _, r := range w.records {
			if r.Result != nil && r.Key.TaskID == id {
				w.mu.Unlock()
				return r.Result
			}
		}
		arrived := w.arrived
		w.mu.Unlock()
		select {
		case <-arrived:
		case <-ctx.Done():
			require.Fail(w.t, "no result of task "+id)
		}
	}
}

// delegated are the records of delegated work so far.
func (w *world) delegated() []*task.Delegated {
	w.mu.Lock()
	defer w.mu.Unlock()
	var all []*task.Delegated
	for _, r := range w.records {
		if r.Delegated != nil {
			all = append(all, r.Delegated)
		}
	}
	return all
}

// agent starts a runtime. Its pod is named after the agent unless change says otherwise.
func (w *world) agent(name string, change func(*runtime.Config)) (stop func()) {
	w.t.Helper()
	r, err := runtime.New(w.config(name, change))
	require.NoError(w.t, err)
	return w.background(r.Run)
}

func (w *world) config(name string, change func(*runtime.Config)) runtime.Config {
	w.t.Helper()
	c := runtime.Config{
		Namespace: namespace, Agent: name, Pod: name + "-0", Model: "m-1", SystemPrompt: "You are " + name + ".",
		Provider: w.provider(), Queue: w.queue, Work: work.NewClient(w.nc), Logger: quiet(),
		Backoff: runtime.Backoff{Base: 2 * time.Millisecond, Max: 50 * time.Millisecond},
	}
	if change != nil {
		change(&c)
	}
	return c
}

func (w *world) provider() llm.Provider {
	w.t.Helper()
	p, err := openai.New(openai.Config{BaseURL: w.models.URL(), APIKey: "k"})
	require.NoError(w.t, err)
	return p
}

// task makes one of its own for an agent.
func (w *world) task(agent, prompt string) *task.Task {
	n := w.tasks.Add(1)
	now := time.Now().UTC()
	return &task.Task{
		Version: task.Version, ID: task.ID(task.KindStep, runUID, "s"+strconv.Itoa(int(n)), 0, 0, 0), Kind: task.KindStep,
		Namespace: namespace, Agent: agent, Run: task.Run{UID: runUID, Name: "run"}, Step: "s" + strconv.Itoa(int(n)), Role: agent,
		Prompt: task.Text{Inline: prompt}, Created: now, Deadline: now.Add(2 * patience),
	}
}

func (w *world) submit(tasks ...*task.Task) {
	w.t.Helper()
	for _, t := range tasks {
		require.NoError(w.t, w.queue.Submit(w.t.Context(), t))
	}
}

// do submits a task and waits for its result.
func (w *world) do(t *task.Task) *task.Result {
	w.t.Helper()
	w.submit(t)
	return w.result(t.ID)
}

// text is the whole of an output.
func (w *world) text(t task.Text) string {
	w.t.Helper()
	s, err := w.queue.Text(w.t.Context(), t, 64<<20)
	require.NoError(w.t, err)
	return s
}

// messages are the messages of a call, as role and content, tool calls in between.
func messages(c modelserver.Call) []string {
	var all []string
	for _, m := range c.Request.Messages {
		line := m.Role + ": " + m.Content
		for _, u := range m.ToolCalls {
			line += " -> " + u.Function.Name + u.Function.Arguments
		}
		all = append(all, line)
	}
	return all
}

// fn is a tool made of a function.
type fn struct {
	name   string
	schema string
	safe   bool
	call   func(ctx context.Context, c tools.Call) (tools.Result, error)
}

func (f fn) Spec() llm.Tool {
	return llm.Tool{Name: f.name, Description: "does " + f.name, Schema: json.RawMessage(f.schema)}
}
func (f fn) Safe() bool { return f.safe }
func (f fn) Call(ctx context.Context, c tools.Call) (tools.Result, error) {
	return f.call(ctx, c)
}

func set(t *testing.T, all ...tools.Tool) *tools.Set {
	t.Helper()
	s, err := tools.NewSet(all...)
	require.NoError(t, err)
	return s
}

// facts is what of a result does not depend on the time.
func facts(r *task.Result) task.Result {
	c := *r
	c.Started, c.Completed, c.Usage = time.Time{}, time.Time{}, task.Usage{}
	return c
}

// served counts calls by what decided them.
type served struct {
	mu sync.Mutex
	n  map[string]int
}

func (s *served) add(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.n == nil {
		s.n = map[string]int{}
	}
	s.n[what]++
	return s.n[what]
}

func (s *served) all() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.n)
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// gone waits until the queue is rid of a task.
func (w *world) gone(tk *task.Task) {
	w.t.Helper()
	js, err := jetstream.New(w.nc)
	require.NoError(w.t, err)
	stream, err := js.Stream(w.t.Context(), queue.StreamTasks)
	require.NoError(w.t, err)
	subject := "ark.task." + queue.Token(tk.Namespace) + "." + queue.Token(tk.Agent) + "." + queue.Token(tk.ID)
	require.Eventually(w.t, func() bool {
		_, err := stream.GetLastMsgForSubject(w.t.Context(), subject)
		return errors.Is(err, jetstream.ErrMsgNotFound)
	}, patience, 5*time.Millisecond, "the task is still in the queue")
}

// panicking is a provider that panics when it is told to.
type panicking struct{ llm.Provider }

func (p panicking) Chat(ctx context.Context, r llm.Request, f func(llm.Chunk)) (*llm.Response, error) {
	if r.Messages[len(r.Messages)-1].Text == "panic" {
		panic("boom")
	}
	return p.Provider.Chat(ctx, r, f)
}

// receive takes a value that is to come soon.
func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		require.Fail(t, "nothing came")
		panic("unreachable")
	}
}
