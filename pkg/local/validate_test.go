package local_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/local"
)

func TestValidate(t *testing.T) {
	t.Parallel()
	set := load(t, `apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: news}
spec:
  roles:
  - name: writer
    model: mock
    systemPromptRef: {configMapKeyRef: {name: prompts, key: writer}}
  - name: helper
    arkAgent: nobody
  pipeline:
  - role: writer
    inputs:
      prompt: "{{ .steps.ghost.output }}"
    outputSchema: '{"type": 7}'
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: news-writer}
spec:
  model: mock
  settingsRefs: [{name: absent}]
  tools:
  - {name: weather, url: "http://x", inputSchema: '{"type": "string"}'}
`)
	var got []string
	for _, f := range local.Validate(set) {
		text := f.String()
		text = text[strings.Index(text, "team.yaml"):]
		if at := strings.Index(text, "outputSchema: "); at >= 0 { // what follows is the schema library's
			text = text[:at+len("outputSchema: ")]
		}
		if f.Warning {
			text = "warning: " + text
		}
		got = append(got, text)
	}
	require.Empty(t, cmp.Diff([]string{
		`warning: team.yaml:6: ArkTeam/news: spec.roles[0]: systemPromptRef: ConfigMap "prompts" is not among the manifests; add it to the files`,
		`team.yaml:6: ArkTeam/news: spec.roles[0]: its agent needs the name news-writer, which another ArkAgent has (rename one of them)`,
		`team.yaml:10: ArkTeam/news: spec.roles[1].arkAgent: there is no ArkAgent "nobody" (ArkAgents are news-writer)`,
		`team.yaml:14: ArkTeam/news: spec.pipeline[0].inputs.prompt: line 1, column 4: .steps.ghost does not exist: there is no step "ghost" (steps are writer)`,
		`team.yaml:15: ArkTeam/news: spec.pipeline[0].outputSchema: `,
		`team.yaml:17: ArkAgent/news-writer: ArkSettings "absent" is not among the manifests; there are: none`,
		`team.yaml:17: ArkAgent/news-writer: tool "weather": its input schema must say "type": "object", as tools take named arguments`,
	}, got))
}
