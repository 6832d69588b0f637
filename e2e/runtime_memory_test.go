package e2e

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/e2e/services"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// forgetful is a model that keeps a note when it is told to, and otherwise says what it was asked.
func forgetful() modelserver.Config {
	return modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		last := c.Request.Messages[len(c.Request.Messages)-1]
		if c.API == modelserver.APIChat && last.Role == "user" && last.Content == "I dislike boats." {
			return &modelserver.Reply{Tools: []modelserver.Use{{Name: "remember", Arguments: `{"text":"no boats for this one"}`}}}
		}
		return &modelserver.Reply{Text: "echo: " + c.Request.Prompt()}
	}}
}

// What one process remembered, the next one of the same agent begins with: over ark's own queue, over Redis, and over
// PostgreSQL.
func TestProcessesShareAMemory(t *testing.T) {
	t.Parallel()
	for name, memory := range map[string]func(t *testing.T) []string{
		"nats": func(*testing.T) []string {
			return []string{"MEMORY_BACKEND=nats", `AGENT_MEMORY_NATS={"ttlSeconds":3600,"maxEntries":10}`}
		},
		"redis": func(t *testing.T) []string {
			return []string{"MEMORY_BACKEND=redis", "REDIS_URL=" + services.StartRedis(t).URL()}
		},
		"pgvector": func(t *testing.T) []string {
			return []string{
				`MEMORY_VECTOR_STORE={"provider":"pgvector","endpoint":"` + services.Database(t, true) + `","secretEnv":"STORE_PASSWORD"}`,
				"STORE_PASSWORD=" + services.PostgresSecret, `MEMORY_EMBEDDING={"model":"e-1"}`,
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, forgetful(), work.Config{})
			env := memory(t)
			first := f.pod("writer-0", env)
			require.Equal(t, task.Succeeded, f.result(f.task("I dislike boats.").ID).Status)
			first.terminate()
			<-first.done
			if name == "nats" {
				f.stopNATS() // what is remembered is on disk
				f.startNATS()
			}
			p := f.pod("writer-1", env)
			r := f.result(f.task("How do I get to Porto?").ID)
			require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
			require.Contains(t, r.Output.Inline, "no boats for this one")
			require.True(t, strings.HasSuffix(r.Output.Inline, "How do I get to Porto?"))
			require.Empty(t, r.Notes)
			s := p.state()
			require.NotNil(t, s.Memory)
			require.True(t, s.Memory.Healthy)
			require.Positive(t, s.Memory.Operations)
			calls := len(f.models.Calls())
			require.Equal(t, map[bool]int{true: 3 + 3 + 2, false: 3}[name == "pgvector"], calls)
		})
	}
}

// A store that is gone costs a task its memory and nothing else; it is seen in the result, at the probes, in the metrics
// and in the log.
func TestMemoryOutageFailsNoTask(t *testing.T) {
	t.Parallel()
	f := newFleet(t, forgetful(), work.Config{})
	redis := services.StartRedis(t)
	p := f.pod("writer-0", []string{"MEMORY_BACKEND=redis", "REDIS_URL=" + redis.URL()})
	require.Empty(t, f.result(f.task("hello").ID).Notes)
	redis.Kill()
	r := f.result(f.task("hello again").ID)
	require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
	require.Equal(t, "echo: hello again", r.Output.Inline)
	require.Len(t, r.Notes, 1)
	require.Contains(t, r.Notes[0], "the agent's memory (redis) could not be read, the task went without it: ")
	p.becomes(true)
	s := p.state()
	require.False(t, s.Memory.Healthy)
	require.Contains(t, s.Memory.Message, "connection refused")
	_, metrics := p.get("/metrics")
	require.Regexp(t, `(?m)^ark_memory_healthy\{.*ark_memory_backend="redis".*\} 0$`, metrics)
	require.Regexp(t, `(?m)^ark_memory_failures_total\{.*\} [1-9]`, metrics)
	require.Contains(t, p.log.String(), "memory does not work, tasks go on without it")
	require.NotContains(t, p.log.String()+s.Memory.Message+r.Notes[0], services.RedisSecret)

	redis.Again()
	require.Eventually(t, func() bool {
		return f.result(f.task("are you back?").ID).Status == task.Succeeded && p.state().Memory.Healthy
	}, time.Minute, 100*time.Millisecond)
}
