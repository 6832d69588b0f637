package apiserver_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"arkonis.dev/ark/e2e/cluster/apiserver"
)

// patience is how long anything may take on a machine that is busy with other things.
const patience = 5 * time.Minute

func client(t *testing.T, config *rest.Config) *kubernetes.Clientset {
	t.Helper()
	c, err := kubernetes.NewForConfig(config)
	require.NoError(t, err)
	return c
}

func configMap(name string, owners ...metav1.OwnerReference) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: owners}}
}

// awaitDeleted returns when an object is gone.
func awaitDeleted[T any](t *testing.T, name string, c interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (T, error)
},
) {
	t.Helper()
	require.EventuallyWithT(t, func(collect *assert.CollectT) {
		_, err := c.Get(t.Context(), name, metav1.GetOptions{})
		require.True(collect, apierrors.IsNotFound(err), "%s: %v", name, err)
	}, patience, 50*time.Millisecond)
}

// One server serves the subtests: what they make stands in namespaces of their own.
func TestServer(t *testing.T) {
	t.Parallel()
	server := apiserver.Start(t)
	t.Run("collects garbage and deletes namespaces", func(t *testing.T) { deletes(t, server) })
	t.Run("records who did what", func(t *testing.T) { audits(t, server) })
	t.Run("keeps what it stored when it is killed", func(t *testing.T) { survives(t, server) })
	t.Run("admits by Pod Security", func(t *testing.T) { admits(t, server) })
	t.Run("proxies to an extension server in the test", func(t *testing.T) { extends(t, server) })
	t.Run("kubectl", func(t *testing.T) {
		out, err := exec.Command(server.Kubectl(), "--kubeconfig", server.Kubeconfig(), "--cache-dir", t.TempDir(), "get", "namespaces", "-o", "name").CombinedOutput()
		require.NoError(t, err, string(out))
		require.Contains(t, string(out), "namespace/default\n")
	})
}

func namespace(t *testing.T, c *kubernetes.Clientset, labels map[string]string) string {
	t.Helper()
	made, err := c.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "test-", Labels: labels},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	return made.Name
}

func deletes(t *testing.T, server *apiserver.Server) {
	c, ctx := client(t, server.REST()), t.Context()
	name := namespace(t, c, nil)
	maps := c.CoreV1().ConfigMaps(name)
	owner, err := maps.Create(ctx, configMap("owner"), metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = maps.Create(ctx, configMap("owned", metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID}), metav1.CreateOptions{})
	require.NoError(t, err)
	require.NoError(t, maps.Delete(ctx, "owner", metav1.DeleteOptions{}))
	awaitDeleted(t, "owned", maps)

	require.NoError(t, c.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}))
	awaitDeleted(t, name, c.CoreV1().Namespaces())
}

func audits(t *testing.T, server *apiserver.Server) {
	admin, ctx := client(t, server.REST()), t.Context()
	name := namespace(t, admin, nil)
	const user = "system:serviceaccount:ark-system:operator"
	config, err := server.RESTFor(user)
	require.NoError(t, err)
	c := client(t, config)
	_, err = admin.RbacV1().Roles(name).Create(ctx, &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		Rules:      []rbacv1.PolicyRule{{Verbs: []string{"create", "watch"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	_, err = admin.RbacV1().RoleBindings(name).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "reader"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: user}},
	}, metav1.CreateOptions{})
	require.NoError(t, err)

	require.Eventually(t, func() bool { // RBAC is read from a cache
		_, err = c.CoreV1().ConfigMaps(name).Create(ctx, configMap("allowed"), metav1.CreateOptions{})
		return err == nil
	}, patience, 50*time.Millisecond)
	w, err := c.CoreV1().ConfigMaps(name).Watch(ctx, metav1.ListOptions{})
	require.NoError(t, err)
	defer w.Stop()
	_, err = c.CoreV1().Secrets(name).Get(ctx, "keys", metav1.GetOptions{})
	require.True(t, apierrors.IsForbidden(err), "%v", err)

	entries, err := server.Audit()
	require.NoError(t, err)
	got := map[string]int{}
	for _, e := range entries {
		if e.User == user && e.Namespace == name {
			got[fmt.Sprint(e.Verb, " ", e.Resource, "/", e.Name, " ", e.Code, " ", e.Write())]++
		}
	}
	delete(got, "create configmaps/allowed 403 true") // from before the cache had the binding
	require.Equal(t, map[string]int{
		"create configmaps/allowed 201 true": 1,
		"watch configmaps/ 200 false":        1,
		"get secrets/keys 403 false":         1,
	}, got)
}

func survives(t *testing.T, server *apiserver.Server) {
	c, ctx := client(t, server.REST()), t.Context()
	name := namespace(t, c, nil)
	require.NoError(t, server.Kill())
	_, err := c.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	require.Error(t, err)
	require.NoError(t, server.Restart(ctx))
	_, err = c.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	require.NoError(t, err)
}

