package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

const fleetRun = "run-1"

// patience is how long a test waits for what merely has to happen, on a machine that is busy with other things too.
const patience = 3 * time.Minute

// fleet is a NATS server on a port, the work service, a model server, and agents as processes of their own.
type fleet struct {
	t       *testing.T
	ark     string
	port    int
	store   string
	server  *natsserver.Server
	nc      *nats.Conn
	queue   *queue.Queue
	models  *modelserver.Server
	service *work.Service
	tasks   atomic.Int32

	mu      sync.Mutex
	results map[string][]*task.Result
	last    uint64        // sequence of the last record
	arrived chan struct{} // closed and replaced when a result arrives
}

func newFleet(t *testing.T, models modelserver.Config, service work.Config) *fleet {
	t.Helper()
	f := &fleet{
		t: t, ark: arkBinary(t), port: freePort(t), store: t.TempDir(), models: startModel(t, models),
		results: map[string][]*task.Result{}, arrived: make(chan struct{}),
	}
	f.startNATS()
	t.Cleanup(f.stopNATS)
	var err error
	f.nc, err = queue.Connect(queue.Address{URL: f.url()}, "test", silent())
	require.NoError(t, err)
	t.Cleanup(f.nc.Close)
	f.queue, err = queue.Open(t.Context(), f.nc, queue.Config{Storage: jetstream.FileStorage, Logger: silent(), Timeout: time.Minute})
	require.NoError(t, err)
	service.Logger = silent()
	s, err := work.NewService(f.queue, f.nc, service)
	require.NoError(t, err)
	f.service = s
	f.background(s.Run)
	require.NoError(t, s.Ready(t.Context()))
	f.background(func(ctx context.Context) error {
		for ctx.Err() == nil { // it breaks off while the server is away
			_ = f.queue.Results(ctx, "", func(r queue.Record) error { f.record(r); return nil }, nil)
		}
		return nil
	})
	return f
}

func silent() *slog.Logger { return slog.New(slog.DiscardHandler) }

// ports are handed out one after another from below the system's own range: a server that is away for a while must find
// its port free when it comes back, and every other listener here takes one of the system's.
var ports = func() *atomic.Int32 {
	var n atomic.Int32
	n.Store(20000 + int32(os.Getpid()%400)*20)
	return &n
}()

func freePort(t *testing.T) int {
	t.Helper()
	for range 200 {
		port := int(ports.Add(1))
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:"+strconv.Itoa(port))
		if err != nil {
			continue
		}
		require.NoError(t, l.Close())
		return port
	}
	t.Fatal("no port is free")
	return 0
}

func (f *fleet) url() string { return "nats://127.0.0.1:" + strconv.Itoa(f.port) }

func (f *fleet) startNATS() {
	f.t.Helper()
	s, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: f.port, JetStream: true, JetStreamMaxStore: 1 << 40, StoreDir: f.store, NoLog: true, NoSigs: true,
	})
	require.NoError(f.t, err)
	go s.Start()
	require.True(f.t, s.ReadyForConnections(patience))
	f.server = s
	if f.nc != nil {
		require.Eventually(f.t, f.nc.IsConnected, patience, 5*time.Millisecond)
	}
}

func (f *fleet) stopNATS() {
	f.server.Shutdown()
	f.server.WaitForShutdown()
}

// background runs fn until the test ends, and waits for it.
func (f *fleet) background(fn func(context.Context) error) {
	ctx, cancel := context.WithCancel(f.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := fn(ctx); err != nil && ctx.Err() == nil {
			f.t.Errorf("stopped early: %v", err)
		}
	}()
	f.t.Cleanup(func() { cancel(); <-done })
}

func (f *fleet) record(r queue.Record) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.Result == nil || r.Seq <= f.last {
		return
	}
	f.last = r.Seq
	f.results[r.Key.TaskID] = append(f.results[r.Key.TaskID], r.Result)
	close(f.arrived)
	f.arrived = make(chan struct{})
}

