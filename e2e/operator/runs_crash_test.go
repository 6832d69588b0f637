package operator

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/queue/identity"
)

// models starts a model server that takes some time for each answer, and returns the environment of pods that ask it.
func (w *world) models(delay time.Duration) (*modelserver.Server, []string) {
	w.t.Helper()
	s, err := modelserver.Start(w.t.Context(), modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		return &modelserver.Reply{Text: "done: " + c.Request.Prompt(), Delay: delay}
	}})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = s.Close() })
	return s, []string{"OPENAI_BASE_URL=" + s.URL(), "OPENAI_API_KEY=k"}
}

const trio = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: trio}
spec:
  inputs: [{name: topic, required: true}]
  successfulRunsHistoryLimit: 1000
  roles:
  - {name: a, model: gpt-test, systemPrompt: You are a., limits: {timeoutSeconds: 3600}}
  - {name: b, model: gpt-test, systemPrompt: You are b., limits: {timeoutSeconds: 3600}}
  pipeline:
  - {name: one, role: a, inputs: {prompt: "one {{ .input.topic }}."}}
  - {name: two, role: b, dependsOn: [one], inputs: {prompt: "two {{ .input.topic }}."}}
  - {name: three, role: a, dependsOn: [two], inputs: {prompt: "three {{ .input.topic }}."}}
`

// The operator is killed over and over while runs are live. All come to their end, none is lost or driven twice, and no
// call that was answered is made again.
func TestTheOperatorIsKilledWhileRunsAreLive(t *testing.T) {
	t.Parallel()
	const runs, kills = 30, 5
	w := newWorld(t)
	o := w.start()
	w.apply(trio)
	until(w, w.clients.Teams(w.namespace), "trio", "a status", func(t *v1alpha1.ArkTeam) bool { return t.Status.ObservedGeneration > 0 })
	models, env := w.models(300 * time.Millisecond)
	for _, agent := range []string{"trio-a", "trio-b"} {
		w.pod(agent, agent+"-0", env...)
	}
	random := rand.New(rand.NewPCG(1, 2))
	names := make([]string, 0, runs)
	for i := range runs {
		name := fmt.Sprintf("r-%02d", i)
		before := len(models.Calls())
		w.runOf(name, "trio", map[string]any{"topic": name})
		names = append(names, name)
		if (i+1)%(runs/kills) == 0 {
			// Some calls are on their way, some answered, some steps not begun. Three are to come of this run alone.
			_, err := models.WaitIn(t.Context(), before+1+random.IntN(3))
			require.NoError(t, err)
			o.kill()
			o = w.start()
		}
	}
	for _, name := range names {
		r := w.ended(name)
		require.Equal(t, v1alpha1.RunSucceeded, r.Status.Phase, "%s: %s", name, r.Status.Message)
		require.Equal(t, "one Succeeded; two Succeeded; three Succeeded; ", brief(r))
		require.Contains(t, r.Annotations[v1alpha1.AnnotationTrace], r.Status.TraceID)
	}
	answered := map[string]int{}
	for _, c := range models.Calls() {
		if c.Whole {
			answered[c.Request.Prompt()]++
		}
	}
	for _, name := range names {
		for _, step := range []string{"one ", "two ", "three "} {
			require.Equal(t, 1, answered[step+name+"."], "answers for step %s of %s", step, name)
		}
	}
}

// A run that is removed costs nothing any more, and nor does one whose team is removed; a cancelled one ends as such.
// The stores hold nothing of runs that are gone.
func TestRunsThatAreTakenAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.apply(trio)
	until(w, w.clients.Teams(w.namespace), "trio", "a status", func(t *v1alpha1.ArkTeam) bool { return t.Status.ObservedGeneration > 0 })
	held := make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	models, err := modelserver.Start(t.Context(), modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		if strings.Contains(c.Request.Prompt(), "orphaned") {
			<-held
			return nil
		}
		return &modelserver.Reply{Delay: time.Hour}
	}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = models.Close() })
	t.Cleanup(release)
	env := []string{"OPENAI_BASE_URL=" + models.URL(), "OPENAI_API_KEY=k"}
	for _, agent := range []string{"trio-a", "trio-b"} {
		w.pod(agent, agent+"-0", env...)
	}
	w.runOf("cancelled", "trio", map[string]any{"topic": "cancelled"})
	w.runOf("removed", "trio", map[string]any{"topic": "removed"})
	w.runOf("orphaned", "trio", map[string]any{"topic": strings.Repeat("orphaned ", 10_000)})
	_, err = models.WaitIn(t.Context(), 3)
	require.NoError(t, err)

	cancel := fmt.Appendf(nil, `{"metadata":{"annotations":{%q:"true"}}}`, v1alpha1.AnnotationCancel)
	_, err = w.clients.Runs(w.namespace).Patch(t.Context(), "cancelled", types.MergePatchType, cancel, metav1.PatchOptions{})
	require.NoError(t, err)
	r := w.ended("cancelled")
	require.Equal(t, v1alpha1.RunCancelled, r.Status.Phase)
	require.Contains(t, brief(r), " Cancelled; ") // the step that ran then

	require.NoError(t, w.clients.Runs(w.namespace).Delete(t.Context(), "removed", metav1.DeleteOptions{}))
	_, err = models.Wait(t.Context(), 2) // the calls of both were broken off
	require.NoError(t, err)
	a := w.agent("trio-a")
	authority, ca := w.keys()
	creds := w.credentials(authority, identity.Agent{Namespace: a.Namespace, Name: a.Name, UID: string(a.UID)})
	w.kubectl("delete", "arkteam", "trio", "--wait=false")
	w.kubectl("wait", "--for=delete", "arkrun", "--all", "--timeout="+patience.String())
	require.Eventually(t, func() bool { // the operator has seen to it
		nc, err := w.dial(creds, ca)
		if err == nil {
			nc.Close()
		}
		return err != nil
	}, patience, 50*time.Millisecond)
	release()
	w.emptied()
	for _, c := range models.Calls() {
		require.LessOrEqual(t, c.N, 3, "a call began after the runs were gone: %s", c.Request.Prompt())
	}
}

// held lists the runs, agents and teams that the store of an operator that has ended holds anything of.
func (w *world) held() map[string]queue.Held {
	w.t.Helper()
	q, shut := w.openStore()
	defer shut()
	held, err := q.Runs(w.t.Context())
	require.NoError(w.t, err)
	require.NoError(w.t, q.EachAgent(w.t.Context(), func(namespace, agent string) {
		if _, err := w.clients.Agents(namespace).Get(w.t.Context(), agent, metav1.GetOptions{}); err != nil {
			held["agent "+agent] = queue.Held{}
		}
	}))
	require.NoError(w.t, q.EachTeam(w.t.Context(), func(namespace, team string) {
		if _, err := w.clients.Teams(namespace).Get(w.t.Context(), team, metav1.GetOptions{}); err != nil {
			held["team "+team] = queue.Held{}
		}
	}))
	return held
}

func (w *world) kubectl(args ...string) {
	w.t.Helper()
	out, err := kubectlOn(w.t.Context(), w.api, append([]string{"-n", w.namespace}, args...)...)
	require.NoError(w.t, err, out)
}
