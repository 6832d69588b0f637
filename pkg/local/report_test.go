package local

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

func TestReportJSON(t *testing.T) {
	t.Parallel()
	var run v1alpha1.ArkRun
	require.NoError(t, yaml.UnmarshalStrict([]byte(`
metadata: {name: newsroom-run-0123456789}
spec: {teamRef: {name: newsroom}}
status:
  phase: Failed
  message: "step writer failed: ProviderAuth: the server refuses the key"
  failedStep: writer
  startTime: "2026-01-02T03:04:05.000000Z"
  completionTime: "2026-01-02T03:04:06.250000Z"
  totalTokenUsage: {inputTokens: 30, outputTokens: 12, cachedTokens: 8, totalTokens: 42}
  conditions: [{type: Complete, status: "True", reason: StepFailed, message: "", lastTransitionTime: null}]
  steps:
  - {name: researcher, agent: newsroom-researcher, phase: Succeeded, attempts: 1, output: "<facts>", tokenUsage: {inputTokens: 30, outputTokens: 12, totalTokens: 42},
     startTime: "2026-01-02T03:04:05.000000Z", completionTime: "2026-01-02T03:04:06.000000Z"}
  - {name: writer, agent: newsroom-writer, phase: Failed, attempts: 1, reason: ProviderAuth, message: "the server refuses the key"}
`), &run))
	var out bytes.Buffer
	require.NoError(t, NewReport(&run, "", nil).WriteJSON(&out))
	require.Equal(t, `{
  "run": "newsroom-run-0123456789",
  "team": "newsroom",
  "status": "Failed",
  "reason": "StepFailed",
  "message": "step writer failed: ProviderAuth: the server refuses the key",
  "durationMs": 1250,
  "tokens": {
    "input": 30,
    "output": 12,
    "cached": 8,
    "total": 42
  },
  "output": "",
  "steps": [
    {
      "name": "researcher",
      "agent": "newsroom-researcher",
      "status": "Succeeded",
      "tokens": 42,
      "durationMs": 1000,
      "attempts": 1,
      "output": "<facts>"
    },
    {
      "name": "writer",
      "agent": "newsroom-writer",
      "status": "Failed",
      "tokens": 0,
      "durationMs": 0,
      "attempts": 1,
      "error": "ProviderAuth: the server refuses the key"
    }
  ]
}
`, out.String())
}
