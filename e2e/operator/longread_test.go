package operator

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arkonis.dev/ark/e2e/longread"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm/modelserver"
)

// Teams in which one step makes a text and the next one reads it: the text is an answer, a list of answers, or the output of
// another team.
const readers = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: pen}
spec: {model: gpt-test, systemPrompt: You write., limits: {maxConcurrentTasks: 20, timeoutSeconds: 3600}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: eye}
spec: {model: gpt-test, systemPrompt: You read., limits: {maxConcurrentTasks: 20, timeoutSeconds: 3600}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: passes}
spec:
  inputs: [{name: size, required: true}]
  roles: [{name: pen, arkAgent: pen}, {name: eye, arkAgent: eye}]
  pipeline:
  - {name: made, role: pen, inputs: {prompt: "size {{ .input.size }}"}}
  - {name: read, role: eye, dependsOn: [made], inputs: {prompt: "read {{ .steps.made.output }}"}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: gathers}
spec:
  inputs: [{name: sizes, type: array, required: true}]
  output: "{{ .steps.made.output }}"
  roles: [{name: pen, arkAgent: pen}, {name: eye, arkAgent: eye}]
  pipeline:
  - {name: made, role: pen, forEach: {items: "{{ toJson .input.sizes }}", maxParallel: 10}, inputs: {prompt: "size {{ .item }}"}}
  - {name: read, role: eye, dependsOn: [made], inputs: {prompt: "read {{ .steps.made.output }}"}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: maker}
spec:
  inputs: [{name: size, required: true}]
  roles: [{name: pen, arkAgent: pen}]
  pipeline: [{name: one, role: pen, inputs: {prompt: "size {{ .input.size }}"}}]
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: above}
spec:
  inputs: [{name: size, required: true}]
  roles: [{name: maker, arkTeam: maker}, {name: eye, arkAgent: eye}]
  pipeline:
  - {name: made, role: maker, inputs: {size: "{{ .input.size }}"}}
  - {name: read, role: eye, dependsOn: [made], inputs: {prompt: "read {{ .steps.made.output }}"}}
