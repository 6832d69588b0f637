package operator

import (
	"context"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm/modelserver"
)

// removed waits for an object to be away.
func removed[T any](w *world, name string, c interface {
	Get(ctx context.Context, name string, o metav1.GetOptions) (T, error)
},
) {
	w.t.Helper()
	require.EventuallyWithT(w.t, func(t *assert.CollectT) {
		_, err := c.Get(w.t.Context(), name, metav1.GetOptions{})
		require.True(t, apierrors.IsNotFound(err), "%s: %v", name, err)
	}, patience, 50*time.Millisecond)
}

// What a team made for a role or an entry goes with it; what others made stays.
func TestWhatATeamHasNoMore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.apply(writer)
	w.apply(`
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: desk}
spec:
  entry: clerk
  roles:
  - {name: clerk, model: mock, systemPrompt: You answer., canDelegate: [expert, writer]}
  - {name: expert, model: mock, systemPrompt: You know.}
  - {name: writer, arkAgent: writer}
`)
	agents, services := w.clients.Agents(w.namespace), w.clients.Services(w.namespace)
	until(w, agents, "desk-clerk", "the entry's agent", func(*v1alpha1.ArkAgent) bool { return true })
	until(w, agents, "desk-expert", "the other agent", func(*v1alpha1.ArkAgent) bool { return true })
	until(w, services, "desk", "the entry", func(s *v1alpha1.ArkService) bool { return s.Spec.Selector.ArkTeam == "desk" })
	w.apply(`
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: desk}
spec:
  roles: [{name: clerk, model: mock, systemPrompt: You answer.}]
  pipeline: [{name: only, role: clerk, inputs: {prompt: Go.}}]
`)
	removed(w, "desk", services)
	removed(w, "desk-expert", agents)
	w.agent("desk-clerk")
	w.agent("writer")
}

// The record of a manual trigger goes after a while, and its run stays.
func TestATriggerIsForgotten(t *testing.T) {
	t.Parallel()
	w := newWorld(t, "--triggers-kept", "15s") // its outcome has to be seen before
	w.start()
	w.apply(trio)
	until(w, w.clients.Teams(w.namespace), "trio", "a status", func(t *v1alpha1.ArkTeam) bool { return t.Status.ObservedGeneration > 0 })
	run := w.fire("trio", map[string]any{"topic": "tides"}, "one")
	events, err := w.clients.Events(w.namespace).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	for i := range events.Items {
		removed(w, events.Items[i].Name, w.clients.Events(w.namespace))
	}
	_, err = w.clients.Runs(w.namespace).Get(t.Context(), run, metav1.GetOptions{})
	require.NoError(t, err)
}

// What happens to a step again is counted in the Event that tells of it.
func TestAnEventThatComesAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.apply(`
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: solo}
spec:
  roles: [{name: a, model: gpt-test, systemPrompt: You answer., limits: {timeoutSeconds: 3600}}]
  pipeline: [{name: only, role: a, inputs: {prompt: Go.}, retry: {maxAttempts: 2, backoffSeconds: 15}}]
`)
	answers := make(chan *modelserver.Reply)
	models, err := modelserver.Start(t.Context(), modelserver.Config{Answer: func(modelserver.Call) *modelserver.Reply { return <-answers }})
	require.NoError(t, err)
	t.Cleanup(func() { _ = models.Close() })
	t.Cleanup(func() { close(answers) })
	w.pod("solo-a", "solo-a-0", "OPENAI_BASE_URL="+models.URL(), "OPENAI_API_KEY=k")
	w.runOf("run", "solo", nil)
	step := func(what string, phase v1alpha1.StepPhase, attempt int32) {
		t.Helper()
		until(w, w.clients.Runs(w.namespace), "run", what, func(r *v1alpha1.ArkRun) bool {
			return len(r.Status.Steps) == 1 && r.Status.Steps[0].Phase == phase && r.Status.Steps[0].Attempts == attempt && r.Status.Steps[0].Pod != ""
		})
	}
	step("the first attempt", v1alpha1.StepRunning, 1)
	answers <- &modelserver.Reply{Status: http.StatusBadRequest, Error: "no"}
	until(w, w.clients.Runs(w.namespace), "run", "the pause", func(r *v1alpha1.ArkRun) bool { return r.Status.Steps[0].Phase == v1alpha1.StepWaiting })
	step("the second attempt", v1alpha1.StepRunning, 2)
	answers <- &modelserver.Reply{Text: "yes"}
	require.Equal(t, v1alpha1.RunSucceeded, w.ended("run").Status.Phase)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		events, err := w.clients.Core.CoreV1().Events(w.namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=run,reason=StepStarted"})
		require.NoError(c, err)
		counts := map[string]int32{}
		for i := range events.Items {
			counts[events.Items[i].Message] = events.Items[i].Count
		}
		require.Equal(c, map[string]int32{"step only was given to agent solo-a": 2}, counts)
	}, patience, 100*time.Millisecond)
}
