package operator

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm/modelserver"
)

// The queue's volume is lost while runs are live. Each of them ends and says so, and nothing that was paid for is paid for
// again; what is started afterwards is done by the same agents.
func TestTheStoreIsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.start()
	w.apply(crowd)
	// Ten calls are answered; the others are under way until the store is gone.
	const first = 10
	held := make(chan struct{})
	release := sync.OnceFunc(func() { close(held) })
	answer := crowdAnswers(500 * time.Millisecond)
	models, err := modelserver.Start(t.Context(), modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		if c.N > first {
			<-held
		}
		return answer(c)
	}})
	require.NoError(t, err)
	defer func() { _ = models.Close() }()
	defer release()
	for _, agent := range []string{"ant", "bee"} {
		w.pod(agent, agent+"-0", "OPENAI_BASE_URL="+models.URL(), "OPENAI_API_KEY=k")
	}
	teams := []string{"plain", "fan", "boss", "nest"}
	for i := range 16 {
		team := teams[i%len(teams)]
		name := fmt.Sprintf("%s-%d", team, i)
		w.runOf(name, team, map[string]any{"prompt": name})
	}
	runs, err := w.clients.Runs(w.namespace).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	for i := range runs.Items {
		until(w, w.clients.Runs(w.namespace), runs.Items[i].Name, "the start", func(r *v1alpha1.ArkRun) bool { return r.Status.Phase != "" })
	}
	_, err = models.Wait(t.Context(), first) // some steps are done, some calls under way, some tasks queued
	require.NoError(t, err)
	o.kill()
	require.NoError(t, os.RemoveAll(w.store))
	release()
	w.start()
	lost := 0
	for i := range runs.Items {
		r := w.ended(runs.Items[i].Name)
		if r.Status.Phase == v1alpha1.RunSucceeded {
			continue
		}
		lost++
		require.Equal(t, v1alpha1.RunFailed, r.Status.Phase)
		require.Equal(t, v1alpha1.ReasonStoreLost, endReason(r), r.Status.Message)
		require.Contains(t, r.Status.Message, "trigger the team "+r.Spec.TeamRef.Name+" anew")
		for _, s := range r.Status.Steps {
			require.True(t, s.Phase.Terminal(), "%s: %s is %s", r.Name, s.Name, s.Phase)
		}
	}
	require.GreaterOrEqual(t, lost, 10)
	w.runOf("after", "plain", map[string]any{"prompt": "after"})
	r := w.ended("after")
	require.Equal(t, v1alpha1.RunSucceeded, r.Status.Phase, r.Status.Message)
	asked := map[string]bool{}
	for _, c := range models.Calls() {
		require.False(t, asked[string(c.Body)], "the model was asked a second time: %s", c.Request.Prompt())
		asked[string(c.Body)] = true
	}
}
