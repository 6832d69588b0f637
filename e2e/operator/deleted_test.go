package operator

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arkonis.dev/ark/e2e/cluster/apiserver"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm/modelserver"
)

// Two agents that remember, and teams of them: one that they work for, one with an agent of its own, and one above.
const talkers = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkMemory
metadata: {name: notes}
spec: {backend: nats, nats: {}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: ant}
spec: {model: gpt-test, systemPrompt: You are an ant., memoryRef: {name: notes}, limits: {timeoutSeconds: 3600, maxTurns: 1000, maxDailyTokens: 100000000, maxTokensPerCall: 500}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: lent}
spec:
  inputs: [{name: prompt, required: true}]
  limits: {maxDailyTokens: 100000000}
  roles: [{name: a, arkAgent: ant}]
  pipeline:
  - {name: one, role: a, inputs: {prompt: "lent {{ .input.prompt }}."}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: own}
spec:
  inputs: [{name: prompt, required: true}]
  roles: [{name: a, model: gpt-test, memoryRef: {name: notes}, limits: {timeoutSeconds: 3600, maxTurns: 1000, maxTokensPerCall: 500}}]
  pipeline:
  - {name: one, role: a, inputs: {prompt: "own {{ .input.prompt }}."}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: above}
spec:
  inputs: [{name: prompt, required: true}]
  roles: [{name: crew, arkTeam: lent}]
  pipeline:
  - {name: one, role: crew, inputs: {prompt: "below {{ .input.prompt }}"}}
