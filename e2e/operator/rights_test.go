package operator

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/yaml"

	"arkonis.dev/ark/e2e/cluster/apiserver"
	"arkonis.dev/ark/pkg/install"
)

// account is the user that a world's operator is.
func account(system string) string { return "system:serviceaccount:" + system + ":ark-operator" }

// grants are the rights that an install of ark which looks after one namespace gives its operator. What is of the
// cluster, or in a namespace that all worlds share, has a name of its own in each world.
func grants(system, namespace string) ([]*unstructured.Unstructured, error) {
	all, err := install.Objects(install.Settings{Namespace: system, Watch: []string{namespace}})
	if err != nil {
		return nil, err
	}
	own := func(o *unstructured.Unstructured) bool {
		return o.GetNamespace() == system || o.GetNamespace() == namespace
	}
	renamed := map[string]string{}
	var out []*unstructured.Unstructured
	for _, o := range all {
		if o.GroupVersionKind().Group != rbacv1.GroupName || !strings.HasPrefix(o.GetName(), "ark-operator") {
			continue
		}
		if o.GetKind() == "Role" {
			if err := external(o); err != nil {
				return nil, err
			}
		}
		out = append(out, o)
		if !own(o) {
			renamed[o.GetKind()+o.GetName()] = o.GetName() + "-" + system
			o.SetName(o.GetName() + "-" + system)
		}
	}
	for _, o := range out {
		ref, _, _ := unstructured.NestedStringMap(o.Object, "roleRef")
		if name, ok := renamed[ref["kind"]+ref["name"]]; ok {
			if err := unstructured.SetNestedField(o.Object, name, "roleRef", "name"); err != nil {
				return nil, err
			}
		}
	}
	return out, nil
}

// external adds the rights that an operator with an external NATS has in its own namespace besides.
func external(role *unstructured.Unstructured) error {
	text, err := os.ReadFile("../testdata/rights/external.yaml")
	if err != nil {
		return err
	}
	var more []any
	if err := yaml.Unmarshal(text, &more); err != nil {
		return err
	}
	rules, _, err := unstructured.NestedSlice(role.Object, "rules")
	if err != nil {
		return err
	}
	return unstructured.SetNestedSlice(role.Object, append(rules, more...), "rules")
}

// grant gives the world's operator its rights, and returns the kubeconfig with which it has them and no other ones.
func (w *world) grant() (kubeconfig string) {
	w.t.Helper()
	objects, err := grants(w.system, w.namespace)
	require.NoError(w.t, err)
	var docs bytes.Buffer
	for _, o := range objects {
		text, err := yaml.Marshal(o.Object)
		require.NoError(w.t, err)
		docs.WriteString("---\n")
		docs.Write(text)
	}
	file := filepath.Join(w.t.TempDir(), "rights.yaml")
	require.NoError(w.t, os.WriteFile(file, docs.Bytes(), 0o600))
	out, err := kubectlOn(w.t.Context(), w.api, "apply", "-f", file)
	require.NoError(w.t, err, out)
	for _, o := range objects {
		var role rbacv1.ClusterRole // a Role has the same rules
		require.NoError(w.t, runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &role))
		if len(role.Rules) > 0 {
			w.allowed(o.GetNamespace(), &role.Rules[0])
		}
	}
	w.allowed(metav1.NamespaceSystem, &rbacv1.PolicyRule{ // by the Role of Kubernetes itself that aggregated APIs are given
		Verbs: []string{"list"}, APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"extension-apiserver-authentication"},
	})
	return w.kubeconfig()
}

// kubeconfig is a file with which the world's operator is itself.
func (w *world) kubeconfig() string {
	w.t.Helper()
	config, err := w.api.RESTFor(account(w.system), "system:serviceaccounts", "system:serviceaccounts:"+w.system)
	require.NoError(w.t, err)
	c := clientcmdapi.NewConfig()
	c.Clusters["ark"] = &clientcmdapi.Cluster{Server: config.Host, CertificateAuthorityData: config.CAData}
	c.AuthInfos["ark"] = &clientcmdapi.AuthInfo{ClientCertificateData: config.CertData, ClientKeyData: config.KeyData}
	c.Contexts["ark"] = &clientcmdapi.Context{Cluster: "ark", AuthInfo: "ark"}
	c.CurrentContext = "ark"
	file := filepath.Join(w.t.TempDir(), "kubeconfig")
	require.NoError(w.t, clientcmd.WriteToFile(*c, file))
	return file
}

// allowed waits until the API server knows of a right, which it reads from a cache. Those of a ClusterRole are for the
// watched namespace, or for no namespace.
func (w *world) allowed(namespace string, rule *rbacv1.PolicyRule) {
	w.t.Helper()
	attributes := authorizationv1.ResourceAttributes{Namespace: namespace, Verb: rule.Verbs[0], Group: rule.APIGroups[0]}
	attributes.Resource, attributes.Subresource, _ = strings.Cut(rule.Resources[0], "/")
	switch {
	case len(rule.ResourceNames) > 0:
		attributes.Name = rule.ResourceNames[0]
	case namespace == "":
		attributes.Namespace = w.namespace
	}
	require.EventuallyWithT(w.t, func(c *assert.CollectT) {
		answer, err := w.clients.Core.AuthorizationV1().SubjectAccessReviews().Create(w.t.Context(), &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: account(w.system), ResourceAttributes: &attributes},
		}, metav1.CreateOptions{})
		require.NoError(c, err)
		require.True(c, answer.Status.Allowed, "%+v", attributes)
	}, patience, 20*time.Millisecond)
}

