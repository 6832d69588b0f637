package operator

import (
	"bufio"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"arkonis.dev/ark/e2e/longread"
	"arkonis.dev/ark/pkg/apis/data"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// dataWorld is a world whose operator serves the aggregated API, over a NATS of the test.
type dataWorld struct {
	*world
	queue *queue.Queue
	api   string // address that the operator serves at
}

func newDataWorld(t *testing.T) *dataWorld {
	t.Helper()
	ns, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, JetStreamMaxStore: roomy, StoreDir: t.TempDir(), NoLog: true, NoSigs: true, MaxPayload: 4 << 20})
	require.NoError(t, err)
	ns.Start()
	t.Cleanup(func() {
		ns.Shutdown()
		ns.WaitForShutdown()
	})
	require.True(t, ns.ReadyForConnections(patience))
	d := &dataWorld{world: newWorld(t), api: freeAddress(t)}
	d.external = ns.ClientURL()
	d.args = append(d.args, "--api-listen", d.api)
	nc, err := queue.Connect(queue.Address{URL: ns.ClientURL()}, "test", nil)
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	d.queue, err = queue.Open(t.Context(), nc, queue.Config{Storage: jetstream.FileStorage})
	require.NoError(t, err)
	d.register()
	return d
}

// register makes the Service and the APIService that the chart would make.
func (d *dataWorld) register() {
	d.t.Helper()
	_, port, err := net.SplitHostPort(d.api)
	require.NoError(d.t, err)
	_, err = d.clients.Core.CoreV1().Services(d.system).Create(d.t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "ark-api"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	}, metav1.CreateOptions{})
	require.NoError(d.t, err)
	body := fmt.Sprintf(`{"apiVersion":"apiregistration.k8s.io/v1","kind":"APIService","metadata":{"name":"v1alpha1.data.arkonis.dev"},
		"spec":{"group":"data.arkonis.dev","version":"v1alpha1","groupPriorityMinimum":1000,"versionPriority":15,"service":{"namespace":%q,"name":"ark-api","port":%s}}}`, d.system, port)
	client := d.clients.Core.Discovery().RESTClient()
	require.NoError(d.t, client.Post().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices").SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(d.t.Context()).Error())
	d.t.Cleanup(func() {
		_ = client.Delete().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.data.arkonis.dev").Do(context.WithoutCancel(d.t.Context())).Error()
	})
}

// served returns when the API server passes requests on.
func (d *dataWorld) served() {
	d.t.Helper()
	require.EventuallyWithT(d.t, func(c *assert.CollectT) {
		require.NoError(c, d.clients.Core.Discovery().RESTClient().Get().AbsPath(data.Path).Do(d.t.Context()).Error())
	}, patience, 100*time.Millisecond)
}

// user is somebody who may get these parts of runs.
func (d *dataWorld) user(name string, parts ...string) rest.Interface {
	d.t.Helper()
	ctx := d.t.Context()
	name += "-" + d.namespace
	config, err := shared.api.RESTFor(name)
	require.NoError(d.t, err)
	config.Timeout = 0
	c, err := kubernetes.NewForConfig(config)
	require.NoError(d.t, err)
	if len(parts) == 0 {
		return c.Discovery().RESTClient()
	}
	rule := rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{data.Group}}
	for _, p := range parts {
		rule.Resources = append(rule.Resources, data.Resource+"/"+p)
	}
	roles := d.clients.Core.RbacV1()
	_, err = roles.Roles(d.namespace).Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{rule}}, metav1.CreateOptions{})
	require.NoError(d.t, err)
	_, err = roles.RoleBindings(d.namespace).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: name},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: name}},
	}, metav1.CreateOptions{})
	require.NoError(d.t, err)
	return c.Discovery().RESTClient()
}

func (d *dataWorld) path(run, part string) string {
	return data.Path + "/namespaces/" + d.namespace + "/" + data.Resource + "/" + run + "/" + part
}

