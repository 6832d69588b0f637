package runtime_test

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/prompt"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/tools"
)

func reply(r modelserver.Reply) []modelserver.Rule { return []modelserver.Rule{{Reply: r}} }

func use(name, args string) modelserver.Use { return modelserver.Use{Name: name, Arguments: args} }

func TestPromptBecomesAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{Rules: reply(modelserver.Reply{
		Text: "42", Usage: &modelserver.Usage{Prompt: 7, Completion: 2, Cached: 3},
	})})
	w.agent("writer", nil)
	tk := w.task("writer", "What is six times seven?")
	r := w.do(tk)

	require.Equal(t, task.Result{
		Version: task.Version, TaskID: tk.ID, Status: task.Succeeded, Output: task.Text{Inline: "42"}, ModelCalls: 1, Pod: "writer-0",
	}, facts(r))
	require.Equal(t, task.Usage{InputTokens: 7, OutputTokens: 2, CachedTokens: 3}, r.Usage)
	calls := w.models.Calls()
	require.Len(t, calls, 1)
	require.Equal(t, []string{
		"system: You are writer.\n\n" + prompt.Note,
		"user: What is six times seven?",
	}, messages(calls[0]))
	require.Equal(t, tk.ID+"-1", calls[0].Key)
	require.Empty(t, calls[0].Request.Tools)
}

func TestJudgesAndRoutersSeeNeitherSystemPromptNorTools(t *testing.T) {
	t.Parallel()
	for _, kind := range []task.Kind{task.KindJudge, task.KindRoute} {
		w := newWorld(t, modelserver.Config{Rules: reply(modelserver.Reply{Text: "VALID"})})
		w.agent("judge", func(c *runtime.Config) {
			c.Tools = set(t, fn{name: "look", call: func(context.Context, tools.Call) (tools.Result, error) { return tools.Result{}, nil }})
		})
		tk := w.task("judge", "Is it?")
		tk.Kind, tk.Model, tk.CanDelegate = kind, "semantic-model", []string{"x"}
		require.Equal(t, "VALID", w.do(tk).Output.Inline)
		call := w.models.Calls()[0]
		require.Equal(t, []string{"user: Is it?"}, messages(call))
		require.Empty(t, call.Request.Tools)
		require.Equal(t, "semantic-model", call.Request.Model)
	}
}

func TestUnknownKindIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{})
	w.agent("writer", nil)
	tk := w.task("writer", "x")
	tk.Kind = "dance"
	r := w.do(tk)
	require.Equal(t, task.CodeBadTask, r.Error.Code)
	require.Empty(t, w.models.Calls())
}

// Each of the tools ends only once all have begun.
func TestToolCallsOfOneTurnOverlap(t *testing.T) {
	t.Parallel()
	const n = 5
	uses := make([]modelserver.Use, n)
	for i := range uses {
		uses[i] = use("meet", `{"n":`+string(rune('0'+i))+`}`)
	}
	w := newWorld(t, modelserver.Config{Rules: []modelserver.Rule{
		{When: modelserver.When{Call: 1}, Reply: modelserver.Reply{Tools: uses}},
		{Reply: modelserver.Reply{Text: "all met"}},
	}})
	var together sync.WaitGroup
	together.Add(n)
	w.agent("host", func(c *runtime.Config) {
		c.Tools = set(t, fn{name: "meet", call: func(_ context.Context, c tools.Call) (tools.Result, error) {
			together.Done()
			together.Wait()
			return tools.Result{Text: c.ID + string(c.Args)}, nil
		}})
	})
	r := w.do(w.task("host", "meet"))
	require.Equal(t, "all met", r.Output.Inline)
	require.Equal(t, 2, r.ModelCalls)
	require.Equal(t, n, r.ToolCalls)
	require.Equal(t, []string{
		`assistant:  -> meet{"n":0} -> meet{"n":1} -> meet{"n":2} -> meet{"n":3} -> meet{"n":4}`,
		`tool: 1.0{"n":0}`, `tool: 1.1{"n":1}`, `tool: 1.2{"n":2}`, `tool: 1.3{"n":3}`, `tool: 1.4{"n":4}`,
	}, messages(w.models.Calls()[1])[2:])
}

