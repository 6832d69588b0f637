package install

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"arkonis.dev/ark/e2e/cluster/apiserver"
	"arkonis.dev/ark/pkg/apis/v1alpha1"
)

// world is a cluster and the command.
type world struct {
	server  *apiserver.Server
	binary  string
	core    *kubernetes.Clientset
	dynamic dynamic.Interface
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{server: apiserver.Start(t), binary: filepath.Join(t.TempDir(), "ark")}
	build := exec.CommandContext(t.Context(), "go", "build", "-ldflags", "-X arkonis.dev/ark/cmd.version=v9", "-o", w.binary, "arkonis.dev/ark")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	w.core, err = kubernetes.NewForConfig(w.server.REST())
	require.NoError(t, err)
	w.dynamic, err = dynamic.NewForConfig(w.server.REST())
	require.NoError(t, err)
	return w
}

// ark runs the command and returns what it says and its exit code.
func (w *world) ark(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), w.binary, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "KUBECONFIG=" + w.server.Kubeconfig()}
	var o, e bytes.Buffer
	cmd.Stdout, cmd.Stderr = &o, &e
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else {
		require.NoError(t, err)
	}
	return o.String(), e.String(), code
}

// done runs the command, which must succeed, and returns its results line by line.
func (w *world) done(t *testing.T, args ...string) []string {
	t.Helper()
	stdout, stderr, code := w.ark(t, args...)
	require.Zero(t, code, stderr)
	return strings.Split(strings.TrimSpace(stdout), "\n")
}

func (w *world) definitions(t *testing.T) int {
	t.Helper()
	crds := schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	all, err := w.dynamic.Resource(crds).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	return len(all.Items)
}

func (w *world) namespace(t *testing.T, name string) {
	t.Helper()
	_, err := w.core.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	require.NoError(t, err)
}

func (w *world) agent(t *testing.T, namespace, name string) {
	t.Helper()
	_, err := w.dynamic.Resource(v1alpha1.Resource("arkagents")).Namespace(namespace).Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "arkonis.dev/v1alpha1", "kind": "ArkAgent", "metadata": map[string]any{"name": name},
		"spec": map[string]any{"model": "mock", "systemPrompt": "You answer."},
	}}, metav1.CreateOptions{})
	require.NoError(t, err)
}

// patience is how long anything may take on a machine that is busy with other things.
const patience = 5 * time.Minute

// allowed waits until the operator may list the Secrets of a namespace, or may not: RBAC is read from a cache.
func allowed(t *testing.T, may *kubernetes.Clientset, namespace string, want bool) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		_, err := may.CoreV1().Secrets(namespace).List(t.Context(), metav1.ListOptions{})
		require.True(c, err == nil || apierrors.IsForbidden(err), "%v", err)
		require.Equal(c, want, err == nil, namespace)
	}, patience, 50*time.Millisecond)
}

// operatorMay asks as the operator itself.
func (w *world) operatorMay(t *testing.T, namespace string) *kubernetes.Clientset {
	t.Helper()
	config, err := w.server.RESTFor("system:serviceaccount:"+namespace+":ark-operator", "system:serviceaccounts", "system:authenticated")
	require.NoError(t, err)
	c, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	return c
}

func requireAll(t *testing.T, lines []string, suffix string) {
	t.Helper()
	for _, l := range lines {
		require.True(t, strings.HasSuffix(l, suffix), l)
	}
	require.Greater(t, len(lines), 20)
}

// One cluster sees what an administrator does with it in the course of time: the steps follow each other.
func TestInstallAndUninstall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.namespace(t, "team-a")
	w.namespace(t, "team-b")
	for _, step := range []struct {
		name string
		run  func(*testing.T, *world)
	}{
		{"a dry run stores nothing", dryRunStoresNothing},
		{"install", firstInstall},
		{"install again changes nothing", secondInstall},
		{"only the watched namespaces", watchedNamespaces},
		{"a volume cannot be changed", volumeStays},
		{"waiting ends and says why", waitingEnds},
		{"uninstall leaves what users have", uninstallLeaves},
		{"uninstall with nothing there", uninstallAgain},
		{"uninstall marks what nobody can end", uninstallMarks},
		{"Helm's ark is left to Helm", helmKeeps},
		{"purge warns first", purgeWarns},
		{"purge removes all", purgeRemoves},
		{"a namespace of somebody else", foreignNamespace},
	} {
		if !t.Run(step.name, func(t *testing.T) { step.run(t, w) }) { //nolint:paralleltest // steps
			return
		}
	}
}

func dryRunStoresNothing(t *testing.T, w *world) {
	lines := w.done(t, "install", "--dry-run=server")
	require.Contains(t, lines, "customresourcedefinition.apiextensions.k8s.io/arkagents.arkonis.dev created (server dry run)")
	require.Contains(t, lines, "statefulset.apps/ark not checked: its namespace is not there yet")
	require.Zero(t, w.definitions(t))
	_, err := w.core.CoreV1().Namespaces().Get(t.Context(), "ark-system", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), err)
}