`

// reading starts the agents of readers, with a model that knows some lists beside its own texts. before sees each call that
// begins a task and may hold it up, or answer it.
func (w *world) reading(lists []string, before func(prompt string) *modelserver.Reply) *modelserver.Server {
	w.t.Helper()
	w.apply(readers)
	model := longread.Model{Lists: lists}
	models, err := modelserver.Start(w.t.Context(), modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		if c.Request.Messages[len(c.Request.Messages)-1].Role == "user" {
			if reply := before(c.Request.Prompt()); reply != nil {
				return reply
			}
		}
		return model.Answer(c)
	}})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = models.Close() })
	for _, agent := range []string{"pen", "eye"} {
		w.pod(agent, agent+"-0", "OPENAI_BASE_URL="+models.URL(), "OPENAI_API_KEY=k")
	}
	return models
}

// listOf is what a forEach makes of n answers so that it has size bytes in all, and how large each answer is.
func listOf(n, size int) (list string, sizes []any) {
	each := (size - len("[]") - len(`"",`)*n + len(",")) / n
	parts := make([]string, n)
	for i := range n {
		length := each
		if i == n-1 {
			length = size - len("[]") - len(`"",`)*n + len(",") - each*(n-1)
		}
		parts[i], sizes = `"`+longread.Text(length)+`"`, append(sizes, length)
	}
	return "[" + strings.Join(parts, ",") + "]", sizes
}

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// Outputs of 1 B to 64 MiB pass to the next step, whose agent reads every byte that it asks for, while the operator is killed
// when they are made and when they are read. The objects stay small, the operator as well, and when the runs are removed, the
// store holds nothing of them. It has the disk for itself: beside the other tests it would measure that.
func TestOutputsOfAllSizes(t *testing.T) {
	w := newWorld(t)
	w.env = []string{"GOMEMLIMIT=1GiB"} // as the chart says it
	o := w.start()
	texts := map[string]string{} // by run
	for _, size := range []int{1, 64 << 10, 1 << 20, 1<<20 + 1, 16 << 20, 64 << 20} {
		texts[fmt.Sprintf("of-%d", size)] = longread.Text(size)
	}
	list, sizes := listOf(10, 64<<20)
	texts["list"], texts["child"] = list, longread.Text(4<<20)
	made, read := make(chan struct{}), make(chan struct{})
	models := w.reading([]string{list}, func(prompt string) *modelserver.Reply {
		gate := made
		if strings.HasPrefix(prompt, "read") {
			gate = read
		}
		select {
		case <-gate:
		case <-t.Context().Done():
		}
		return nil
	})
	for name, text := range texts {
		if strings.HasPrefix(name, "of-") {
			w.runOf(name, "passes", map[string]any{"size": len(text)})
		}
	}
	w.runOf("list", "gathers", map[string]any{"sizes": sizes})
	w.runOf("child", "above", map[string]any{"size": len(texts["child"])})
	answers := len(texts) - 1 + len(sizes)
	for _, gate := range []struct {
		calls int
		open  chan struct{}
	}{{answers, made}, {answers + len(texts), read}} {
		_, err := models.WaitIn(t.Context(), gate.calls)
		require.NoError(t, err)
		o.kill()
		o = w.start()
		close(gate.open)
	}
	for name, text := range texts {
		r := w.ended(name)
		require.Equal(t, v1alpha1.RunSucceeded, r.Status.Phase, "%s: %s", name, r.Status.Message)
		require.Equal(t, longread.Read(len(text)), r.Status.Steps[1].Output, name)
		statusSize(t, r)
		switch {
		case name == "list":
			require.Equal(t, []any{sumOf(text), int64(len(text))}, []any{r.Status.OutputRef.SHA256, r.Status.OutputRef.Size}, name)
		case r.Status.Steps[0].OutputRef != nil:
			require.Equal(t, []any{sumOf(text), int64(len(text))}, []any{r.Status.Steps[0].OutputRef.SHA256, r.Status.Steps[0].OutputRef.Size}, name)
			require.True(t, strings.HasPrefix(text, strings.TrimSuffix(r.Status.Steps[0].Output, "…")), name)
		default:
			require.Equal(t, text, r.Status.Steps[0].Output, name)
		}
	}
	most := resident(t, o.cmd.Process.Pid)
	t.Logf("outputs of up to 64 MiB: the operator held %d MiB at most", most>>20)
	require.Less(t, most, int64(1<<30), "the chart's limit would end it")
	w.kubectl("delete", "arkrun", "--all", "--timeout="+patience.String())
	w.emptied()
}

// A retry takes large results over from a run that is removed at once, and an agent reads on in them: an answer, a list, and the
// output of another team. None of them is paid for again.
func TestLargeResultsAreTakenOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := w.start()
	list, sizes := listOf(2, 9<<20)
	var refuse atomic.Bool
	refuse.Store(true)
	models := w.reading([]string{list}, func(prompt string) *modelserver.Reply {
		if refuse.Load() && strings.HasPrefix(prompt, "read") {
			return &modelserver.Reply{Status: 400, Error: "not now"}
		}
		return nil
	})
	const size = 3 << 20
	for _, run := range []struct {
		team  string
		input map[string]any
	}{{"passes", map[string]any{"size": size}}, {"gathers", map[string]any{"sizes": sizes}}, {"above", map[string]any{"size": size}}} {
		w.runOf(run.team, run.team, run.input)
	}
	want := map[string]int{"passes": size, "gathers": len(list), "above": size}
	for name := range want {
		require.Equal(t, "made Succeeded; read Failed; ", brief(w.ended(name)))
	}
	again := map[string]string{}
	for name := range want {
		again[name] = w.must("retry", name, "--id", "1")
		require.Equal(t, "made Succeeded; read Failed; ", brief(w.ended(again[name])), "it is refused once more")
	}
	w.kubectl(append([]string{"delete", "arkrun", "--timeout=" + patience.String()}, "passes", "gathers", "above")...)
	o.kill()
	o = w.start()
	refuse.Store(false)
	for name, size := range want {
		r := w.ended(w.must("retry", again[name], "--id", "2"))
		require.Equal(t, v1alpha1.RunSucceeded, r.Status.Phase, "%s: %s", name, r.Status.Message)
		require.Equal(t, "taken over from run "+name, r.Status.Steps[0].Message)
		require.Equal(t, longread.Read(size), r.Status.Steps[1].Output, name)
		if ref := r.Status.Steps[0].OutputRef; ref != nil {
			require.True(t, strings.HasPrefix(ref.Key, string(r.UID)+"/"), "it holds a copy of its own")
		}
	}
	t.Logf("the operator held %d MiB at most", resident(t, o.cmd.Process.Pid)>>20)
	made := 0
	for _, c := range models.Calls() {
		if strings.HasPrefix(c.Request.Prompt(), "size ") {
			made++
		}
	}
	require.Equal(t, 2+len(sizes), made, "what is taken over is not paid for again")
	require.NoError(t, w.clients.Runs(w.namespace).DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{}))
	w.emptied()
}
