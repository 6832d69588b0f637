package mock_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/mock"
	"arkonis.dev/ark/pkg/task"
)

func ask(prompt string) llm.Request {
	return llm.Request{
		Model: "mock", Agent: "writer", MaxTokens: 1000, Key: "t-1",
		Messages: []llm.Message{{Role: llm.RoleSystem, Text: "be brief"}, {Role: llm.RoleUser, Text: prompt}},
	}
}

func scripted(t *testing.T, src string) *mock.Provider {
	t.Helper()
	s, err := mock.ParseScript("script.yaml", []byte(src))
	require.NoError(t, err)
	return mock.New(s)
}

// text makes a call and returns what it said.
func text(t *testing.T, p *mock.Provider, req llm.Request) string {
	t.Helper()
	res, err := p.Chat(t.Context(), req, nil)
	require.NoError(t, err)
	return res.Message.Text
}

func TestEcho(t *testing.T) {
	t.Parallel()
	p := mock.New(mock.Script{})
	require.Equal(t, "mock", p.Name())
	var chunks []string
	res, err := p.Chat(t.Context(), ask("Write about the sea"), func(c llm.Chunk) { chunks = append(chunks, c.Text) })
	require.NoError(t, err)
	require.Equal(t, &llm.Response{
		Message: llm.Message{Role: llm.RoleAssistant, Text: "echo from writer: Write about the sea"},
		Usage:   task.Usage{InputTokens: 2 + 5, OutputTokens: 10},
		Finish:  llm.FinishStop,
		Model:   "mock",
	}, res)
	require.Equal(t, []string{"echo from writer", ": Write about th", "e sea"}, chunks)

	long := text(t, p, ask(strings.Repeat("é", 1000)))
	require.Equal(t, "echo from writer: "+strings.Repeat("é", 256)+"...", long)
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	p := mock.New(mock.Script{})
	for purpose, want := range map[string]string{"judge": "VALID", "probe": "HEALTHY", "route": "echo from writer: hello", "step": "echo from writer: hello"} {
		req := ask("hello")
		req.Purpose = purpose
		require.Equal(t, want, text(t, p, req))
	}
	req := ask("hello")
	req.Schema = json.RawMessage(`{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}`)
	require.JSONEq(t, `{"a":""}`, text(t, p, req))

	req.Schema = json.RawMessage(`{"type":`)
	_, err := p.Chat(t.Context(), req, nil)
	var e *llm.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, task.CodeProviderRefused, e.Code)
	require.True(t, strings.HasPrefix(e.Message, "mock model cannot find an answer that fits the schema: "), e.Message)
}

func TestRoute(t *testing.T) {
	t.Parallel()
	caps := []task.Capability{
		{ID: "billing", Description: "Invoices, payments and refunds", Tags: []string{"money"}},
		{ID: "tech-support", Description: "Errors and crashes of the product", Tags: []string{"bug", "login"}},
		{ID: "other"},
	}
	list := "Choose one.\n- billing: Invoices, payments and refunds (money)\n- tech-support: Errors and crashes of the product (bug, login)\n- other\nRequest: "
	for prompt, want := range map[string]string{
		"I want a refund for my invoice":      "billing",
		"the product crashes after the login": "tech-support",
		"Where is my MONEY?":                  "billing",
		"nothing that anyone knows":           "billing",
		"none of the other things":            "other",
	} {
		for _, p := range []string{prompt, list + prompt} {
			req := ask(p)
			req.Purpose, req.Capabilities = "route", caps
			require.Equal(t, want, text(t, mock.New(mock.Script{}), req), p)
		}
	}
}

func TestAnswerIsCutAtTheLimit(t *testing.T) {
	t.Parallel()
	req := ask("hello")
	req.MaxTokens = 2
	res, err := mock.New(mock.Script{}).Chat(t.Context(), req, nil)
	require.NoError(t, err)
	require.Equal(t, "echo fro", res.Message.Text)
	require.Equal(t, llm.FinishLength, res.Finish)
	require.Equal(t, int64(2), res.Usage.OutputTokens)
}

