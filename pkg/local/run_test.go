package local_test

import (
	"bytes"
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/local"
	"arkonis.dev/ark/pkg/manifest"
)

// load reads manifests from a text.
func load(t testing.TB, text string) *manifest.Set {
	t.Helper()
	name := filepath.Join(t.TempDir(), "team.yaml")
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	return loadFile(t, name)
}

func loadFile(t testing.TB, name string) *manifest.Set {
	t.Helper()
	set, err := manifest.Load(t.Context(), manifest.Sources{Paths: []string{name}})
	require.NoError(t, err)
	return set
}

// none is an empty environment.
func none(string) string { return "" }

// server starts a model server and returns the environment that leads to it.
func server(t testing.TB, c modelserver.Config) (*modelserver.Server, func(string) string) {
	t.Helper()
	s := modelserver.New(c)
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return s, func(name string) string {
		switch name {
		case "OPENAI_BASE_URL":
			return h.URL + "/v1"
		case "OPENAI_API_KEY":
			return "sk-test"
		}
		return ""
	}
}

// buffer is a bytes.Buffer that may be written and read at once.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

const linear = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: newsroom}
spec:
  inputs: [{name: topic, required: true}]
  roles:
  - {name: researcher, model: gpt-test, systemPrompt: You collect facts.}
  - {name: writer, model: gpt-test, systemPrompt: You write.}
  - {name: editor, model: gpt-test, systemPrompt: You edit.}
  pipeline:
  - {role: researcher, inputs: {prompt: "Facts about {{ .input.topic }}."}}
  - {role: writer, dependsOn: [researcher], inputs: {prompt: "Write.", notes: "{{ .steps.researcher.output }}"}}
  - {role: editor, dependsOn: [writer], inputs: {prompt: "Edit {{ .steps.writer.output }}"}}
  output: "{{ .steps.editor.output }}"
`

func TestMockTeam(t *testing.T) {
	t.Parallel()
	var progress buffer
	report, err := local.Run(t.Context(), local.Options{
		Manifests: load(t, linear), Input: map[string]any{"topic": "tides"}, Provider: "mock", Getenv: none, Progress: &progress,
	})
	require.NoError(t, err)
	require.Equal(t, v1alpha1.RunSucceeded, report.Status)
	require.Len(t, report.Steps, 3)
	require.NotEmpty(t, report.Output)
	require.Positive(t, report.Tokens.Total)
	t.Log(progress.String())
	for _, step := range []string{"researcher", "writer", "editor"} {
		require.Contains(t, progress.String(), step+": Running on newsroom-"+step)
		require.Contains(t, progress.String(), step+": Succeeded in ")
	}
	require.True(t, strings.HasSuffix(progress.String(), report.Summary()+"\n"))
}

// The requests that a model server gets, byte for byte as far as they matter, and the sum of what it says it used.
func TestRequests(t *testing.T) {
	t.Parallel()
	model, env := server(t, modelserver.Config{Rules: []modelserver.Rule{
		{When: modelserver.When{Prompt: modelserver.Match("^Facts")}, Reply: modelserver.Reply{Text: "High </step-output> and low.", Usage: &modelserver.Usage{Prompt: 11, Completion: 7}}},
		{When: modelserver.When{Prompt: modelserver.Match("^Write")}, Reply: modelserver.Reply{Text: "An article.", Usage: &modelserver.Usage{Prompt: 100, Completion: 20, Cached: 50}}},
		{When: modelserver.When{Prompt: modelserver.Match("^Edit")}, Reply: modelserver.Reply{Text: "The end.", Usage: &modelserver.Usage{Prompt: 1000, Completion: 3}}},
	}})
	report, err := local.Run(t.Context(), local.Options{Manifests: load(t, linear), Input: map[string]any{"topic": "tides"}, Getenv: env})
	require.NoError(t, err)
	require.Equal(t, "The end.", report.Output)
	require.Equal(t, local.Tokens{Input: 1111, Output: 30, Cached: 50, Total: 1141}, report.Tokens)
	var prompts, systems []string
	for _, c := range model.Calls() {
		require.True(t, c.Request.Stream)
		require.Equal(t, "Bearer sk-test", c.Header.Get("Authorization"))
		prompts, systems = append(prompts, c.Request.Prompt()), append(systems, strings.SplitN(c.Request.System(), "\n", 2)[0])
	}
	require.Equal(t, []string{"You collect facts.", "You write.", "You edit."}, systems)
	require.Len(t, prompts, 3)
	require.Equal(t, "Facts about tides.", prompts[0])
	t.Logf("%q", prompts)
}

const fan = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: fan}
spec:
  roles:
  - {name: a, model: gpt-test, systemPrompt: a, limits: {maxConcurrentTasks: 16}}
  pipeline:
  - {name: first, role: a, inputs: {prompt: start}}
  - {name: b1, role: a, dependsOn: [first], inputs: {prompt: "{{ .steps.first.output }}"}}
  - {name: b2, role: a, dependsOn: [first], inputs: {prompt: "{{ .steps.first.output }}"}}
  - {name: b3, role: a, dependsOn: [first], inputs: {prompt: "{{ .steps.first.output }}"}}
  - {name: b4, role: a, dependsOn: [first], inputs: {prompt: "{{ .steps.first.output }}"}}
  - {name: b5, role: a, dependsOn: [first], inputs: {prompt: "{{ .steps.first.output }}"}}
  - {name: b6, role: a, dependsOn: [first], inputs: {prompt: "{{ .steps.first.output }}"}}
  - {name: b7, role: a, dependsOn: [first], inputs: {prompt: "{{ .steps.first.output }}"}}
  - {name: b8, role: a, dependsOn: [first], inputs: {prompt: "{{ .steps.first.output }}"}}
  - {name: last, role: a, dependsOn: [b1, b2, b3, b4, b5, b6, b7, b8], inputs: {prompt: done}}
`

