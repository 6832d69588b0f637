package runtime_test

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/tools"
)

func numbered(bytes int) string {
	var b strings.Builder
	for i := 0; b.Len() < bytes; i++ {
		fmt.Fprintf(&b, "línea %d\n", i)
	}
	return b.String()
}

func TestLargePromptAndAnswer(t *testing.T) {
	t.Parallel()
	question, answer := numbered(700<<10), numbered(600<<10)
	w := newWorld(t, modelserver.Config{Rules: reply(modelserver.Reply{Text: answer})})
	w.agent("writer", nil)
	tk := w.task("writer", "")
	var err error
	tk.Prompt, err = w.queue.PutText(t.Context(), runUID, question)
	require.NoError(t, err)
	require.NotNil(t, tk.Prompt.Ref)
	r := w.do(tk)
	require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
	require.Equal(t, int64(len(answer)), r.Output.Ref.Size)
	require.Equal(t, answer, w.text(r.Output))
	require.Equal(t, question, w.models.Calls()[0].Request.Prompt())
}

// The model reads a large result to its end, page by page, and gets every byte once.
func TestLargeToolResultIsPaged(t *testing.T) {
	t.Parallel()
	large := numbered(200 << 10)
	next := regexp.MustCompile(`\n\n\(Bytes (\d+) to (\d+) of \d+\. The next part begins at offset (\d+)\.\)$`)
	first := regexp.MustCompile(`(?s)^(.*)\n\n\(These are the first (\d+) of (\d+) bytes\. Read on with read_payload, id "([^"]+)"\.\)$`)
	var got strings.Builder
	var id string
	w := newWorld(t, modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		last := c.Request.Messages[len(c.Request.Messages)-1]
		if last.Role == "user" {
			require.NotContains(t, offered(c), "read_payload", "there is nothing to read yet")
			return &modelserver.Reply{Tools: []modelserver.Use{use("fetch", `{}`)}}
		}
		require.Contains(t, offered(c), "read_payload")
		offset := ""
		if m := first.FindStringSubmatch(last.Content); m != nil {
			got.WriteString(m[1])
			offset, id = m[2], m[4]
			require.Equal(t, fmt.Sprint(len(large)), m[3])
		} else if m := next.FindStringSubmatch(last.Content); m != nil {
			got.WriteString(strings.TrimSuffix(last.Content, m[0]))
			offset = m[3]
		} else {
			got.WriteString(strings.TrimSuffix(last.Content, "\n\n(This is the end.)"))
			return &modelserver.Reply{Text: "read"}
		}
		return &modelserver.Reply{Tools: []modelserver.Use{use("read_payload", `{"id":"`+id+`","offset":`+offset+`}`)}}
	}})
	w.agent("reader", fetching(t, large))
	r := w.do(w.task("reader", "fetch it"))
	require.Equal(t, "read", r.Output.Inline, "%v", r.Error)
	require.Equal(t, large, got.String())
}

func TestReadPayloadTellsWhatIsWrong(t *testing.T) {
	t.Parallel()
	sum := strings.Repeat("ab", 32)
	w := newWorld(t, modelserver.Config{Rules: []modelserver.Rule{
		{When: modelserver.When{Call: 1}, Reply: modelserver.Reply{Tools: []modelserver.Use{use("fetch", `{}`)}}},
		{When: modelserver.When{Call: 2}, Reply: modelserver.Reply{Tools: []modelserver.Use{
			use("read_payload", `{"id":"../other-run/x"}`), use("read_payload", `{"id":"`+sum+`-10"}`), use("read_payload", `{"id":"`+sum+`-10","offset":10}`),
		}}},
		{Reply: modelserver.Reply{Text: "well"}},
	}})
	w.agent("reader", fetching(t, numbered(70<<10)))
	r := w.do(w.task("reader", "x"))
	require.Equal(t, "well", r.Output.Inline, "%v", r.Error)
	told := messages(w.models.Calls()[2])[5:]
	require.Contains(t, told[0], `"../other-run/x" is not the id of a stored result`)
	require.Contains(t, told[1], "no such payload")
	require.Contains(t, told[2], "offset 10 is behind the end, the text has 10 bytes")
}

func fetching(t *testing.T, text string) func(*runtime.Config) {
	return func(c *runtime.Config) {
		c.Tools = set(t, fn{name: "fetch", call: func(context.Context, tools.Call) (tools.Result, error) { return tools.Result{Text: text}, nil }})
	}
}

func offered(c modelserver.Call) []string {
	var names []string
	for _, t := range c.Request.Tools {
		names = append(names, t.Function.Name)
	}
	return names
}