`

// pause is how long a model that has something to remember for ever thinks about it.
const pause = 100 * time.Millisecond

// endless are such a model: each task makes one call after the other.
func endless(c modelserver.Call) *modelserver.Reply {
	return &modelserver.Reply{Delay: pause, Tools: []modelserver.Use{{
		ID: fmt.Sprintf("t-%d", c.N), Name: "remember", Arguments: fmt.Sprintf(`{"text":"note %d"}`, c.N),
	}}}
}

// talk starts an operator, agents and runs of a team, all of which call the model over and over.
func (w *world) talk(team string, runs int) *modelserver.Server {
	w.t.Helper()
	w.start()
	w.apply(talkers)
	models, err := modelserver.Start(w.t.Context(), modelserver.Config{Answer: endless})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = models.Close() })
	until(w, w.clients.Teams(w.namespace), "own", "a status", func(t *v1alpha1.ArkTeam) bool { return t.Status.ObservedGeneration > 0 })
	for _, agent := range []string{"ant", "own-a"} {
		w.pod(agent, agent+"-0", "OPENAI_BASE_URL="+models.URL(), "OPENAI_API_KEY=k")
	}
	for i := range runs {
		w.runOf(fmt.Sprintf("%s-%d", team, i), team, map[string]any{"prompt": strings.Repeat("long ", 10_000*(i%2)) + fmt.Sprint(i)})
	}
	require.Eventually(w.t, func() bool { // every run has made some calls
		calls := map[string]int{}
		for _, c := range models.Calls() {
			calls[c.Request.Prompt()]++
		}
		for _, n := range calls {
			if n < 3 {
				return false
			}
		}
		return len(calls) == runs
	}, patience, 50*time.Millisecond)
	return models
}

// quiet says that no task made more calls of the model, after something was deleted, than one can make in 2 s. They are
// counted and not timed: on a machine that is busy with other things, whoever calls is as slow as whoever is to stop it.
func (w *world) quiet(models *modelserver.Server, deleted time.Time) {
	w.t.Helper()
	last, after := time.Duration(0), map[string]int{}
	for _, c := range models.Calls() {
		last = max(last, c.In.Sub(deleted))
		if c.In.After(deleted) {
			after[c.Request.Prompt()]++
		}
	}
	w.t.Logf("the last call began %s after the deletion", last.Round(time.Millisecond))
	for prompt, n := range after {
		require.LessOrEqual(w.t, n, int(2*time.Second/pause), "calls for %.40q", prompt)
	}
}

// Where a team is deleted, its runs go, and with them what they cost; the agents that it borrowed stay.
func TestADeletedTeamCostsNothing(t *testing.T) {
	t.Parallel()
	for _, team := range []string{"lent", "own"} {
		t.Run(team, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			models := w.talk(team, 4)
			require.NoError(t, w.clients.Teams(w.namespace).Delete(t.Context(), team, metav1.DeleteOptions{}))
			deleted := time.Now()
			w.kubectl("wait", "--for=delete", "arkrun", "--all", "--timeout="+patience.String())
			t.Logf("the runs were gone after %s", time.Since(deleted))
			w.emptied()
			w.quiet(models, deleted)
		})
	}
}

// A team that somebody's finalizer holds is as good as gone: its runs end, and so does the run whose step one of them is.
func TestATeamThatIsBeingDeletedCostsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	models := w.talk("above", 1)
	w.runOf("own", "lent", map[string]any{"prompt": "by itself"})
	_, err := models.WaitIn(t.Context(), len(models.Calls())+5)
	require.NoError(t, err)
	w.kubectl("patch", "arkteam", "lent", "--type=merge", "-p", `{"metadata":{"finalizers":["example.org/mine"]}}`)
	require.NoError(t, w.clients.Teams(w.namespace).Delete(t.Context(), "lent", metav1.DeleteOptions{}))
	deleted := time.Now()
	w.kubectl("wait", "--for=delete", "arkrun", "own", "--timeout="+patience.String())
	r := w.ended("above-0")
	require.Equal(t, v1alpha1.RunFailed, r.Status.Phase)
	require.Contains(t, r.Status.Message, "the ArkTeam lent was removed")
	w.quiet(models, deleted)
	w.kubectl("patch", "arkteam", "lent", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	w.kubectl("wait", "--for=delete", "arkteam", "lent", "--timeout="+patience.String())
}

// emptied waits until the operator's store holds nothing of what is gone. It looks at the store of an operator that has
// ended; each one lives longer than the one before it, as what an agent holds goes when the agent has come back to it.
func (w *world) emptied() {
	w.t.Helper()
	began, life := time.Now(), 100*time.Millisecond
	for {
		w.operator.stop()
		held := w.held()
		if len(held) == 0 {
			break
		}
		require.Less(w.t, time.Since(began), patience, "the store holds %v", held)
		w.start()
		select {
		case <-time.After(life):
		case <-w.t.Context().Done():
		}
		life = min(2*life, patience/10)
	}
}

// Where a namespace is deleted, nothing in it costs anything any more, and it goes.
func TestADeletedNamespaceCostsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	models := w.talk("own", 2)
	namespaces := w.clients.Core.CoreV1().Namespaces()
	require.NoError(t, namespaces.Delete(t.Context(), w.namespace, metav1.DeleteOptions{}))
	deleted := time.Now()
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		_, err := namespaces.Get(t.Context(), w.namespace, metav1.GetOptions{})
		require.True(c, apierrors.IsNotFound(err), "%v", err)
	}, patience, 200*time.Millisecond)
	t.Logf("the namespace was gone after %s", time.Since(deleted))
	w.emptied()
	w.quiet(models, deleted)
}

// Where an agent is deleted in the middle of a run, the run and the one above it fail and say so; what it cost is in their
// status, and nothing more is paid.
func TestADeletedAgentEndsItsRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	models := w.talk("above", 2)
	w.runOf("single", "lent", map[string]any{"prompt": "by itself"})
	_, err := models.WaitIn(t.Context(), len(models.Calls())+5)
	require.NoError(t, err)
	deleted := time.Now()
	require.NoError(t, w.clients.Agents(w.namespace).Delete(t.Context(), "ant", metav1.DeleteOptions{}))
	for _, name := range []string{"above-0", "above-1", "single"} {
		r := w.ended(name)
		require.Equal(t, v1alpha1.RunFailed, r.Status.Phase)
		require.Contains(t, r.Status.Message, "the ArkAgent ant does not exist any more")
		require.Positive(t, r.Status.TotalTokenUsage.TotalTokens)
		t.Logf("%s after %s: %s", name, r.Status.CompletionTime.Sub(deleted), r.Status.Message)
	}
	w.quiet(models, deleted)
}

// Where ark's kinds themselves are deleted, nothing costs anything any more and nothing of the runs stays. With the kinds back,
// the operator goes on.
func TestArksKindsAreDeleted(t *testing.T) {
	t.Parallel()
	api := apiserver.Start(t)
	require.NoError(t, installKinds(t.Context(), api))
	w := newWorldOn(t, api)
	models := w.talk("own", 2)
	w.kubectl("delete", "-f", "../../crds", "--timeout=100s")
	deleted := time.Now()
	require.NoError(t, installKinds(t.Context(), api))
	w.apply(talkers)
	until(w, w.clients.Teams(w.namespace), "lent", "a status", func(t *v1alpha1.ArkTeam) bool { return t.Status.ObservedGeneration > 0 })
	w.quiet(models, deleted)
	w.pod("ant", "ant-1", "OPENAI_BASE_URL="+models.URL(), "OPENAI_API_KEY=k")
	w.runOf("again", "lent", map[string]any{"prompt": "again"})
	_, err := models.WaitIn(t.Context(), len(models.Calls())+3)
	require.NoError(t, err)
	w.kubectl("delete", "arkteam", "lent")
	w.kubectl("wait", "--for=delete", "arkrun", "--all", "--timeout=60s")
	w.emptied()
}

// A call that is under way when its run, its agent or its namespace goes does not go on: nobody will read its answer, and it
// is paid for as long as it lasts.
func TestACallEndsWithWhatItIsFor(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		team   string
		remove func(w *world) error
	}{
		"team of an agent": {"lent", func(w *world) error {
			return w.clients.Teams(w.namespace).Delete(w.t.Context(), "lent", metav1.DeleteOptions{})
		}},
		"team with its agent": {"own", func(w *world) error {
			return w.clients.Teams(w.namespace).Delete(w.t.Context(), "own", metav1.DeleteOptions{})
		}},
		"agent": {"lent", func(w *world) error {
			return w.clients.Agents(w.namespace).Delete(w.t.Context(), "ant", metav1.DeleteOptions{})
		}},
		"namespace": {"own", func(w *world) error {
			return w.clients.Core.CoreV1().Namespaces().Delete(w.t.Context(), w.namespace, metav1.DeleteOptions{})
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.start()
			w.apply(talkers)
			models, err := modelserver.Start(t.Context(), modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{Fault: modelserver.FaultHang}}}})
			require.NoError(t, err)
			t.Cleanup(func() { _ = models.Close() })
			until(w, w.clients.Teams(w.namespace), c.team, "a status", func(t *v1alpha1.ArkTeam) bool { return t.Status.ObservedGeneration > 0 })
			agent := map[string]string{"lent": "ant", "own": "own-a"}[c.team]
			w.pod(agent, agent+"-0", "OPENAI_BASE_URL="+models.URL(), "OPENAI_API_KEY=k")
			w.runOf("run", c.team, map[string]any{"prompt": "x"})
			_, err = models.WaitIn(t.Context(), 1)
			require.NoError(t, err)
			require.NoError(t, c.remove(w))
			deleted := time.Now()
			ctx, cancel := context.WithTimeout(t.Context(), patience-time.Minute) // a server that is silent for longer is given up
			defer cancel()
			calls, err := models.Wait(ctx, 1)
			require.NoError(t, err, "the call goes on")
			t.Logf("the call ended %s after the deletion", calls[0].Answered.Sub(deleted).Round(time.Millisecond))
		})
	}
}
