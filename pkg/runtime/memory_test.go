package runtime_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/e2e/services"
	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/memory"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/task"
)

func remembering(t *testing.T, c memory.Config) *memory.Memory {
	t.Helper()
	m, err := memory.New(t.Context(), c, quiet())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, m.Close()) })
	return m
}

// vectors is a memory in a real PostgreSQL, whose vectors the model server makes.
func vectors(t *testing.T, w *world) func(*runtime.Config) {
	t.Helper()
	m := remembering(t, memory.Config{
		Backend:   memory.VectorStore,
		Vector:    memory.VectorConfig{Provider: memory.Pgvector, Endpoint: services.Database(t, true), Secret: services.PostgresSecret},
		Embedding: memory.EmbeddingConfig{Model: "e-1"},
		// The machine may be busy, and a slow store would be one that is left out.
		Timeout: 30 * time.Second, EmbedTimeout: 30 * time.Second,
	})
	embedder, ok := w.provider().(llm.Embedder)
	require.True(t, ok)
	return func(c *runtime.Config) { c.Memory, c.Embedder = m, embedder }
}

// taught has the model remember what a prompt tells it to, and answer otherwise.
func taught(usage *modelserver.Usage) modelserver.Config {
	return modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		r := &modelserver.Reply{Text: "done", Usage: usage}
		last := c.Request.Messages[len(c.Request.Messages)-1]
		_, asked, ok := strings.Cut(last.Content, "</memory>\n\n")
		if !ok {
			asked = last.Content
		}
		if fact, ok := strings.CutPrefix(asked, "remember: "); ok && c.API == modelserver.APIChat && last.Role == "user" {
			for i := range strings.SplitSeq(fact, ";") {
				r.Tools = append(r.Tools, modelserver.Use{Name: memory.RememberName, Arguments: fmt.Sprintf(`{"text":%q}`, i)})
			}
		}
		return r
	}}
}

// Making vectors costs tokens: each call is reserved before, journaled, and settled with what it used, like those of a
// chat. What the result says is used is what the budget was charged.
func TestVectorsAreCountedLikeEveryCall(t *testing.T) {
	t.Parallel()
	const used = 7 + 3
	w := newWorld(t, taught(&modelserver.Usage{Prompt: 7, Completion: 3}))
	w.agent("writer", vectors(t, w))
	budget := []task.Budget{{Scope: "run." + runUID, Limit: 50_000}}
	first := w.task("writer", "remember: the cat sleeps;the dog barks;the fish swims")
	first.Budgets = budget
	r := w.do(first)
	require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
	require.Equal(t, 3, r.ToolCalls)
	// Before the prompt, three notes, the two answers, and what the task leaves behind.
	calls := w.models.Calls()
	require.Len(t, calls, 7)
	require.Equal(t, 7, r.ModelCalls)
	require.Equal(t, int64(2*used+5*7), r.Usage.Total())
	keys := map[string]bool{}
	for _, c := range calls {
		keys[c.Key] = true
	}
	require.Len(t, keys, 7, "each call has a number of its own")

	second := w.task("writer", "what of the fish?")
	second.Budgets = budget
	r = w.do(second)
	require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
	prompt := w.models.Calls()[8].Request.Prompt()
	require.Contains(t, prompt, "the fish swims")
	require.True(t, strings.HasSuffix(prompt, "what of the fish?"), prompt)

	// What is left does not hold a long prompt: neither its vector nor its answer is asked for.
	long := w.task("writer", strings.Repeat("x", 60_000))
	long.Budgets = budget
	r = w.do(long)
	require.Equal(t, task.CodeBudgetExceeded, r.Error.Code)
	require.Contains(t, r.Error.Message, fmt.Sprintf(": %d are spent", 2*used+5*7+used+2*7+7))
	calls = w.models.Calls()
	for _, c := range calls[10:] {
		require.Equal(t, modelserver.APIEmbeddings, c.API, "only the beginning of a prompt goes into its vector")
	}
	require.Len(t, calls, 11)
}

