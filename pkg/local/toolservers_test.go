package local_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/local"
)

// toolServer is an MCP server in the plain REST form with one tool. It wants the token.
func toolServer(t *testing.T, token string) string {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("POST /tools/list", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`{"tools": [{"name": "lookup", "description": "looks a word up", "inputSchema":
			{"type": "object", "required": ["word"], "properties": {"word": {"type": "string"}}}}]}`))
	})
	mux.HandleFunc("POST /tools/call", func(w http.ResponseWriter, r *http.Request) {
		var call struct{ Arguments map[string]string }
		_ = json.NewDecoder(r.Body).Decode(&call)
		_, _ = w.Write([]byte(`{"content": [{"type": "text", "text": "` + call.Arguments["word"] + ` means sea"}]}`))
	})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL
}

const withServer = `
apiVersion: v1
kind: Secret
metadata: {name: dictionary}
stringData: {token: open-sesame}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: reader}
spec:
  model: mock
  mcpServers:
  - name: words
    url: URL
    transport: rest
    required: true
    auth: {tokenSecretRef: {name: dictionary, key: token}}
`

const callsLookup = `
replies:
- match: {turn: 1}
  toolCalls: [{name: words__lookup, arguments: {word: mare}}]
- match: {tool: "mare means sea"}
  answer: it means sea
`

// An agent's MCP tools are there in ark run as they are in the cluster.
func TestToolsOfAnMCPServer(t *testing.T) {
	t.Parallel()
	o := local.Options{
		Manifests: load(t, strings.ReplaceAll(withServer, "URL", toolServer(t, "open-sesame"))), Getenv: none,
		Input: map[string]any{"prompt": "What is mare?"}, MockScript: []byte(callsLookup),
	}
	report, err := local.Run(t.Context(), o)
	require.NoError(t, err)
	require.Equal(t, "it means sea", report.Output)
	require.EqualValues(t, 1, report.Steps[0].ToolCalls)
}

// A required server that refuses the agent ends the run before anything is paid for, and says what to do.
func TestARequiredMCPServerThatIsNotThere(t *testing.T) {
	t.Parallel()
	o := local.Options{
		Manifests: load(t, strings.ReplaceAll(withServer, "URL", toolServer(t, "another"))), Getenv: none,
		Input: map[string]any{"prompt": "What is mare?"},
	}
	_, err := local.Run(t.Context(), o)
	var config *local.ConfigError
	require.ErrorAs(t, err, &config)
	require.ErrorContains(t, err, "ArkAgent reader")
	require.ErrorContains(t, err, "words")
	require.ErrorContains(t, err, "--no-mcp")
	require.NotContains(t, err.Error(), "open-sesame")
}

// Settings bound which servers an agent may be connected to.
func TestMCPAllowlist(t *testing.T) {
	t.Parallel()
	text := strings.ReplaceAll(withServer, "URL", "http://127.0.0.1:1/mcp") + `
  settingsRefs: [{name: safe}]
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkSettings
metadata: {name: safe}
spec: {security: {mcpAllowlist: ["https://tools.example/"]}}
`
	_, err := local.Run(t.Context(), local.Options{Manifests: load(t, text), Getenv: none, Input: map[string]any{"prompt": "x"}})
	require.ErrorContains(t, err, "ArkAgent reader: MCP server words: ArkSettings safe allows only URLs that begin with https://tools.example/")
}
