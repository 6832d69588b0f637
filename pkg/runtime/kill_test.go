package runtime_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"testing"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/e2e/services"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/llm/openai"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/tools"
	"arkonis.dev/ark/pkg/work"
)

// The test's own executable is also an agent's process, so that one can be killed.
const (
	envNATS   = "ARK_TEST_NATS"
	envModels = "ARK_TEST_MODELS"
	envHooks  = "ARK_TEST_HOOKS"
	envPod    = "ARK_TEST_POD"
)

// killAckWait is so long that a process which is merely starved keeps its task.
const killAckWait = 4 * time.Second

func TestMain(m *testing.M) {
	if os.Getenv(envNATS) == "" {
		code := m.Run()
		services.Stop()
		os.Exit(code)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := agentProcess(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func agentProcess(ctx context.Context) error {
	nc, err := nats.Connect(os.Getenv(envNATS), nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		fmt.Fprintln(os.Stderr, err)
	}))
	if err != nil {
		return err
	}
	defer nc.Close()
	q, err := queue.Open(ctx, nc, queue.Config{Storage: jetstream.MemoryStorage, Logger: quiet()})
	if err != nil {
		return err
	}
	provider, err := openai.New(openai.Config{BaseURL: os.Getenv(envModels)})
	if err != nil {
		return err
	}
	network := tools.NewNetwork(tools.Guard{}, nil)
	var all []tools.Tool
	for _, c := range []tools.WebhookConfig{
		{Name: "pay", URL: os.Getenv(envHooks) + "/pay"},
		{Name: "look", URL: os.Getenv(envHooks) + "/look", Method: "GET"},
	} {
		hook, err := tools.NewWebhook(c, network)
		if err != nil {
			return err
		}
		all = append(all, hook)
	}
	set, err := tools.NewSet(all...)
	if err != nil {
		return err
	}
	r, err := runtime.New(runtime.Config{
		Namespace: namespace, Agent: "payer", Pod: os.Getenv(envPod), Model: "m-1", Provider: provider, Tools: set,
		Queue: q, Work: work.NewClient(nc), Logger: quiet(), AckWait: killAckWait, Heartbeat: killAckWait / 4,
	})
	if err != nil {
		return err
	}
	return r.Run(ctx)
}

// mute is a user, and its password, whose results do not arrive.
const mute = "mute"

// newReachableWorld is a world that other processes can connect to.
func newReachableWorld(t *testing.T, models modelserver.Config) (w *world, url string) {
	t.Helper()
	server, err := natsserver.NewServer(&natsserver.Options{
		Host: "127.0.0.1", Port: -1, JetStream: true, JetStreamMaxStore: 1 << 40, StoreDir: t.TempDir(), NoLog: true, NoSigs: true,
		NoAuthUser: "free",
		Users: []*natsserver.User{
			{Username: "free", Password: "free"},
			{Username: mute, Password: mute, Permissions: &natsserver.Permissions{Publish: &natsserver.SubjectPermission{Deny: []string{"ark.result.>"}}}},
		},
	})
	require.NoError(t, err)
	go server.Start()
	t.Cleanup(func() {
		server.Shutdown()
		server.WaitForShutdown()
	})
	require.True(t, server.ReadyForConnections(patience))
	w = &world{t: t, arrived: make(chan struct{})}
	w.nc, err = nats.Connect(server.ClientURL())
	require.NoError(t, err)
	t.Cleanup(w.nc.Close)
	w.open(models, work.Config{Logger: quiet()})
	return w, server.ClientURL()
}

func (w *world) process(url, hooks, pod string) *exec.Cmd {
	w.t.Helper()
	return w.processTo(os.Stderr, url, hooks, pod)
}

// processTo starts an agent's process that writes its errors to stderr.
func (w *world) processTo(stderr io.Writer, url, hooks, pod string) *exec.Cmd {
	w.t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), envNATS+"="+url, envModels+"="+w.models.URL(), envHooks+"="+hooks, envPod+"="+pod)
	cmd.Stderr = stderr
	require.NoError(w.t, cmd.Start())
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd
}

// hooks is a server of two tools, whose first call of each hangs until the test ends.
type hooks struct {
	served
	url   string
	began chan string
}

func newHooks(t *testing.T) *hooks {
	t.Helper()
	h := &hooks{began: make(chan string, 16)}
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.add(r.URL.Path) == 1 {
			h.began <- r.URL.Path
			select {
			case <-ended:
			case <-r.Context().Done():
			}
			return
		}
		_, _ = io.WriteString(w, "seen")
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(ended) })
	h.url = server.URL
	return h
}

func payAndLook() modelserver.Config {
	return modelserver.Config{Rules: []modelserver.Rule{
		{When: modelserver.When{Call: 1}, Reply: modelserver.Reply{Text: "first", Tools: []modelserver.Use{use("pay", `{"eur":5}`), use("look", `{}`)}}},
		{Reply: modelserver.Reply{Text: "done"}},
	}}
}

