package operator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"arkonis.dev/ark/e2e/cluster/apiserver"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/kube"
)

// shared is what all tests of the package use: one API server with ark's kinds, the built command, and a NATS server that
// is not ark's.
var shared struct {
	api  *apiserver.Server
	ark  string
	nats string
}

func TestMain(m *testing.M) {
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "ark-operator-")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	shared.ark, shared.nats = filepath.Join(dir, "ark"), filepath.Join(dir, "nats-server")
	for file, source := range map[string]string{shared.ark: "../..", shared.nats: "github.com/nats-io/nats-server/v2"} {
		if out, err := exec.CommandContext(ctx, "go", "build", "-o", file, source).CombinedOutput(); err != nil {
			return 1, fmt.Errorf("build %s: %w: %s", source, err, out)
		}
	}
	if shared.api, err = apiserver.Launch(ctx, os.Stderr); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, shared.api.Close()) }()
	if err := installKinds(ctx, shared.api); err != nil {
		return 1, err
	}
	if code = m.Run(); code == 0 && wholePackage() {
		err = rights(ctx)
	}
	return code, err
}

func installKinds(ctx context.Context, api *apiserver.Server) error {
	for _, args := range [][]string{
		{"apply", "--server-side", "-f", "../../crds"},
		{"wait", "--for=condition=Established", "crd", "--all", "--timeout=" + patience.String()},
	} {
		if out, err := kubectlOn(ctx, api, args...); err != nil {
			return fmt.Errorf("install ark's kinds: %w: %s", err, out)
		}
	}
	return nil
}

func kubectl(ctx context.Context, args ...string) (string, error) {
	return kubectlOn(ctx, shared.api, args...)
}

func kubectlOn(ctx context.Context, api *apiserver.Server, args ...string) (string, error) {
	args = append([]string{"--kubeconfig", api.Kubeconfig()}, args...)
	out, err := exec.CommandContext(ctx, api.Kubectl(), args...).CombinedOutput()
	return string(out), err
}

// world is a namespace with an operator of its own that looks after it alone.
type world struct {
	t         *testing.T
	api       *apiserver.Server
	clients   *kube.Clients
	namespace string // of the objects
	system    string // of the operator
	config    string // kubeconfig of the operator
	store     string
	args      []string // of the operator
	env       []string // of the operator, besides what each one has
	operator  *operator
	nats      string // address of the operator's queue port
	external  string // URL of an external NATS instead; empty for none
}

// patience is how long anything may take on a machine that is busy with other things.
const patience = 5 * time.Minute

func newWorld(t *testing.T, args ...string) *world {
	t.Helper()
	return newWorldOn(t, shared.api, args...)
}

// newWorldOn is one on an API server of its own, with ark's kinds.
func newWorldOn(t *testing.T, api *apiserver.Server, args ...string) *world {
	t.Helper()
	clients, err := kube.NewClients(api.REST())
	require.NoError(t, err)
	w := &world{t: t, api: api, clients: clients, store: t.TempDir(), args: args}
	w.namespace, w.system = w.makeNamespace("work-"), w.makeNamespace("system-")
	w.nats, w.config = freeAddress(t), w.grant()
	return w
}

func (w *world) makeNamespace(prefix string) string {
	w.t.Helper()
	ns, err := w.clients.Core.CoreV1().Namespaces().Create(w.t.Context(),
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: prefix}}, metav1.CreateOptions{})
	require.NoError(w.t, err)
	return ns.Name
}

// ports are handed out one after another from below the system's own range: an operator that is away for a while must find
// its port free when it comes back, and every other listener here takes one of the system's.
var ports = func() *atomic.Int32 {
	var n atomic.Int32
	n.Store(10000 + int32(os.Getpid()%20)*500)
	return &n
}()

// freeAddress is a loopback address that nobody listens on, and that nobody else is given.
func freeAddress(t *testing.T) string {
	t.Helper()
	for range 500 {
		address := fmt.Sprintf("127.0.0.1:%d", ports.Add(1))
		l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", address)
		if err != nil {
			continue
		}
		require.NoError(t, l.Close())
		return address
	}
	t.Fatal("no port is free")
	return ""
}

// operator is a process of ark operator.
type operator struct {
	w    *world
	cmd  *exec.Cmd
	logs *logs
	http string // address of its probes
	done chan struct{}
}

// logs keeps what a process says, for a test that fails.
type logs struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.all.String()
}

