package runtime_test

import (
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/task"
)

// attached gives a task a prompt that shows the beginning of a payload only.
func attached(w *world, tk *task.Task, text string) {
	w.t.Helper()
	stored, err := w.queue.PutText(w.t.Context(), runUID, text)
	require.NoError(w.t, err)
	ref := *stored.Ref
	tk.Prompt = task.Text{Inline: ref.Beginning(text[:1000])}
	ref.Preview = ""
	tk.Attached = []task.Ref{ref}
}

// A model reads on in what its prompt shows the beginning of, from its first turn on, and gets every byte once.
func TestAttachedPromptIsReadOn(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("0123456789abcde\n", 10_000)
	id := regexp.MustCompile(`read_payload, id "([^"]+)"`)
	next := regexp.MustCompile(`\n\n\(Bytes \d+ to \d+ of \d+\. The next part begins at offset (\d+)\.\)$`)
	got := text[:1000]
	w := newWorld(t, modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		last := c.Request.Messages[len(c.Request.Messages)-1].Content
		offset := "1000"
		switch m := next.FindStringSubmatch(last); {
		case c.N == 1:
			if len(offered(c)) != 1 || offered(c)[0] != task.ReadPayloadName {
				return &modelserver.Reply{Text: fmt.Sprintf("offered %v", offered(c))}
			}
		case m != nil:
			got += strings.TrimSuffix(last, m[0])
			offset = m[1]
		default:
			got += strings.TrimSuffix(last, "\n\n(This is the end.)")
			return &modelserver.Reply{Text: "read"}
		}
		name := id.FindStringSubmatch(c.Request.Prompt())[1]
		return &modelserver.Reply{Tools: []modelserver.Use{use(task.ReadPayloadName, `{"id":"`+name+`","offset":`+offset+`}`)}}
	}})
	w.agent("reader", nil)
	tk := w.task("reader", "")
	attached(w, tk, text)
	r := w.do(tk)
	require.Equal(t, "read", r.Output.Inline, "%v", r.Error)
	require.Equal(t, text, got)
}

// Whoever is handed work with such a prompt can read on in it too.
func TestDelegateInheritsWhatIsAttached(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		last := c.Request.Messages[len(c.Request.Messages)-1]
		switch {
		case strings.Contains(c.Request.System(), "You are writer."):
			return &modelserver.Reply{Text: fmt.Sprintf("offered %v", offered(c))}
		case last.Role == "user":
			return &modelserver.Reply{Tools: []modelserver.Use{use("delegate", `{"role":"writer"}`)}}
		default:
			return &modelserver.Reply{Text: last.Content}
		}
	}})
	w.agent("lead", nil)
	w.agent("writer", nil)
	tk := delegating(w.task("lead", ""), roles(map[string][]string{"lead": {"writer"}, "writer": nil}))
	attached(w, tk, strings.Repeat("0123456789abcde\n", 10_000))
	r := w.do(tk)
	require.Equal(t, "offered ["+task.ReadPayloadName+"]", r.Output.Inline, "%v", r.Error)
}
