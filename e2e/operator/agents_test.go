package operator

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/queue/identity"
)

// full is an agent that uses what an agent can use, and what it refers to.
const full = `
apiVersion: v1
kind: Secret
metadata: {name: tool-keys}
stringData: {token: t-1, api: a-1}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: prompts}
data: {writer: You write well., other: Not yours.}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkSettings
metadata: {name: house}
spec: {temperature: "0.2", promptFragments: {persona: You are kind.}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: full}
spec:
  model: mock
  replicas: 2
  image: tools.example/tools:1
  systemPromptRef: {configMapKeyRef: {name: prompts, key: writer}}
  settingsRefs: [{name: house}]
  mcpServers:
  - {name: search, url: "http://search.tools/mcp", auth: {tokenSecretRef: {name: tool-keys, key: token}}, guidance: Search first.}
  - {name: own, command: own-tools, args: ["-v"]}
  tools:
  - {name: look, url: "http://look.tools/", headers: [{name: X-Key, secretKeyRef: {name: tool-keys, key: api}}]}
  memoryRef: {name: notes}
  podLabels: {tier: back}
  livenessProbe: {validatorPrompt: "Well?"}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkMemory
metadata: {name: notes}
spec: {backend: nats, nats: {ttlSeconds: 60}}
`

// restrict has a namespace refuse pods that the Pod Security Standard restricted does not allow.
func (w *world) restrict() {
	w.t.Helper()
	patch := []byte(`{"metadata":{"labels":{"pod-security.kubernetes.io/enforce":"restricted","pod-security.kubernetes.io/enforce-version":"latest"}}}`)
	_, err := w.clients.Core.CoreV1().Namespaces().Patch(w.t.Context(), w.namespace, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	require.NoError(w.t, err)
}

func (w *world) deployment(name, what string, ok func(*appsv1.Deployment) bool) *appsv1.Deployment {
	w.t.Helper()
	return until(w, w.clients.Core.AppsV1().Deployments(w.namespace), name, what, ok)
}

// exists is a Deployment in any shape.
func exists(*appsv1.Deployment) bool { return true }

// condition waits for an agent's condition to have a reason.
func (w *world) condition(agent, kind, reason string) *metav1.Condition {
	w.t.Helper()
	a := until(w, w.clients.Agents(w.namespace), agent, kind+" with reason "+reason, func(a *v1alpha1.ArkAgent) bool {
		c := meta.FindStatusCondition(a.Status.Conditions, kind)
		return c != nil && c.Reason == reason && c.ObservedGeneration == a.Generation
	})
	return meta.FindStatusCondition(a.Status.Conditions, kind)
}

// An agent becomes a Deployment whose pods a namespace admits that enforces restricted; its prompt, credentials and its
// tools' secrets are files, and no secret stands in the Deployment.
func TestAnAgentBecomesADeployment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--agent-image", "arkonis.example/ark:1")
	w.restrict()
	w.start()
	w.apply(full)
	d := w.deployment("full-agent", "two pods", func(d *appsv1.Deployment) bool { return d.Status.UpdatedReplicas == 2 })
	text, err := json.Marshal(d)
	require.NoError(t, err)
	for _, secret := range []string{"t-1", "a-1", "You write well."} {
		require.NotContains(t, string(text), secret)
	}
	pods, err := w.clients.Core.CoreV1().Pods(w.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "arkonis.dev/agent=full"})
	require.NoError(t, err)
	require.Len(t, pods.Items, 2)
	for _, p := range pods.Items {
		require.Equal(t, "back", p.Labels["tier"])
		for _, v := range p.Spec.Volumes {
			require.False(t, strings.HasPrefix(v.Name, "kube-api-access"), "no API token in the pod")
		}
	}
	secrets := w.clients.Core.CoreV1().Secrets(w.namespace)
	prompt, err := secrets.Get(t.Context(), "full-prompt", metav1.GetOptions{})
	require.NoError(t, err)
	require.Contains(t, string(prompt.Data["prompt"]), "You are kind.\n\nYou write well.\n\nSearch first.")
	queue, err := secrets.Get(t.Context(), "full-queue", metav1.GetOptions{})
	require.NoError(t, err)
	expiry, err := identity.Expiry(queue.Data["ark.creds"])
	require.NoError(t, err)
	require.Greater(t, time.Until(expiry), time.Hour)
	require.Contains(t, string(queue.Data["ca.crt"]), "CERTIFICATE")

	a := until(w, w.clients.Agents(w.namespace), "full", "a status with pods", func(a *v1alpha1.ArkAgent) bool { return a.Status.Replicas == 2 })
	require.Equal(t, int32(2), a.Status.DesiredReplicas)
	require.Equal(t, "app.kubernetes.io/managed-by=ark,arkonis.dev/agent=full", a.Status.Selector)
	require.Len(t, a.Status.SystemPromptHash, 64)
	require.Equal(t, v1alpha1.ReasonProgressing, w.condition("full", "Ready", v1alpha1.ReasonProgressing).Reason)
	out, err := kubectl(t.Context(), "-n", w.namespace, "get", "arkagents", "-o", "wide")
	require.NoError(t, err, out)
	require.Regexp(t, `(?s)NAME +MODEL +REPLICAS +READY +PENDING +TOKENS\(24H\) +PROVIDER +AGE.*full +mock +2 +0 +0`, out)
}

