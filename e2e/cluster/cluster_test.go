package cluster_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/e2e/cluster"
	"arkonis.dev/ark/e2e/cluster/build"
	"arkonis.dev/ark/e2e/cluster/image"
)

const (
	webImage = "e2e.arkonis.dev/web:1"
	// patience is how long anything may take on a machine that is busy with other things.
	patience = 5 * time.Minute
)

// buildWeb makes the archive of the image that the tests' pods run.
func buildWeb(t *testing.T) string {
	t.Helper()
	archive := filepath.Join(t.TempDir(), "web.tar")
	require.NoError(t, image.Build(t.Context(), archive, webImage, "./testdata/web"))
	return archive
}

// world is one cluster that all subtests share, as kubectl sees it.
type world struct {
	*testing.T
	cluster *cluster.Cluster
}

// kubectl runs kubectl from the test's own network and returns what it said.
func (w world) kubectl(args ...string) string {
	w.Helper()
	out, err := w.tryKubectl(args...)
	require.NoError(w, err, "kubectl %s: %s", strings.Join(args, " "), out)
	return out
}

func (w world) tryKubectl(args ...string) (string, error) {
	cmd := exec.CommandContext(w.Context(), w.cluster.Kubectl(), append([]string{"--kubeconfig", w.cluster.Kubeconfig()}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECACHEDIR="+filepath.Join(filepath.Dir(w.cluster.Kubeconfig()), "cache"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// says waits until what kubectl prints holds a text: a Service, a name and a token are known everywhere a moment after they
// were made.
func (w world) says(text string, args ...string) {
	w.Helper()
	require.EventuallyWithT(w, func(c *assert.CollectT) {
		out, err := w.tryKubectl(args...)
		require.NoError(c, err, out)
		require.Contains(c, out, text)
	}, patience, 100*time.Millisecond, "kubectl %s", strings.Join(args, " "))
}

func (w world) rolledOut(what string) {
	w.Helper()
	w.kubectl("-n", "web", "rollout", "status", what, "--timeout="+patience.String())
}

func TestCluster(t *testing.T) {
	t.Parallel()
	cluster.Need(t)
	if os.Getenv("KUBECONFIG") != "" {
		t.Skip("KUBECONFIG names a cluster, and this test is of the project's own")
	}
	c := cluster.Start(t, cluster.Config{})
	dir := filepath.Dir(c.Kubeconfig())
	require.NoError(t, c.LoadImage(t.Context(), buildWeb(t)))
	w := world{t, c}
	w.kubectl("apply", "-f", "testdata/web.yaml")
	in := func(name string, check func(w world)) { t.Run(name, func(t *testing.T) { check(world{t, c}) }) }
	in("nodes are ready", func(w world) {
		w.says("node1 True\nnode2 True\n", "get", "nodes", "-o",
			`jsonpath={range .items[*]}{.metadata.name} {.status.conditions[?(@.type=="Ready")].status}{"\n"}{end}`)
	})
	in("a Deployment runs on both", runsOnBoth)
	in("Services and their names work", services)
	in("the API server reaches an extension server", extension)
	in("a volume outlives its pod", volume)
	in("a node is lost and comes back", lose)
	require.NoError(t, c.Close())
	leftNothing(t, dir)
}

func runsOnBoth(w world) {
	w.rolledOut("deployment/web")
	require.EventuallyWithT(w, func(c *assert.CollectT) { // a pod of a node that was silent for a while is replaced
		nodes, err := w.tryKubectl("-n", "web", "get", "pods", "-l", "app=web", "-o", `jsonpath={.items[*].spec.nodeName}`)
		require.NoError(c, err, nodes)
		require.ElementsMatch(c, []string{"node1", "node2"}, strings.Fields(nodes))
	}, patience, 100*time.Millisecond)
	w.says("serving as user 65532", "-n", "web", "logs", "deployment/web")
}

func services(w world) {
	const url = "http://web.web.svc.cluster.local"
	w.says("hello from node", "-n", "web", "exec", "deployment/web", "--", "/web", "get", "http://web")
	w.says(`User \"system:serviceaccount:web:default\" cannot list resource \"pods\"`,
		"-n", "web", "exec", "deployment/web", "--", "/web", "get", "https://kubernetes.default.svc/api/v1/namespaces/web/pods")
	answers := map[string]bool{}
	client := http.Client{Transport: &http.Transport{DialContext: w.cluster.Dial, DisableKeepAlives: true}, Timeout: time.Minute}
	require.Eventually(w, func() bool { // kube-proxy chooses at random
		response, err := client.Get(url)
		if err != nil {
			return false
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		answers[string(body)] = true
		return answers["hello from node1"] && answers["hello from node2"]
	}, patience, 10*time.Millisecond, "%v", answers)
}

func extension(w world) {
	w.kubectl("wait", "--for=condition=Available", "apiservice/v1.things.example.com", "--timeout="+patience.String())
	w.says("hello ark-e2e-admin", "get", "--raw", "/apis/things.example.com/v1/hello")
}

func volume(w world) {
	w.rolledOut("statefulset/keeper")
	w.kubectl("-n", "web", "delete", "pod", "keeper-0")
	w.rolledOut("statefulset/keeper")
	kept := w.kubectl("-n", "web", "exec", "keeper-0", "--", "/web", "get", "http://127.0.0.1:8080/kept")
	require.Equal(w, "started\nstarted\n", kept)
	volume := w.kubectl("-n", "web", "get", "pvc", "data-keeper-0", "-o", "jsonpath={.spec.volumeName}")
	w.kubectl("-n", "web", "delete", "statefulset", "keeper")
	w.kubectl("-n", "web", "delete", "pvc", "data-keeper-0")
	w.kubectl("wait", "--for=delete", "pv/"+volume, "--timeout="+patience.String())
}

// The node that is lost is the one over which connections into the cluster go, as long as it lives.
func lose(w world) {
	require.NoError(w, w.cluster.KillNode(w.Context(), "node1"))
	w.kubectl("wait", "--for=condition=Ready=Unknown", "node/node1", "--timeout="+patience.String())
	client := http.Client{Transport: &http.Transport{DialContext: w.cluster.Dial, DisableKeepAlives: true}, Timeout: time.Minute}
	var answer []byte
	require.Eventually(w, func() bool { // kube-proxy learns of it soon
		response, err := client.Get("http://web.web.svc.cluster.local")
		if err != nil {
			return false
		}
		defer response.Body.Close()
		answer, err = io.ReadAll(response.Body)
		return err == nil
	}, patience, 50*time.Millisecond)
	require.Equal(w, "hello from node2", string(answer))
	require.NoError(w, w.cluster.StartNode(w.Context(), "node1"))
	w.kubectl("wait", "--for=condition=Ready=True", "node/node1", "--timeout="+patience.String())
}

// A cluster runs beside another one, and a test process that is killed takes its cluster with it: this test starts
// itself as that process.
func TestNothingOutlivesAKilledTest(t *testing.T) {
	if os.Getenv("ARK_E2E_VICTIM") != "" {
		c := cluster.Start(t, cluster.Config{Nodes: 1})
		fmt.Fprintf(os.Stderr, "started %s\n", filepath.Dir(c.Kubeconfig()))
		<-t.Context().Done()
	}
	t.Parallel()
	cluster.Need(t)
	victim := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	victim.Env = append(os.Environ(), "ARK_E2E_VICTIM=1", "KUBECONFIG=", "TMPDIR="+t.TempDir())
	said, err := victim.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, victim.Start())
	var dir string
	_, err = fmt.Fscanf(said, "started %s\n", &dir)
	require.NoError(t, err)
	require.NotEmpty(t, traces(t, dir))

	require.NoError(t, victim.Process.Kill())
	require.Error(t, victim.Wait())
	require.Eventually(t, func() bool { return len(traces(t, dir)) == 0 }, patience, 50*time.Millisecond, "%v", traces(t, dir))
}

// A cluster for people outlives the command that started it, and ends when it is told to.
func TestUpAndDown(t *testing.T) {
	t.Parallel()
	if node := os.Getenv("ARK_E2E_GIVEN"); node != "" {
		givenCluster(t, node)
		return
	}
	cluster.Need(t)
	dir, err := os.MkdirTemp("", "ark-up-")
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, cluster.Down(context.WithoutCancel(t.Context()), dir, t.Output()))
		require.NoError(t, os.RemoveAll(dir))
	})
	ctl := func(args ...string) string {
		cmd := exec.Command("go", append([]string{"run", "./ctl"}, args...)...)
		cmd.Stderr = t.Output()
		out, err := cmd.Output()
		require.NoError(t, err)
		return strings.TrimSpace(string(out))
	}
	kubeconfig := ctl("up", "-dir="+dir, "-nodes=1")
	require.FileExists(t, kubeconfig)
	require.Equal(t, kubeconfig, ctl("up", "-dir="+dir), "a second up leaves the first one's cluster")
	kube, err := build.Kube(t.Context(), t.Output())
	require.NoError(t, err)
	out, err := exec.Command(filepath.Join(kube, "kubectl"), "--kubeconfig", kubeconfig, "--cache-dir", t.TempDir(), "get", "nodes", "-o", "name").CombinedOutput()
	require.NoError(t, err)
	require.Equal(t, "node/node1\n", string(out))

	// Tests can be run in it: this one starts itself with KUBECONFIG set.
	given := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	given.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig, "ARK_E2E_GIVEN=node1")
	out, err = given.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), "--- PASS: "+t.Name())
	ctl("down", "-dir="+dir)
	leftNothing(t, dir)

	// Even what holds the cluster may be killed. Then only its control groups stay, until down.
	ctl("up", "-dir="+dir, "-nodes=1")
	guard, err := os.ReadFile(filepath.Join(dir, "lock"))
	require.NoError(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(guard)))
	require.NoError(t, err)
	require.NoError(t, syscall.Kill(pid, syscall.SIGKILL))
	require.Eventually(t, func() bool { return len(processes(t, dir)) == 0 }, patience, 50*time.Millisecond)
	ctl("down", "-dir="+dir)
	leftNothing(t, dir)
}