func firstInstall(t *testing.T, w *world) {
	lines := w.done(t, "install")
	requireAll(t, lines, " created")
	require.Contains(t, lines, "statefulset.apps/ark in ark-system created")
	require.Equal(t, 9, w.definitions(t))
	w.agent(t, "team-a", "writer") // its kind is served when the command returns
	set, err := w.core.AppsV1().StatefulSets("ark-system").Get(t.Context(), "ark", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, "arkonis.dev/ark:v9", set.Spec.Template.Spec.Containers[0].Image)

	may := w.operatorMay(t, "ark-system")
	allowed(t, may, "team-a", true)
	_, err = may.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	require.True(t, apierrors.IsForbidden(err), err)
}

func secondInstall(t *testing.T, w *world) {
	requireAll(t, w.done(t, "install"), " unchanged")
	requireAll(t, w.done(t, "install", "--dry-run=server"), " unchanged (server dry run)")
}

func watchedNamespaces(t *testing.T, w *world) {
	lines := w.done(t, "install", "--watch-namespaces", "team-a,team-b")
	require.Contains(t, lines, "rolebinding.rbac.authorization.k8s.io/ark-operator-watch in team-a created")
	require.Contains(t, lines, "clusterrolebinding.rbac.authorization.k8s.io/ark-operator removed")
	may := w.operatorMay(t, "ark-system")
	for namespace, want := range map[string]bool{"team-a": true, "team-b": true, "ark-system": false, "default": false, "kube-system": false} {
		allowed(t, may, namespace, want)
	}
	_, err := may.CoreV1().Secrets("ark-system").Get(t.Context(), "ark-queue-keys", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "its own keys: %v", err)
	require.Contains(t, w.done(t, "install", "--watch-namespaces", "team-b"), "rolebinding.rbac.authorization.k8s.io/ark-operator-watch removed")
	allowed(t, may, "team-a", false)
	allowed(t, may, "team-b", true)
	_, stderr, code := w.ark(t, "install", "--watch-namespaces", "missing")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "namespace missing does not exist: create it first")
	w.done(t, "install")
	allowed(t, may, "default", true)
}

func volumeStays(t *testing.T, w *world) {
	_, stderr, code := w.ark(t, "install", "--storage-size", "20Gi")
	require.Equal(t, 1, code)
	require.Contains(t, stderr, "the volume of an installed ark cannot be changed")
	requireAll(t, w.done(t, "install"), " unchanged")
}

func waitingEnds(t *testing.T, w *world) {
	_, stderr, code := w.ark(t, "install", "--wait", "--timeout", "20s") // the cluster has no node
	require.Equal(t, 3, code, stderr)
	require.Contains(t, stderr, "not done after 20s: the operator is not ready")
	require.Contains(t, stderr, "kubectl -n ark-system describe")
}

func uninstallLeaves(t *testing.T, w *world) {
	secrets := w.core.CoreV1().Secrets("ark-system")
	for _, name := range []string{"ark-api-tls", "ark-queue-keys"} { // as the operator makes them; the cluster has no node for it
		_, err := secrets.Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy},
		}}, metav1.CreateOptions{})
		require.NoError(t, err)
	}
	stdout, stderr, code := w.ark(t, "uninstall", "--timeout", patience.String())
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, "statefulset.apps/ark in ark-system removed")
	require.Contains(t, stdout, "secret/ark-api-tls in ark-system removed")
	require.Contains(t, stderr, "stay.")
	left, err := secrets.List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, left.Items, 1)
	require.Equal(t, "ark-queue-keys", left.Items[0].Name, "a later install goes on with the queue's volume")
	require.Equal(t, 9, w.definitions(t))
	_, err = w.dynamic.Resource(v1alpha1.Resource("arkagents")).Namespace("team-a").Get(t.Context(), "writer", metav1.GetOptions{})
	require.NoError(t, err)
	_, err = w.core.CoreV1().Namespaces().Get(t.Context(), "ark-system", metav1.GetOptions{})
	require.NoError(t, err)
	roles, err := w.core.RbacV1().ClusterRoles().List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/part-of=ark"})
	require.NoError(t, err)
	require.Empty(t, roles.Items)
	// What stays can be removed without the operator.
	require.NoError(t, w.dynamic.Resource(v1alpha1.Resource("arkagents")).Namespace("team-a").Delete(t.Context(), "writer", metav1.DeleteOptions{}))
	_, err = w.dynamic.Resource(v1alpha1.Resource("arkagents")).Namespace("team-a").Get(t.Context(), "writer", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), err)
}

func uninstallAgain(t *testing.T, w *world) {
	stdout, stderr, code := w.ark(t, "uninstall")
	require.Zero(t, code, stderr)
	require.Empty(t, stdout)
	require.NotContains(t, stderr, "WARNING")
}

