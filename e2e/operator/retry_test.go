package operator

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm/modelserver"
)

// ark runs a command against the world and returns what it wrote and how it ended.
func (w *world) ark(args ...string) (out, err string, code int) {
	w.t.Helper()
	cmd := w.arkCommand(args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	failed := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](failed); ok {
		return stdout.String(), stderr.String(), exit.ExitCode()
	}
	require.NoError(w.t, failed)
	return stdout.String(), stderr.String(), 0
}

func (w *world) arkCommand(args ...string) *exec.Cmd {
	cmd := exec.CommandContext(w.t.Context(), shared.ark, append(args, "-n", w.namespace, "--kubeconfig", shared.api.Kubeconfig())...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.t.TempDir()}
	return cmd
}

// must is ark for a command that succeeds; it returns what it wrote, without the last newline.
func (w *world) must(args ...string) string {
	w.t.Helper()
	out, err, code := w.ark(args...)
	require.Zero(w.t, code, "ark %s: %s%s", strings.Join(args, " "), out, err)
	return strings.TrimSuffix(out, "\n")
}

// fickle is a model server that refuses prompts which hold a word, as long as it is told to.
type fickle struct {
	*modelserver.Server
	refuse atomic.Bool
	env    []string
}

func (w *world) fickle(word string, answer func(prompt string) string) *fickle {
	w.t.Helper()
	f := &fickle{}
	f.refuse.Store(true)
	var err error
	f.Server, err = modelserver.Start(w.t.Context(), modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		if f.refuse.Load() && strings.Contains(c.Request.Prompt(), word) {
			return &modelserver.Reply{Status: 400, Error: "not now"}
		}
		return &modelserver.Reply{Text: answer(c.Request.Prompt())}
	}})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = f.Close() })
	f.env = []string{"OPENAI_BASE_URL=" + f.URL(), "OPENAI_API_KEY=k"}
	return f
}

// answered is how often prompts that begin with a word were answered.
func (f *fickle) answered(word string) int {
	n := 0
	for _, c := range f.Calls() {
		if c.Status == 200 && strings.HasPrefix(c.Request.Prompt(), word) {
			n++
		}
	}
	return n
}

const chain = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: chain}
spec:
  inputs: [{name: topic, required: true}]
  roles: [{name: a, model: gpt-test, systemPrompt: You are a., limits: {timeoutSeconds: 3600}}]
  output: "{{ .steps.one.output }}"
  pipeline:
  - {name: one, role: a, inputs: {prompt: "one {{ .input.topic }}"}}
  - {name: data, role: a, outputSchema: '{"type": "object"}', inputs: {prompt: "data {{ .input.topic }}"}}
  - {name: two, role: a, dependsOn: [one, data], inputs: {prompt: "two {{ .steps.data.data.n }} {{ len .steps.one.output }}"}}
  - {name: three, role: a, dependsOn: [two], inputs: {prompt: "three {{ .steps.two.output }}"}}