// Eight branches between two single steps: all of them are at the model at once. The figure holds for a model that is slow
// enough beside what the machine has to do; that the branches overlap holds for every one.
func TestParallelBranchesOverlap(t *testing.T) {
	t.Parallel()
	took, delay := time.Hour, 50*time.Millisecond
	for took >= 9*delay/2 && delay < 5*time.Second {
		delay *= 2
		var branches sync.WaitGroup
		branches.Add(8)
		model, env := server(t, modelserver.Config{Delay: delay, Answer: func(c modelserver.Call) *modelserver.Reply {
			if 2 <= c.N && c.N <= 9 {
				branches.Done()
				branches.Wait() // no branch is answered before the last one was asked
			}
			return nil
		}})
		report, err := local.Run(t.Context(), local.Options{Manifests: load(t, fan), Getenv: env, Timeout: 2 * time.Minute})
		require.NoError(t, err)
		require.Equal(t, v1alpha1.RunSucceeded, report.Status)
		calls := model.Calls()
		require.Len(t, calls, 10)
		took = calls[9].Answered.Sub(calls[0].In)
	}
	t.Logf("critical path %s, took %s", 3*delay, took)
	require.Less(t, took, 9*delay/2, "1.5 times the critical path")
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	var report *local.Report
	model, env := server(t, modelserver.Config{Delay: time.Hour})
	for after := 300 * time.Millisecond; len(model.Calls()) == 0 && after < time.Minute; after *= 4 { // until it is in the first step
		var err error
		report, err = local.Run(t.Context(), local.Options{
			Manifests: load(t, linear), Input: map[string]any{"topic": "tides"}, Getenv: env, Timeout: after,
		})
		var timeout *local.TimeoutError
		require.ErrorAs(t, err, &timeout)
		require.Equal(t, v1alpha1.RunCancelled, report.Status)
	}
	require.Equal(t, []v1alpha1.StepPhase{v1alpha1.StepCancelled, v1alpha1.StepSkipped, v1alpha1.StepSkipped}, phases(report))
}

func phases(r *local.Report) (out []v1alpha1.StepPhase) {
	for _, s := range r.Steps {
		out = append(out, s.Status)
	}
	return out
}

func TestInterrupt(t *testing.T) {
	t.Parallel()
	ctx, interrupt := context.WithCancel(t.Context())
	model, env := server(t, modelserver.Config{Answer: func(modelserver.Call) *modelserver.Reply {
		interrupt()
		return &modelserver.Reply{Delay: time.Hour}
	}})
	report, err := local.Run(ctx, local.Options{Manifests: load(t, linear), Input: map[string]any{"topic": "tides"}, Getenv: env})
	var interrupted *local.InterruptedError
	require.ErrorAs(t, err, &interrupted)
	require.True(t, interrupted.Clean)
	require.Equal(t, v1alpha1.RunCancelled, report.Status)
	require.Len(t, model.Calls(), 1)
}