// What the mock uses without a script for it is never more than what is reserved for the call.
func TestUsageIsWithinTheReservation(t *testing.T) {
	t.Parallel()
	p := scripted(t, "replies: [{answer: a long answer, reasoning: for long reasons, toolCalls: [{name: f, arguments: {a: 1}}, {name: g}]}]")
	for limit := int64(1); limit < 20; limit++ {
		req := ask("hello")
		req.MaxTokens = limit
		res, err := p.Chat(t.Context(), req, nil)
		require.NoError(t, err)
		require.LessOrEqual(t, res.Usage.OutputTokens, limit)
		require.LessOrEqual(t, res.Usage.ReasoningTokens, res.Usage.OutputTokens)
		require.LessOrEqual(t, res.Usage.InputTokens, llm.InputBound(req))
	}
}

func TestMatching(t *testing.T) {
	t.Parallel()
	p := scripted(t, `
replies:
  - {match: {agent: reader}, answer: agent}
  - {match: {model: mock-2}, answer: model}
  - {match: {purpose: judge}, answer: "INVALID: too short"}
  - {match: {prompt: "(?i)TIDES"}, answer: prompt}
  - {match: {system: verbose}, answer: system}
  - {match: {tool: "^err"}, answer: tool}
  - {match: {turn: 2}, answer: turn}
  - {match: {call: 1}, answer: call}
  - {times: 2, answer: twice}
  - {answer: {rest: [1, two, null]}}
`)
	change := func(f func(*llm.Request)) llm.Request {
		req := ask("hello")
		f(&req)
		return req
	}
	for _, c := range []struct {
		req  llm.Request
		want string
	}{
		{ask("hello"), "call"},
		{change(func(r *llm.Request) { r.Agent = "reader" }), "agent"},
		{change(func(r *llm.Request) { r.Model = "mock-2" }), "model"},
		{change(func(r *llm.Request) { r.Purpose = "judge" }), "INVALID: too short"},
		{ask("about tides"), "prompt"},
		{change(func(r *llm.Request) { r.Messages[0].Text = "be verbose" }), "system"},
		{change(func(r *llm.Request) {
			r.Messages = append(r.Messages, llm.Message{Role: llm.RoleAssistant}, llm.Message{Role: llm.RoleTool, Text: "error"})
		}), "tool"},
		{change(func(r *llm.Request) {
			r.Messages = append(r.Messages, llm.Message{Role: llm.RoleAssistant}, llm.Message{Role: llm.RoleTool, Text: "fine"})
		}), "turn"},
		{change(func(r *llm.Request) {
			r.Messages = append(r.Messages, llm.Message{Role: llm.RoleTool, Text: "error"}, llm.Message{Role: llm.RoleUser, Text: "again"})
		}), "twice"},
		{ask("hello"), "twice"},
		{ask("hello"), `{"rest":[1,"two",null]}`},
		{change(func(r *llm.Request) { r.Agent = "another" }), "call"},
	} {
		require.Equal(t, c.want, text(t, p, c.req))
	}
}

func TestReply(t *testing.T) {
	t.Parallel()
	p := scripted(t, `
replies:
  - match: {turn: 1}
    reasoning: because
    chunks: [Let me, " see."]
    toolCalls:
      - {name: weather, arguments: {city: Lisbon}}
      - {name: weather, arguments: "{cut", id: mine}
      - name: time
    usage: {inputTokens: 10, outputTokens: 500000, cachedTokens: 2, reasoningTokens: 1}
  - finish: length
    answer: ""
`)
	var heard []llm.Chunk
	res, err := p.Chat(t.Context(), ask("hello"), func(c llm.Chunk) { heard = append(heard, c) })
	require.NoError(t, err)
	calls := res.Message.ToolCalls
	require.Len(t, calls, 3)
	require.Equal(t, &llm.Response{
		Message: llm.Message{
			Role: llm.RoleAssistant, Text: "Let me see.", Reasoning: "because",
			ToolCalls: []llm.ToolCall{
				{ID: calls[0].ID, Name: "weather", Arguments: `{"city":"Lisbon"}`},
				{ID: "mine", Name: "weather", Arguments: "{cut"},
				{ID: calls[2].ID, Name: "time", Arguments: "{}"},
			},
		},
		Usage:  task.Usage{InputTokens: 10, OutputTokens: 500000, CachedTokens: 2, ReasoningTokens: 1},
		Finish: llm.FinishToolCalls, Model: "mock",
	}, res)
	require.Equal(t, []llm.Chunk{{Reasoning: "because"}, {Text: "Let me"}, {Text: " see."}}, heard)
	require.NotEqual(t, calls[0].ID, calls[2].ID)

	again, err := p.Chat(t.Context(), ask("hello"), nil)
	require.NoError(t, err)
	require.Equal(t, res, again, "the same call gives the same ids")

	req := ask("hello")
	req.Messages = append(req.Messages, res.Message)
	res, err = p.Chat(t.Context(), req, nil)
	require.NoError(t, err)
	require.Equal(t, llm.Message{Role: llm.RoleAssistant}, res.Message)
	require.Equal(t, llm.FinishLength, res.Finish)
}

