package local_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/e2e/services"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/local"
	"arkonis.dev/ark/pkg/manifest"
	"arkonis.dev/ark/pkg/queue"
)

// childRun is what a process that will be killed is told, in the variable of the same name.
type childRun struct {
	File, Team, Store, Resume, BaseURL string
	Input                              map[string]any
}

var (
	kills    = flag.Int("kills", 10, "how often a run is killed")
	killSeed = flag.Uint64("kill-seed", 7, "of the moments at which a run is killed")
)

const childVariable = "ARK_TEST_CHILD_RUN"

func TestMain(m *testing.M) {
	text := os.Getenv(childVariable)
	if text == "" {
		code := m.Run()
		services.Stop()
		os.Exit(code)
	}
	var c childRun
	if err := json.Unmarshal([]byte(text), &c); err != nil {
		panic(err)
	}
	os.Exit(c.run(context.Background()))
}

// run is the process: its progress goes to stderr, the report to stdout.
func (c childRun) run(ctx context.Context) int {
	o := local.Options{Team: c.Team, Store: c.Store, Resume: c.Resume, Input: c.Input, Progress: os.Stderr, Getenv: func(name string) string {
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

// slow answers a little later, each time in other words, and lets the writer hand work over before it drafts.
func slow() modelserver.Config {
	return modelserver.Config{Delay: 20 * time.Millisecond, Answer: func(c modelserver.Call) *modelserver.Reply {
		if strings.HasPrefix(c.Request.System(), "You write") && c.Request.Messages[len(c.Request.Messages)-1].Role != "tool" {
			return &modelserver.Reply{Tools: []modelserver.Use{
				{ID: words(c), Name: "delegate", Arguments: `{"role": "checker", "prompt": "check this"}`},
			}}
		}
		return &modelserver.Reply{Text: words(c)}
	}}
}

// words are what no other answer of the server holds.
func words(c modelserver.Call) string { return fmt.Sprintf("answer-%d.", c.N) }

// A run is killed at random moments, again and again, and goes on each time. It ends as it would have, and no call
// whose answer had been kept is made again.
func TestResumeAfterKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file := filepath.Join(dir, "team.yaml")
	require.NoError(t, os.WriteFile(file, []byte(mixed), 0o600))
	random := rand.New(rand.NewPCG(*killSeed, 0))
	all, again := 0, 0
	for round := 0; all < *kills; round++ {
		model, err := modelserver.Start(t.Context(), slow())
		require.NoError(t, err)
		t.Cleanup(func() { require.NoError(t, model.Close()) })
		store := filepath.Join(dir, fmt.Sprint("store", round))
		all += killAndResume(t, childRun{File: file, Store: store, BaseURL: model.URL()}, random, 1+random.IntN(4))
		again += paidAgain(t, model.Calls(), store)
	}
	t.Logf("seed %d: %d kills, %d calls made again because the process died with their answer", *killSeed, all, again)
}

// killAndResume runs until the end, with some kills on the way, and returns how many there were.
func killAndResume(t *testing.T, c childRun, random *rand.Rand, kills int) (killed int) {
	t.Helper()
	for attempt := 0; ; attempt++ {
		cmd, stdout, stderr := c.start(t)
		// A process that hangs says where.
		hung := time.AfterFunc(3*time.Minute, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) })
		if attempt < kills {
			timer := time.AfterFunc(time.Duration(40+random.IntN(260))*time.Millisecond, func() { _ = cmd.Process.Kill() })
			if cmd.Wait() != nil && !timer.Stop() {
				killed++
			}
		} else {
			require.NoError(t, cmd.Wait(), stderr.String())
		}
		hung.Stop()
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

// paidAgain checks the model server's own log against the ledger of the run: a call is made a second time only if the
// process died before it had kept the first answer. It returns how often that was so.
func paidAgain(t *testing.T, calls []modelserver.Call, store string) (again int) {
	t.Helper()
	kept := ledgerText(t, store)
	last := map[string]modelserver.Call{}
	for _, c := range calls {
		key := string(c.Body) // no two calls of the run are the same
		if len(c.Request.Messages) == 0 {
			continue // the process died while it sent the request
		}
		if before, repeated := last[key]; repeated {
			again++
			require.False(t, strings.Contains(kept, words(before)), "the answer to call %d was kept, and yet call %d asked the same again", before.N, c.N)
		}
		last[key] = c
	}
	for _, c := range last {
		require.True(t, strings.Contains(kept, words(c)), "the newest answer to each call is kept: %d of %d, %s", c.N, len(calls), c.Body)
	}
	return again
}

// ledgerText is all that the ledger of a store holds.
func ledgerText(t *testing.T, store string) string {
	t.Helper()
	s, err := queue.StartServer(t.Context(), queue.ServerConfig{StoreDir: store, Logger: slog.New(slog.DiscardHandler)})
	require.NoError(t, err)
	defer s.Shutdown()
	nc, err := s.Connect("test")
	require.NoError(t, err)
	_, err = queue.Open(t.Context(), nc, queue.Config{Timeout: time.Minute})
	require.NoError(t, err)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	stream, err := js.Stream(t.Context(), queue.StreamLedger)
	require.NoError(t, err)
	var b strings.Builder
	for seq := stream.CachedInfo().State.FirstSeq; seq <= stream.CachedInfo().State.LastSeq; seq++ {
		m, err := stream.GetMsg(t.Context(), seq)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			continue
		}
		require.NoError(t, err)
		b.Write(m.Data)
	}
	return b.String()
}