func TestTheModelIsToldOfItsMistakes(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{Rules: []modelserver.Rule{
		{When: modelserver.When{Call: 1}, Reply: modelserver.Reply{Tools: []modelserver.Use{
			use("nope", `{}`), use("add", `{"a":"one"}`), use("add", `{"a":`), use("boom", `{}`),
		}}},
		{Reply: modelserver.Reply{Text: "sorry"}},
	}})
	w.agent("adder", func(c *runtime.Config) {
		c.Tools = set(t,
			fn{name: "add", schema: `{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}`},
			fn{name: "boom", call: func(context.Context, tools.Call) (tools.Result, error) { panic("boom") }},
		)
	})
	r := w.do(w.task("adder", "add"))
	require.Equal(t, "sorry", r.Output.Inline)
	told := messages(w.models.Calls()[1])[3:]
	require.Len(t, told, 4)
	require.Contains(t, told[0], `there is no tool "nope"`)
	require.Contains(t, told[1], "the arguments of add do not fit its schema")
	require.Contains(t, told[2], "the arguments of add are not valid JSON")
	require.Contains(t, told[3], "boom failed internally; whether the call was carried out is unknown")
}

func TestEndlessToolLoopEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{Rules: reply(modelserver.Reply{Text: "still looking", Tools: []modelserver.Use{use("look", `{}`)}})})
	w.agent("seeker", func(c *runtime.Config) {
		c.Limits.MaxTurns = 3
		c.Tools = set(t, fn{name: "look", call: func(context.Context, tools.Call) (tools.Result, error) { return tools.Result{Text: "nothing"}, nil }})
	})
	r := w.do(w.task("seeker", "seek"))
	require.Equal(t, task.Failed, r.Status)
	require.Equal(t, task.CodeMaxTurns, r.Error.Code)
	require.Equal(t, "still looking", r.Output.Inline)
	require.Equal(t, 3, r.ModelCalls)
	require.Len(t, w.models.Calls(), 3)
}

func TestCutAnswerIsNoAnswer(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{Rules: reply(modelserver.Reply{Text: "half a", Finish: "length"})})
	w.agent("writer", nil)
	r := w.do(w.task("writer", "x"))
	require.Equal(t, task.CodeTruncated, r.Error.Code)
	require.Equal(t, "half a", r.Output.Inline)
}

func TestTimeKeepsThePartialAnswer(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(tk *task.Task, seconds int)
		code   task.Code
	}{
		"the task's own time": {func(tk *task.Task, seconds int) { tk.TimeoutSeconds = int64(seconds) }, task.CodeTimeout},
		"the run's deadline": {func(tk *task.Task, seconds int) {
			tk.Deadline = time.Now().Add(time.Duration(seconds) * time.Second)
		}, task.CodeDeadline},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, modelserver.Config{Rules: reply(modelserver.Reply{
				Text: strings.Repeat("once upon a time ", 50), ChunkSize: 16, Fault: modelserver.FaultHang, After: 3000,
			})})
			w.agent("writer", nil)
			r := patiently(func(r *task.Result) bool { return r.Output.Inline != "" }, func(seconds int) *task.Result {
				tk := w.task("writer", "x")
				c.change(tk, seconds)
				r := w.do(tk)
				require.Equal(t, c.code, r.Error.Code)
				return r
			})
			require.True(t, strings.HasPrefix(r.Output.Inline, "once upon"), r.Output.Inline)
		})
	}
}

func TestProviderErrorsAreTriedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{Rules: []modelserver.Rule{
		{When: modelserver.When{Call: 1}, Reply: modelserver.Reply{Status: 429, RetryAfter: "31536000", Error: "slow down"}},
		{When: modelserver.When{Call: 2}, Reply: modelserver.Reply{Status: 503, Error: "overloaded"}},
		{When: modelserver.When{Call: 3}, Reply: modelserver.Reply{Text: "half", Fault: modelserver.FaultCut, After: 200}},
		{Reply: modelserver.Reply{Text: "here", Usage: &modelserver.Usage{Prompt: 5, Completion: 1}}},
	}})
	w.agent("writer", nil)
	tk := w.task("writer", "x")
	r := w.do(tk)
	require.Equal(t, "here", r.Output.Inline)
	require.Equal(t, 4, r.ModelCalls)
	require.Positive(t, r.Usage.UnknownTokens, "they are charged in full")
	require.Equal(t, task.Usage{InputTokens: 5, OutputTokens: 1, UnknownCalls: 2, UnknownTokens: r.Usage.UnknownTokens}, r.Usage,
		"nobody knows what the 503 and the cut stream cost")
	var keys []string
	for _, c := range w.models.Calls() {
		keys = append(keys, strings.TrimPrefix(c.Key, tk.ID))
	}
	require.Equal(t, []string{"-1", "-2", "-3", "-4"}, keys)
}

func TestProviderErrorsEnd(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		reply modelserver.Reply
		code  task.Code
		calls int // 0: any
	}{
		"key refused":      {modelserver.Reply{Status: 401, Error: "bad key"}, task.CodeProviderAuth, 1},
		"request refused":  {modelserver.Reply{Status: 422, Error: "bad request"}, task.CodeProviderRefused, 1},
		"slow down for ev": {modelserver.Reply{Status: 429, Error: "slow down"}, task.CodeRateLimited, 0},
		"always broken":    {modelserver.Reply{Status: 500, Error: "oops"}, task.CodeProviderFailed, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			enough := func(r *task.Result) bool {
				return r.Error.Code == c.code && (r.ModelCalls > 3 || r.ModelCalls == c.calls)
			}
			r := patiently(enough, func(seconds int) *task.Result {
				w := newWorld(t, modelserver.Config{Rules: reply(c.reply)})
				w.agent("writer", func(c *runtime.Config) {
					c.Backoff = runtime.Backoff{Base: 50 * time.Millisecond, Max: 200 * time.Millisecond}
				})
				tk := w.task("writer", "x")
				tk.TimeoutSeconds = int64(seconds)
				r := w.do(tk)
				require.Equal(t, len(w.models.Calls()), r.ModelCalls)
				require.Less(t, r.ModelCalls, 30*seconds)
				return r
			})
			require.Equal(t, c.code, r.Error.Code, r.Error.Message)
			if c.calls > 0 {
				require.Equal(t, c.calls, r.ModelCalls)
			} else {
				require.Greater(t, r.ModelCalls, 3)
			}
		})
	}
}

func TestRefusedFeatureIsLeftOutAtOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{Refuse: []string{"response_format"}, Rules: reply(modelserver.Reply{Text: `{"n":1}`})})
	w.agent("writer", func(c *runtime.Config) { c.Backoff = runtime.Backoff{Base: time.Hour, Max: time.Hour} })
	tk := w.task("writer", "x")
	tk.OutputSchema = json.RawMessage(`{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"],"additionalProperties":false}`)
	r := w.do(tk)
	require.Equal(t, `{"n":1}`, r.Output.Inline)
	require.Len(t, r.Notes, 1)
	require.Contains(t, r.Notes[0], "response_format")
	calls := w.models.Calls()
	require.Len(t, calls, 2)
	require.NotEmpty(t, calls[0].Request.ResponseFormat)
	require.Empty(t, calls[1].Request.ResponseFormat)
	require.Contains(t, calls[1].Request.System(), `"additionalProperties":false`)
}