`

// A retry goes on where the failed run ended: what succeeded is taken over and not paid for again, also when it is large,
// when the failed run is removed, when the operator is killed, and over a chain of retries. What cannot be used is refused.
func TestRetry(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.start()
	w.apply(chain)
	big := strings.Repeat("all the tides ", 30_000) // 420 kB
	models := w.fickle("two", func(prompt string) string {
		switch {
		case strings.HasPrefix(prompt, "one"):
			return big
		case strings.HasPrefix(prompt, "data"):
			return "```json\n{\"n\": 7}\n```"
		default:
			return "did " + prompt
		}
	})
	until(w, w.clients.Teams(w.namespace), "chain", "a status", func(t *v1alpha1.ArkTeam) bool { return t.Status.ObservedGeneration > 0 })
	w.pod("chain-a", "chain-a-0", append(models.env, "MAX_TOKENS_PER_CALL=1000000")...)
	first := w.must("trigger", "chain", "--input", "topic=tides", "--id", "1")
	failed := w.ended(first)
	require.Equal(t, "one Succeeded; data Succeeded; two Failed; three Skipped; ", brief(failed), failed.Status.Message)

	_, said, code := w.ark("retry", first, "--step", "four")
	require.Equal(t, 1, code)
	require.Contains(t, said, `--step: team chain has no step "four": it has one, data, two, three`)

	models.refuse.Store(false)
	second := w.must("retry", "chain", "--id", "2")
	require.Equal(t, second, w.must("retry", first, "--id", "2"), "the same id is the same retry")
	o.kill()
	require.NoError(t, w.clients.Runs(w.namespace).Delete(t.Context(), first, metav1.DeleteOptions{}))
	w.start()
	run := w.ended(second)
	require.Equal(t, "one Succeeded; data Succeeded; two Succeeded; three Succeeded; ", brief(run), run.Status.Message)
	require.Equal(t, []int{1, 1, 1, 1}, []int{models.answered("one"), models.answered("data"), models.answered("two"), models.answered("three")})
	require.Contains(t, run.Status.Steps[3].Output, "did two 7 420040", "with the tags around what another step said")
	one := run.Status.Steps[0]
	require.Equal(t, []any{"Reused", "taken over from run " + first, (*v1alpha1.TokenUsage)(nil)}, []any{one.Reason, one.Message, one.TokenUsage})
	spent := run.Status.Steps[2].TokenUsage.TotalTokens + run.Status.Steps[3].TokenUsage.TotalTokens
	require.Equal(t, spent, run.Status.TotalTokenUsage.TotalTokens, "what is taken over is not spent")
	sum := sha256.Sum256([]byte(big))
	require.Equal(t, hex.EncodeToString(sum[:]), run.Status.OutputRef.SHA256)
	require.True(t, strings.HasPrefix(run.Status.OutputRef.Key, string(run.UID)+"/"))
	require.Contains(t, w.must("get", second), "one\tchain-a\tSucceeded\t\t\t\t\tReused: taken over from run "+first)
	require.Contains(t, w.must("trace", second), "step one (taken over from run "+first+")")

	_, said, code = w.ark("retry", second)
	require.Equal(t, 1, code)
	require.Contains(t, said, "succeeded, so that there is nothing to go on with: say with --step")
	third := w.must("retry", second, "--step", "three")
	run = w.ended(third)
	require.Equal(t, v1alpha1.RunSucceeded, run.Status.Phase, run.Status.Message)
	require.Equal(t, []int{1, 1, 1, 2}, []int{models.answered("one"), models.answered("data"), models.answered("two"), models.answered("three")})
	require.Equal(t, "taken over from run "+first, run.Status.Steps[0].Message)
	require.Equal(t, "taken over from run "+second, run.Status.Steps[2].Message)

	w.kubectl("patch", "arkteam", "chain", "--type=json", "-p", `[{"op": "replace", "path": "/spec/pipeline/0/inputs/prompt", "value": "one other {{ .input.topic }}"}]`)
	until(w, w.clients.Teams(w.namespace), "chain", "the change", func(t *v1alpha1.ArkTeam) bool { return t.Status.ObservedGeneration == t.Generation && t.Generation > 1 })
	_, said, code = w.ark("retry", third, "--step", "two")
	require.Equal(t, 1, code)
	require.Contains(t, said, "refused (NotRetryable): the run cannot go on from "+third+`: the step "one" is another one since the run `+third+" (inputs)")
	fourth := w.must("retry", third, "--step", "one")
	run = w.ended(fourth)
	require.Equal(t, v1alpha1.RunSucceeded, run.Status.Phase, run.Status.Message)
	require.Equal(t, []int{2, 1, 2, 3}, []int{models.answered("one"), models.answered("data"), models.answered("two"), models.answered("three")})
}

const towers = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: floor}
spec:
  inputs: [{name: level, required: true}]
  roles: [{name: w, model: gpt-test, systemPrompt: You work., limits: {timeoutSeconds: 3600}}]
  pipeline:
  - {name: dig, role: w, inputs: {prompt: "dig {{ .input.level }}"}}
  - {name: build, role: w, dependsOn: [dig], inputs: {prompt: "build {{ .input.level }}"}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: tower}
spec:
  roles: [{name: crew, arkTeam: floor}]
  pipeline:
  - {name: first, role: crew, inputs: {level: "0"}}
  - name: floors
    role: crew
    dependsOn: [first]
    forEach: {items: "[1, 2, 3]", maxParallel: 1}
    inputs: {level: "{{ .item }}"}