// run makes a run with a status.
func (d *dataWorld) run(name string, spec v1alpha1.ArkRunSpec, status v1alpha1.ArkRunStatus) *v1alpha1.ArkRun {
	d.t.Helper()
	runs := d.clients.Runs(d.namespace)
	run, err := runs.Create(d.t.Context(), &v1alpha1.ArkRun{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
	require.NoError(d.t, err)
	run.Status = status
	run, err = runs.UpdateStatus(d.t.Context(), run, metav1.UpdateOptions{})
	require.NoError(d.t, err)
	return run
}

func agentSpec() v1alpha1.ArkRunSpec {
	return v1alpha1.ArkRunSpec{AgentRef: &v1alpha1.Reference{Name: "writer"}, Prompt: "write"}
}

// Only who may get a part of a run gets it, and only through the API server.
func TestTheAggregatedAPI(t *testing.T) {
	d := newDataWorld(t)
	run := d.run("small", agentSpec(), v1alpha1.ArkRunStatus{Phase: v1alpha1.RunSucceeded, Output: "the tide"})
	sum := d.storeLarge()
	o := d.start()
	d.served()
	reader, nobody := d.user("reader", data.Output), d.user("nobody")
	var body []byte
	require.EventuallyWithT(t, func(c *assert.CollectT) { // RBAC is read from a cache
		var err error
		body, err = reader.Get().AbsPath(d.path("small", data.Output)).Do(t.Context()).Raw()
		require.NoError(c, err)
	}, patience, 50*time.Millisecond)
	require.Equal(t, "the tide", string(body))

	refused := func(err error, is func(error) bool, text string) {
		t.Helper()
		require.True(t, is(err), "%v", err)
		require.ErrorContains(t, err, text)
	}
	err := nobody.Get().AbsPath(d.path("small", data.Output)).Do(t.Context()).Error()
	refused(err, apierrors.IsForbidden, `cannot get resource "arkruns/output" in API group "data.arkonis.dev"`)
	refused(reader.Get().AbsPath(d.path("small", data.Log)).Do(t.Context()).Error(), apierrors.IsForbidden, "arkruns/log")
	refused(reader.Get().AbsPath(d.path("none", data.Output)).Do(t.Context()).Error(), apierrors.IsNotFound, `"none" not found`)
	refused(reader.Get().AbsPath(d.path("small", data.Output)).Param("uid", "another").Do(t.Context()).Error(), apierrors.IsConflict, string(run.UID))
	elsewhere := strings.Replace(d.path("small", data.Output), d.namespace, "default", 1)
	refused(reader.Get().AbsPath(elsewhere).Do(t.Context()).Error(), apierrors.IsForbidden, `in the namespace "default"`)

	// Whoever comes another way is not believed, whatever they say of themselves.
	for _, c := range []struct {
		name  string
		certs []tls.Certificate
	}{{name: "without a certificate"}, {name: "with one that is good for the API server", certs: clientCertificate(t)}} {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: c.certs}}} //nolint:gosec // it is refused
		for _, path := range []string{d.path("small", data.Output), data.Path, "/", "/apis"} {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+d.api+path, nil)
			require.NoError(t, err)
			req.Header.Set("X-Remote-User", "system:admin")
			req.Header.Set("X-Remote-Group", "system:masters")
			resp, err := client.Do(req)
			require.NoError(t, err)
			text, err := io.ReadAll(resp.Body)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, http.StatusUnauthorized, resp.StatusCode, "%s: %s: %s", c.name, path, text)
		}
	}

	// kubectl still finds ark's own kind, not a part of it.
	out, err := kubectl(t.Context(), "-n", d.namespace, "get", "arkrun", "small", "-o", "name")
	require.NoError(t, err, out)
	require.Equal(t, "arkrun.arkonis.dev/small\n", out)
	out, err = kubectl(t.Context(), "get", "--raw", d.path("small", data.Output))
	require.NoError(t, err, out)
	require.Equal(t, "the tide", out)
	out, err = kubectl(t.Context(), "api-resources", "--api-group", data.Group)
	require.NoError(t, err, out)

	d.large(o, reader, sum)
	d.followed()
	d.commanded()
	d.revoked(reader)
	d.left()
}

// clientCertificate is one that the API server would take.
func clientCertificate(t *testing.T) []tls.Certificate {
	t.Helper()
	config := shared.api.REST()
	pair, err := tls.X509KeyPair(config.CertData, config.KeyData)
	require.NoError(t, err)
	return []tls.Certificate{pair}
}

const largeSize = 64 << 20

