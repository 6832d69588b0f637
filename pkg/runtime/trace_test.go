package runtime_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/trace"

	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/telemetry"
)

// One trace leads from whoever submits a task over the queue to its model calls, its tools, and the tasks that it
// hands over, and on to the model server.
func TestOneTraceOverTheQueue(t *testing.T) {
	t.Parallel()
	var spans telemetry.Recorder
	tel, err := telemetry.Start(t.Context(), telemetry.Config{Recorder: &spans})
	require.NoError(t, err)
	s := &script{ask: map[string][]modelserver.Use{"lead": {delegate("writer", "write")}}, text: map[string]string{"write": "a poem"}}
	w := newWorld(t, modelserver.Config{Answer: s.answer})
	traced := func(c *runtime.Config) { c.Telemetry = tel }
	w.agent("lead", traced)
	w.agent("writer", traced)

	ctx, step := tel.Start(t.Context(), "step", trace.SpanKindInternal)
	tk := delegating(w.task("lead", "lead"), roles(map[string][]string{"lead": {"writer"}, "writer": nil}))
	require.NoError(t, w.queue.Submit(ctx, tk))
	w.result(tk.ID)
	step.End("", "")
	w.gone(tk)

	require.Eventually(t, func() bool { return len(spans.Tree()) == 1 && len(spans.Tree()[0].Children) == 1 }, patience, time.Millisecond,
		"all spans belong to one tree")
	process := spans.Tree()[0].Children[0]
	require.Equal(t, "task process", process.Name)
	require.Equal(t, []string{"chat m-1", "execute_tool delegate", "chat m-1"}, spanNames(process.Children))
	handed := process.Children[1].Children
	require.Equal(t, []string{"delegate"}, spanNames(handed))
	var out bytes.Buffer
	require.NoError(t, spans.WriteTree(&out))
	require.Contains(t, out.String(), "task process")
	for _, c := range w.models.Calls() {
		require.Contains(t, c.Header.Get("traceparent"), telemetry.TraceID(ctx))
	}
}

func spanNames(nodes []*telemetry.Node) []string {
	var names []string
	for _, n := range nodes {
		names = append(names, n.Name)
	}
	return names
}