func TestFailures(t *testing.T) {
	t.Parallel()
	p := scripted(t, `
replies:
  - {times: 1, error: {code: RateLimited, message: busy, status: 429, retryAfter: 1500ms}}
  - {times: 1, error: {code: ProviderFailed, retry: false, unknown: true}, chunks: [half an]}
  - {times: 1, error: {code: ProviderAuth}}
`)
	var half string
	for _, want := range []llm.Error{
		{Code: task.CodeRateLimited, Message: `mock model answered: "busy"`, Status: 429, Retry: true, RetryAfter: 1500 * time.Millisecond},
		{Code: task.CodeProviderFailed, Message: "mock model failed as its script says", Unknown: true},
		{Code: task.CodeProviderAuth, Message: "mock model failed as its script says"},
	} {
		res, err := p.Chat(t.Context(), ask("hello"), func(c llm.Chunk) { half += c.Text })
		require.Nil(t, res)
		var e *llm.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, want, *e)
	}
	require.Equal(t, "half an", half)
	require.Equal(t, "echo from writer: hello", text(t, p, ask("hello")))
}

func TestContextEndsADelay(t *testing.T) {
	t.Parallel()
	p := scripted(t, "replies: [{delay: 1h}]")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	_, err := p.Chat(ctx, ask("hello"), nil)
	var e *llm.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, task.CodeTimeout, e.Code)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	stopped, stop := context.WithCancel(t.Context())
	stop()
	_, err = p.Chat(stopped, ask("hello"), nil)
	require.ErrorAs(t, err, &e)
	require.Equal(t, task.CodeCancelled, e.Code)
	require.False(t, e.Unknown)
}

