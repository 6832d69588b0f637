package chart

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"helm.sh/helm/v4/pkg/action"
	"helm.sh/helm/v4/pkg/chart/v2/loader"
	"helm.sh/helm/v4/pkg/kube"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"

	"arkonis.dev/ark/e2e/cluster/apiserver"
	"arkonis.dev/ark/pkg/apis/v1alpha1"
)

const patience = 5 * time.Minute

// helm is a cluster in which Helm does what it does for people.
type helm struct {
	server  *apiserver.Server
	config  *action.Configuration
	core    *kubernetes.Clientset
	dynamic dynamic.Interface
}

func newHelm(t *testing.T) *helm {
	t.Helper()
	h := &helm{server: apiserver.Start(t), config: action.NewConfiguration()}
	kubeconfig, ns := h.server.Kubeconfig(), namespace
	flags := genericclioptions.NewConfigFlags(false)
	flags.KubeConfig, flags.Namespace = &kubeconfig, &ns
	require.NoError(t, h.config.Init(flags, ns, "secret"))
	var err error
	h.core, err = kubernetes.NewForConfig(h.server.REST())
	require.NoError(t, err)
	h.dynamic, err = dynamic.NewForConfig(h.server.REST())
	require.NoError(t, err)
	return h
}

func (h *helm) install(t *testing.T, values map[string]any) error {
	t.Helper()
	chart, err := loader.LoadDir(chartDir)
	require.NoError(t, err)
	i := action.NewInstall(h.config)
	i.ReleaseName, i.Namespace, i.CreateNamespace, i.WaitStrategy, i.Timeout = "ark", namespace, true, kube.HookOnlyStrategy, patience
	_, err = i.RunWithContext(t.Context(), chart, values)
	return err
}

func (h *helm) upgrade(t *testing.T, values map[string]any) error {
	t.Helper()
	chart, err := loader.LoadDir(chartDir)
	require.NoError(t, err)
	u := action.NewUpgrade(h.config)
	u.Namespace, u.WaitStrategy, u.Timeout, u.ResetValues = namespace, kube.HookOnlyStrategy, patience, true
	_, err = u.RunWithContext(t.Context(), "ark", chart, values)
	return err
}

// agent makes an ArkAgent, and returns it as it is there.
func (h *helm) agent(t *testing.T) *unstructured.Unstructured {
	t.Helper()
	agents := h.dynamic.Resource(v1alpha1.Resource("arkagents")).Namespace("default")
	var made *unstructured.Unstructured
	require.EventuallyWithT(t, func(c *assert.CollectT) { // the definitions are established soon
		var err error
		made, err = agents.Create(t.Context(), &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "arkonis.dev/v1alpha1", "kind": "ArkAgent", "metadata": map[string]any{"name": "writer"},
			"spec": map[string]any{"model": "mock", "systemPrompt": "You write."},
		}}, metav1.CreateOptions{})
		require.NoError(c, err)
	}, patience, 100*time.Millisecond)
	return made
}

// still is the agent as it was made.
func (h *helm) still(t *testing.T, made *unstructured.Unstructured) {
	t.Helper()
	now, err := h.dynamic.Resource(v1alpha1.Resource("arkagents")).Namespace("default").Get(t.Context(), made.GetName(), metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, made.GetUID(), now.GetUID())
}

func (h *helm) gone(t *testing.T, get func() error) {
	t.Helper()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		err := get()
		require.True(c, apierrors.IsNotFound(err), "%v", err)
	}, patience, 100*time.Millisecond)
}

func (h *helm) statefulSet(t *testing.T) (*appsv1.StatefulSet, error) {
	t.Helper()
	return h.core.AppsV1().StatefulSets(namespace).Get(t.Context(), "ark", metav1.GetOptions{})
}

func (h *helm) deployment(t *testing.T) (*appsv1.Deployment, error) {
	t.Helper()
	return h.core.AppsV1().Deployments(namespace).Get(t.Context(), "ark", metav1.GetOptions{})
}

// written is an object without what its controller tells of it.
func written(set *appsv1.StatefulSet) *appsv1.StatefulSet {
	s := set.DeepCopy()
	s.ResourceVersion, s.Status = "", appsv1.StatefulSetStatus{}
	s.ManagedFields = slices.DeleteFunc(s.ManagedFields, func(f metav1.ManagedFieldsEntry) bool { return f.Subresource == "status" })
	return s
}

