package pods

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

const lone = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: writer}
spec: {model: gpt-test, systemPrompt: You write.}
`

// kubectl scale, kubectl rollout and a HorizontalPodAutoscaler work on an agent as they do on everything else, and what
// others set on its Deployment stays. The autoscaler has no metrics here: it keeps the number of pods between its bounds.
func TestOthersWorkOnAnAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startModel()
	w.apply(lone)
	w.agent("writer", "a ready pod", ready(1))
	asked := 0
	answers := func() {
		t.Helper()
		asked++
		run := fmt.Sprintf("run-%d", asked)
		w.ask("writer", run, "question "+run)
		require.Equal(t, "[You write.] question "+run, w.answered(run))
	}
	answers()

	w.kubectl("scale", "arkagent/writer", "--replicas=2")
	w.agent("writer", "two ready pods", ready(2))
	w.kubectl("rollout", "status", "deployment/writer-agent", "--timeout="+patience.String())
	answers()

	scalers := shared.clients.Core.AutoscalingV2().HorizontalPodAutoscalers(w.namespace)
	least := int32(3)
	_, err := scalers.Create(t.Context(), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "writer"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: v1alpha1.GroupVersion().String(), Kind: "ArkAgent", Name: "writer"},
			MinReplicas:    &least, MaxReplicas: 4,
		},
	}, metav1.CreateOptions{})
	require.NoError(t, err)
	w.agent("writer", "as many ready pods as the autoscaler wants", ready(3))
	body := []byte(`{"spec":{"minReplicas":1,"maxReplicas":1}}`)
	_, err = scalers.Patch(t.Context(), "writer", types.MergePatchType, body, metav1.PatchOptions{})
	require.NoError(t, err)
	w.agent("writer", "fewer pods", ready(1))
	answers()

	deployments := shared.clients.Core.AppsV1().Deployments(w.namespace)
	foreign := []byte(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"writer-agent","annotations":{"mesh.example/in":"yes"}},
		"spec":{"template":{"metadata":{"annotations":{"mesh.example/in":"yes"}}}}}`)
	_, err = deployments.Patch(t.Context(), "writer-agent", types.ApplyPatchType, foreign, metav1.PatchOptions{FieldManager: "mesh"})
	require.NoError(t, err)
	w.kubectl("rollout", "restart", "deployment/writer-agent")
	w.kubectl("rollout", "status", "deployment/writer-agent", "--timeout="+patience.String())
	w.kubectl("patch", "arkagent/writer", "--type=merge", "-p", `{"spec":{"podLabels":{"tier":"back"}}}`)
	until(w, deployments, "writer-agent", "what all have set", func(d *appsv1.Deployment) bool {
		pod := d.Spec.Template.ObjectMeta
		return pod.Labels["tier"] == "back" && pod.Annotations["mesh.example/in"] == "yes" && d.Annotations["mesh.example/in"] == "yes" &&
			pod.Annotations["kubectl.kubernetes.io/restartedAt"] != ""
	})
	w.kubectl("rollout", "status", "deployment/writer-agent", "--timeout="+patience.String())
	w.agent("writer", "one ready pod", ready(1))
	answers()
	w.asksOnce()
	requireNothingDenied(t)
}
