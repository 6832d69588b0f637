package install

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// kind is one of those that an install consists of. Known beforehand, nothing has to be asked of the API server, which may
// be unable to tell while an aggregated API is down.
type kind struct {
	kind     string
	resource schema.GroupVersionResource
}

// kinds stand in the order in which they are applied; they are removed in the opposite order.
func kinds() []kind {
	v1 := func(group, resource string) schema.GroupVersionResource {
		return schema.GroupVersionResource{Group: group, Version: "v1", Resource: resource}
	}
	const rbac = "rbac.authorization.k8s.io"
	return []kind{
		{"CustomResourceDefinition", v1("apiextensions.k8s.io", "customresourcedefinitions")},
		{"Namespace", v1("", "namespaces")},
		{"ServiceAccount", v1("", "serviceaccounts")},
		{"ClusterRole", v1(rbac, "clusterroles")},
		{"Role", v1(rbac, "roles")},
		{"ClusterRoleBinding", v1(rbac, "clusterrolebindings")},
		{"RoleBinding", v1(rbac, "rolebindings")},
		{"NetworkPolicy", v1("networking.k8s.io", "networkpolicies")},
		{"PodDisruptionBudget", v1("policy", "poddisruptionbudgets")},
		{"Service", v1("", "services")},
		{"StatefulSet", v1("apps", "statefulsets")},
		{"APIService", v1("apiregistration.k8s.io", "apiservices")},
	}
}

// removal is how an object of the kind is removed: the operator is gone only when its pods are.
func (k kind) removal() metav1.DeletionPropagation {
	if k.kind == "StatefulSet" {
		return metav1.DeletePropagationForeground
	}
	return metav1.DeletePropagationBackground
}

func kindOf(o *unstructured.Unstructured) (kind, error) {
	for _, k := range kinds() {
		if k.kind == o.GetKind() && k.resource.GroupVersion().String() == o.GetAPIVersion() {
			return k, nil
		}
	}
	return kind{}, fmt.Errorf("%s: an install has no objects of %s", Describe(o), o.GroupVersionKind())
}

func resourceOf(name string) schema.GroupVersionResource {
	for _, k := range kinds() {
		if k.kind == name {
			return k.resource
		}
	}
	return schema.GroupVersionResource{}
}

func rank(o *unstructured.Unstructured) int {
	for i, k := range kinds() {
		if k.kind == o.GetKind() {
			return i
		}
	}
	return -1
}

// core is a kind of Kubernetes' own that an install has no objects of.
func core(resource string) schema.GroupVersionResource {
	return schema.GroupVersionResource{Version: "v1", Resource: resource}
}