// rights is what all operators of the package did with theirs, once all tests have run: which were denied, and which are
// given by an install and nobody used.
func rights(ctx context.Context) error {
	entries, err := shared.api.Audit()
	if err != nil {
		return err
	}
	core, err := kubernetes.NewForConfig(shared.api.REST())
	if err != nil {
		return err
	}
	namespaces, err := core.CoreV1().Namespaces().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	there := map[string]bool{"": true}
	for i := range namespaces.Items {
		there[namespaces.Items[i].Name] = namespaces.Items[i].Status.Phase == corev1.NamespaceActive
	}
	entries = slices.DeleteFunc(entries, func(e apiserver.Entry) bool {
		return !strings.HasPrefix(e.User, "system:serviceaccount:system-") || !strings.HasSuffix(e.User, ":ark-operator")
	})
	var errs []error
	for _, e := range entries {
		// A right goes with the namespace that it is for.
		if e.Denied() && there[e.Namespace] {
			errs = append(errs, fmt.Errorf("the operator was denied: %+v", e))
		}
	}
	objects, err := grants("system", "work")
	if err != nil {
		return err
	}
	for _, o := range objects {
		var role rbacv1.ClusterRole
		if err := runtime.DefaultUnstructuredConverter.FromUnstructured(o.Object, &role); err != nil {
			return err
		}
		for _, right := range unused(role.Rules, o.GetKind() == "Role", entries) {
			errs = append(errs, fmt.Errorf("the operator never used what %s %s gives: %s", o.GetKind(), o.GetName(), right))
		}
	}
	return errors.Join(errs...)
}

// wholePackage says whether all tests of the package run.
func wholePackage() bool {
	for _, name := range []string{"test.run", "test.skip", "test.list"} {
		if flag.Lookup(name).Value.String() != "" {
			return false
		}
	}
	return true
}

// unused are the rights, one per verb and resource, that no request needed. Those of the operator's own namespace and of
// others are told apart.
func unused(rules []rbacv1.PolicyRule, own bool, entries []apiserver.Entry) []string {
	used := map[string]bool{}
	for _, e := range entries {
		if e.Resource == "namespaces" { // which the audit log has in themselves
			e.Namespace = ""
		}
		if _, system, _ := strings.Cut(e.User, "serviceaccount:"); e.Namespace != "" && own != strings.HasPrefix(system, e.Namespace+":") {
			continue
		}
		resource := e.Resource
		if e.Subresource != "" {
			resource += "/" + e.Subresource
		}
		for _, verb := range needed(e) {
			used[right(verb, e.Group, resource)] = true
		}
	}
	var out []string
	for _, rule := range rules {
		for _, group := range rule.APIGroups {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					if r := right(verb, group, resource); !used[r] {
						out = append(out, r)
					}
				}
			}
		}
	}
	return out
}

func right(verb, group, resource string) string {
	if group != "" {
		resource += "." + group
	}
	return verb + " " + resource
}

// needed are the rights without which a request would not have been answered as it was.
func needed(e apiserver.Entry) []string {
	switch {
	case e.Verb == "patch" && e.Code == 201: // an apply of what was not there
		return []string{"patch", "create"}
	case e.Verb == "watch" && strings.Contains(e.URI, "sendInitialEvents=true"): // API servers that cannot do that are asked for a list
		return []string{"watch", "list"}
	default:
		return []string{e.Verb}
	}
}

func TestUnusedRights(t *testing.T) {
	t.Parallel()
	user := account("system-1")
	entries := []apiserver.Entry{
		{User: user, Verb: "get", Resource: "secrets", Namespace: "system-1"},
		{User: user, Verb: "patch", Resource: "secrets", Namespace: "work-1", Code: 201},
		{User: user, Verb: "patch", Resource: "configmaps", Namespace: "work-1", Code: 200},
		{User: user, Verb: "watch", Resource: "pods", Namespace: "work-1", URI: "/api/v1/namespaces/work-1/pods?sendInitialEvents=true"},
		{User: user, Verb: "update", Group: "arkonis.dev", Resource: "arkruns", Subresource: "status", Namespace: "work-1"},
	}
	rules := []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets", "configmaps"}, Verbs: []string{"get", "create", "patch"}},
		{APIGroups: []string{"", "apps"}, Resources: []string{"pods"}, Verbs: []string{"list", "watch"}},
		{APIGroups: []string{"arkonis.dev"}, Resources: []string{"arkruns", "arkruns/status"}, Verbs: []string{"update"}},
	}
	require.Equal(t, []string{
		"get secrets", "get configmaps", "create configmaps", "list pods.apps", "watch pods.apps", "update arkruns.arkonis.dev",
	}, unused(rules, false, entries))
	require.Equal(t, []string{"create secrets", "patch secrets"}, unused([]rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"secrets"}, Verbs: []string{"get", "create", "patch"}},
	}, true, entries))
}
