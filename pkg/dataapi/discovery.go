package dataapi

import (
	"net/http"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arkonis.dev/ark/pkg/apis/data"
)

// The lists by which the API server, and through it kubectl, learns what there is. Only sub-resources are named: the
// runs themselves are those of arkonis.dev.

func discoverGroups(w http.ResponseWriter, _ *http.Request) {
	write(w, http.StatusOK, metav1.APIGroupList{TypeMeta: metav1.TypeMeta{Kind: "APIGroupList", APIVersion: "v1"}, Groups: []metav1.APIGroup{group()}})
}

func discoverGroup(w http.ResponseWriter, _ *http.Request) { write(w, http.StatusOK, group()) }

func group() metav1.APIGroup {
	version := metav1.GroupVersionForDiscovery{GroupVersion: data.Group + "/" + data.Version, Version: data.Version}
	return metav1.APIGroup{
		TypeMeta: metav1.TypeMeta{Kind: "APIGroup", APIVersion: "v1"},
		Name:     data.Group, Versions: []metav1.GroupVersionForDiscovery{version}, PreferredVersion: version,
	}
}

func discoverResources(w http.ResponseWriter, _ *http.Request) {
	list := metav1.APIResourceList{
		TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: data.Group + "/" + data.Version,
	}
	for _, r := range [][2]string{{data.Log, data.KindLog}, {data.Output, data.KindOutput}, {data.Steps, data.KindStepList}} {
		list.APIResources = append(list.APIResources, metav1.APIResource{
			Name: data.Resource + "/" + r[0], SingularName: "", Namespaced: true, Kind: r[1], Verbs: metav1.Verbs{"get"},
		})
	}
	write(w, http.StatusOK, list)
}
