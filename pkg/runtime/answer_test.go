package runtime_test

import (
	"crypto/sha256"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/exchange"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/task"
)

// sized is a text of so many bytes, with what JSON has to escape in it, and no two parts of it alike.
func sized(bytes int) string {
	var b strings.Builder
	b.Grow(bytes + 64)
	for i := 0; b.Len() < bytes; i++ {
		fmt.Fprintf(&b, "line %d \"of\" many\n", i)
	}
	return b.String()[:bytes]
}

// requireOutput demands that an output is a text, without printing either.
func requireOutput(t *testing.T, w *world, r *task.Result, text string) {
	t.Helper()
	require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
	got := w.text(r.Output)
	require.Equal(t, len(text), len(got))
	require.Equal(t, sha256.Sum256([]byte(text)), sha256.Sum256([]byte(got)))
}

// answers makes a model server that answers with as many bytes as it is asked for, in one object if the prompt says so.
func answers(text string) modelserver.Config {
	return modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		size, how, _ := strings.Cut(c.Request.Prompt(), " ")
		n, err := strconv.Atoi(size)
		if err != nil {
			return &modelserver.Reply{Status: 400}
		}
		return &modelserver.Reply{Text: text[:n], Plain: how == "whole", ChunkSize: max(n/1000, 1)}
	}}
}

// An agent's process passes answers of any size up to the limit on whole, in memory that fits into a pod's, however many
// come at once; and says what is too much.
func TestAnswersOfAnySize(t *testing.T) {
	t.Parallel()
	text := sized(exchange.MaxAnswer + 1)
	w, url := newReachableWorld(t, answers(text))
	process := w.process(url, "http://127.0.0.1:1", "payer-0")
	for _, size := range []int{1, 8 << 20, 8<<20 + 1, exchange.MaxAnswer} {
		for _, how := range []string{"streamed", "whole"} {
			r := w.do(w.slowTask(fmt.Sprintf("%d %s", size, how)))
			requireOutput(t, w, r, text[:size])
			t.Logf("%d bytes, %s: %d MiB at the most", size, how, memoryOf(t, process.Process.Pid, "VmHWM")>>20)
		}
	}
	for _, how := range []string{"streamed", "whole"} {
		r := w.do(w.slowTask(fmt.Sprintf("%d %s", exchange.MaxAnswer+1, how)))
		require.Equal(t, task.Failed, r.Status)
		require.Equal(t, task.CodeProviderFailed, r.Error.Code)
		require.Contains(t, r.Error.Message, "answered with more than 64 MiB of text, which is the limit; ask for less")
		require.Positive(t, r.Usage.Total(), "it is paid for")
		t.Logf("too much, %s: %d MiB at the most", how, memoryOf(t, process.Process.Pid, "VmHWM")>>20)
	}
	calls := len(w.models.Calls())
	var tasks []*task.Task
	for _, prompt := range atOnce {
		tasks = append(tasks, w.slowTask(prompt))
	}
	w.submit(tasks...)
	for i, tk := range tasks {
		var size int
		_, err := fmt.Sscan(atOnce[i], &size)
		require.NoError(t, err)
		requireOutput(t, w, w.result(tk.ID), text[:size])
	}
	require.Len(t, w.models.Calls(), calls+len(tasks))
	most := memoryOf(t, process.Process.Pid, "VmHWM")
	t.Logf("all at once: %d MiB at the most, and %d MiB afterwards", most>>20, memoryOf(t, process.Process.Pid, "VmRSS")>>20)
	require.Less(t, most, int64(7*exchange.MaxAnswer), "of the 512 MiB that a pod has")
}

// atOnce are answers that take all places of an agent.
var atOnce = []string{
	"67108864 whole", "67108864 streamed", "8388608 whole", "8388608 whole", "8388608 streamed", "5 whole",
}

// slowTask is one that may take as long as a busy machine needs.
func (w *world) slowTask(prompt string) *task.Task {
	tk := w.task("payer", prompt)
	tk.Deadline = tk.Created.Add(time.Hour)
	tk.TimeoutSeconds = 3600
	return tk
}

// memoryOf is what the system says of a process's memory under a name: VmRSS is what it has, VmHWM the most that it has had,
// in bytes; 0 where that is not told.
func memoryOf(t *testing.T, pid int, name string) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	_, line, _ := strings.Cut(string(status), name+":")
	line, _, _ = strings.Cut(line, "kB")
	n, err := strconv.ParseInt(strings.TrimSpace(line), 10, 64)
	require.NoError(t, err)
	return n << 10
}

// An agent's process is killed between a large answer's place in the journal and the task's result: the next one publishes
// the answer that was paid for.
func TestKilledAgentsLargeAnswerIsKept(t *testing.T) {
	t.Parallel()
	text := sized(20 << 20)
	w, url := newReachableWorld(t, answers(text))
	refused := &word{what: "ark.result.", said: make(chan string, 1)}
	first := w.processTo(refused, strings.Replace(url, "nats://", "nats://"+mute+":"+mute+"@", 1), "http://127.0.0.1:1", "payer-0")
	tk := w.slowTask(fmt.Sprintf("%d streamed", len(text)))
	w.submit(tk)
	receive(t, refused.said)
	require.NoError(t, first.Process.Kill())
	w.process(url, "http://127.0.0.1:1", "payer-1")
	r := w.result(tk.ID)
	require.Equal(t, "payer-1", r.Pod)
	requireOutput(t, w, r, text)
	require.Equal(t, 1, r.ModelCalls)
	require.Len(t, w.models.Calls(), 1, "the answered call is not made again")
}

// word is what a process writes, and tells when it has written a word.
type word struct {
	what    string
	written strings.Builder
	said    chan string
}

func (w *word) Write(b []byte) (int, error) {
	w.written.Write(b)
	if strings.Contains(w.written.String(), w.what) {
		select {
		case w.said <- w.what:
		default:
		}
	}
	return len(b), nil
}

// A model that calls tools in a large answer is shown the beginning of it in the next turn, and can read on.
func TestLargeAnswerWithToolCalls(t *testing.T) {
	t.Parallel()
	text := sized(9 << 20)
	w := newWorld(t, modelserver.Config{Rules: []modelserver.Rule{
		{When: modelserver.When{Call: 1}, Reply: modelserver.Reply{Text: text, Tools: []modelserver.Use{use("fetch", `{}`)}}},
		{Reply: modelserver.Reply{Text: "well"}},
	}})
	w.agent("writer", fetching(t, "fetched"))
	r := w.do(w.task("writer", "x"))
	require.Equal(t, "well", r.Output.Inline, "%v", r.Error)
	second := w.models.Calls()[1]
	own := second.Request.Messages[2]
	require.Equal(t, "assistant", own.Role)
	require.Less(t, len(own.Content), 20<<10)
	require.True(t, strings.HasPrefix(own.Content, text[:16<<10]))
	require.Regexp(t, `\(These are the first 16384 of 9437184 bytes\. Read on with read_payload, id "[0-9a-f]{64}-9437184"\.\)$`, own.Content)
	require.Contains(t, offered(second), "read_payload")
	require.Equal(t, "fetched", second.Request.Messages[3].Content)
}
