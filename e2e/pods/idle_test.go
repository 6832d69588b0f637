package pods

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arkonis.dev/ark/e2e/cluster/apiserver"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

const (
	// idleTime is how long nothing may be written.
	idleTime = 5 * time.Minute
	// settleTime is how long nothing was written when everything has come to rest: a status waits 10 s for its next write.
	settleTime = 20 * time.Second
)

// settled are agents of several kinds and two teams, one of which has an entry.
const settled = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: writer}
spec: {model: gpt-test, replicas: 2, systemPrompt: You write., limits: {maxDailyTokens: 100000}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: sleeper}
spec: {model: gpt-test, systemPrompt: You sleep., networkPolicy: strict, autoscaling: {minReplicas: 0}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: line}
spec:
  roles:
  - {name: writer, arkAgent: writer}
  - {name: editor, model: gpt-test, systemPrompt: You edit.}
  pipeline:
  - {name: draft, role: writer, inputs: {prompt: "question draft"}}
  - {name: edit, role: editor, dependsOn: [draft], inputs: {prompt: "question {{ .steps.draft.output }}"}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: desk}
spec:
  entry: clerk
  roles:
  - {name: clerk, model: gpt-test, systemPrompt: You answer.}
`

// written are the objects that were written since a time: by anybody in the world's namespace, by the operator also in
// its own and where there is none. Leases are always written.
func (w *world) written(since time.Time) []string {
	w.t.Helper()
	entries, err := apiserver.ReadAudit(shared.cluster.AuditLog())
	require.NoError(w.t, err)
	var out []string
	for _, e := range entries {
		where := e.Namespace == w.namespace || e.User == operatorUser && (e.Namespace == "ark-system" || e.Namespace == "")
		// A review of what somebody may do, and a token, are created and not stored.
		stored := e.Write() && e.Resource != "subjectaccessreviews" && e.Subresource != "token" && e.Resource != "leases"
		if e.Time.After(since) && where && stored {
			out = append(out, fmt.Sprintf("%s %s %s %s/%s %s %d", e.User, e.Verb, e.Resource, e.Namespace, e.Name, e.Subresource, e.Code))
		}
	}
	return out
}

// ofNode says that a node, or who looks after nodes, wrote something.
func ofNode(what string) bool {
	return strings.HasPrefix(what, "system:node:") || strings.HasPrefix(what, "system:serviceaccount:kube-system:node-controller ")
}

// Where nothing changes, no object is written, with agents that wait and teams whose runs have ended.
func TestNothingIsWrittenWhenNothingChanges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startModel()
	w.apply(settled)
	w.agent("writer", "two ready pods", ready(2))
	w.ask("writer", "asked", "question 1")
	w.answered("asked")
	input, err := v1alpha1.NewValues(map[string]any{"prompt": "question 2"})
	require.NoError(t, err)
	for _, team := range []string{"line", "desk"} {
		_, err := shared.clients.Runs(w.namespace).Create(t.Context(), &v1alpha1.ArkRun{
			ObjectMeta: metav1.ObjectMeta{Name: team + "-1"}, Spec: v1alpha1.ArkRunSpec{TeamRef: &v1alpha1.Reference{Name: team}, Input: input},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
		w.answered(team + "-1")
		until(w, shared.clients.Teams(w.namespace), team, "its last run", func(a *v1alpha1.ArkTeam) bool {
			return a.Status.LastRunPhase == v1alpha1.RunSucceeded
		})
	}
	for {
		var began time.Time
		require.EventuallyWithT(t, func(c *assert.CollectT) {
			began = time.Now().Add(-settleTime)
			require.Empty(c, w.written(began))
		}, patience, 5*time.Second)
		select {
		case <-time.After(idleTime):
		case <-t.Context().Done():
		}
		written := w.written(began)
		// Where a node says that a pod of it has changed, because it is too busy to ask it how it is, something has changed.
		if !slices.ContainsFunc(written, ofNode) {
			require.Empty(t, written)
			return
		}
		t.Logf("a node wrote: %s", strings.Join(written, "\n"))
	}
}
