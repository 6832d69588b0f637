package local_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/e2e/longread"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/local"
)

const passes = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: maker}
spec:
  inputs: [{name: size, required: true}]
  roles: [{name: pen, model: gpt-test, systemPrompt: You write.}]
  pipeline: [{name: one, role: pen, inputs: {prompt: "size {{ .input.size }}"}}]
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: passes}
spec:
  inputs: [{name: size, required: true}]
  roles: [{name: pen, model: gpt-test, systemPrompt: You write.}, {name: eye, model: gpt-test, systemPrompt: You read.}]
  pipeline:
  - {name: made, role: pen, inputs: {prompt: "size {{ .input.size }}"}}
  - {name: read, role: eye, dependsOn: [made], inputs: {prompt: "read {{ .steps.made.output }}"}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: above}
spec:
  inputs: [{name: size, required: true}]
  output: "{{ .steps.made.output }}"
  roles: [{name: maker, arkTeam: maker}, {name: eye, model: gpt-test, systemPrompt: You read.}]
  pipeline:
  - {name: made, role: maker, inputs: {size: "{{ .input.size }}"}}
  - {name: read, role: eye, dependsOn: [made], inputs: {prompt: "read {{ .steps.made.output }}"}}
`

// An output of any size comes to the next step: whole in the prompt, or its beginning, and the agent reads on.
func TestLargeOutputsPass(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 64 << 10, 1000 << 10, 1 << 20, 1<<20 + 1, 64 << 20} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			t.Parallel()
			model := longread.Model{}
			_, env := server(t, modelserver.Config{Answer: model.Answer})
			report, err := local.Run(t.Context(), local.Options{Manifests: load(t, passes), Team: "passes", Input: map[string]any{"size": size}, Getenv: env})
			require.NoError(t, err)
			require.Equal(t, v1alpha1.RunSucceeded, report.Status)
			require.Equal(t, longread.Read(size), report.Output)
			require.Equal(t, longread.Text(size), report.Steps[0].Output, "the report has all of it")
		})
	}
}

// A run whose large output another team has made is killed when it is read, and goes on.
func TestLargeOutputsOutliveTheProcess(t *testing.T) {
	t.Parallel()
	const size = 3 << 20
	model, killed := longread.Model{}, make(chan struct{})
	s, env := server(t, modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		if strings.HasPrefix(c.Request.Prompt(), "read") {
			select {
			case <-killed:
			case <-t.Context().Done():
			}
		}
		return model.Answer(c)
	}})
	file, store := filepath.Join(t.TempDir(), "passes.yaml"), t.TempDir()
	require.NoError(t, os.WriteFile(file, []byte(passes), 0o600))
	cmd, _, stderr := childRun{File: file, Team: "above", Store: store, BaseURL: env("OPENAI_BASE_URL"), Input: map[string]any{"size": size}}.start(t)
	_, err := s.WaitIn(t.Context(), 2)
	require.NoError(t, err, stderr)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	close(killed)
	cmd, stdout, stderr := childRun{Store: store, Resume: local.Latest, BaseURL: env("OPENAI_BASE_URL")}.start(t)
	require.NoError(t, cmd.Wait(), stderr)
	var report local.Report
	require.NoError(t, json.Unmarshal([]byte(stdout.String()), &report))
	require.Equal(t, longread.Text(size), report.Output)
	require.Equal(t, longread.Read(size), report.Steps[1].Output)
	made := 0
	for _, c := range s.Calls() {
		if strings.HasPrefix(c.Request.Prompt(), "size ") {
			made++
		}
	}
	require.Equal(t, 1, made, "it is made once")
}