// givenCluster runs with KUBECONFIG set.
func givenCluster(t *testing.T, node string) {
	c := cluster.Start(t, cluster.Config{})
	require.Equal(t, []string{node}, c.Nodes())
	require.ErrorIs(t, c.KillNode(t.Context(), node), cluster.ErrGiven)
	require.NoError(t, c.Close())
	again := cluster.Start(t, cluster.Config{})
	require.Equal(t, []string{node}, again.Nodes(), "Close left it alone")
}

// leftNothing says that nothing of a cluster runs, and waits until nothing is left of any: the tests beside this one may be
// about to remove the control groups of theirs.
func leftNothing(t *testing.T, dir string) {
	t.Helper()
	require.Empty(t, processes(t, dir))
	require.EventuallyWithT(t, func(c *assert.CollectT) { require.Empty(c, traces(t, dir)) }, patience, 50*time.Millisecond)
}

// traces lists what there is of a cluster: processes, mounts, network links and control groups.
func traces(t *testing.T, dir string) (found []string) {
	t.Helper()
	found = processes(t, dir)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	require.NoError(t, err)
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, dir) {
			found = append(found, line)
		}
	}
	links, err := os.ReadDir("/sys/class/net")
	require.NoError(t, err)
	for _, link := range links {
		if name := link.Name(); name == "ark0" || strings.HasPrefix(name, "node") {
			found = append(found, name)
		}
	}
	err = filepath.WalkDir("/sys/fs/cgroup", func(path string, entry fs.DirEntry, err error) error {
		guard, ours := strings.CutPrefix(filepath.Base(path), "ark-e2e-")
		if command, err := os.ReadFile("/proc/" + guard + "/cmdline"); ours && (err != nil || len(command) == 0) {
			found = append(found, path) // and not of a cluster that runs beside this one
		}
		if err != nil || ours {
			return fs.SkipDir
		}
		return nil
	})
	require.NoError(t, err)
	return found
}

// processes lists the command lines that name a cluster's folder.
func processes(t *testing.T, dir string) (found []string) {
	t.Helper()
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	require.NoError(t, err)
	for _, path := range commands {
		line, err := os.ReadFile(path) // gone, perhaps, since it was listed
		if err == nil && bytes.Contains(line, []byte(dir)) {
			found = append(found, string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		}
	}
	return found
}