// storeLarge makes a run with a large output, and returns its hash. It is called before the operator is there, which
// would drive a run that has not ended.
func (d *dataWorld) storeLarge() string {
	t := d.t
	run := d.run("large", agentSpec(), v1alpha1.ArkRunStatus{})
	hash := sha256.New()
	ref, err := d.queue.PutPayload(t.Context(), string(run.UID), io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), largeSize), hash))
	require.NoError(t, err)
	run.Status = v1alpha1.ArkRunStatus{
		Phase: v1alpha1.RunSucceeded, Output: "…", OutputRef: &v1alpha1.PayloadRef{Key: ref.Key, Size: ref.Size, SHA256: ref.SHA256},
	}
	_, err = d.clients.Runs(d.namespace).UpdateStatus(t.Context(), run, metav1.UpdateOptions{})
	require.NoError(t, err)
	return hex.EncodeToString(hash.Sum(nil))
}

// large: 64 MiB pass without the operator growing.
func (d *dataWorld) large(o *operator, reader rest.Interface, sum string) {
	t := d.t
	before := resident(t, o.cmd.Process.Pid)
	began := time.Now()
	body, err := reader.Get().AbsPath(d.path("large", data.Output)).Stream(t.Context())
	require.NoError(t, err)
	got := sha256.New()
	n, err := io.Copy(got, body)
	require.NoError(t, err)
	require.NoError(t, body.Close())
	require.EqualValues(t, largeSize, n)
	require.Equal(t, sum, hex.EncodeToString(got.Sum(nil)))
	after := resident(t, o.cmd.Process.Pid)
	t.Logf("64 MiB in %s; the operator's resident memory at its highest: %d MiB before, %d MiB after", time.Since(began), before>>20, after>>20)
	require.Less(t, after-before, int64(24<<20))
}

// resident is the most memory that a process has had, in bytes.
func resident(t *testing.T, pid int) int64 {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skip("the memory of a process cannot be read here")
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "VmHWM:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			require.NoError(t, err)
			return kib << 10
		}
	}
	t.Fatal("VmHWM is missing")
	return 0
}

// followed: who follows a log sees pieces of answers, results and the end as they come.
func (d *dataWorld) followed() {
	t := d.t
	d.apply(writer)
	run, err := d.clients.Runs(d.namespace).Create(t.Context(), &v1alpha1.ArkRun{ObjectMeta: metav1.ObjectMeta{Name: "live"}, Spec: agentSpec()}, metav1.CreateOptions{})
	require.NoError(t, err)
	until(d.world, d.clients.Runs(d.namespace), "live", "the start", func(r *v1alpha1.ArkRun) bool { return r.Status.Phase == v1alpha1.RunRunning })
	id := task.ID(task.KindStep, string(run.UID), "writer", 0, 0, 0)
	key := queue.Key{Namespace: d.namespace, Agent: "writer", RunUID: string(run.UID), TaskID: id}
	follower := d.user("follower", data.Log, data.Steps)
	var body io.ReadCloser
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		var err error
		body, err = follower.Get().AbsPath(d.path("live", data.Log)).Param("follow", "true").Stream(t.Context())
		require.NoError(c, err)
	}, patience, 50*time.Millisecond)
	defer func() { _ = body.Close() }()
	entries := make(chan data.Entry, 100)
	go func() {
		defer close(entries)
		lines := bufio.NewScanner(body)
		for lines.Scan() {
			var e data.Entry
			if assert.NoError(t, json.Unmarshal(lines.Bytes(), &e)) {
				entries <- e
			}
		}
	}()
	require.NoError(t, d.queue.HintChunk(key, queue.Chunk{Call: 1, Text: "the "}))
	e := nextEntry(t, entries)
	require.Equal(t, data.EntryChunk, e.Kind)
	require.Equal(t, "the ", e.Text)
	require.Equal(t, "writer", e.Step)
	_, err = d.queue.PublishResult(t.Context(), key, &task.Result{
		Version: task.Version, TaskID: id, Status: task.Succeeded, Output: task.Text{Inline: "the tide"}, Usage: task.Usage{InputTokens: 5, OutputTokens: 2}, Completed: time.Now(),
	})
	require.NoError(t, err)
	e = nextEntry(t, entries)
	require.Equal(t, data.EntryEnded, e.Kind)
	require.Equal(t, "Succeeded", e.Phase)
	require.EqualValues(t, 7, e.Tokens)
	e = nextEntry(t, entries)
	require.Equal(t, data.EntryRunEnded, e.Kind)
	_, more := <-entries
	require.False(t, more, "the log ends with the run")

	text, err := follower.Get().AbsPath(d.path("live", data.Steps)).Do(t.Context()).Raw()
	require.NoError(t, err)
	var list data.StepList
	require.NoError(t, json.Unmarshal(text, &list))
	require.Len(t, list.Items, 1)
	require.Equal(t, "the tide", list.Items[0].Output)
}