func variable(pod *corev1.PodTemplateSpec, name string) string {
	for _, v := range pod.Spec.Containers[0].Env {
		if v.Name == name {
			return v.Value
		}
	}
	return ""
}

// What an administrator does with Helm in the course of time: the agents that users have made are there all the while.
func TestHelm(t *testing.T) {
	t.Parallel()
	h := newHelm(t)
	require.ErrorContains(t, h.install(t, map[string]any{"replicas": 3}), "replicas: 3 operators are not possible with the embedded queue")
	require.ErrorContains(t, h.install(t, map[string]any{"imagee": "x"}), "imagee")
	require.NoError(t, h.install(t, nil))
	set, err := h.statefulSet(t)
	require.NoError(t, err)
	require.Equal(t, "info", variable(&set.Spec.Template, "ARK_LOG_LEVEL"))
	made := h.agent(t)

	// Other values: what they do is there, what the old ones did is not.
	_, err = h.core.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "team-a"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	watched := map[string]any{"log": map[string]any{"level": "debug"}, "watchNamespaces": []any{"team-a"}}
	require.NoError(t, h.upgrade(t, watched))
	set, err = h.statefulSet(t)
	require.NoError(t, err)
	require.Equal(t, "debug", variable(&set.Spec.Template, "ARK_LOG_LEVEL"))
	require.Equal(t, "team-a", variable(&set.Spec.Template, "ARK_WATCH_NAMESPACES"))
	_, err = h.core.RbacV1().RoleBindings("team-a").Get(t.Context(), "ark-operator-watch", metav1.GetOptions{})
	require.NoError(t, err)
	_, err = h.core.RbacV1().ClusterRoleBindings().Get(t.Context(), "ark-operator", metav1.GetOptions{})
	require.True(t, apierrors.IsNotFound(err), "%v", err)
	h.still(t, made)

	// The same again writes nothing but Helm's own record.
	before := written(set)
	require.NoError(t, h.upgrade(t, watched))
	set, err = h.statefulSet(t)
	require.NoError(t, err)
	require.Equal(t, before, written(set))

	// An external NATS: a Deployment instead, and back again by a rollback.
	require.NoError(t, h.upgrade(t, map[string]any{"nats": map[string]any{"url": "tls://nats:4222"}, "replicas": 3}))
	deployment, err := h.deployment(t)
	require.NoError(t, err)
	require.Equal(t, int32(3), *deployment.Spec.Replicas)
	h.gone(t, func() error {
		_, err := h.statefulSet(t)
		return err
	})
	back := action.NewRollback(h.config)
	back.Version, back.WaitStrategy, back.Timeout = 1, kube.HookOnlyStrategy, patience
	require.NoError(t, back.Run("ark"))
	_, err = h.statefulSet(t)
	require.NoError(t, err)
	h.gone(t, func() error {
		_, err := h.deployment(t)
		return err
	})
	h.still(t, made)

	// The definitions stay when the release goes, and are taken over by the next one.
	h.uninstall(t)
	h.still(t, made)
	require.NoError(t, h.install(t, nil))
	h.still(t, made)
	h.uninstall(t)
}

// uninstall removes the release: nothing of it is left but the definitions.
func (h *helm) uninstall(t *testing.T) {
	t.Helper()
	u := action.NewUninstall(h.config)
	u.WaitStrategy, u.Timeout = kube.HookOnlyStrategy, patience
	_, err := u.Run("ark")
	require.NoError(t, err)
	for _, r := range []schema.GroupVersionResource{
		{Group: "apps", Version: "v1", Resource: "statefulsets"}, {Version: "v1", Resource: "services"}, {Version: "v1", Resource: "serviceaccounts"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterroles"}, {Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "clusterrolebindings"},
		{Group: "rbac.authorization.k8s.io", Version: "v1", Resource: "rolebindings"}, {Group: "networking.k8s.io", Version: "v1", Resource: "networkpolicies"},
		{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"},
	} {
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			all, err := h.dynamic.Resource(r).List(t.Context(), metav1.ListOptions{LabelSelector: "app.kubernetes.io/part-of=ark"})
			require.NoError(c, err)
			require.Empty(c, all.Items)
		}, patience, 100*time.Millisecond, r.Resource)
	}
}
