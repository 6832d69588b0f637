package pods

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// ready says whether an agent has so many pods that take tasks, and no other ones.
func ready(n int32) func(*v1alpha1.ArkAgent) bool {
	return func(a *v1alpha1.ArkAgent) bool {
		return a.Status.ReadyReplicas == n && a.Status.Replicas == n && a.Status.ObservedGeneration == a.Generation
	}
}

func (w *world) agent(name, what string, ok func(*v1alpha1.ArkAgent) bool) *v1alpha1.ArkAgent {
	w.t.Helper()
	return until(w, shared.clients.Agents(w.namespace), name, what, ok)
}

// keptRuns is how many runs of an agent are kept that have ended: no more are asked for before they are looked at.
const keptRuns = 10

// ask makes a run of an agent.
func (w *world) ask(agent, run, prompt string) {
	w.t.Helper()
	_, err := shared.clients.Runs(w.namespace).Create(w.t.Context(), &v1alpha1.ArkRun{
		ObjectMeta: metav1.ObjectMeta{Name: run},
		Spec:       v1alpha1.ArkRunSpec{AgentRef: &v1alpha1.Reference{Name: agent}, Prompt: prompt},
	}, metav1.CreateOptions{})
	require.NoError(w.t, err)
}

// answered waits for the end of a run, which succeeds, and returns its output.
func (w *world) answered(run string) string {
	w.t.Helper()
	r := until(w, shared.clients.Runs(w.namespace), run, "the end", func(r *v1alpha1.ArkRun) bool { return r.Status.Phase.Terminal() })
	require.Equal(w.t, v1alpha1.RunSucceeded, r.Status.Phase, "%s: %s", run, r.Status.Message)
	return r.Status.Output
}

// asksOnce says that the model server answered no prompt twice.
func (w *world) asksOnce() {
	w.t.Helper()
	seen := map[string]int{}
	for _, c := range w.calls() {
		if c.Whole && strings.HasPrefix(c.Request.Prompt(), "question ") {
			seen[c.Request.Prompt()]++
		}
	}
	for prompt, n := range seen {
		require.Equal(w.t, 1, n, "%q was answered %d times", prompt, n)
	}
}

const writer = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: writer}
spec: {model: gpt-test, replicas: 2, systemPrompt: You write.}
`

// Agents answer as pods that the strictest Pod Security admits, with the namespace's own key and model server.
func TestAnAgentAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startModel()
	w.apply(writer)
	w.agent("writer", "two ready pods", ready(2))
	for i := 0; i < 2*keptRuns; i += keptRuns {
		for n := i; n < i+keptRuns; n++ {
			w.ask("writer", fmt.Sprintf("run-%d", n), fmt.Sprintf("question %d", n))
		}
		for n := i; n < i+keptRuns; n++ {
			require.Equal(t, fmt.Sprintf("[You write.] question %d", n), w.answered(fmt.Sprintf("run-%d", n)))
		}
	}
	w.asksOnce()
	requireNothingDenied(t)
}

const prompted = `
apiVersion: v1
kind: ConfigMap
metadata: {name: prompt}
data: {text: First.}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: writer}
spec:
  model: gpt-test
  systemPromptRef: {configMapKeyRef: {name: prompt, key: text}}
  limits: {maxConcurrentTasks: 4, timeoutSeconds: 3600}
`

// A changed ConfigMap rolls the pods. What is running ends on the old prompt, and nothing fails.
func TestAChangedPromptRollsThePods(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startModel()
	w.apply(prompted)
	before := w.agent("writer", "a ready pod", ready(1)).Status.SystemPromptHash
	old := strings.TrimSpace(w.kubectl("get", "pods", "-l", "arkonis.dev/agent=writer", "-o", "name"))
	w.model(http.MethodPut, "/hold", nil)
	for i := range 4 {
		w.ask("writer", fmt.Sprintf("old-%d", i), fmt.Sprintf("question %d", i))
	}
	require.Eventually(t, func() bool { return len(w.calls()) == 4 }, patience, 100*time.Millisecond, "all run")
	w.apply(strings.Replace(prompted, "First.", "Second.", 1))
	w.agent("writer", "another prompt", func(a *v1alpha1.ArkAgent) bool { return a.Status.SystemPromptHash != before })
	w.model(http.MethodPut, "/release", nil)
	for i := range 4 {
		require.Equal(t, fmt.Sprintf("[First.] question %d", i), w.answered(fmt.Sprintf("old-%d", i)))
	}
	w.kubectl("wait", "--for=delete", old, "--timeout="+patience.String())
	w.agent("writer", "one ready pod", ready(1))
	w.ask("writer", "new", "question new")
	require.Equal(t, "[Second.] question new", w.answered("new"))
	w.asksOnce()
}

const probed = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: writer}
spec:
  model: gpt-test
  systemPrompt: You write.
  livenessProbe: {validatorPrompt: Answer HEALTHY., intervalSeconds: 1, failureThreshold: 2}
`