`

// A team that plays a role goes on from where it was: a step that its run has done is taken over, also when the step of the
// run above has failed.
func TestRetryOfTeamsInTeams(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.apply(towers)
	models := w.fickle("build 2", func(prompt string) string { return "did " + prompt })
	until(w, w.clients.Teams(w.namespace), "floor", "a status", func(t *v1alpha1.ArkTeam) bool { return t.Status.ObservedGeneration > 0 })
	w.pod("floor-w", "floor-w-0", models.env...)
	w.runOf("tower-1", "tower", nil)
	require.Equal(t, "first Succeeded; floors Failed; ", brief(w.ended("tower-1")))
	models.refuse.Store(false)
	run := w.ended(w.must("retry", "tower-1"))
	require.Equal(t, v1alpha1.RunSucceeded, run.Status.Phase, run.Status.Message)
	require.Equal(t, `["did build 1","did build 2","did build 3"]`, run.Status.Output)
	require.Contains(t, "\n"+w.must("get", run.Name), "\nfloors[0]/build\tfloor-w\tSucceeded\t\t\t\t\tReused: taken over from run floor-run-")
	for _, prompt := range []string{"dig 0", "build 0", "dig 1", "build 1", "dig 2", "build 2", "dig 3", "build 3"} {
		require.Equal(t, 1, models.answered(prompt), prompt)
	}
	// From the step itself on, all of it is done anew.
	run = w.ended(w.must("retry", run.Name, "--step", "floors"))
	require.Equal(t, v1alpha1.RunSucceeded, run.Status.Phase, run.Status.Message)
	require.Equal(t, []int{1, 2, 2}, []int{models.answered("dig 0"), models.answered("dig 1"), models.answered("build 3")})
}

// What cannot be retried is refused with what to do instead, by the operator too.
func TestRetryRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.start()
	w.apply(strings.Replace(chain, "spec:\n", "spec:\n  failedRunsHistoryLimit: 10\n", 1)) // those that cannot start count too
	models := w.fickle("two", func(prompt string) string {
		if strings.HasPrefix(prompt, "data") {
			return `{"n": 7}`
		}
		return "did " + prompt
	})
	until(w, w.clients.Teams(w.namespace), "chain", "a status", func(t *v1alpha1.ArkTeam) bool { return t.Status.ObservedGeneration > 0 })
	_, said, code := w.ark("retry", "chain")
	require.Equal(t, 1, code)
	require.Contains(t, said, "there is no run of team chain")
	live := w.must("trigger", "chain", "--input", "topic=tides")
	_, said, code = w.ark("retry", live)
	require.Equal(t, 1, code)
	require.Contains(t, said, "has not ended (")
	byHand := func(name string, retry v1alpha1.RetryOf) *v1alpha1.ArkRun {
		t.Helper()
		_, err := w.clients.Runs(w.namespace).Create(t.Context(), &v1alpha1.ArkRun{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1alpha1.ArkRunSpec{TeamRef: &v1alpha1.Reference{Name: "chain"}, RetryOf: &retry},
		}, metav1.CreateOptions{})
		require.NoError(t, err)
		return w.ended(name)
	}
	refused := byHand("too-early", v1alpha1.RetryOf{Name: live})
	require.Equal(t, v1alpha1.ReasonNotRetryable, endReason(refused))
	require.Contains(t, refused.Status.Message, "has not ended: cancel it, or wait for its end")
	require.Contains(t, byHand("no-such", v1alpha1.RetryOf{Name: "nobody"}).Status.Message, "there is no run nobody (any more) to go on from")
	require.Contains(t, byHand("another", v1alpha1.RetryOf{Name: live, UID: "x"}).Status.Message, "is not the one that was meant")
	_, err := w.clients.Runs(w.namespace).Create(t.Context(), &v1alpha1.ArkRun{
		ObjectMeta: metav1.ObjectMeta{Name: "self"}, Spec: v1alpha1.ArkRunSpec{TeamRef: &v1alpha1.Reference{Name: "chain"}, RetryOf: &v1alpha1.RetryOf{Name: "self"}},
	}, metav1.CreateOptions{})
	require.ErrorContains(t, err, "a run cannot retry itself")

	w.pod("chain-a", "chain-a-0", models.env...)
	require.Equal(t, "one Succeeded; data Succeeded; two Failed; three Skipped; ", brief(w.ended(live)))
	_, said, code = w.ark("retry", "too-early")
	require.Equal(t, 1, code)
	require.Contains(t, said, "never began to go on from run "+live)

	require.Contains(t, byHand("of-nothing", v1alpha1.RetryOf{Name: "too-early"}).Status.Message, "never began to go on from the run "+live)

	// The input of a run that was applied by hand without one is that of the run that it retries.
	models.refuse.Store(false)
	run := byHand("by-hand", v1alpha1.RetryOf{Name: live})
	require.Equal(t, "one Succeeded; data Succeeded; two Succeeded; three Succeeded; ", brief(run), run.Status.Message)
	require.Equal(t, 1, models.answered("one tides"))

	// The queue's store is lost, and with it the results.
	o.kill()
	w.store = t.TempDir()
	w.start()
	_, said, code = w.ark("retry", live)
	require.Equal(t, 1, code)
	require.Contains(t, said, "refused (NotRetryable): the results of the run "+live+" are gone from the queue's store")
}
