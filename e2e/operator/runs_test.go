package operator

import (
	"testing"

	"github.com/stretchr/testify/require"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

const pair = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: scout}
spec: {model: mock, systemPrompt: You look.}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: poet}
spec: {model: mock, systemPrompt: You write.}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: pair}
spec:
  inputs: [{name: topic, required: true}]
  roles:
  - {name: look, arkAgent: scout}
  - {name: write, arkAgent: poet}
  pipeline:
  - {role: look, inputs: {prompt: "Look at {{ .input.topic }}."}}
  - {role: write, dependsOn: [look], inputs: {prompt: "Write.", notes: "{{ .steps.look.output }}"}}
`

// A run that somebody applies by hand gets its snapshot, label, owner and trace, and comes to its end.
func TestARunByHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.apply(pair)
	w.pod("scout", "scout-0")
	w.pod("poet", "poet-0")
	w.runOf("first", "pair", map[string]any{"topic": "the sea"})
	r := w.ended("first")
	require.Equal(t, v1alpha1.RunSucceeded, r.Status.Phase, r.Status.Message)
	require.Equal(t, "look Succeeded; write Succeeded; ", brief(r))
	require.NotEmpty(t, r.Status.Output)
	require.Equal(t, "2/2", r.Status.StepSummary)
	require.Positive(t, r.Status.TotalTokenUsage.TotalTokens)
	require.NotNil(t, r.Status.Resolved)
	require.Equal(t, "pair", r.Labels[v1alpha1.LabelTeam])
	require.Equal(t, "ArkTeam", r.OwnerReferences[0].Kind)
	require.Contains(t, r.Annotations[v1alpha1.AnnotationTrace], r.Status.TraceID)
	require.Len(t, r.Status.TraceID, 32)
}
