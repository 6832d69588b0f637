package operator

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm/modelserver"
)

// A team of two steps, and two teams in which it plays a role: one that gives it a second attempt, and one that does not.
const strict = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: ant}
spec: {model: gpt-test, systemPrompt: You are an ant.}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: below}
spec:
  roles: [{name: a, arkAgent: ant}]
  pipeline:
  - {name: one, role: a, inputs: {prompt: "one."}}
  - {name: two, role: a, dependsOn: [one], inputs: {prompt: "two."}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: once}
spec:
  roles: [{name: crew, arkTeam: below}]
  pipeline:
  - {name: work, role: crew}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: twice}
spec:
  roles: [{name: crew, arkTeam: below}]
  pipeline:
  - {name: work, role: crew, retry: {maxAttempts: 2}}
`

// A child run that somebody deletes is paid for once: its step fails and says why, or has its next attempt. That the
// operator was away meanwhile makes no difference.
func TestADeletedChildRunIsPaidOnce(t *testing.T) {
	t.Parallel()
	for name, away := range map[string]bool{"at work": false, "away": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			o := w.start()
			models, child := w.childAtWork("once")
			if away {
				o.kill()
			}
			w.kubectl("delete", "arkrun", child, "--wait=false")
			if away {
				w.start()
			}
			r := w.ended("above")
			require.Equal(t, v1alpha1.RunFailed, r.Status.Phase)
			require.Equal(t, "work", r.Status.FailedStep)
			step := r.Status.Steps[0]
			require.Equal(t, "RunDeleted", step.Reason)
			require.Contains(t, step.Message, "the run "+child+", which did this step, was deleted before it had ended")
			if !away { // what the child had used is still known then
				require.NotNil(t, r.Status.TotalTokenUsage)
				require.Positive(t, r.Status.TotalTokenUsage.OutputTokens)
			}
			require.Empty(t, w.childrenOf(r), "the child run was made anew")
			require.Equal(t, []string{"one.", "two."}, prompts(models))
			out, errs, code := w.ark("why", "above")
			require.Zero(t, code, errs)
			require.Contains(t, out, "the run that did step work was deleted")
		})
	}
}

// A step that may be tried again gets another child run for one that was deleted.
func TestADeletedChildRunIsAFailedAttempt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	models, child := w.childAtWork("twice")
	w.kubectl("delete", "arkrun", child, "--wait=false")
	r := w.ended("above")
	require.Equal(t, v1alpha1.RunSucceeded, r.Status.Phase, r.Status.Message)
	require.EqualValues(t, 2, r.Status.Steps[0].Attempts)
	again := w.childrenOf(r)
	require.Len(t, again, 1)
	require.NotEqual(t, child, again[0])
	require.Equal(t, []string{"one.", "two.", "one.", "two."}, prompts(models))
}

// childAtWork starts a run, named above, of a team, and returns when its child run waits for the answer to its second
// prompt, which does not come. The same prompt is answered when it is sent again.
func (w *world) childAtWork(team string) (models *modelserver.Server, child string) {
	w.t.Helper()
	w.apply(strict)
	var asked atomic.Bool
	models, err := modelserver.Start(w.t.Context(), modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		r := &modelserver.Reply{Text: "An answer."}
		if c.Request.Prompt() == "two." && !asked.Swap(true) {
			r.Delay = time.Hour
		}
		return r
	}})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = models.Close() })
	w.pod("ant", "ant-0", "OPENAI_BASE_URL="+models.URL(), "OPENAI_API_KEY=k")
	above := w.runOf("above", team, nil)
	_, err = models.WaitIn(w.t.Context(), 2)
	require.NoError(w.t, err)
	children := w.childrenOf(above)
	require.Len(w.t, children, 1)
	return models, children[0]
}

// childrenOf names the child runs of a run that are there.
func (w *world) childrenOf(run *v1alpha1.ArkRun) (names []string) {
	w.t.Helper()
	all, err := w.clients.Runs(w.namespace).List(w.t.Context(), metav1.ListOptions{})
	require.NoError(w.t, err)
	for i := range all.Items {
		if p := all.Items[i].Spec.Parent; p != nil && p.RunUID == string(run.UID) {
			names = append(names, all.Items[i].Name)
		}
	}
	return names
}

// prompts are those that a model was asked, in order.
func prompts(models *modelserver.Server) (all []string) {
	for _, c := range models.Calls() {
		all = append(all, strings.TrimSpace(c.Request.Prompt()))
	}
	return all
}
