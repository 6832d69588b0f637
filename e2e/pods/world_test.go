package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"arkonis.dev/ark/e2e/cluster"
	"arkonis.dev/ark/e2e/cluster/image"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/llm/modelserver"
)

const (
	arkImage   = "e2e.arkonis.dev/ark:1"
	modelImage = "e2e.arkonis.dev/model:1"
	// patience is how long anything may take on a machine that is busy with other things.
	patience = 6 * time.Minute
)

// shared is what all tests of the package use: a cluster of two nodes, into which the built command has installed ark.
var shared struct {
	cluster *cluster.Cluster
	clients *kube.Clients
	ark     string
	skip    error // why there is no cluster
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
	if shared.skip = cluster.Usable(); shared.skip != nil && os.Getenv("KUBECONFIG") == "" {
		return m.Run(), nil // each test says why it is skipped
	}
	shared.skip = nil
	ctx := context.Background()
	dir, err := os.MkdirTemp("", "ark-pods-")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	images, err := buildImages(ctx, dir)
	if err != nil {
		return 1, err
	}
	if shared.cluster, err = cluster.Launch(ctx, cluster.Config{Nodes: 2, Images: images}, os.Stderr); err != nil {
		return 1, err
	}
	defer func() { err = errors.Join(err, shared.cluster.Close()) }()
	if shared.clients, err = kube.NewClients(shared.cluster.REST()); err != nil {
		return 1, err
	}
	if out, err := ark(ctx, "install", "--image", arkImage, "--wait", "--timeout", patience.String(), "--log-level", "debug"); err != nil {
		logs, _ := kubectl(ctx, "-n", "ark-system", "describe", "pods")
		return 1, fmt.Errorf("install ark: %w: %s\n%s", err, out, logs)
	}
	if code = m.Run(); code != 0 {
		logs, _ := kubectl(ctx, "-n", "ark-system", "logs", "ark-0", "--tail=-1")
		file := filepath.Join(os.TempDir(), "ark-pods-operator.log")
		_ = os.WriteFile(file, []byte(logs), 0o600)
		fmt.Fprintln(os.Stderr, "the operator's log is in", file)
	}
	return code, nil
}

// buildImages builds the command and the images: ark's own as users get it, and that of the model server.
func buildImages(ctx context.Context, dir string) ([]string, error) {
	shared.ark = filepath.Join(dir, "ark")
	arkTar, modelTar := filepath.Join(dir, "ark.tar"), filepath.Join(dir, "model.tar")
	for _, command := range [][]string{
		{"go", "build", "-o", shared.ark, "../.."},
		{"go", "-C", "../image", "run", ".", "build", "-version", "e2e", "-name", arkImage, "-platforms", platform(), "-o", arkTar},
	} {
		cmd := exec.CommandContext(ctx, command[0], command[1:]...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, out)
		}
	}
	if err := image.Build(ctx, modelTar, modelImage, "./testdata/model"); err != nil {
		return nil, err
	}
	return []string{arkTar, modelTar}, nil
}

func ark(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, shared.ark, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+shared.cluster.Kubeconfig())
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func kubectl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, shared.cluster.Kubectl(), append([]string{"--kubeconfig", shared.cluster.Kubeconfig()}, args...)...)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// world is a namespace that admits restricted pods only, with a model server beside it.
type world struct {
	t         *testing.T
	namespace string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if shared.skip != nil {
		cluster.Need(t)
	}
	w := &world{t: t}
	w.namespace = w.makeNamespace("agents-", map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
	return w
}

func (w *world) makeNamespace(prefix string, labels map[string]string) string {
	w.t.Helper()
	namespaces := shared.clients.Core.CoreV1().Namespaces()
	ns, err := namespaces.Create(w.t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: prefix, Labels: labels}}, metav1.CreateOptions{})
	require.NoError(w.t, err)
	w.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(w.t.Context()), patience)
		defer cancel()
		if w.t.Failed() {
			out, _ := kubectl(ctx, "-n", ns.Name, "get", "ark,all,events", "-o", "wide")
			w.t.Logf("namespace %s:\n%s", ns.Name, out)
		}
		_ = namespaces.Delete(ctx, ns.Name, metav1.DeleteOptions{})
	})
	return ns.Name
}

// kubectl runs kubectl in the world's namespace.
func (w *world) kubectl(args ...string) string {
	w.t.Helper()
	out, err := kubectl(w.t.Context(), append([]string{"-n", w.namespace}, args...)...)
	require.NoError(w.t, err, "kubectl %s: %s", strings.Join(args, " "), out)
	return out
}

// apply applies YAML in the world's namespace.
func (w *world) apply(yaml string) {
	w.t.Helper()
	cmd := exec.CommandContext(w.t.Context(), shared.cluster.Kubectl(), "--kubeconfig", shared.cluster.Kubeconfig(), "-n", w.namespace, "apply", "-f", "-")
	cmd.Stdin = strings.NewReader(yaml)
	out, err := cmd.CombinedOutput()
	require.NoError(w.t, err, string(out))
}

const modelManifest = `
apiVersion: v1
kind: Pod
metadata: {name: model, labels: {app: model}}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 65532, seccompProfile: {type: RuntimeDefault}}
  containers:
  - name: model
    image: ` + modelImage + `
    securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, timeoutSeconds: 10}
---
apiVersion: v1
kind: Service
metadata: {name: model}
spec:
  selector: {app: model}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Secret
metadata: {name: ark-api-keys}
stringData: {OPENAI_API_KEY: sk-test, OPENAI_BASE_URL: "http://model/v1"}
`

// startModel starts the model server that the agents of the world's namespace are configured to use.
func (w *world) startModel() {
	w.t.Helper()
	w.apply(modelManifest)
	w.kubectl("wait", "--for=condition=Ready", "pod/model", "--timeout="+patience.String())
}

// model sends a request to the model server and returns what it says. A request may be repeated: the nodes learn of a Service
// and of its pods a moment after these are there.
func (w *world) model(method, path string, query url.Values) (said []byte) {
	w.t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: shared.cluster.Dial, DisableKeepAlives: true}}
	u := url.URL{Scheme: "http", Host: "model." + w.namespace + ".svc.cluster.local:80", Path: path, RawQuery: query.Encode()}
	require.EventuallyWithT(w.t, func(c *assert.CollectT) {
		req, err := http.NewRequestWithContext(w.t.Context(), method, u.String(), nil)
		require.NoError(c, err)
		resp, err := client.Do(req)
		require.NoError(c, err)
		defer func() { _ = resp.Body.Close() }()
		said, err = io.ReadAll(resp.Body)
		require.NoError(c, err)
		require.Equal(c, http.StatusOK, resp.StatusCode, string(said))
	}, patience, 100*time.Millisecond)
	return said
}

// calls are what the model server was asked.
func (w *world) calls() []modelserver.Call {
	w.t.Helper()
	var calls []modelserver.Call
	require.NoError(w.t, json.Unmarshal(w.model(http.MethodGet, "/calls", nil), &calls))
	for i := range calls {
		require.NoError(w.t, json.Unmarshal(calls[i].Body, &calls[i].Request))
	}
	return calls
}

// until watches an object until a condition holds, and returns it. What the object was before the call does not count: the
// watch first comes to what is stored now.
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
	text, _ := json.Marshal(last)
	w.t.Fatalf("%s: %s did not come; last seen: %s", name, what, text)
	return last
}