// An agent's pods are shut off as it says.
func TestNetworkPolicies(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	policies := w.clients.Core.NetworkingV1().NetworkPolicies(w.namespace)
	shut := func(how string) string {
		return strings.Replace(full, "model: mock\n", "model: mock\n  networkPolicy: "+how+"\n", 1)
	}
	w.apply(shut("default"))
	open := until(w, policies, "full-agent", "the policy", func(*networkingv1.NetworkPolicy) bool { return true })
	require.Len(t, open.Spec.Egress, 1)
	w.apply(shut("strict"))
	until(w, policies, "full-agent", "a narrower policy", func(p *networkingv1.NetworkPolicy) bool { return len(p.Spec.Egress) > 1 })
	w.apply(shut("disabled"))
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		_, err := policies.Get(t.Context(), "full-agent", metav1.GetOptions{})
		require.True(c, apierrors.IsNotFound(err), "%v", err)
	}, patience, 50*time.Millisecond)
}

// What an agent refers to and that is not there is a condition, which heals when it appears; a change there replaces the
// pods, a change of what it does not use does not.
func TestReferencesHeal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.apply(`
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: writer}
spec:
  model: mock
  systemPromptRef: {configMapKeyRef: {name: prompts, key: writer}}
  configRef: {name: house}
  memoryRef: {name: notes}
  env: [{name: KEY, valueFrom: {secretKeyRef: {name: keys, key: k}}}]
`)
	require.Contains(t, w.condition("writer", "Ready", v1alpha1.ReasonReferenceNotFound).Message, "there is no ArkSettings house: create it")
	w.apply(`{apiVersion: arkonis.dev/v1alpha1, kind: ArkSettings, metadata: {name: house}, spec: {outputFormat: plain}}`)
	w.apply(`{apiVersion: arkonis.dev/v1alpha1, kind: ArkMemory, metadata: {name: notes}, spec: {backend: redis, redis: {secretRef: {name: redis}}}}`)
	require.Contains(t, w.condition("writer", "Ready", v1alpha1.ReasonPromptResolutionError).Message, "systemPromptRef: there is no ConfigMap prompts: create it")
	w.apply(`{apiVersion: v1, kind: ConfigMap, metadata: {name: prompts}, data: {writer: You write., other: x}}`)
	require.Contains(t, w.condition("writer", "Ready", v1alpha1.ReasonSecretNotFound).Message, "env[KEY]: there is no Secret keys: create it")
	w.apply(`{apiVersion: v1, kind: Secret, metadata: {name: keys}, stringData: {other: x}}`)
	w.apply(`{apiVersion: v1, kind: Secret, metadata: {name: redis}, stringData: {REDIS_URL: "redis://cache:6379"}}`)
	until(w, w.clients.Agents(w.namespace), "writer", "a message about the key", func(a *v1alpha1.ArkAgent) bool {
		c := meta.FindStatusCondition(a.Status.Conditions, "Ready")
		return c != nil && strings.Contains(c.Message, "the Secret keys has no key k: add it") && !strings.Contains(c.Message, "redis")
	})
	_, err := w.clients.Core.AppsV1().Deployments(w.namespace).Get(t.Context(), "writer-agent", metav1.GetOptions{})
	require.ErrorContains(t, err, "not found")
	w.apply(`{apiVersion: v1, kind: Secret, metadata: {name: keys}, stringData: {other: x, k: v1}}`)
	first := w.deployment("writer-agent", "the Deployment", exists)

	// Nobody uses this key. What follows shows that the change has been seen.
	w.apply(`{apiVersion: v1, kind: Secret, metadata: {name: keys}, stringData: {other: two, k: v1}}`)
	w.apply(`{apiVersion: v1, kind: ConfigMap, metadata: {name: prompts}, data: {writer: You write., other: two}}`)
	w.apply(`{apiVersion: v1, kind: Secret, metadata: {name: keys}, stringData: {other: two, k: v2}}`)
	second := w.deployment("writer-agent", "pods with the changed Secret", func(d *appsv1.Deployment) bool { return d.Generation > first.Generation })
	require.Equal(t, first.Generation+1, second.Generation)
	require.Equal(t, first.Spec.Template.Annotations["arkonis.dev/prompt-hash"], second.Spec.Template.Annotations["arkonis.dev/prompt-hash"])
	w.apply(`{apiVersion: v1, kind: ConfigMap, metadata: {name: prompts}, data: {writer: You write well.}}`)
	third := w.deployment("writer-agent", "pods with the changed prompt", func(d *appsv1.Deployment) bool { return d.Generation > second.Generation })
	require.NotEqual(t, second.Spec.Template.Annotations["arkonis.dev/prompt-hash"], third.Spec.Template.Annotations["arkonis.dev/prompt-hash"])
	w.apply(`{apiVersion: arkonis.dev/v1alpha1, kind: ArkSettings, metadata: {name: house}, spec: {outputFormat: markdown}}`)
	fourth := w.deployment("writer-agent", "pods with the changed settings", func(d *appsv1.Deployment) bool { return d.Generation > third.Generation })
	require.Equal(t, third.Generation+1, fourth.Generation)
	w.apply(`{apiVersion: v1, kind: Secret, metadata: {name: redis}, stringData: {REDIS_URL: "redis://other:6379"}}`)
	w.deployment("writer-agent", "pods with the changed memory", func(d *appsv1.Deployment) bool { return d.Generation == fourth.Generation+1 })
}