// result waits for the result of a task.
func (f *fleet) result(id string) *task.Result {
	f.t.Helper()
	timeout := time.After(patience)
	for {
		f.mu.Lock()
		found, arrived := f.results[id], f.arrived
		f.mu.Unlock()
		if len(found) > 0 {
			return found[0]
		}
		select {
		case <-arrived:
		case <-timeout:
			require.FailNow(f.t, "no result of task "+id)
		}
	}
}

// ended is how many tasks have a result.
func (f *fleet) ended() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.results)
}

// task submits a task of its own for writer.
func (f *fleet) task(prompt string) *task.Task {
	f.t.Helper()
	return f.taskWithin(2*patience, prompt)
}

// taskWithin submits one that may take so long.
func (f *fleet) taskWithin(timeout time.Duration, prompt string) *task.Task {
	f.t.Helper()
	step, now := "s"+strconv.Itoa(int(f.tasks.Add(1))), time.Now().UTC()
	tk := &task.Task{
		Version: task.Version, ID: task.ID(task.KindStep, fleetRun, step, 0, 0, 0), Kind: task.KindStep, Namespace: "default", Agent: "writer",
		Run: task.Run{UID: fleetRun, Name: "run"}, Step: step, Role: "writer", Prompt: task.Text{Inline: prompt},
		Created: now, Deadline: now.Add(timeout + patience), TimeoutSeconds: int64(timeout / time.Second),
	}
	require.NoError(f.t, f.queue.Submit(f.t.Context(), tk))
	return tk
}

// pod is a process of `ark runtime`.
type pod struct {
	t    *testing.T
	cmd  *exec.Cmd
	addr string
	log  *safeBuffer
	done chan struct{}
	err  error // after done
}

// safeBuffer may be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(b)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// pod starts a process. env wins over what every agent gets.
func (f *fleet) pod(name string, env []string, args ...string) *pod {
	f.t.Helper()
	p := &pod{t: f.t, addr: "127.0.0.1:" + strconv.Itoa(freePort(f.t)), log: &safeBuffer{}, done: make(chan struct{})}
	p.cmd = exec.Command(f.ark, append([]string{"runtime", "--listen", p.addr}, args...)...)
	p.cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "AGENT_NAME=writer", "AGENT_NAMESPACE=default", "POD_NAME=" + name, "MODEL=m-1",
		"NATS_URL=" + f.url(), "OPENAI_BASE_URL=" + f.models.URL(), "MAX_TOKENS_PER_CALL=600",
	}, env...)
	p.cmd.Stderr = p.log
	require.NoError(f.t, p.cmd.Start())
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	f.t.Cleanup(func() {
		p.kill()
		if f.t.Failed() {
			f.t.Logf("log of %s:\n%s", name, p.log)
		}
	})
	return p
}

func (p *pod) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

func (p *pod) terminate() { require.NoError(p.t, p.cmd.Process.Signal(syscall.SIGTERM)) }

// get asks the process; status is 0 when it does not answer.
func (p *pod) get(path string) (status int, body string) {
	req, err := http.NewRequestWithContext(p.t.Context(), http.MethodGet, "http://"+p.addr+path, http.NoBody)
	require.NoError(p.t, err)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, ""
	}
	defer func() { _ = resp.Body.Close() }()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, ""
	}
	return resp.StatusCode, string(b)
}

func (p *pod) state() work.Report {
	_, body := p.get("/readyz")
	var s work.Report
	_ = json.Unmarshal([]byte(body), &s) // of a process that does not answer: not ready
	return s
}

// becomes waits until the process says that it is ready, or not.
func (p *pod) becomes(ready bool) {
	p.t.Helper()
	want := map[bool]int{true: http.StatusOK, false: http.StatusServiceUnavailable}[ready]
	require.Eventually(p.t, func() bool { status, _ := p.get("/readyz"); return status == want }, patience, 2*time.Millisecond)
}
