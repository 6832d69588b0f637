package install

import (
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"arkonis.dev/ark/deploy"
)

func objects(t *testing.T, s Settings) map[string]*unstructured.Unstructured {
	t.Helper()
	all, err := Objects(s)
	require.NoError(t, err)
	out := map[string]*unstructured.Unstructured{}
	for _, o := range all {
		id := o.GetKind() + " " + o.GetNamespace() + "/" + o.GetName()
		require.NotContains(t, out, id)
		out[id] = o
	}
	return out
}

// Without settings an install is what the plain manifests are.
func TestDefaultsAreTheManifests(t *testing.T) {
	t.Parallel()
	got := objects(t, Settings{Namespace: DefaultNamespace})
	seen := 0
	for _, text := range [][]byte{deploy.CRDs(), deploy.Operator()} {
		want, err := decode(text)
		require.NoError(t, err)
		for _, o := range want {
			require.Equal(t, o, got[o.GetKind()+" "+o.GetNamespace()+"/"+o.GetName()])
			seen++
		}
	}
	require.Len(t, got, seen)
	require.Greater(t, seen, 20)
}

// What others depend on comes first, the operator when everything is there, and last the API that it serves.
func TestOrder(t *testing.T) {
	t.Parallel()
	all, err := Objects(Settings{Namespace: DefaultNamespace})
	require.NoError(t, err)
	for i, o := range all {
		switch {
		case i < 9:
			require.Equal(t, "CustomResourceDefinition", o.GetKind())
		case i == 9:
			require.Equal(t, "Namespace", o.GetKind())
		case i == 10:
			require.Equal(t, "ServiceAccount", o.GetKind())
		}
	}
	require.Equal(t, "StatefulSet", all[len(all)-2].GetKind())
	require.Equal(t, "APIService", all[len(all)-1].GetKind(), "nothing is asked before somebody can answer")
}

func TestWrongSettingsAreRefused(t *testing.T) {
	t.Parallel()
	for want, s := range map[string]Settings{
		`namespace ""`:         {},
		`namespace "A"`:        {Namespace: "A"},
		`namespace "b.c"`:      {Namespace: "ark", Watch: []string{"b.c"}},
		`named twice: a, b, a`: {Namespace: "ark", Watch: []string{"a", "b", "a"}},
		`pull secret "x y"`:    {Namespace: "ark", PullSecrets: []string{"x y"}},
		`storage size "much"`:  {Namespace: "ark", StorageSize: "much"},
		`storage size "-1Gi"`:  {Namespace: "ark", StorageSize: "-1Gi"},
	} {
		_, err := Objects(s)
		require.ErrorContains(t, err, want)
	}
}
