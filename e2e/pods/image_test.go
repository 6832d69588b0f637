package pods

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// equipped is an agent in an image of its own, which knows nothing of ark, with a secret for a tool.
const equipped = `
apiVersion: v1
kind: Secret
metadata: {name: tools}
stringData: {key: k-1}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: writer}
spec:
  model: gpt-test
  systemPrompt: You write.
  image: ` + modelImage + `
  tools:
  - {name: look, url: "http://model/look", headers: [{name: X-Key, secretKeyRef: {name: tools, key: key}}]}
`

// An agent answers from an image that holds its tools' programs and not ark, and kubectl's own waits know how it is.
func TestAnImageOfItsOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startModel()
	w.apply(equipped)
	w.kubectl("wait", "--for=condition=Ready", "arkagent/writer", "--timeout="+patience.String())
	w.kubectl("rollout", "status", "deployment/writer-agent", "--timeout="+patience.String())
	w.ask("writer", "run", "question 1")
	require.Equal(t, "[You write.] question 1", w.answered("run"))
}
