package chart

import (
	"bytes"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"helm.sh/helm/v4/pkg/chart/v2/lint"
	"helm.sh/helm/v4/pkg/chart/v2/lint/support"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	psapi "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"

	"arkonis.dev/ark/e2e/chart/render"
)

const (
	chartDir  = "../../deploy/chart"
	namespace = "ark-system"
)

type object interface {
	metav1.Object
	runtime.Object
}

func newObject(t *testing.T, apiVersion, kind string) object {
	t.Helper()
	kinds := map[string]object{
		"v1 Namespace": &corev1.Namespace{}, "v1 ServiceAccount": &corev1.ServiceAccount{}, "v1 Service": &corev1.Service{},
		"apps/v1 StatefulSet": &appsv1.StatefulSet{}, "apps/v1 Deployment": &appsv1.Deployment{},
		"policy/v1 PodDisruptionBudget":                    &policyv1.PodDisruptionBudget{},
		"networking.k8s.io/v1 NetworkPolicy":               &networkingv1.NetworkPolicy{},
		"rbac.authorization.k8s.io/v1 Role":                &rbacv1.Role{},
		"rbac.authorization.k8s.io/v1 ClusterRole":         &rbacv1.ClusterRole{},
		"rbac.authorization.k8s.io/v1 RoleBinding":         &rbacv1.RoleBinding{},
		"rbac.authorization.k8s.io/v1 ClusterRoleBinding":  &rbacv1.ClusterRoleBinding{},
		"apiregistration.k8s.io/v1 APIService":             &apiregistrationv1.APIService{},
		"apiextensions.k8s.io/v1 CustomResourceDefinition": &apiextensionsv1.CustomResourceDefinition{},
	}
	o := kinds[apiVersion+" "+kind]
	require.NotNil(t, o, apiVersion+" "+kind)
	return o
}

// decoded reads every object strictly: a field that its type does not have is an error.
func decoded(t *testing.T, texts ...[]byte) []object {
	t.Helper()
	var all []object
	for _, text := range texts {
		for doc := range strings.SplitSeq("\n"+string(text), "\n---\n") {
			var head metav1.TypeMeta
			require.NoError(t, yaml.Unmarshal([]byte(doc), &head))
			if head.Kind == "" {
				require.Empty(t, strings.TrimSpace(doc))
				continue
			}
			o := newObject(t, head.APIVersion, head.Kind)
			require.NoError(t, yaml.UnmarshalStrict([]byte(doc), o), doc)
			all = append(all, o)
		}
	}
	return all
}

func manifests(t *testing.T, values map[string]any) (crds, operator []byte) {
	t.Helper()
	crds, operator, err := render.Release{Chart: chartDir, Namespace: namespace, Values: values}.Manifests()
	require.NoError(t, err)
	return crds, operator
}

// rendered are the objects but for the definitions.
func rendered(t *testing.T, values map[string]any) []object {
	t.Helper()
	_, operator := manifests(t, values)
	return decoded(t, operator)
}

func find[T object](all []object, name string) T {
	var none T
	for _, o := range all {
		if typed, ok := o.(T); ok && o.GetName() == name {
			return typed
		}
	}
	return none
}

// workload is the operator's pod template, of whichever kind it is.
func workload(t *testing.T, all []object) *corev1.PodTemplateSpec {
	t.Helper()
	set, deployment := find[*appsv1.StatefulSet](all, "ark"), find[*appsv1.Deployment](all, "ark")
	require.True(t, (set == nil) != (deployment == nil), "one of a StatefulSet and a Deployment")
	if set != nil {
		return &set.Spec.Template
	}
	return &deployment.Spec.Template
}

// every are values with everything turned on, embedded and external queue.
func every() map[string]map[string]any {
	all := func(nats string) map[string]any {
		return map[string]any{
			"nats": map[string]any{"url": nats, "credentialsSecret": map[string]any{"name": "nats-creds"},
				"agentCredentialsSecret": map[string]any{"name": "nats-agents"}, "ca": map[string]any{"secret": "nats-ca"}},
			"watchNamespaces": []any{"team-a", "team-b"}, "agentExtraEnv": []any{map[string]any{"name": "A", "value": "$(B) = c"}},
			"extraCA": map[string]any{"secret": "roots"}, "proxy": map[string]any{"http": "http://proxy:3128", "https": "http://proxy:3128"},
			"otlp":          map[string]any{"endpoint": "http://collector:4317"},
			"aggregatedAPI": map[string]any{"enabled": true}, "namespace": map[string]any{"create": true},
			"imagePullSecrets": []any{map[string]any{"name": "registry"}}, "priorityClassName": "high",
		}
	}
	return map[string]map[string]any{"default": nil, "embedded": all(""), "external": all("nats://nats:4222")}
}

