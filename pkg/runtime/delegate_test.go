package runtime_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/task"
)

// roles is a role table in which agents are named as their roles.
func roles(canDelegate map[string][]string) map[string]task.Role {
	table := map[string]task.Role{}
	for role, to := range canDelegate {
		table[role] = task.Role{Agent: role, CanDelegate: to}
	}
	return table
}

func delegating(tk *task.Task, table map[string]task.Role) *task.Task {
	tk.Roles, tk.CanDelegate = table, table[tk.Role].CanDelegate
	return tk
}

// byPrompt answers by the last user message; the first answer to a prompt calls tools, the next one is text.
type script struct {
	mu   sync.Mutex
	ask  map[string][]modelserver.Use
	text map[string]string
}

func (s *script) answer(c modelserver.Call) *modelserver.Reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := c.Request.Prompt()
	last := c.Request.Messages[len(c.Request.Messages)-1]
	if uses := s.ask[p]; len(uses) > 0 && last.Role == "user" {
		return &modelserver.Reply{Tools: uses}
	}
	if text, ok := s.text[p]; ok {
		return &modelserver.Reply{Text: text}
	}
	return &modelserver.Reply{Text: "got: " + last.Content}
}

func delegate(role, prompt string) modelserver.Use {
	args, _ := json.Marshal(map[string]string{"role": role, "prompt": prompt})
	return use("delegate", string(args))
}

func TestDelegateAnswers(t *testing.T) {
	t.Parallel()
	s := &script{
		ask:  map[string][]modelserver.Use{"lead this": {delegate("writer", "write"), delegate("critic", "judge")}},
		text: map[string]string{"write": "a poem", "judge": "it is fine"},
	}
	w := newWorld(t, modelserver.Config{Answer: s.answer})
	for _, name := range []string{"lead", "writer", "critic"} {
		w.agent(name, nil)
	}
	tk := delegating(w.task("lead", "lead this"), roles(map[string][]string{"lead": {"writer", "critic"}, "writer": nil, "critic": nil}))
	r := w.do(tk)
	require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
	require.Equal(t, "got: it is fine", r.Output.Inline)
	require.Equal(t, 2, r.ToolCalls)
	for i, role := range []string{"writer", "critic"} {
		child := w.result(task.ChildID(tk.ID, fmt.Sprintf("1.%d", i)))
		require.Equal(t, role+"-0", child.Pod)
	}
	require.Len(t, w.delegated(), 2)
	for _, c := range w.models.Calls() {
		if p := c.Request.Prompt(); p == "write" || p == "judge" {
			require.Empty(t, c.Request.Tools, "who may not delegate gets no tool for it")
		}
	}
}

// One agent with one place plays all roles: each task waits for the next one, which needs the place.
func TestWaitingFreesThePlace(t *testing.T) {
	t.Parallel()
	s := &script{ask: map[string][]modelserver.Use{}, text: map[string]string{"go 5": "the bottom"}}
	table := map[string]task.Role{}
	for i := range 6 {
		table[fmt.Sprintf("r%d", i)] = task.Role{Agent: "solo", CanDelegate: []string{fmt.Sprintf("r%d", i+1)}}
		s.ask[fmt.Sprintf("go %d", i)] = []modelserver.Use{delegate(fmt.Sprintf("r%d", i+1), fmt.Sprintf("go %d", i+1))}
	}
	delete(s.ask, "go 5")
	w := newWorld(t, modelserver.Config{Answer: s.answer})
	w.agent("solo", func(c *runtime.Config) { c.Limits.MaxConcurrentTasks = 1 })
	tk := w.task("solo", "go 0")
	tk.Role = "r0"
	others := []*task.Task{w.task("solo", "other 1"), w.task("solo", "other 2")}
	w.submit(delegating(tk, table))
	w.submit(others...)
	r := w.result(tk.ID)
	require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
	require.Equal(t, "got: got: got: got: got: the bottom", r.Output.Inline)
	for _, o := range others {
		require.Equal(t, task.Succeeded, w.result(o.ID).Status)
	}
}