// commanded: the commands show what the operator serves.
func (d *dataWorld) commanded() {
	t := d.t
	ark := func(args ...string) string {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), shared.ark, append(args, "-n", d.namespace, "--kubeconfig", shared.api.Kubeconfig())...)
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, string(out))
		return string(out)
	}
	require.Equal(t, "the tide\n", ark("output", "live"))
	require.Equal(t, "the tide\n", ark("output", "live", "--step", "writer"))
	require.Contains(t, ark("get", "live"), "writer\twriter\tSucceeded\t1\t7\t")
	logs := ark("logs", "live")
	require.Contains(t, logs, "writer: Succeeded - 7 tokens\n")
	require.Contains(t, logs, "Run Succeeded - 7 tokens\n")
	tree := ark("trace", "live")
	require.Contains(t, tree, "run live")
	require.Contains(t, tree, "└─ step writer")
	require.Contains(t, ark("why", "live", "--operator-namespace", d.system), "nothing is wrong: the run succeeded")
	require.Contains(t, ark("status", "--operator-namespace", d.system), "data.arkonis.dev is served")

	text := longread.Text(3 << 20)
	run, err := d.clients.Runs(d.namespace).Create(t.Context(), &v1alpha1.ArkRun{ObjectMeta: metav1.ObjectMeta{Name: "lengthy"}, Spec: agentSpec()}, metav1.CreateOptions{})
	require.NoError(t, err)
	output, err := d.queue.PutText(t.Context(), string(run.UID), text)
	require.NoError(t, err)
	id := task.ID(task.KindStep, string(run.UID), "writer", 0, 0, 0)
	until(d.world, d.clients.Runs(d.namespace), "lengthy", "the start", func(r *v1alpha1.ArkRun) bool { return r.Status.Phase == v1alpha1.RunRunning })
	_, err = d.queue.PublishResult(t.Context(), queue.Key{Namespace: d.namespace, Agent: "writer", RunUID: string(run.UID), TaskID: id},
		&task.Result{Version: task.Version, TaskID: id, Status: task.Succeeded, Output: output, Completed: time.Now()})
	require.NoError(t, err)
	d.ended("lengthy")
	for _, args := range [][]string{{"output", "lengthy"}, {"output", "lengthy", "--step", "writer"}} {
		require.Equal(t, sumOf(text+"\n"), sumOf(ark(args...)), "all of it: ark %v", args)
	}
}

func nextEntry(t *testing.T, entries <-chan data.Entry) data.Entry {
	t.Helper()
	select {
	case e, ok := <-entries:
		require.True(t, ok, "the log has ended")
		return e
	case <-time.After(patience):
		t.Fatal("nothing comes")
		return data.Entry{}
	}
}

// revoked: a front proxy that the API server's own configuration does not name any more is refused.
func (d *dataWorld) revoked(reader rest.Interface) {
	t := d.t
	const kubeSystem, name = "kube-system", "extension-apiserver-authentication"
	maps := d.clients.Core.CoreV1().ConfigMaps(kubeSystem)
	m, err := maps.Get(t.Context(), name, metav1.GetOptions{})
	require.NoError(t, err)
	good := m.Data["requestheader-client-ca-file"]
	set := func(ca string) {
		m, err := maps.Get(t.Context(), name, metav1.GetOptions{})
		require.NoError(t, err)
		m.Data["requestheader-client-ca-file"] = ca
		_, err = maps.Update(t.Context(), m, metav1.UpdateOptions{})
		require.NoError(t, err)
	}
	set(string(shared.api.REST().CAData))
	defer set(good)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		err := reader.Get().AbsPath(d.path("small", data.Output)).Do(t.Context()).Error()
		require.True(c, apierrors.IsUnauthorized(err) || apierrors.IsServiceUnavailable(err), "%v", err)
	}, patience, 50*time.Millisecond)
}

// left: with the operator's namespace goes what sends requests to the operator.
func (d *dataWorld) left() {
	t := d.t
	require.NoError(t, d.clients.Core.CoreV1().Namespaces().Delete(t.Context(), d.system, metav1.DeleteOptions{}))
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		err := d.clients.Core.Discovery().RESTClient().Get().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices/v1alpha1.data.arkonis.dev").Do(t.Context()).Error()
		require.True(c, apierrors.IsNotFound(err), "%v", err)
	}, patience, 50*time.Millisecond)
}