func TestLint(t *testing.T) {
	t.Parallel()
	for name, values := range every() {
		for _, m := range lint.RunAll(chartDir, values, namespace).Messages {
			require.Less(t, m.Severity, support.WarningSev, "%s: %s", name, m)
		}
	}
}

func TestManifestsAreTheChart(t *testing.T) {
	t.Parallel()
	crds, operator := manifests(t, map[string]any{"namespace": map[string]any{"create": true}})
	for file, want := range map[string][]byte{"crds.yaml": crds, "operator.yaml": operator} {
		text, err := os.ReadFile("../../deploy/manifests/" + file)
		require.NoError(t, err)
		_, got, ok := bytes.Cut(text, []byte("\n"))
		require.True(t, ok)
		require.True(t, bytes.Equal(want, got), "%s is not what the chart renders: make generate", file)
	}
}

// The chart has the definitions of crds/, and Helm keeps them when the release goes.
func TestDefinitions(t *testing.T) {
	t.Parallel()
	crds, _ := manifests(t, nil)
	got := decoded(t, crds)
	entries, err := os.ReadDir("../../crds")
	require.NoError(t, err)
	seen := 0
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".yaml") {
			continue
		}
		text, err := os.ReadFile("../../crds/" + e.Name())
		require.NoError(t, err)
		want := decoded(t, text)[0].(*apiextensionsv1.CustomResourceDefinition)
		want.Annotations["helm.sh/resource-policy"] = "keep"
		require.Equal(t, want, find[*apiextensionsv1.CustomResourceDefinition](got, want.Name))
		seen++
	}
	require.Len(t, got, seen)
	none, _ := manifests(t, map[string]any{"crds": map[string]any{"install": false}})
	require.Empty(t, none)
}

func TestPodIsRestricted(t *testing.T) {
	t.Parallel()
	checks, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	require.NoError(t, err)
	for name, values := range every() {
		pod := workload(t, rendered(t, values))
		level := psapi.LevelVersion{Level: psapi.LevelRestricted, Version: psapi.LatestVersion()}
		for _, result := range checks.EvaluatePod(level, &pod.ObjectMeta, &pod.Spec) {
			require.True(t, result.Allowed, "%s: %s: %s", name, result.ForbiddenReason, result.ForbiddenDetail)
		}
		require.True(t, *pod.Spec.Containers[0].SecurityContext.ReadOnlyRootFilesystem)
		require.Equal(t, int64(65532), *pod.Spec.SecurityContext.RunAsUser)
	}
}

// No rule says "all", none lets the operator give itself more, and none can be used to become somebody else.
func TestRightsAreNamed(t *testing.T) {
	t.Parallel()
	for name, values := range every() {
		rules := 0
		for _, o := range rendered(t, values) {
			var list []rbacv1.PolicyRule
			switch r := o.(type) {
			case *rbacv1.ClusterRole:
				list = r.Rules
			case *rbacv1.Role:
				list = r.Rules
			}
			for _, rule := range list {
				rules++
				for _, word := range slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs, rule.NonResourceURLs) {
					require.NotContains(t, word, "*", name)
					require.NotContains(t, []string{"escalate", "bind", "impersonate", "pods/exec", "serviceaccounts/token", "nodes"}, word, name)
				}
				require.NotContains(t, rule.APIGroups, "rbac.authorization.k8s.io", name)
			}
		}
		require.Greater(t, rules, 10)
	}
}

// With an external NATS the operator has the rights for leader election besides, and no other ones. They are in a file
// because the operator's own tests give it these.
func TestRightsWithAnExternalQueue(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../testdata/rights/external.yaml")
	require.NoError(t, err)
	var more []rbacv1.PolicyRule
	require.NoError(t, yaml.UnmarshalStrict(text, &more))
	rules := func(values map[string]any) map[string][]rbacv1.PolicyRule {
		all := map[string][]rbacv1.PolicyRule{}
		for _, o := range rendered(t, values) {
			switch r := o.(type) {
			case *rbacv1.ClusterRole:
				all["ClusterRole "+r.Name] = r.Rules
			case *rbacv1.Role:
				all["Role "+r.Name] = r.Rules
			}
		}
		return all
	}
	want := rules(nil)
	want["Role ark-operator"] = append(want["Role ark-operator"], more...)
	require.Equal(t, want, rules(map[string]any{"nats": map[string]any{"url": "nats://nats:4222"}}))
}