// command is ark operator for the world.
func (w *world) command(args ...string) *exec.Cmd {
	all := []string{
		"operator", "--kubeconfig", w.config, "--namespace", w.system, "--watch-namespaces", w.namespace,
		"--metrics-listen", "", "--log-level", "debug", "--log-format", "text",
	}
	if w.external != "" {
		all = append(all, "--nats-url", w.external)
	} else {
		all = append(all, "--store", w.store, "--nats-listen", w.nats, "--nats-advertise", "tls://"+w.nats)
	}
	cmd := exec.CommandContext(w.t.Context(), shared.ark, append(append(all, w.args...), args...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir(), "TMPDIR=" + os.TempDir()}, w.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// start starts the world's operator and returns when it is ready.
func (w *world) start() *operator {
	w.t.Helper()
	o := w.launch()
	o.becomesReady()
	return o
}

// launch starts an operator, with some more environment.
func (w *world) launch(env ...string) *operator {
	w.t.Helper()
	o := &operator{w: w, logs: &logs{}, http: freeAddress(w.t), done: make(chan struct{})}
	o.cmd = w.command("--metrics-listen", o.http)
	o.cmd.Stderr, o.cmd.Stdout = o.logs, o.logs
	o.cmd.Env = append(o.cmd.Env, env...)
	require.NoError(w.t, o.cmd.Start())
	go func() {
		defer close(o.done)
		_ = o.cmd.Wait()
	}()
	w.operator = o
	w.t.Cleanup(func() {
		o.kill()
		if w.t.Failed() {
			w.t.Logf("operator %d:\n%s", o.cmd.Process.Pid, o.logs)
		}
	})
	return o
}

func (o *operator) becomesReady() {
	o.w.t.Helper()
	require.EventuallyWithT(o.w.t, func(c *assert.CollectT) {
		require.NoError(c, o.ready(o.w.t.Context()))
	}, patience, 50*time.Millisecond)
}

func (o *operator) ready(ctx context.Context) error {
	select {
	case <-o.done:
		return fmt.Errorf("the operator has ended: %s", o.cmd.ProcessState)
	default:
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+o.http+"/readyz", nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	return nil
}

// kill ends the operator with SIGKILL.
func (o *operator) kill() {
	_ = o.cmd.Process.Kill()
	<-o.done
}

// stop asks the operator to end and returns how it did.
func (o *operator) stop() *os.ProcessState {
	o.w.t.Helper()
	require.NoError(o.w.t, o.cmd.Process.Signal(syscall.SIGTERM))
	select {
	case <-o.done:
	case <-time.After(patience):
		o.w.t.Fatal("the operator did not end")
	}
	return o.cmd.ProcessState
}

// apply applies YAML in the world's namespace.
func (w *world) apply(yaml string) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), w.api.Kubectl(), "--kubeconfig", w.api.Kubeconfig(), "-n", w.namespace, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(yaml)
	out, err := cmd.CombinedOutput()
	require.NoError(w.t, err, string(out))
}

// until watches an object of a kind until a condition holds, and returns it. What the object was before the call does not
// count: the watch first comes to what is stored now.
func until[T kube.Object](w *world, c interface {
	Watch(context.Context, metav1.ListOptions) (watch.Interface, error)
}, name, what string, ok func(T) bool,
) T {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), patience)
	defer cancel()
	fromNow := true
	options := metav1.ListOptions{
		FieldSelector: "metadata.name=" + name, SendInitialEvents: &fromNow, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true,
	}
	var last T
	for ctx.Err() == nil {
		events, err := c.Watch(ctx, options)
		if err != nil {
			continue
		}
		now, there := false, false // what is seen is no older than the watch; the object is there
		for e := range events.ResultChan() {
			o, is := e.Object.(T)
			switch {
			case !is:
				continue
			case e.Type == watch.Bookmark:
				now = now || o.GetAnnotations()[metav1.InitialEventsAnnotationKey] != ""
			default:
				last, there = o, e.Type != watch.Deleted
			}
			if now && there && ok(last) {
				events.Stop()
				return last
			}
		}
	}
	w.t.Fatalf("%s: %s did not come; last seen: %+v", name, what, last)
	return last
}

// agent is an ArkAgent that is as it was applied.
func (w *world) agent(name string) *v1alpha1.ArkAgent {
	w.t.Helper()
	a, err := w.clients.Agents(w.namespace).Get(w.t.Context(), name, metav1.GetOptions{})
	require.NoError(w.t, err)
	return a
}
