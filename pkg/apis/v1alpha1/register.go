// Package v1alpha1 holds ark's custom resources: group arkonis.dev, version v1alpha1, nine namespaced kinds.
//
// Three things live here for each kind: its shape (arkagent.go and so on, with the markers that the CRDs in crds/ are
// generated from), its defaults (SetDefaults, defaults.go) and its rules (Validate). The CRD carries the same
// defaults and, as far as CEL's cost limits allow, the same rules; the code carries all of them, because `ark run`
// has no API server. Rules that need a graph or a parsed template belong to pkg/pipeline.
//
// Everything here is plain data without a lock: safe for concurrent reads, and to be copied with DeepCopy before it
// is changed by someone who does not own it.
//
// +kubebuilder:object:generate=true
// +groupName=arkonis.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupName is the API group of every kind in this package, Version its version.
const (
	GroupName = "arkonis.dev"
	Version   = "v1alpha1"
)

// GroupVersion is the API group and version of every kind in this package.
func GroupVersion() schema.GroupVersion { return schema.GroupVersion{Group: GroupName, Version: Version} }

// Kind returns the group, version and kind of a kind in this package, such as "ArkTeam".
func Kind(kind string) schema.GroupVersionKind { return GroupVersion().WithKind(kind) }

// Resource returns the group, version and resource of a kind in this package, such as "arkteams".
func Resource(resource string) schema.GroupVersionResource { return GroupVersion().WithResource(resource) }

// Kinds returns an empty object of every kind, in alphabetical order, each with its own list kind.
func Kinds() []struct{ Object, List runtime.Object } {
	return []struct{ Object, List runtime.Object }{
		{&ArkAgent{}, &ArkAgentList{}},
		{&ArkRegistry{}, &ArkRegistryList{}},
		{&ArkRun{}, &ArkRunList{}},
		{&ArkTeam{}, &ArkTeamList{}},
	}
}

// AddToScheme makes the kinds of this package known to a scheme. It always returns nil; the error is there so that it
// can be used where the Kubernetes libraries expect such a function.
func AddToScheme(s *runtime.Scheme) error {
	for _, k := range Kinds() {
		s.AddKnownTypes(GroupVersion(), k.Object, k.List)
	}
	metav1.AddToGroupVersion(s, GroupVersion())
	return nil
}