// What nobody can end is not waited for: the next operator is told, and the user.
func uninstallMarks(t *testing.T, w *world) {
	runs := w.dynamic.Resource(v1alpha1.Resource("arkruns")).Namespace("team-a")
	add := func(name string, phase v1alpha1.RunPhase) {
		run, err := runs.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "arkonis.dev/v1alpha1", "kind": "ArkRun", "metadata": map[string]any{"name": name},
			"spec": map[string]any{"agentRef": map[string]any{"name": "writer"}, "prompt": "A question."},
		}}, metav1.CreateOptions{})
		require.NoError(t, err)
		if phase != "" {
			require.NoError(t, unstructured.SetNestedField(run.Object, string(phase), "status", "phase"))
			_, err = runs.UpdateStatus(t.Context(), run, metav1.UpdateOptions{})
			require.NoError(t, err)
		}
	}
	add("new", "")
	add("live", v1alpha1.RunRunning)
	add("done", v1alpha1.RunSucceeded)
	w.done(t, "install")
	stdout, stderr, code := w.ark(t, "uninstall", "--timeout", patience.String())
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, "arkrun.arkonis.dev/live in team-a is cancelled")
	require.Contains(t, stderr, "WARNING: no operator has ended 2 of the runs: team-a/live, team-a/new\n")
	for name, want := range map[string]string{"new": "ark was uninstalled", "live": "ark was uninstalled", "done": ""} {
		run, err := runs.Get(t.Context(), name, metav1.GetOptions{})
		require.NoError(t, err)
		require.Equal(t, want, run.GetAnnotations()[v1alpha1.AnnotationCancelReason], name)
		require.Equal(t, want != "", run.GetAnnotations()[v1alpha1.AnnotationCancel] == "true", name)
	}
}

func helmKeeps(t *testing.T, w *world) {
	labels := map[string]string{"app.kubernetes.io/managed-by": "Helm", "app": "x"}
	sets := w.core.AppsV1().StatefulSets("team-b")
	_, err := sets.Create(t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "ark", Labels: labels},
		Spec: appsv1.StatefulSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}},
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	for command, instead := range map[string]string{"install": "helm upgrade", "uninstall": "helm uninstall"} {
		_, stderr, code := w.ark(t, command, "-n", "team-b")
		require.Equal(t, 1, code)
		require.Contains(t, stderr, "was installed by Helm: use "+instead)
	}
	require.NoError(t, sets.Delete(t.Context(), "ark", metav1.DeleteOptions{}))
}

func purgeWarns(t *testing.T, w *world) {
	w.done(t, "install")
	w.agent(t, "team-a", "one")
	w.agent(t, "team-b", "two")
	stdout, stderr, code := w.ark(t, "uninstall", "--purge")
	require.Equal(t, 1, code)
	require.Empty(t, stdout)
	require.Contains(t, stderr, "WARNING")
	require.Contains(t, stderr, "2 arkagents")
	require.Contains(t, stderr, "nothing was removed; give --yes")
	requireAll(t, w.done(t, "install"), " unchanged")
}

func purgeRemoves(t *testing.T, w *world) {
	lines := w.done(t, "uninstall", "--purge", "--yes", "--timeout", patience.String())
	require.Contains(t, lines, "namespace/ark-system removed")
	require.Zero(t, w.definitions(t))
	_, err := w.core.CoreV1().Namespaces().Get(t.Context(), "ark-system", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), err)
	_, err = w.core.CoreV1().Namespaces().Get(t.Context(), "team-a", metav1.GetOptions{})
	require.NoError(t, err)
}

// A namespace that was there before is neither changed nor removed.
func foreignNamespace(t *testing.T, w *world) {
	before, err := w.core.CoreV1().Namespaces().Get(t.Context(), "team-b", metav1.GetOptions{})
	require.NoError(t, err)
	require.Contains(t, w.done(t, "install", "-n", "team-b"), "namespace/team-b is there already and stays as it is")
	allowed(t, w.operatorMay(t, "team-b"), "team-a", true)
	_, err = w.core.CoreV1().Secrets("team-b").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "keys", Labels: map[string]string{v1alpha1.LabelManagedBy: v1alpha1.ManagedBy}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = w.core.CoreV1().Secrets("team-b").Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "theirs"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	w.done(t, "uninstall", "-n", "team-b", "--purge", "--yes", "--timeout", patience.String())
	after, err := w.core.CoreV1().Namespaces().Get(t.Context(), "team-b", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, before.ResourceVersion, after.ResourceVersion)
	secrets, err := w.core.CoreV1().Secrets("team-b").List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, secrets.Items, 1)
	require.Equal(t, "theirs", secrets.Items[0].Name)
	claims, err := w.core.CoreV1().PersistentVolumeClaims("team-b").List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Empty(t, claims.Items)
}