// A task that is taken over goes on with the words it began with, whatever is remembered meanwhile, and its vectors are
// not paid for again.
func TestTakenOverTaskKeepsItsMemory(t *testing.T) {
	t.Parallel()
	begun, answer := make(chan struct{}, 8), make(chan struct{})
	w := newWorld(t, modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		if c.API == modelserver.APIChat && strings.HasSuffix(c.Request.Prompt(), "slow") {
			begun <- struct{}{}
			select {
			case <-answer:
			case <-t.Context().Done():
			}
		}
		return taught(nil).Answer(c)
	}})
	equip := vectors(t, w)
	stop := w.agent("writer", equip)
	require.Equal(t, task.Succeeded, w.do(w.task("writer", "remember: slow is smooth")).Status)
	tk := w.task("writer", "slow")
	w.submit(tk)
	receive(t, begun)
	stop() // in the middle of the call: the task is handed back
	w.agent("writer", equip)
	receive(t, begun)
	require.Equal(t, task.Succeeded, w.do(w.task("writer", "remember: slow is late")).Status)
	close(answer)
	r := w.result(tk.ID)
	require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
	var prompts []string
	made := 0
	for _, c := range w.models.Calls() {
		switch {
		case c.API == modelserver.APIEmbeddings && c.Request.Prompt() == "slow":
			made++
		case c.API == modelserver.APIChat && strings.HasSuffix(c.Request.Prompt(), "\n\nslow"):
			prompts = append(prompts, c.Request.Prompt())
		}
	}
	require.Equal(t, 1, made)
	require.Len(t, prompts, 2)
	require.Contains(t, prompts[0], "slow is smooth")
	require.Equal(t, prompts[0], prompts[1])
}

// Who waits for a task's result finds the task remembered: the next step of a pipeline starts at once.
func TestNextTaskRemembersTheLast(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{})
	m := remembering(t, memory.Config{Backend: memory.NATS, Timeout: 30 * time.Second})
	w.agent("writer", func(c *runtime.Config) { c.Memory = m })
	for i := range 20 {
		require.Equal(t, task.Succeeded, w.do(w.task("writer", fmt.Sprintf("This is number %d.", i))).Status)
		require.Equal(t, task.Succeeded, w.do(w.task("writer", "What number is this?")).Status)
		calls := w.models.Calls()
		require.Contains(t, calls[len(calls)-1].Request.Prompt(), fmt.Sprintf("This is number %d.", i))
	}
}

// A model server without vectors costs a task its memory and nothing else.
func TestTaskGoesOnWithoutVectors(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		if c.API == modelserver.APIEmbeddings {
			return &modelserver.Reply{Status: 500, Text: "no"}
		}
		return taught(&modelserver.Usage{Prompt: 7, Completion: 3}).Answer(c)
	}})
	w.agent("writer", vectors(t, w))
	r := w.do(w.task("writer", "remember: nothing"))
	require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
	require.Equal(t, "done", r.Output.Inline)
	require.NotEmpty(t, r.Notes)
	require.Contains(t, r.Notes[0], "the agent's memory (vector-store) could not be read, the task went without it: ")
	require.Equal(t, len(w.models.Calls()), r.ModelCalls)
}

func TestMemoryNeedsItsTools(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{})
	_, err := runtime.New(w.config("writer", func(c *runtime.Config) {
		c.Memory = remembering(t, memory.Config{})
		c.Tools = set(t, fn{name: memory.RecallName})
	}))
	require.EqualError(t, err, `runtime: tool "recall" has the name of a tool of the agent's memory: give it another one`)
	_, err = runtime.New(w.config("writer", func(c *runtime.Config) {
		c.Memory = remembering(t, memory.Config{
			Backend: memory.VectorStore, Vector: memory.VectorConfig{Provider: memory.Qdrant, Endpoint: "127.0.0.1:1"},
			Embedding: memory.EmbeddingConfig{Model: "e-1"},
		})
	}))
	require.EqualError(t, err, "runtime: Embedder is missing, which the memory needs")
}