func TestCancelStopsATask(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{Rules: reply(modelserver.Reply{Delay: 10 * patience})})
	w.agent("writer", nil)
	tk := w.task("writer", "x")
	w.submit(tk)
	_, err := w.models.WaitIn(t.Context(), 1)
	require.NoError(t, err)

	key := queue.KeyOf(tk)
	stored := &task.Result{Version: task.Version, TaskID: tk.ID, Status: task.Cancelled, Error: task.Errorf(task.CodeCancelled, "by hand")}
	won, err := w.queue.PublishResult(t.Context(), key, stored)
	require.NoError(t, err)
	require.True(t, won)
	require.NoError(t, w.queue.HintCancel(key, "by hand"))
	soon, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, err = w.models.Wait(soon, 1) // the call is broken off
	require.NoError(t, err)
	w.gone(tk)
	require.Equal(t, stored, w.result(tk.ID))
}

func TestWithdrawnTaskIsAcknowledged(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{})
	tk := w.task("writer", "x")
	w.submit(tk)
	_, err := w.queue.PublishResult(t.Context(), queue.KeyOf(tk), &task.Result{
		Version: task.Version, TaskID: tk.ID, Status: task.Cancelled, Error: task.Errorf(task.CodeCancelled, "too late"),
	})
	require.NoError(t, err)
	w.agent("writer", nil)
	w.gone(tk)
	require.Empty(t, w.models.Calls())
}

func TestNoMoreTasksAtOnceThanAllowed(t *testing.T) {
	t.Parallel()
	const slots, n = 3, 12
	var mu sync.Mutex
	running, most := 0, 0
	full := make(chan struct{})
	w := newWorld(t, modelserver.Config{Rules: []modelserver.Rule{
		{When: modelserver.When{Tool: modelserver.Match("worked")}, Reply: modelserver.Reply{Text: "done"}},
		{Reply: modelserver.Reply{Tools: []modelserver.Use{use("work", `{}`)}}},
	}})
	w.agent("writer", func(c *runtime.Config) {
		c.Limits.MaxConcurrentTasks = slots
		c.Tools = set(t, fn{name: "work", call: func(context.Context, tools.Call) (tools.Result, error) {
			mu.Lock()
			running++
			if most = max(most, running); running == slots {
				select {
				case <-full:
				default:
					close(full)
				}
			}
			mu.Unlock()
			<-full
			mu.Lock()
			running--
			mu.Unlock()
			return tools.Result{Text: "worked"}, nil
		}})
	})
	all := make([]*task.Task, n)
	for i := range all {
		all[i] = w.task("writer", "x")
	}
	w.submit(all...)
	for _, tk := range all {
		require.Equal(t, "done", w.result(tk.ID).Output.Inline)
	}
	require.Equal(t, slots, most)
}

func TestChunksAndProgressAreTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t, modelserver.Config{Rules: []modelserver.Rule{
		{When: modelserver.When{Call: 1}, Reply: modelserver.Reply{Tools: []modelserver.Use{use("look", `{}`)}}},
		{Reply: modelserver.Reply{Text: "a streamed answer", ChunkSize: 4}},
	}})
	var mu sync.Mutex
	var streamed strings.Builder
	var events []string
	whole, told := make(chan struct{}), make(chan struct{})
	stopChunks, err := w.queue.WatchChunks(runUID, func(_ queue.Key, c queue.Chunk) {
		mu.Lock()
		defer mu.Unlock()
		if streamed.WriteString(c.Text); streamed.Len() == len("a streamed answer") {
			close(whole)
		}
	})
	require.NoError(t, err)
	defer stopChunks()
	stopProgress, err := w.queue.WatchProgress(runUID, func(_ queue.Key, p queue.Progress) {
		mu.Lock()
		defer mu.Unlock()
		if events = append(events, p.Event+" "+p.Tool); len(events) == 5 {
			close(told)
		}
	})
	require.NoError(t, err)
	defer stopProgress()
	w.agent("writer", func(c *runtime.Config) {
		c.Tools = set(t, fn{name: "look", call: func(context.Context, tools.Call) (tools.Result, error) { return tools.Result{Text: "seen"}, nil }})
	})
	w.do(w.task("writer", "x"))
	receive(t, whole)
	receive(t, told)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, "a streamed answer", streamed.String())
	require.Equal(t, []string{"started ", "call ", "tool look", "toolDone look", "call "}, events)
}