// requireResumed demands that the second process went on from the journal: it made no answered call again, repeated
// the safe tool, and did not repeat the unsafe one.
func requireResumed(t *testing.T, w *world, h *hooks, r *task.Result) {
	t.Helper()
	require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
	require.Equal(t, "done", r.Output.Inline)
	require.Equal(t, "payer-1", r.Pod)
	require.Equal(t, 2, r.ModelCalls)
	require.Equal(t, map[string]int{"/pay": 1, "/look": 2}, h.all())
	calls := w.models.Calls()
	require.Len(t, calls, 2, "the answered call is not made again")
	told := messages(calls[1])[2:]
	require.Equal(t, `assistant: first -> pay{"eur":5} -> look{}`, told[0])
	require.Contains(t, told[1], "the outcome of this call of pay is unknown")
	require.Equal(t, "tool: seen", told[2])
}

func TestKilledAgentsTaskGoesOn(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	w, url := newReachableWorld(t, payAndLook())
	first := w.process(url, h.url, "payer-0")
	tk := w.task("payer", "pay")
	w.submit(tk)
	receive(t, h.began)
	receive(t, h.began)
	require.NoError(t, first.Process.Kill())
	w.process(url, h.url, "payer-1")
	requireResumed(t, w, h, w.result(tk.ID))
}

// A process that stands still loses its task. When it wakes up it finds itself fenced: it stops, and changes nothing.
func TestPausedAgentIsFenced(t *testing.T) {
	t.Parallel()
	h := newHooks(t)
	w, url := newReachableWorld(t, payAndLook())
	first := w.process(url, h.url, "payer-0")
	tk, next := w.task("payer", "pay"), w.task("payer", "next")
	w.submit(tk)
	receive(t, h.began)
	receive(t, h.began)
	require.NoError(t, first.Process.Signal(syscall.SIGSTOP))
	second := w.process(url, h.url, "payer-1")
	r := w.result(tk.ID)
	requireResumed(t, w, h, r)

	require.NoError(t, second.Process.Signal(syscall.SIGSTOP))
	require.NoError(t, first.Process.Signal(syscall.SIGCONT))
	w.submit(next)
	require.Equal(t, "payer-0", w.result(next.ID).Pod, "it goes on with other tasks")
	require.Equal(t, r, w.result(tk.ID))
	require.Len(t, w.models.Calls(), 3)
	require.Equal(t, map[string]int{"/pay": 1, "/look": 2}, h.all())
}

// An agent's process is killed while a model call runs: nobody knows what came of it, so it is made again.
func TestKilledModelCallIsMadeAgain(t *testing.T) {
	t.Parallel()
	w, url := newReachableWorld(t, modelserver.Config{Rules: []modelserver.Rule{
		{When: modelserver.When{Call: 1}, Reply: modelserver.Reply{Fault: modelserver.FaultHang}},
		{Reply: modelserver.Reply{Text: "done"}},
	}})
	first := w.process(url, "http://127.0.0.1:1", "payer-0")
	tk := w.task("payer", "x")
	w.submit(tk)
	_, err := w.models.WaitIn(t.Context(), 1)
	require.NoError(t, err)
	require.NoError(t, first.Process.Kill())
	w.process(url, "http://127.0.0.1:1", "payer-1")
	r := w.result(tk.ID)
	require.Equal(t, "done", r.Output.Inline, "%v", r.Error)
	require.Equal(t, 2, r.ModelCalls)
	require.Len(t, w.models.Calls(), 2)
	require.Len(t, r.Notes, 1)
	require.Contains(t, r.Notes[0], "1 model call")
}

// The only place of the only pod that is left is taken by a task that waits for the tokens which a dead process has
// reserved. It lends the place: the dead one's task is taken over, which settles its reservation, and nobody waits any more.
func TestReservationOfTheDeadHoldsNobodyUpForEver(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{})
	all := []*task.Task{w.task("payer", "x"), w.task("payer", "y"), w.task("payer", "z"), w.task("payer", "zz")}
	for _, tk := range all {
		tk.TimeoutSeconds = int64((10 * patience).Seconds())
		tk.Deadline = tk.Created.Add(10 * patience)
		tk.Budgets = []task.Budget{{Scope: "run." + runUID, Limit: 3 * runtime.DefaultMaxTokensPerCall / 2}} // enough for one call
	}
	// One that takes a task, reserves, and is never heard of again.
	dead, err := w.queue.Tasks(t.Context(), namespace, "payer", queue.TasksConfig{AckWait: killAckWait})
	require.NoError(t, err)
	w.submit(all[0])
	d, err := dead.Next(t.Context())
	require.NoError(t, err)
	s, err := work.NewClient(w.nc).TakeOver(t.Context(), d.Key(), "payer-0", 0)
	require.NoError(t, err)
	require.NoError(t, s.Append(t.Context(), work.Entry{Intent: &work.Intent{Call: 1, Reserve: runtime.DefaultMaxTokensPerCall, Model: "m-1"}}))

	w.agent("payer", func(c *runtime.Config) {
		c.Pod, c.Limits.MaxConcurrentTasks = "payer-1", 1
		c.AckWait, c.Heartbeat = killAckWait, killAckWait/4
	})
	w.submit(all[1:]...)
	for _, tk := range all {
		require.Equal(t, task.CodeBudgetExceeded, w.result(tk.ID).Error.Code)
	}
	require.Empty(t, w.models.Calls())
}
