package pods

import (
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arkonis.dev/ark/e2e/cluster/apiserver"
)

// platform is that of the nodes, which is the tests' own.
func platform() string { return "linux/" + runtime.GOARCH }

const operatorUser = "system:serviceaccount:ark-system:ark-operator"

// The installed operator is ready, comes back when its pod is killed, and has all the rights that it asks for.
func TestInstalled(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	pods := shared.clients.Core.CoreV1().Pods("ark-system")
	ready := func(p *corev1.Pod) bool {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReady {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	}
	before := until(w, pods, "ark-0", "a ready operator", ready)
	now := int64(0)
	require.NoError(t, pods.Delete(ctx, before.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}))
	after := until(w, pods, "ark-0", "another ready operator", func(p *corev1.Pod) bool { return p.UID != before.UID && ready(p) })
	require.NotEqual(t, before.UID, after.UID)
	requireNothingDenied(t)
}

// requireNothingDenied says that the API server has refused nothing that the operator asked for.
func requireNothingDenied(t *testing.T) {
	t.Helper()
	entries, err := apiserver.ReadAudit(shared.cluster.AuditLog())
	require.NoError(t, err)
	asked := 0
	for _, e := range entries {
		if e.User != operatorUser {
			continue
		}
		asked++
		require.False(t, e.Denied(), "denied: %+v", e)
	}
	require.Positive(t, asked, "the audit log knows nothing of the operator")
}
