package runtime_test

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/tools"
)

// gate is a tool that reports when it begins and ends when it is let through.
type gate struct {
	begun chan string // pods
	open  chan struct{}
}

func newGate() *gate { return &gate{begun: make(chan string, 16), open: make(chan struct{})} }

func (g *gate) tool(pod string, safe bool) fn {
	return fn{name: "gate", safe: safe, call: func(ctx context.Context, _ tools.Call) (tools.Result, error) {
		g.begun <- pod
		select {
		case <-g.open:
			return tools.Result{Text: "through"}, nil
		case <-ctx.Done():
			return tools.Result{}, context.Cause(ctx)
		}
	}}
}

func (g *gate) agent(w *world, pod string, safe bool, grace time.Duration) (stop func()) {
	return w.agent("writer", func(c *runtime.Config) {
		c.Pod, c.Grace, c.Tools = pod, grace, set(w.t, g.tool(pod, safe))
		c.AckWait = 10 * patience // what comes of itself only then comes too late for every test
	})
}

func throughTheGate() modelserver.Config {
	return modelserver.Config{Rules: []modelserver.Rule{
		{When: modelserver.When{Tool: modelserver.Match("through")}, Reply: modelserver.Reply{Text: "arrived"}},
		{When: modelserver.When{Tool: modelserver.Match("outcome of this call of gate is unknown")}, Reply: modelserver.Reply{Text: "who knows"}},
		{Reply: modelserver.Reply{Tools: []modelserver.Use{use("gate", `{}`)}}},
	}}
}

func TestDrainLetsTasksFinish(t *testing.T) {
	t.Parallel()
	g := newGate()
	w := newWorld(t, throughTheGate())
	stop := g.agent(w, "writer-0", false, time.Minute)
	running, late := w.task("writer", "x"), w.task("writer", "y")
	w.submit(running)
	receive(t, g.begun)
	stopped := make(chan struct{})
	go func() { defer close(stopped); stop() }()
	close(g.open)
	receive(t, stopped)
	require.Equal(t, "arrived", w.result(running.ID).Output.Inline)

	w.submit(late)
	g.agent(w, "writer-1", false, 0)
	require.Equal(t, "writer-1", w.result(late.ID).Pod)
}

// What does not finish in the grace period is handed back at once, not after AckWait, and goes on from its journal.
func TestDrainHandsTheRestBack(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		safe bool
		want string
	}{"safe tool": {true, "arrived"}, "unsafe tool": {false, "who knows"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate()
			w := newWorld(t, throughTheGate())
			stop := g.agent(w, "writer-0", c.safe, 0)
			tk := w.task("writer", "x")
			w.submit(tk)
			require.Equal(t, "writer-0", receive(t, g.begun))
			g.agent(w, "writer-1", c.safe, 0)
			stop()
			if c.safe {
				require.Equal(t, "writer-1", receive(t, g.begun))
			}
			close(g.open)
			r := w.result(tk.ID)
			require.Equal(t, c.want, r.Output.Inline)
			require.Equal(t, "writer-1", r.Pod)
			require.Equal(t, 2, r.ModelCalls)
			require.Len(t, w.models.Calls(), 2, "the answered call is not made again")
			require.Empty(t, g.begun)
		})
	}
}

// A task whose results came in while it was handed back keeps them.
func TestHandingBackKeepsFinishedTools(t *testing.T) {
	t.Parallel()
	g := newGate()
	w := newWorld(t, modelserver.Config{Rules: []modelserver.Rule{
		{When: modelserver.When{Call: 1}, Reply: modelserver.Reply{Tools: []modelserver.Use{use("once", `{}`), use("gate", `{}`)}}},
		{Reply: modelserver.Reply{Text: "done"}},
	}})
	done := make(chan struct{}, 2)
	once := fn{name: "once", call: func(context.Context, tools.Call) (tools.Result, error) {
		done <- struct{}{}
		return tools.Result{Text: "once"}, nil
	}}
	agent := func(pod string) func() {
		return w.agent("writer", func(c *runtime.Config) { c.Pod, c.Tools = pod, set(t, once, g.tool(pod, true)) })
	}
	stop := agent("writer-0")
	tk := w.task("writer", "x")
	w.submit(tk)
	receive(t, g.begun)
	receive(t, done)
	stop()
	close(g.open)
	agent("writer-1")
	require.Equal(t, "done", w.result(tk.ID).Output.Inline)
	require.Equal(t, []string{"tool: once", "tool: through"}, messages(w.models.Calls()[1])[3:])
	require.Empty(t, done)
}

func TestPanicEndsItsTaskOnly(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{})
	w.agent("writer", func(c *runtime.Config) { c.Provider = panicking{c.Provider} })
	r := w.do(w.task("writer", "panic"))
	require.Equal(t, task.CodeInternal, r.Error.Code)
	require.Contains(t, r.Error.Message, "the openai provider failed internally: boom")
	require.Equal(t, "echo: hello", w.do(w.task("writer", "hello")).Output.Inline)
}