func TestTheModelHearsOfRefusedAndFailedDelegation(t *testing.T) {
	t.Parallel()
	s := &script{ask: map[string][]modelserver.Use{"lead": {delegate("nobody", "x"), delegate("broken", "fail"), delegate("lead", "again")}}}
	w := newWorld(t, modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		if c.Request.Prompt() == "fail" {
			return &modelserver.Reply{Status: 401, Error: "bad key"}
		}
		return s.answer(c)
	}})
	w.agent("lead", nil)
	w.agent("broken", nil)
	r := w.do(delegating(w.task("lead", "lead"), roles(map[string][]string{"lead": {"broken", "lead"}, "broken": nil})))
	require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
	var told []string
	for _, m := range w.models.Calls() {
		if c := messages(m); len(c) == 6 {
			told = c[3:]
		}
	}
	require.Len(t, told, 3)
	require.Contains(t, told[0], "role", "it is not one of those allowed")
	require.Contains(t, told[1], "broken did not succeed (Failed): ProviderAuth")
	require.NotContains(t, told[2], "got:", "a role stands once in an ancestry")
}

// A lead that hands over as long as it may is stopped by depth, and one that does it often by the number of children.
func TestDelegationIsBounded(t *testing.T) {
	t.Parallel()
	many := make([]modelserver.Use, 40)
	for i := range many {
		many[i] = delegate("worker", fmt.Sprintf("piece %d", i))
	}
	s := &script{ask: map[string][]modelserver.Use{"many": many}}
	w := newWorld(t, modelserver.Config{Answer: s.answer})
	w.agent("lead", nil)
	w.agent("worker", nil)
	r := w.do(delegating(w.task("lead", "many"), roles(map[string][]string{"lead": {"worker"}, "worker": nil})))
	require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
	require.Len(t, w.delegated(), 32)
}

func TestAliasesOfDelegate(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		r := c.Request
		last := r.Messages[len(r.Messages)-1]
		switch {
		case strings.HasPrefix(r.System(), "You are lead") && last.Role == "user":
			return &modelserver.Reply{Tools: []modelserver.Use{
				use("submit_subtask", `{"role":"worker","prompt":"one"}`),
				use("spawn_and_collect", `{"tasks":[{"role":"worker","prompt":"two"},{"role":"worker","prompt":"three"}]}`),
				use("spawn_and_collect", `{"tasks":[{"role":"worker"}]}`),
			}}
		case strings.HasPrefix(r.System(), "You are lead") && len(r.Messages) == 6:
			ids, _ := json.Marshal(map[string][]string{"ids": {r.Messages[3].Content}})
			return &modelserver.Reply{Tools: []modelserver.Use{use("collect_results", string(ids))}}
		case last.Role == "tool":
			return &modelserver.Reply{Text: last.Content}
		default:
			return &modelserver.Reply{Text: "did " + r.Prompt()}
		}
	}})
	w.agent("lead", nil)
	w.agent("worker", nil)
	tk := delegating(w.task("lead", "lead"), roles(map[string][]string{"lead": {"worker"}, "worker": nil}))
	r := w.do(tk)
	require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
	id := task.ChildID(tk.ID, "1.0")
	require.JSONEq(t, `[{"id":"`+id+`","status":"Succeeded","output":"did one"}]`, r.Output.Inline)
	var spawned []string
	for _, c := range w.models.Calls() {
		if m := messages(c); len(m) == 6 {
			spawned = m[4:]
		}
	}
	require.Equal(t, []string{
		`tool: [{"id":"` + task.ChildID(tk.ID, "1.1.0") + `","role":"worker","status":"Succeeded","output":"did two"},` +
			`{"id":"` + task.ChildID(tk.ID, "1.1.1") + `","role":"worker","status":"Succeeded","output":"did three"}]`,
		`tool: [{"id":"` + task.ChildID(tk.ID, "1.2.0") + `","role":"worker","status":"Succeeded","output":"did lead"}]`,
	}, spawned)
}
