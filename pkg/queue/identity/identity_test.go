package identity_test

import (
	"testing"

	"arkonis.dev/ark/pkg/queue/identity"
)

func TestAgentWorksOverItsImports(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.agent(identity.Agent{Namespace: "default", Name: "writer", UID: "1"})
	for n := range 3 {
		p.do(n)
	}
}
