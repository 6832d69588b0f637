package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/exchange"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// podMemory is what the pod of an agent has that does not say otherwise, in bytes.
const podMemory = 512 << 20

// sized is a text of so many bytes, with what JSON has to escape in it, and no two lines of it alike.
func sized(bytes int) string {
	var b strings.Builder
	b.Grow(bytes + 64)
	for i := 0; b.Len() < bytes; i++ {
		fmt.Fprintf(&b, "line %d \"of\" many\n", i)
	}
	return b.String()[:bytes]
}

// answering answers "N" with the first N bytes of a text as a stream, and "N whole" with them in one object.
func answering(text string) modelserver.Config {
	return modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		n, how, _ := strings.Cut(c.Request.Prompt(), " ")
		size, err := strconv.Atoi(n)
		if err != nil {
			return &modelserver.Reply{Status: 400, Error: err.Error()}
		}
		return &modelserver.Reply{Text: text[:size], Plain: how == "whole", ChunkSize: max(size/1000, 1)}
	}}
}

// An agent passes answers of any size up to the limit on whole, in the memory that its pod has, also when they come at once,
// and gives the memory back. What is too much it says, and counts.
func TestAnswersOfAnySize(t *testing.T) {
	t.Parallel()
	const most = exchange.MaxAnswer
	text := sized(most + 1)
	f := newFleet(t, answering(text), work.Config{})
	p := f.pod("writer-0", []string{"GOMEMLIMIT=" + strconv.Itoa(podMemory)})
	p.becomes(true)
	idle := memoryOf(t, p, "VmRSS")
	submit := func(prompts ...string) (ids []string) {
		for _, prompt := range prompts {
			ids = append(ids, f.taskWithin(10*patience, prompt).ID)
		}
		return ids
	}
	whole := func(id string, size int) {
		t.Helper()
		r := f.result(id)
		require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
		got, err := f.queue.Text(t.Context(), r.Output, most)
		require.NoError(t, err)
		require.Equal(t, sha256.Sum256([]byte(text[:size])), sha256.Sum256([]byte(got)), "%d of %d bytes", len(got), size)
	}
	calls := 0
	for _, sizes := range [][]int{{8 << 20, 8<<20 + 1}, {most, most, 8 << 20, 1}} { // those of one list at once
		var ids []string
		for _, size := range sizes {
			ids = append(ids, submit(strconv.Itoa(size), strconv.Itoa(size)+" whole")...)
		}
		for i, id := range ids {
			whole(id, sizes[i/2])
		}
		calls += len(ids)
		t.Logf("%v bytes: %d MiB at the most", sizes, memoryOf(t, p, "VmHWM")>>20)
	}
	tooMuch := submit(strconv.Itoa(most+1), strconv.Itoa(most+1)+" whole")
	for _, id := range tooMuch {
		r := f.result(id)
		require.Equal(t, task.Failed, r.Status)
		require.Equal(t, task.CodeProviderFailed, r.Error.Code)
		require.Contains(t, r.Error.Message, "answered with more than 64 MiB of text, which is the limit; ask for less")
		require.Positive(t, r.Usage.Total(), "it is paid for")
	}
	partial := f.result(tooMuch[0])
	got, err := f.queue.Text(t.Context(), partial.Output, most)
	require.NoError(t, err)
	require.True(t, got == text[:1<<20], "the beginning of what streamed is kept: %d bytes", len(got))
	require.Len(t, partial.Notes, 2)
	require.Contains(t, partial.Notes[1], "bytes of the partial answer were dropped; its first 1 MiB are kept")
	require.Len(t, f.models.Calls(), calls+2, "no call is made twice")
	peak, after := memoryOf(t, p, "VmHWM"), memoryOf(t, p, "VmRSS")
	t.Logf("%d MiB idle, %d MiB at the most, %d MiB afterwards", idle>>20, peak>>20, after>>20)
	require.Less(t, peak, int64(podMemory))
	require.Less(t, after, idle+2*most)
}

// memoryOf is what the system says of a process's memory under a name: VmRSS is what it has, VmHWM the most that it has had,
// in bytes; 0 where that is not told.
func memoryOf(t *testing.T, p *pod, name string) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, line, _ := strings.Cut(string(status), name+":")
	line, _, _ = strings.Cut(line, "kB")
	n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	require.NoError(t, err)
	return n << 10
}

const oneStep = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: large}
spec:
  inputs: [{name: size, required: true}]
  roles: [{name: writer, model: m-1, systemPrompt: You write., limits: {timeoutSeconds: 3600}}]
  pipeline: [{role: writer, inputs: {prompt: "{{ .input.size }}"}}]
`

// ark run prints an answer of 64 MiB whole, and says of one that is too large what the limit is.
func TestRunPrintsALargeAnswer(t *testing.T) {
	t.Parallel()
	text := sized(exchange.MaxAnswer + 1)
	model := startModel(t, answering(text))
	file := filepath.Join(t.TempDir(), "team.yaml")
	require.NoError(t, os.WriteFile(file, []byte(oneStep), 0o600))
	run := func(size int) *process {
		env := []string{"OPENAI_BASE_URL=" + model.URL(), "OPENAI_API_KEY=k"}
		return command(t.Context(), arkBinary(t), env, "run", file, "--input", "size="+strconv.Itoa(size))
	}
	p := run(exchange.MaxAnswer)
	require.Equal(t, 0, p.exitCode(), p.err.String())
	require.Equal(t, exchange.MaxAnswer+1, p.out.Len())
	require.Equal(t, sha256.Sum256([]byte(text[:exchange.MaxAnswer]+"\n")), sha256.Sum256(p.out.Bytes()))

	p = run(exchange.MaxAnswer + 1)
	require.NotEqual(t, 0, p.exitCode())
	require.Contains(t, p.err.String(), `step "writer" failed`)
	require.Contains(t, p.err.String(), "answered with more than 64 MiB of text, which is the limit; ask for less")
}
