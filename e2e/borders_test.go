package e2e

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// deps lists everything that the packages link, directly or not.
func deps(t *testing.T, packages ...string) []string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"list", "-deps"}, packages...)...)
	cmd.Dir = ".."
	out, err := cmd.Output()
	require.NoError(t, err)
	return strings.Fields(string(out))
}

func matching(all []string, prefixes ...string) []string {
	var found []string
	for _, d := range all {
		for _, p := range prefixes {
			if d == p || strings.HasPrefix(d, p+"/") {
				found = append(found, d)
			}
		}
	}
	return found
}

const module = "arkonis.dev/ark"

func TestAgentSideLinksNoKubernetes(t *testing.T) {
	t.Parallel()
	all := deps(t, "./pkg/runtime/...", "./pkg/tools/...", "./pkg/llm/...", "./pkg/work/...", "./pkg/queue/...", "./pkg/agent/...", "./pkg/environ/...", "./pkg/memory/...")
	require.Empty(t, matching(all, "k8s.io", module+"/pkg/apis", module+"/pkg/pipeline", module+"/pkg/runner"))
	require.NotEmpty(t, matching(all, module+"/pkg/llm"))
}

func TestClusterSideLinksNoModelCode(t *testing.T) {
	t.Parallel()
	all := deps(t, "./pkg/runner/...", "./pkg/manifest/...", "./pkg/environ/...", "./pkg/kube/...",
		"./pkg/controller/...", "./pkg/operator/...", "./pkg/dataapi/...", "./pkg/remote/...")
	require.Empty(t, matching(all, "github.com/openai", "github.com/anthropics", module+"/pkg/llm", module+"/pkg/tools", module+"/pkg/runtime", module+"/pkg/local"))
	require.NotEmpty(t, matching(all, module+"/pkg/pipeline"))
}

// The engine is pure: of ark it links the API, the wire types and the templates, and nothing of its own that does
// I/O (the API machinery's types link net and os, so the standard library is held by the linter, import by import).
func TestEngineLinksNothingThatActs(t *testing.T) {
	t.Parallel()
	all := deps(t, "./pkg/pipeline")
	require.ElementsMatch(t, []string{
		module + "/pkg/apis/v1alpha1", module + "/pkg/chars", module + "/pkg/pipeline", module + "/pkg/task", module + "/pkg/template",
	}, matching(all, module))
	require.Empty(t, matching(all, "github.com/nats-io", "k8s.io/client-go", "go.opentelemetry.io"))
}

func TestNothingImportsCmd(t *testing.T) {
	t.Parallel()
	require.Empty(t, matching(deps(t, "./pkg/..."), module+"/cmd"))
}

func TestProductCodeLinksNoTestCode(t *testing.T) {
	t.Parallel()
	all := deps(t, ".")
	require.Empty(t, matching(all, "testing", "github.com/stretchr/testify", "pgregory.net/rapid"))
}
