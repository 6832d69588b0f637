package local_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/local"
	"arkonis.dev/ark/pkg/manifest"
)

// childRun is what a process that will be killed is told, in the variable of the same name.
type childRun struct {
	File, Store, Resume, BaseURL string
	Input                        map[string]any
}

const childVariable = "ARK_TEST_CHILD_RUN"

func TestMain(m *testing.M) {
	text := os.Getenv(childVariable)
	if text == "" {
		os.Exit(m.Run())
	}
	var c childRun
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		panic(err)
	}
	os.Exit(c.run(context.Background()))
}

// run is the process: its progress goes to stderr, the report to stdout.
func (c childRun) run(ctx context.Context) int {
	o := local.Options{Store: c.Store, Resume: c.Resume, Input: c.Input, Progress: os.Stderr, Getenv: func(name string) string {
		if name == "OPENAI_BASE_URL" {
			return c.BaseURL
		}
		return ""
	}}
	if c.File != "" {
		set, err := manifest.Load(ctx, manifest.Sources{Paths: []string{c.File}})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		o.Manifests = set
	}
	report, err := local.Run(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	if err := report.WriteJSON(os.Stdout); err != nil {
		return 1
	}
	return 0
}

// start starts the process.
func (c childRun) start(t *testing.T) (cmd *exec.Cmd, stdout, stderr *buffer) {
	t.Helper()
	text, err := json.Marshal(c)
	require.NoError(t, err)
	cmd = exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), childVariable+"="+string(text))
	stdout, stderr = &buffer{}, &buffer{}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	require.NoError(t, cmd.Start())
	return cmd, stdout, stderr
}

const mixed = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: press}
spec:
  roles: [{name: setter, model: gpt-test, systemPrompt: You set type.}, {name: printer, model: gpt-test, systemPrompt: You print.}]
  pipeline:
  - {role: setter, inputs: {prompt: "Set {{ .input.text }}"}}
  - {role: printer, dependsOn: [setter], inputs: {prompt: "Print {{ .steps.setter.output }}"}}
  inputs: [{name: text, required: true}]
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: news}
spec:
  roles:
  - {name: writer, model: gpt-test, systemPrompt: You write., canDelegate: [checker]}
  - {name: checker, model: gpt-test, systemPrompt: You check.}
  - {name: press, arkTeam: press}
  pipeline:
  - {name: draft, role: writer, inputs: {prompt: "Draft"}}
  - {name: left, role: checker, dependsOn: [draft], inputs: {prompt: "Left of {{ .steps.draft.output }}"}}
  - {name: right, role: checker, dependsOn: [draft], inputs: {prompt: "Right of {{ .steps.draft.output }}"}}
  - {name: publish, role: press, dependsOn: [left, right], inputs: {text: "{{ .steps.left.output }}"}}
`

// slow answers a little later, and lets the writer hand work over before it drafts.
func slow() modelserver.Config {
	return modelserver.Config{
		Delay: 20 * time.Millisecond,
		Rules: []modelserver.Rule{
			{When: modelserver.When{System: modelserver.Match("You write"), Tool: modelserver.Match("echo")}, Reply: modelserver.Reply{Text: "the draft"}},
			{When: modelserver.When{System: modelserver.Match("You write")}, Reply: modelserver.Reply{Tools: []modelserver.Use{
				{ID: "c1", Name: "delegate", Arguments: `{"role": "checker", "prompt": "check this"}`},
			}}},
		},
	}
}

// A run is killed at random moments, again and again, and goes on each time. It ends as it would have, and no call
// whose answer had been kept is made again.
func TestResumeAfterKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "team.yaml")
	require.NoError(t, os.WriteFile(file, []byte(mixed), 0o600))
	model, err := modelserver.Start(t.Context(), slow())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, model.Close()) })

	const seed, rounds = 7, 6
	random := rand.New(rand.NewPCG(seed, 0))
	for round := range rounds {
		kills := round % 4
		killed := killAndResume(t, childRun{File: file, Store: filepath.Join(dir, fmt.Sprint("store", round)), BaseURL: model.URL()}, random, kills)
		assertPaidOnce(t, model.Calls(), killed)
	}
}

// killAndResume runs until the end, with some kills on the way, and returns when they were.
func killAndResume(t *testing.T, c childRun, random *rand.Rand, kills int) (killed []time.Time) {
	t.Helper()
	for attempt := 0; ; attempt++ {
		cmd, stdout, stderr := c.start(t)
		if attempt < kills {
			timer := time.AfterFunc(time.Duration(40+random.IntN(260))*time.Millisecond, func() { _ = cmd.Process.Kill() })
			_ = cmd.Wait()
			timer.Stop()
			killed = append(killed, time.Now())
		} else {
			require.NoError(t, cmd.Wait(), stderr.String())
		}
		if report := bytes.TrimSpace([]byte(stdout.String())); len(report) > 0 && json.Valid(report) {
			var r local.Report
			require.NoError(t, json.Unmarshal(report, &r))
			require.Equal(t, v1alpha1.RunSucceeded, r.Status, stderr.String())
			require.Len(t, r.Steps, 5, "four steps and one piece of delegated work")
			return killed
		}
		if bytes.Contains([]byte(stderr.String()), []byte("after a crash go on with")) || c.Resume != "" {
			c.File, c.Resume = "", local.Latest
		}
	}
}

// assertPaidOnce checks the model server's own log: a call is made a second time only if the process died before, or
// within a moment after, the answer to the first one was there.
func assertPaidOnce(t *testing.T, calls []modelserver.Call, killed []time.Time) {
	t.Helper()
	const moment = 50 * time.Millisecond
	answered := map[string]time.Time{}
	for _, c := range calls {
		key := string(c.Body) // no two calls of the run are the same
		if at, again := answered[key]; again {
			near := false
			for _, k := range killed {
				near = near || (k.Sub(at) < moment && k.Sub(at) > -moment)
			}
			require.True(t, near, "call %s was answered at %s and made again at %s; the process was killed at %v", c.Key, at, c.In, killed)
		}
		if c.Whole {
			answered[key] = c.Answered
		}
	}
}