// With watched namespaces nothing binds the operator's role for the whole cluster.
func TestRightsOnlyWhereWatched(t *testing.T) {
	t.Parallel()
	all := rendered(t, map[string]any{"watchNamespaces": []any{"a", "b"}})
	var where []string
	for _, o := range all {
		switch b := o.(type) {
		case *rbacv1.ClusterRoleBinding:
			require.NotEqual(t, "ark-operator", b.RoleRef.Name)
		case *rbacv1.ClusterRole:
			if b.Name == "ark-operator-namespaces" {
				require.Equal(t, []string{"a", "b"}, b.Rules[0].ResourceNames)
			}
		case *rbacv1.RoleBinding:
			if b.RoleRef.Kind == "ClusterRole" {
				where = append(where, b.Namespace)
			}
			require.Equal(t, []rbacv1.Subject{{Kind: "ServiceAccount", Name: "ark-operator", Namespace: namespace}}, b.Subjects)
		}
	}
	require.Equal(t, []string{"a", "b"}, where)
	require.NotNil(t, find[*rbacv1.ClusterRoleBinding](rendered(t, nil), "ark-operator"))
}

// Services, budget and policy select the operator's pod, and their ports are those of its container.
func TestPartsFitTogether(t *testing.T) {
	t.Parallel()
	for name, values := range every() {
		all := rendered(t, values)
		pod := workload(t, all)
		ports := map[string]int32{}
		for _, p := range pod.Spec.Containers[0].Ports {
			ports[p.Name] = p.ContainerPort
		}
		selected := func(labels map[string]string) {
			t.Helper()
			require.NotEmpty(t, labels)
			for k, v := range labels {
				require.Equal(t, v, pod.Labels[k], name)
			}
		}
		served := map[string]int32{}
		for _, o := range all {
			switch s := o.(type) {
			case *corev1.Service:
				selected(s.Spec.Selector)
				for _, p := range s.Spec.Ports {
					require.Equal(t, ports[p.TargetPort.StrVal], p.Port, name+" "+s.Name)
					served[p.TargetPort.StrVal] = p.Port
				}
			case *policyv1.PodDisruptionBudget:
				selected(s.Spec.Selector.MatchLabels)
			case *networkingv1.NetworkPolicy:
				selected(s.Spec.PodSelector.MatchLabels)
				for _, rule := range s.Spec.Ingress {
					for _, p := range rule.Ports {
						require.NotZero(t, ports[p.Port.StrVal], name)
					}
				}
			case *rbacv1.ClusterRoleBinding:
				require.Equal(t, pod.Spec.ServiceAccountName, s.Subjects[0].Name)
			}
		}
		require.Equal(t, ports, served, name)
		require.NotNil(t, find[*corev1.ServiceAccount](all, pod.Spec.ServiceAccountName))
		mounted := map[string]bool{}
		for _, m := range pod.Spec.Containers[0].VolumeMounts {
			mounted[m.Name] = true
		}
		for _, v := range pod.Spec.Volumes {
			require.True(t, mounted[v.Name], name+" "+v.Name)
		}
	}
}

// An APIService that nobody serves would keep every namespace of the cluster from being deleted.
func TestAggregatedAPICanBeLeftOut(t *testing.T) {
	t.Parallel()
	const api = "v1alpha1.data.arkonis.dev"
	require.Nil(t, find[*apiregistrationv1.APIService](rendered(t, map[string]any{"aggregatedAPI": map[string]any{"enabled": false}}), api))
	require.NotNil(t, find[*apiregistrationv1.APIService](rendered(t, nil), api))
	all := rendered(t, every()["embedded"])
	service := find[*apiregistrationv1.APIService](all, api).Spec.Service
	require.Equal(t, namespace, service.Namespace)
	require.Equal(t, *service.Port, find[*corev1.Service](all, service.Name).Spec.Ports[0].Port)
}

func TestUserRolesJoinTheClustersOwn(t *testing.T) {
	t.Parallel()
	all := rendered(t, nil)
	for role, into := range map[string][]string{"ark-view": {"admin", "edit", "view"}, "ark-edit": {"admin", "edit"}, "ark-admin": {"admin"}} {
		var got []string
		labels := find[*rbacv1.ClusterRole](all, role).Labels
		for _, label := range slices.Sorted(maps.Keys(labels)) {
			if name, ok := strings.CutPrefix(label, "rbac.authorization.k8s.io/aggregate-to-"); ok {
				got = append(got, name)
			}
		}
		require.Equal(t, into, got, role)
	}
	for _, rule := range find[*rbacv1.ClusterRole](all, "ark-view").Rules {
		require.Subset(t, []string{"get", "list", "watch"}, rule.Verbs)
	}
}