// What a reply may be used for at most holds for parallel calls as well.
func TestTimesInParallel(t *testing.T) {
	t.Parallel()
	p := scripted(t, "replies: [{times: 7, answer: first}]")
	var wg sync.WaitGroup
	var mu sync.Mutex
	n := map[string]int{}
	for range 50 {
		wg.Go(func() {
			res, err := p.Chat(t.Context(), ask("hello"), nil)
			if err == nil {
				mu.Lock()
				n[res.Message.Text]++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	require.Equal(t, map[string]int{"first": 7, "echo from writer: hello": 43}, n)
}

// The example in the package's doc is a script that parses.
func TestDocIsAScript(t *testing.T) {
	t.Parallel()
	src, err := os.ReadFile("mock.go")
	require.NoError(t, err)
	_, doc, _ := strings.Cut(string(src), "//\treplies:")
	doc, _, _ = strings.Cut(doc, "\n//\n")
	doc = "replies:" + strings.ReplaceAll(doc, "\n//\t", "\n")
	// The example shows every field, also those that exclude each other.
	for _, s := range []string{`    answer: some text`, `    toolCalls:`, `      - name: get_weather`, `        arguments: {city`} {
		var keep []string
		for line := range strings.Lines(doc) {
			if !strings.HasPrefix(line, s) {
				keep = append(keep, line)
			}
		}
		doc = strings.Join(keep, "")
	}
	_, err = mock.ParseScript("doc", []byte(doc))
	require.NoError(t, err)
}

func TestScriptErrors(t *testing.T) {
	t.Parallel()
	for src, want := range map[string]string{
		"":                       "s.yaml:1: the script is empty: want replies: and a list",
		"# nothing":              "s.yaml:1: the script is empty: want replies: and a list",
		"replies: []":            "s.yaml:1: the script holds no replies: want replies: and a list",
		"- answer: x":            `s.yaml:1: "" is a list where a mapping is wanted`,
		"replies: yes please":    `s.yaml:1: "yes please" is a text where a list is wanted`,
		"replies:\n  - answr: x": `s.yaml:2: unknown field "answr"`,
		"replies:\n  - answer: x\n    times: often\n    match: {agnt: x}": `s.yaml:3: "often" is a text where a whole number is wanted` + "\n" + `s.yaml:4: unknown field "agnt"`,
		"replies:\n  - answer: x\n    delay: soon":                        `s.yaml:3: "soon" is a text where a duration such as 100ms is wanted`,
		"replies:\n  - answer: x\n    match:\n      prompt: '('":          "s.yaml:4: error parsing regexp: missing closing ): `(`",
		"replies:\n  - answer: x\n    match: {prompt: [a]}":               "s.yaml:3: want a regular expression",
		"replies:\n  - answer: x\n---\nreplies: []":                       "s.yaml:1: the script holds more than one document: put all replies into one list",
		"replies:\n  - answer: x\n  -\n    times: 1":                      "s.yaml:4: the reply does nothing: give an answer, chunks, toolCalls, an error, a delay or a usage",
		"replies:\n  - {answer: x, times: -1}":                            "s.yaml:2: times is -1: want 1 or more",
		"replies:\n  - {answer: x, match: {purpose: cook}}":               `s.yaml:2: match.purpose "cook": want one of step, judge, route, probe`,
		"replies:\n  - {answer: x, finish: now}":                          `s.yaml:2: finish "now": want one of stop, length, tool_calls`,
		"replies:\n  - {answer: x, delay: -1s}":                           "s.yaml:2: a delay cannot be negative",
		"replies:\n  - {answer: x, chunks: [y]}":                          "s.yaml:2: answer and chunks: give one; the chunks together are the answer",
		"replies:\n  - {toolCalls: [{arguments: {}}]}":                    "s.yaml:2: toolCalls[0] has no name",
		"replies:\n  - {usage: {inputTokens: -1}}":                        "s.yaml:2: usage cannot be negative",
		"replies:\n  - {answer: x, error: {code: RateLimited}}":           "s.yaml:2: error with an answer or tool calls: a call that fails answers nothing; chunks may come before it",
		"replies:\n  - {error: {code: Oops}}":                             `s.yaml:2: error.code "Oops": want one of ContentFiltered, ContextTooLong, ProviderAuth, ProviderFailed, ProviderRefused, RateLimited, Timeout`,
		"replies:\n  - {error: {code: Timeout, retryAfter: -1s}}":         "s.yaml:2: error.retryAfter cannot be negative",
		"replies: [\n":                     "s.yaml:1: did not find expected node content",
		"replies:\n  - answer: {1: x}":     "s.yaml:2: cannot be written as JSON: json: unsupported type: map[interface {}]interface {}",
		"a: " + strings.Repeat("x", 1<<20): "s.yaml:1: the script is larger than 1 MiB",
	} {
		_, err := mock.ParseScript("s.yaml", []byte(src))
		var e *mock.ScriptError
		require.True(t, errors.As(err, &e), "%.100q", src)
		require.Equal(t, want, err.Error(), "%.100q", src)
	}
}

func FuzzParseScript(f *testing.F) {
	f.Add([]byte("replies:\n  - match: {agent: a, prompt: b}\n    answer: {c: [1]}\n    toolCalls: [{name: d, arguments: e}]\n"))
	f.Add([]byte("replies:\n  - error: {code: RateLimited, retryAfter: 1s}\n  - &a {answer: x}\n  - *a\n"))
	f.Add([]byte("replies: [{answer: !!binary aGk=}, {answer: 2001-01-01}]"))
	f.Fuzz(func(t *testing.T, src []byte) {
		s, err := mock.ParseScript("s.yaml", src)
		if err != nil {
			var e *mock.ScriptError
			require.ErrorAs(t, err, &e)
			require.NotEmpty(t, e.Problems)
			for _, p := range e.Problems {
				require.Regexp(t, `^s\.yaml:[1-9][0-9]*: .`, p)
			}
			return
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // so that no delay holds the fuzzer up
		_, _ = mock.New(s).Chat(ctx, ask("hello"), nil)
	})
}
