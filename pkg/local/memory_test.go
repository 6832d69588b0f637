package local_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/e2e/services"
	"arkonis.dev/ark/pkg/local"
)

const memoryAgent = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: clerk}
spec:
  model: mock
  systemPrompt: You remember.
  memoryRef: {name: notes}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkMemory
metadata: {name: notes}
spec:
`

const noted = `
replies:
  - match: {prompt: 'keep this$', turn: 1}
    toolCalls: [{name: remember, arguments: {text: "the key is under the mat"}}]
  - match: {prompt: '(?s)under the mat.*where'}
    answer: under the mat
  - answer: no idea
`

// Two runs that share nothing but a store: what the first one kept, the second one begins with.
func TestRunsShareAMemory(t *testing.T) {
	t.Parallel()
	for name, memory := range map[string]func(t *testing.T) (spec string, env map[string]string){
		"redis": func(t *testing.T) (string, map[string]string) {
			return "  backend: redis\n  redis: {secretRef: {name: cache}}\n", map[string]string{"REDIS_URL": services.StartRedis(t).URL()}
		},
		"redis, with its Secret": func(t *testing.T) (string, map[string]string) {
			return "  backend: redis\n  redis: {secretRef: {name: cache}}\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: cache}\nstringData: {REDIS_URL: \"" +
				services.StartRedis(t).URL() + "\"}\n", nil
		},
		"pgvector": func(t *testing.T) (string, map[string]string) {
			return "  backend: vector-store\n  vectorStore: {provider: pgvector, endpoint: \"" + services.Database(t, true) +
				"\"}\n  embedding: {model: text-embedding-3-small}\n", map[string]string{"PGPASSWORD": services.PostgresSecret}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec, env := memory(t)
			do := func(prompt string) *local.Report {
				return succeed(t, local.Options{
					Manifests: load(t, memoryAgent+spec), Agent: "clerk", Input: map[string]any{"prompt": prompt}, MockScript: []byte(noted),
					Getenv: func(name string) string { return env[name] },
				})
			}
			require.Equal(t, "no idea", do("where is the key?").Output)
			require.EqualValues(t, 1, do("keep this").Steps[0].ToolCalls)
			require.Equal(t, "under the mat", do("where is the key?").Output)
		})
	}
}

func TestMemoryProblems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ spec, replace, with, want string }{
		"no such memory":  {"  backend: nats\n", "memoryRef: {name: notes}", "memoryRef: {name: other}", `ArkAgent clerk: ArkMemory "other" is not among the manifests; there are: notes`},
		"no Secret":       {"  backend: redis\n  redis: {secretRef: {name: cache}}\n", "", "", `ArkAgent clerk: ArkMemory notes: Secret "cache" is not among the manifests; add it to the files, or set REDIS_URL in the environment`},
		"a tool's name":   {"  backend: in-context\n", "  memoryRef:", "  tools: [{name: recall, url: \"http://x\"}]\n  memoryRef:", `ArkAgent clerk: ArkMemory notes: tool "recall" has the name of a tool of the agent's memory: give it another one`},
		"no key":          {"  backend: vector-store\n  vectorStore: {provider: qdrant, endpoint: q}\n  embedding: {model: e}\n", "model: mock", "model: gpt-5\n  env: [{name: OPENAI_BASE_URL, value: \"\"}]\n  provider: anthropic", `ArkAgent clerk: ArkMemory notes: the model e, which makes vectors, needs a key: set OPENAI_API_KEY, set OPENAI_BASE_URL to a server that needs none, or name a key with embedding.apiKeyRef`},
		"settings' redis": {"  backend: nats\n---\napiVersion: arkonis.dev/v1alpha1\nkind: ArkSettings\nmetadata: {name: all}\nspec: {memoryBackend: redis}\n", "memoryRef: {name: notes}", "configRef: {name: all}", `ArkAgent clerk: ArkSettings all: memoryBackend redis needs an address: name an ArkMemory with memoryRef instead`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := local.Run(t.Context(), local.Options{
				Manifests: load(t, strings.Replace(memoryAgent, c.replace, c.with, 1)+c.spec), Agent: "clerk",
				Input: map[string]any{"prompt": "x"}, Getenv: none,
			})
			require.ErrorContains(t, err, c.want)
		})
	}
}
