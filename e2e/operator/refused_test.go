package operator

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// An agent without pods, whose results the test makes, one with a pod, and a team of both.
const odd = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: odd}
spec: {model: mock, replicas: 0}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: plain}
spec: {model: mock}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: pair}
spec:
  roles: [{name: a, arkAgent: odd}, {name: b, arkAgent: plain}]
  pipeline:
  - {name: one, role: a, inputs: {prompt: "one."}}
  - {name: two, role: b, dependsOn: [one], inputs: {prompt: "two."}}
`

// A run whose status the API server does not take goes on, and ends: with less, and with the reason for that.
func TestARunWhoseStatusIsRefusedEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	q := w.open()
	w.start()
	w.apply(odd)
	w.runtime("plain")
	// What an agent says of itself and of its failure stands in the status: here more than there is room for.
	for name, c := range map[string]struct {
		result task.Result
		field  string
		ended  string
	}{
		"succeeds": {task.Result{Status: task.Succeeded, Output: task.Text{Inline: "done"}, Pod: strings.Repeat("p", 300)}, "status.steps[0].pod", "Succeeded"},
		"fails": {task.Result{
			Status: task.Failed, Error: &task.Error{Code: task.Code(strings.Repeat("C", 300)), Message: "it did not work"},
		}, "status.steps[0].reason", "Failed"},
	} {
		w.runOf(name, "pair", nil)
		running := until(w, w.clients.Runs(w.namespace), name, "a task", func(r *v1alpha1.ArkRun) bool {
			return len(r.Status.Steps) > 0 && r.Status.Steps[0].TaskID != ""
		})
		key := queue.Key{Namespace: w.namespace, Agent: "odd", RunUID: string(running.UID), TaskID: running.Status.Steps[0].TaskID}
		c.result.Version, c.result.TaskID, c.result.Completed = task.Version, key.TaskID, time.Now()
		c.result.Usage = task.Usage{InputTokens: 7, OutputTokens: 5}
		won, err := q.PublishResult(t.Context(), key, &c.result)
		require.NoError(t, err)
		require.True(t, won)

		r := w.ended(name)
		require.Equal(t, v1alpha1.RunFailed, r.Status.Phase)
		require.Equal(t, v1alpha1.ReasonStatusRefused, endReason(r))
		require.Contains(t, r.Status.Message, "the run had ended as "+c.ended+", but the API server refuses the status that says so")
		require.Contains(t, r.Status.Message, c.field)
		if c.result.Error != nil {
			require.Contains(t, r.Status.Message, "it did not work")
		}
		require.NotNil(t, r.Status.CompletionTime)
		require.NotNil(t, r.Status.TotalTokenUsage, "what it cost is known")
		require.Contains(t, w.operator.logs.String(), "the API server refuses the status of a run")
		out, errs, code := w.ark("why", name)
		require.Zero(t, code, errs)
		require.Contains(t, out, "refuses the status")
	}
}
