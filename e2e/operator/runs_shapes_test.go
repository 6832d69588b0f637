package operator

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/runner"
	"arkonis.dev/ark/pkg/trigger"
)

const nested = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: below}
spec:
  inputs: [{name: prompt, required: true}]
  roles: [{name: w, model: mock, systemPrompt: You work.}]
  pipeline: [{role: w, inputs: {prompt: "{{ .input.prompt }}"}}]
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: above}
spec:
  roles: [{name: crew, arkTeam: below}]
  pipeline: [{name: deep, role: crew, inputs: {prompt: "go {{ .input.x }}"}}]
`

// A team that plays a role runs as an ArkRun of its own, below the run that it is a part of, in the same trace; its output
// and its tokens are those of the step.
func TestATeamPlaysARole(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.apply(nested)
	w.podsOf("below")
	w.runOf("far", "above", map[string]any{"x": strings.Repeat("far ", 30_000)})
	run := w.ended("far")
	require.Equal(t, v1alpha1.RunSucceeded, run.Status.Phase, run.Status.Message)
	require.Greater(t, run.Status.TotalTokenUsage.TotalTokens, int64(20_000), "a prompt of 120 kB reaches the agent")
	children, err := w.clients.Runs(w.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: v1alpha1.LabelTeam + "=below"})
	require.NoError(t, err)
	require.Len(t, children.Items, 1)
	child := &children.Items[0]
	require.Equal(t, run.UID, child.OwnerReferences[0].UID)
	require.Equal(t, v1alpha1.TriggerStep, child.Spec.Trigger.Kind)
	require.Equal(t, run.Status.TraceID, child.Status.TraceID)
	require.Equal(t, run.Status.TotalTokenUsage.TotalTokens, child.Status.TotalTokenUsage.TotalTokens)
}

// The same trigger makes one run however often it is sent; a suspended team refuses, and says why.
func TestTriggers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.apply(nested)
	w.podsOf("below")
	first := w.fire("below", map[string]any{"prompt": "x"}, "same")
	event, err := trigger.Manual(trigger.Request{Namespace: w.namespace, Team: "below", Input: map[string]any{"prompt": "x"}, ID: "same"})
	require.NoError(t, err)
	_, err = w.clients.Events(w.namespace).Create(t.Context(), event, metav1.CreateOptions{})
	require.ErrorContains(t, err, "already exists")
	run := w.ended(first)
	require.Equal(t, v1alpha1.RunSucceeded, run.Status.Phase)
	require.Equal(t, event.Name, run.Spec.Trigger.Name)
	require.Nil(t, run.Status.Resolved, "the run holds its snapshot")

	w.kubectl("patch", "arkteam", "below", "--type=merge", "-p", `{"spec":{"suspend":true}}`)
	until(w, w.clients.Teams(w.namespace), "below", "to be suspended", func(t *v1alpha1.ArkTeam) bool {
		return len(t.Status.Conditions) > 0 && t.Status.Conditions[0].Reason == v1alpha1.ReasonSuspended
	})
	for team, reason := range map[string]string{"below": v1alpha1.ReasonSuspended, "nobody": v1alpha1.ReasonTeamNotFound} {
		event, err := trigger.Manual(trigger.Request{Namespace: w.namespace, Team: team, Input: map[string]any{"prompt": "x"}, ID: "2"})
		require.NoError(t, err)
		_, err = w.clients.Events(w.namespace).Create(t.Context(), event, metav1.CreateOptions{})
		require.NoError(t, err)
		event = until(w, w.clients.Events(w.namespace), event.Name, "an outcome", func(e *v1alpha1.ArkEvent) bool {
			return e.Status.SkippedCount+e.Status.FiredCount > 0
		})
		_, refused := trigger.Outcome(event)
		require.NotNil(t, refused)
		require.Equal(t, reason, refused.Reason)
	}
	w.runOf("by-hand", "below", map[string]any{"prompt": "x"})
	require.Equal(t, v1alpha1.ReasonSuspended, endReason(w.ended("by-hand")))
	w.runOf("of-nobody", "nobody", nil)
	require.Equal(t, v1alpha1.ReasonTeamNotFound, endReason(w.ended("of-nobody")))
}

func endReason(r *v1alpha1.ArkRun) string { return runner.EndReason(&r.Status) }

// A run costs few writes of its object, and one more for each second that it takes.
func TestWritesOfARun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.apply(nested)
	w.podsOf("below")
	fired := w.ended(w.fire("below", map[string]any{"prompt": "x"}, "1"))
	w.runOf("by-hand", "below", map[string]any{"prompt": "x"})
	for _, r := range []*v1alpha1.ArkRun{fired, w.ended("by-hand")} {
		writes, life := w.writes(r.Name), r.Status.CompletionTime.Sub(r.Status.StartTime.Time)
		require.LessOrEqual(t, writes, 4+int(life/time.Second), "%s lived for %s", r.Name, life)
		t.Logf("%s: %d writes in %s", r.Name, writes, life)
	}
}