// kubectl scale and whatever else uses the scale subresource set the number of pods; others keep the fields they own.
func TestScaleAndForeignFields(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.apply(writer)
	w.deployment("writer-agent", "one pod", func(d *appsv1.Deployment) bool { return *d.Spec.Replicas == 1 })
	until(w, w.clients.Agents(w.namespace), "writer", "a selector", func(a *v1alpha1.ArkAgent) bool { return a.Status.Selector != "" })
	out, err := kubectl(t.Context(), "-n", w.namespace, "scale", "arkagent/writer", "--replicas=3")
	require.NoError(t, err, out)
	w.deployment("writer-agent", "three pods", func(d *appsv1.Deployment) bool { return *d.Spec.Replicas == 3 })

	deployments := w.clients.Core.AppsV1().Deployments(w.namespace)
	force := true
	other := fmt.Sprintf(`{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"writer-agent","annotations":{"team":"a"}},
		"spec":{"template":{"metadata":{"annotations":{"other/restarted":"%s"}}}}}`, "now")
	_, err = deployments.Patch(t.Context(), "writer-agent", types.ApplyPatchType, []byte(other), metav1.PatchOptions{FieldManager: "other", Force: &force})
	require.NoError(t, err)
	_, err = deployments.Patch(t.Context(), "writer-agent", types.MergePatchType, []byte(`{"spec":{"replicas":7}}`), metav1.PatchOptions{})
	require.NoError(t, err)
	d := w.deployment("writer-agent", "three pods again", func(d *appsv1.Deployment) bool { return *d.Spec.Replicas == 3 && d.Annotations["team"] == "a" })
	require.Equal(t, "now", d.Spec.Template.Annotations["other/restarted"])
	w.apply(strings.Replace(writer, "You write.", "You write well.", 1))
	d = w.deployment("writer-agent", "the new prompt", func(n *appsv1.Deployment) bool {
		return n.Spec.Template.Annotations["arkonis.dev/prompt-hash"] != d.Spec.Template.Annotations["arkonis.dev/prompt-hash"]
	})
	require.Equal(t, "now", d.Spec.Template.Annotations["other/restarted"])
	require.Equal(t, "a", d.Annotations["team"])

	// What ark made and somebody broke is mended.
	require.NoError(t, w.clients.Core.CoreV1().Secrets(w.namespace).Delete(t.Context(), "writer-prompt", metav1.DeleteOptions{}))
	until(w, w.clients.Core.CoreV1().Secrets(w.namespace), "writer-prompt", "the prompt again", func(*corev1.Secret) bool { return true })
	require.NoError(t, deployments.Delete(t.Context(), "writer-agent", metav1.DeleteOptions{}))
	w.deployment("writer-agent", "the Deployment again", func(n *appsv1.Deployment) bool { return n.UID != d.UID && n.DeletionTimestamp == nil })
}

// An object that ark did not make is not touched; the agent says what is in its way, and goes on when it is gone.
func TestForeignObjectsAreNotAdopted(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.apply(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: writer-agent, labels: {app: mine}}
spec:
  replicas: 0
  selector: {matchLabels: {app: mine}}
  template:
    metadata: {labels: {app: mine}}
    spec: {containers: [{name: c, image: mine}]}
`)
	before := w.deployment("writer-agent", "mine", exists)
	w.apply(writer)
	require.Contains(t, w.condition("writer", "Ready", v1alpha1.ReasonNameConflict).Message, "an object with this name exists that ark did not make")
	deployments := w.clients.Core.AppsV1().Deployments(w.namespace)
	after, err := deployments.Get(t.Context(), "writer-agent", metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, before.Spec, after.Spec)
	require.Equal(t, before.Labels, after.Labels)
	require.NoError(t, deployments.Delete(t.Context(), "writer-agent", metav1.DeleteOptions{}))
	w.deployment("writer-agent", "ark's own", func(d *appsv1.Deployment) bool { return d.Labels["arkonis.dev/agent"] == "writer" })
	w.condition("writer", "Ready", v1alpha1.ReasonProgressing)
}
