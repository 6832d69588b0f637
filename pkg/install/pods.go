package install

import (
	"context"
	"fmt"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

const podsTimeout = 10 * time.Second

// podStates says in words how the operator's pods are.
func (c *Cluster) podStates(ctx context.Context, namespace string) string {
	ctx, cancel := context.WithTimeout(ctx, podsTimeout)
	defer cancel()
	pods, err := c.of(core("pods"), namespace).
		List(ctx, metav1.ListOptions{LabelSelector: podSelector})
	if err != nil {
		return "its pods cannot be read: " + err.Error()
	}
	if len(pods.Items) == 0 {
		return fmt.Sprintf("it has no pod; see kubectl -n %s describe statefulset ark", namespace)
	}
	var states []string
	for i := range pods.Items {
		pod := &pods.Items[i]
		states = append(states, fmt.Sprintf("pod %s is %s", pod.GetName(), podState(pod)))
	}
	return strings.Join(states, "; ") + fmt.Sprintf("; see kubectl -n %s describe pods -l app.kubernetes.io/name=ark", namespace)
}

// podState is the phase of a pod and the first reason that is told why it is not ready.
func podState(pod *unstructured.Unstructured) string {
	phase, _, _ := unstructured.NestedString(pod.Object, "status", "phase")
	containers, _, _ := unstructured.NestedSlice(pod.Object, "status", "containerStatuses")
	for _, item := range containers {
		container, _ := item.(map[string]any)
		for _, state := range []string{"waiting", "terminated"} {
			if why, _, _ := unstructured.NestedString(container, "state", state, "reason"); why != "" {
				return phase + ", " + because(container, why, "state", state, "message")
			}
		}
	}
	conditions, _, _ := unstructured.NestedSlice(pod.Object, "status", "conditions")
	for _, item := range conditions {
		condition, _ := item.(map[string]any)
		if why, _, _ := unstructured.NestedString(condition, "reason"); why != "" && condition["status"] == "False" {
			return phase + ", " + because(condition, why, "message")
		}
	}
	return phase
}

func because(of map[string]any, reason string, message ...string) string {
	if text, _, _ := unstructured.NestedString(of, message...); text != "" {
		return reason + ": " + text
	}
	return reason
}
