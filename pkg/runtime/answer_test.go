package runtime_test

import (
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

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

// slowTask is one that may take as long as a busy machine needs.
func (w *world) slowTask(prompt string) *task.Task {
	tk := w.task("payer", prompt)
	tk.Deadline = tk.Created.Add(time.Hour)
	tk.TimeoutSeconds = 3600
	return tk
}

// An agent's process is killed between a large answer's place in the journal and the task's result: the next one publishes
// the answer that was paid for.
func TestKilledAgentsLargeAnswerIsKept(t *testing.T) {
	t.Parallel()
	text := sized(20 << 20)
	w, url := newReachableWorld(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{Text: text, ChunkSize: 20 << 10}}}})
	refused := &word{what: "ark.result.", said: make(chan string, 1)}
	first := w.processTo(refused, strings.Replace(url, "nats://", "nats://"+mute+":"+mute+"@", 1), "http://127.0.0.1:1", "payer-0")
	tk := w.slowTask("x")
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