func admits(t *testing.T, server *apiserver.Server) {
	c, ctx := client(t, server.REST()), t.Context()
	name := namespace(t, c, map[string]string{"pod-security.kubernetes.io/enforce": "restricted"})
	_, err := c.CoreV1().Pods(name).Create(ctx, &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "root"},
		Spec:       corev1.PodSpec{ServiceAccountName: "none", Containers: []corev1.Container{{Name: "main", Image: "none"}}},
	}, metav1.CreateOptions{})
	require.Error(t, err)
	_, err = c.CoreV1().ServiceAccounts(name).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "none"}}, metav1.CreateOptions{})
	require.NoError(t, err)
	require.Eventually(t, func() bool { // admission knows ServiceAccounts from a cache
		_, err = c.CoreV1().Pods(name).Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "root"},
			Spec:       corev1.PodSpec{ServiceAccountName: "none", Containers: []corev1.Container{{Name: "main", Image: "none"}}},
		}, metav1.CreateOptions{})
		return err != nil && strings.Contains(err.Error(), `violates PodSecurity "restricted`)
	}, patience, 50*time.Millisecond, "%v", err)
}

// The test is the extension server: the API server finds it by a Service of type ExternalName, and says who asks.
func extends(t *testing.T, server *apiserver.Server) {
	c, ctx := client(t, server.REST()), t.Context()
	name := namespace(t, c, nil)
	extension := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/apis/things.example.com/v1":
			fmt.Fprint(w, `{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"things.example.com/v1","resources":[]}`)
		case "/apis/things.example.com/v1/hello":
			fmt.Fprintf(w, `{"user":%q,"proxy":%q}`, r.Header.Get("X-Remote-User"), r.TLS.PeerCertificates[0].Subject.CommonName)
		default:
			http.NotFound(w, r)
		}
	}))
	extension.TLS = &tls.Config{ClientAuth: tls.RequireAnyClientCert}
	extension.StartTLS()
	defer extension.Close()
	at, err := url.Parse(extension.URL)
	require.NoError(t, err)
	_, port, err := net.SplitHostPort(at.Host)
	require.NoError(t, err)
	_, err = c.CoreV1().Services(name).Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "extension"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	service := fmt.Sprintf(`{"apiVersion":"apiregistration.k8s.io/v1","kind":"APIService","metadata":{"name":"v1.things.example.com"},
		"spec":{"group":"things.example.com","version":"v1","groupPriorityMinimum":1000,"versionPriority":10,"insecureSkipTLSVerify":true,
		"service":{"namespace":%q,"name":"extension","port":%s}}}`, name, port)
	require.NoError(t, c.RESTClient().Post().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices").Body([]byte(service)).
		SetHeader("Content-Type", "application/json").Do(ctx).Error())
	defer func() {
		require.NoError(t, c.RESTClient().Delete().AbsPath("/apis/apiregistration.k8s.io/v1/apiservices/v1.things.example.com").Do(ctx).Error())
	}()
	var answer []byte
	require.Eventually(t, func() bool { // the availability controller asks every few seconds
		answer, err = c.RESTClient().Get().AbsPath("/apis/things.example.com/v1/hello").DoRaw(ctx)
		return err == nil
	}, patience, 100*time.Millisecond)
	require.JSONEq(t, `{"user":"ark-e2e-admin","proxy":"front-proxy-client"}`, string(answer))
}

// A test process that is killed takes its servers with it: this test starts itself as that process.
func TestNothingOutlivesAKilledTest(t *testing.T) {
	if os.Getenv("ARK_E2E_VICTIM") != "" {
		server := apiserver.Start(t)
		fmt.Fprintf(os.Stderr, "started %s\n", server.REST().Host)
		<-t.Context().Done()
	}
	t.Parallel()
	victim := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$")
	victim.Env = append(os.Environ(), "ARK_E2E_VICTIM=1", "TMPDIR="+t.TempDir())
	said, err := victim.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, victim.Start())
	var host string
	_, err = fmt.Fscanf(said, "started %s\n", &host)
	require.NoError(t, err)
	at, err := url.Parse(host)
	require.NoError(t, err)
	held, err := net.Dial("tcp", at.Host) // closed by the server's end
	require.NoError(t, err)
	defer held.Close()

	require.NoError(t, victim.Process.Kill())
	require.Error(t, victim.Wait())
	require.NoError(t, held.SetReadDeadline(time.Now().Add(patience)))
	_, err = new(bytes.Buffer).ReadFrom(held)
	require.NotErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Eventually(t, func() bool {
		again, err := net.Dial("tcp", at.Host)
		if err == nil {
			again.Close()
		}
		return err != nil
	}, patience, 20*time.Millisecond)
}