// A pod whose model answers nonsense gets no work; it comes back when the model does.
func TestANonsensicalModel(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startModel()
	w.model(http.MethodPut, "/say", url.Values{"text": {"UNHEALTHY"}})
	w.apply(probed)
	w.agent("writer", "the verdict", func(a *v1alpha1.ArkAgent) bool {
		c := meta.FindStatusCondition(a.Status.Conditions, v1alpha1.ConditionHealthy)
		return c != nil && c.Status == metav1.ConditionFalse && a.Status.ReadyReplicas == 0
	})
	w.ask("writer", "patient", "question 1")
	until(w, shared.clients.Runs(w.namespace), "patient", "a step that says that it waits", func(r *v1alpha1.ArkRun) bool {
		require.False(t, r.Status.Phase.Terminal(), "the run ended as %s: %s", r.Status.Phase, r.Status.Message)
		return len(r.Status.Steps) == 1 && r.Status.Steps[0].Phase == v1alpha1.StepWaiting && r.Status.Steps[0].Message != ""
	})
	w.model(http.MethodPut, "/say", url.Values{"text": {"HEALTHY"}})
	w.agent("writer", "a ready pod", ready(1))
	require.Equal(t, "HEALTHY", w.answered("patient"))
	w.asksOnce()
}

const scaled = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: writer}
spec:
  model: gpt-test
  systemPrompt: You write.
  limits: {maxConcurrentTasks: 1, timeoutSeconds: 3600}
  autoscaling: {minReplicas: 0, maxReplicas: 3, targetPendingTasks: 2, scaleDownAfterSeconds: 3}
`

// The depth of an agent's queue makes its pods, from none to as many as are allowed, and unmakes them.
func TestScaledByItsQueue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startModel()
	w.model(http.MethodPut, "/hold", nil)
	w.apply(scaled)
	w.agent("writer", "no pod", ready(0))
	for i := range keptRuns {
		w.ask("writer", fmt.Sprintf("run-%d", i), fmt.Sprintf("question %d", i))
	}
	w.agent("writer", "three pods", func(a *v1alpha1.ArkAgent) bool { return a.Status.ReadyReplicas == 3 })
	w.model(http.MethodPut, "/release", nil)
	for i := range keptRuns {
		require.Equal(t, fmt.Sprintf("[You write.] question %d", i), w.answered(fmt.Sprintf("run-%d", i)))
	}
	w.agent("writer", "no pod again", ready(0))
	w.asksOnce()
}

const spread = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: writer}
spec:
  model: gpt-test
  replicas: 2
  systemPrompt: You write.
  limits: {timeoutSeconds: 3600}
  affinity:
    podAntiAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
      - labelSelector: {matchLabels: {arkonis.dev/agent: writer}}
        topologyKey: kubernetes.io/hostname
`

// With two nodes, losing one loses no task: the pod on the other one goes on. It stands apart from the parallel tests,
// which need both.
func TestALostNode(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	operator, err := shared.clients.Core.CoreV1().Pods("ark-system").Get(ctx, "ark-0", metav1.GetOptions{})
	require.NoError(t, err)
	keep := operator.Spec.NodeName
	nodes := shared.cluster.Nodes()
	lost := nodes[(slices.Index(nodes, keep)+1)%len(nodes)]
	w.apply(strings.Replace(modelManifest, "spec:\n  securityContext", "spec:\n  nodeSelector: {kubernetes.io/hostname: "+keep+"}\n  securityContext", 1))
	w.kubectl("wait", "--for=condition=Ready", "pod/model", "--timeout="+patience.String())
	w.apply(spread)
	w.agent("writer", "two ready pods", ready(2))
	w.model(http.MethodPut, "/hold", nil)
	for i := range keptRuns {
		w.ask("writer", fmt.Sprintf("run-%d", i), fmt.Sprintf("question %d", i))
	}
	require.Eventually(t, func() bool { return len(w.calls()) >= keptRuns }, patience, 100*time.Millisecond, "all run")
	require.NoError(t, shared.cluster.KillNode(ctx, lost))
	w.model(http.MethodPut, "/release", nil)
	for i := range keptRuns {
		require.Equal(t, fmt.Sprintf("[You write.] question %d", i), w.answered(fmt.Sprintf("run-%d", i)))
	}
	require.NoError(t, shared.cluster.StartNode(ctx, lost))
	until(w, shared.clients.Core.CoreV1().Nodes(), lost, "the node", func(n *corev1.Node) bool {
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	})
}
