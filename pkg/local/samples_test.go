package local_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/local"
)

const samples = "../../deploy/samples"

// sample is a run of a sample with its mock script.
func sample(t *testing.T, name string, input map[string]any) local.Options {
	t.Helper()
	script, err := os.ReadFile(filepath.Join(samples, "mock", name))
	require.NoError(t, err)
	return local.Options{
		Manifests: loadFile(t, filepath.Join(samples, name)), Input: input, MockScript: script, MockScriptName: name, Getenv: none,
	}
}

func succeed(t *testing.T, o local.Options) *local.Report {
	t.Helper()
	var progress buffer
	o.Progress = &progress
	r, err := local.Run(t.Context(), o)
	require.NoError(t, err, progress.String())
	require.Equal(t, v1alpha1.RunSucceeded, r.Status)
	return r
}

// brief is a step in a few words.
func brief(r *local.Report) (out []string) {
	for _, s := range r.Steps {
		out = append(out, s.Name+" "+string(s.Status))
	}
	return out
}

func TestSampleLinear(t *testing.T) {
	t.Parallel()
	r := succeed(t, sample(t, "linear.yaml", map[string]any{"topic": "tides"}))
	require.Equal(t, []string{"researcher Succeeded", "writer Succeeded", "editor Succeeded"}, brief(r))
	require.Contains(t, r.Output, "Twice a day the moon lifts the oceans")
	sum := int64(0)
	for _, s := range r.Steps {
		sum += s.Tokens
	}
	require.Equal(t, r.Tokens.Total, sum)
}

func TestSampleParallel(t *testing.T) {
	t.Parallel()
	r := succeed(t, sample(t, "parallel.yaml", map[string]any{"plan": "Move the database."}))
	require.Equal(t, []string{"cost Succeeded", "operations Succeeded", "security Succeeded", "chair Succeeded"}, brief(r))
	require.Contains(t, r.Output, "Approved")
}

func TestSampleDynamic(t *testing.T) {
	t.Parallel()
	r := succeed(t, sample(t, "dynamic.yaml", map[string]any{"prompt": "Should we cache this page?"}))
	require.ElementsMatch(t, []string{"lead Succeeded", "lead/analyst-1 Succeeded", "lead/engineer-1 Succeeded"}, brief(r))
	require.Equal(t, "lead", r.Steps[1].Parent)
	require.Contains(t, r.Output, "Yes.")
}

func TestSampleLoop(t *testing.T) {
	t.Parallel()
	r := succeed(t, sample(t, "loop.yaml", map[string]any{"language": "French"}))
	require.Equal(t, []string{"draft Succeeded", "translator Succeeded"}, brief(r))
	require.Contains(t, r.Output, "La mer")
	r = succeed(t, sample(t, "loop.yaml", nil))
	require.Equal(t, []string{"draft Succeeded", "translator Skipped"}, brief(r))
	require.Contains(t, r.Output, "The sea keeps every step I take")
}

func TestSampleRouted(t *testing.T) {
	t.Parallel()
	r := succeed(t, sample(t, "routed.yaml", map[string]any{"prompt": "Why was I charged twice?"}))
	require.Equal(t, "billing", r.Steps[0].Agent)
	r = succeed(t, sample(t, "routed.yaml", map[string]any{"prompt": "The program crash shows an error"}))
	require.Equal(t, "support", r.Steps[0].Agent)
}

func TestSampleWebhookTool(t *testing.T) {
	t.Parallel()
	cities := make(chan string, 1)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		cities <- r.Method + " " + r.URL.Query().Get("city")
		_, _ = w.Write([]byte(`{"celsius": 21}`))
	}))
	t.Cleanup(web.Close)
	o := sample(t, "webhook-tool.yaml", map[string]any{"city": "Lisbon"})
	tool := &o.Manifests.Teams[0].Spec.Roles[0].Tools[0]
	tool.URL = strings.Replace(tool.URL, "http://127.0.0.1:8099", web.URL, 1)
	r := succeed(t, o)
	require.Equal(t, "GET Lisbon", <-cities)
	require.EqualValues(t, 1, r.Steps[0].ToolCalls)
}

// The second step begins with what the first one remembered, and so does the next run on the same store.
func TestSampleMemory(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	first := sample(t, "memory.yaml", map[string]any{"to": "Porto"})
	first.Store = store
	r := succeed(t, first)
	require.Equal(t, "Take the train, and no boats.", r.Output)
	require.EqualValues(t, 1, r.Steps[0].ToolCalls)

	second := sample(t, "memory.yaml", map[string]any{"to": "Faro", "says": "Hello."})
	second.Store = store
	second.MockScript = []byte(strings.Replace(string(second.MockScript), "turn: 1}\n    toolCalls:", "turn: 9}\n    toolCalls:", 1))
	r = succeed(t, second)
	require.Zero(t, r.Steps[0].ToolCalls, "nothing is remembered in this run")
	require.Equal(t, "Take the train, and no boats.", r.Output)

	elsewhere := sample(t, "memory.yaml", map[string]any{"to": "Faro", "says": "Hello."})
	elsewhere.MockScript = second.MockScript
	require.Equal(t, "Take the ferry.", succeed(t, elsewhere).Output)
}

const tooled = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: clerk}
spec:
  model: gpt-test
  systemPrompt: You look things up.
  tools:
  - name: lookup
    url: URL
    headers: [{name: X-Key, secretKeyRef: {name: keys, key: lookup}}]
    inputSchema: '{"type": "object", "required": ["id"], "properties": {"id": {"type": "integer"}}}'
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {lookup: s3cret}
`

// A single agent against a streaming server: a wrong call is told to the model, the right one reaches the tool with
// its secret header, and its result reaches the model. The secret reaches nobody else.
func TestAgentWithToolOverHTTP(t *testing.T) {
	t.Parallel()
	var got []string
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = append(got, r.Method+" "+r.Header.Get("X-Key"))
		_, _ = w.Write([]byte("the answer is 42"))
	}))
	t.Cleanup(web.Close)
	model, env := server(t, modelserver.Config{Rules: []modelserver.Rule{
		{When: modelserver.When{Call: 1}, Reply: modelserver.Reply{Tools: []modelserver.Use{{ID: "a", Name: "lookup", Arguments: `{"id": "x"}`}, {ID: "b", Name: "nothing", Arguments: `{}`}}}},
		{When: modelserver.When{Call: 2}, Reply: modelserver.Reply{Tools: []modelserver.Use{{ID: "c", Name: "lookup", Arguments: `{"id": 7}`}}}},
		{When: modelserver.When{Call: 3}, Reply: modelserver.Reply{Text: "It is 42.", ChunkSize: 2}},
	}})
	var progress buffer
	r, err := local.Run(t.Context(), local.Options{
		Manifests: load(t, strings.Replace(tooled, "URL", web.URL, 1)), Agent: "clerk", Input: map[string]any{"prompt": "What is 7?"},
		Getenv: env, Progress: &progress, Stream: true,
	})
	require.NoError(t, err, progress.String())
	require.Equal(t, "It is 42.", r.Output)
	require.Equal(t, []string{"POST s3cret"}, got)
	require.Contains(t, progress.String(), "clerk> It is 42.")
	calls := model.Calls()
	require.Len(t, calls, 3)
	last := calls[2].Request.Messages
	require.Equal(t, []string{"system", "user", "assistant", "tool", "tool", "assistant", "tool"}, roles(last))
	require.Contains(t, last[3].Content, "id")
	require.Contains(t, last[4].Content, `there is no tool "nothing"`)
	require.Equal(t, "the answer is 42", last[6].Content)
	for _, c := range calls {
		require.NotContains(t, string(c.Body), "s3cret")
	}
	require.NotContains(t, progress.String(), "s3cret")
}

func roles(messages []modelserver.Message) (out []string) {
	for _, m := range messages {
		out = append(out, m.Role)
	}
	return out
}

// Whatever a model server does wrong ends in one clear error of the run.
func TestFailingModelServers(t *testing.T) {
	t.Parallel()
	const dead = "http://127.0.0.1:1" // a port that the system gives to nobody
	for name, c := range map[string]struct {
		reply modelserver.Reply
		url   string
		want  []string // parts of the error
		calls int      // 0: more than one, as it tries again until its time is over
	}{
		"401":         {reply: modelserver.Reply{Status: 401, Error: "bad key"}, want: []string{"ProviderAuth", "bad key", "check the API key"}, calls: 1},
		"404":         {reply: modelserver.Reply{Status: 404, Error: "no such model"}, want: []string{"ProviderRefused", "no such model"}, calls: 1},
		"429":         {reply: modelserver.Reply{Status: 429, Error: "slow down"}, want: []string{"RateLimited", "slow down"}},
		"500":         {reply: modelserver.Reply{Status: 500, Error: "oops"}, want: []string{"ProviderFailed", "oops"}},
		"garbage":     {reply: modelserver.Reply{Body: "<html>no</html>", ContentType: "text/html"}, want: []string{"ProviderFailed"}},
		"cut":         {reply: modelserver.Reply{Text: strings.Repeat("word ", 100), Fault: modelserver.FaultCut, After: 300}, want: []string{"ProviderFailed"}},
		"tool loop":   {reply: modelserver.Reply{ToolLoop: true}, want: []string{"MaxTurns"}},
		"unreachable": {url: dead, want: []string{"ProviderFailed", dead}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			model, env := server(t, modelserver.Config{Answer: func(modelserver.Call) *modelserver.Reply { return &c.reply }})
			if c.url != "" {
				env = func(name string) string { return map[string]string{"OPENAI_BASE_URL": c.url + "/v1"}[name] }
			}
			text, made := "", 0
			// A step that is slower than its time says only that; one with more time says what was wrong.
			for seconds := 2; !strings.Contains(text, c.want[0]) && seconds < 100; seconds *= 4 {
				manifests := strings.Replace(tooled, "systemPrompt:", fmt.Sprintf("limits: {timeoutSeconds: %d, maxTurns: 4}\n  systemPrompt:", seconds), 1)
				made = len(model.Calls())
				r, err := local.Run(t.Context(), local.Options{
					Manifests: load(t, strings.Replace(manifests, "URL", "http://127.0.0.1:1", 1)), Input: map[string]any{"prompt": "x"}, Getenv: env,
					Timeout: 5 * time.Minute,
				})
				var failed *local.FailedError
				require.ErrorAs(t, err, &failed)
				require.Equal(t, v1alpha1.RunFailed, r.Status)
				text = failed.Error() + r.Steps[0].Error
				t.Log(failed.Error())
			}
			for _, part := range c.want {
				require.Contains(t, text, part)
			}
			if c.calls > 0 {
				require.Len(t, model.Calls()[made:], c.calls)
			}
		})
	}
}

// Fifty branches and a budget that runs out on the way: what the server says it used never passes the budget.
func TestBudgetHolds(t *testing.T) {
	t.Parallel()
	const limit = 8000
	items, err := json.Marshal(make([]int, 50))
	require.NoError(t, err)
	model, env := server(t, modelserver.Config{Delay: 5 * time.Millisecond, Rules: []modelserver.Rule{{Reply: modelserver.Reply{Text: strings.Repeat("word ", 200)}}}})
	r, err := local.Run(t.Context(), local.Options{
		Manifests: load(t, `
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: many}
spec:
  inputs: [{name: items, type: array}]
  roles: [{name: a, model: gpt-test, systemPrompt: You work., limits: {maxTokensPerCall: 1000, maxConcurrentTasks: 50}}]
  pipeline:
  - {role: a, forEach: {items: "{{ toJson .input.items }}", maxParallel: 50}, inputs: {prompt: "Work on {{ .item }}"}}
`), Input: map[string]any{"items": string(items)}, Getenv: env, MaxTokens: limit,
	})
	var failed *local.FailedError
	require.ErrorAs(t, err, &failed)
	require.Equal(t, v1alpha1.ReasonBudgetExceeded, failed.Reason, failed.Error())
	used := int64(0)
	for _, c := range model.Calls() {
		used += modelserver.PromptTokens(c.Request) + modelserver.Tokens(strings.Repeat("word ", 200))
	}
	t.Logf("%d calls used %d of %d tokens, the report says %d", len(model.Calls()), used, limit, r.Tokens.Total)
	require.Greater(t, len(model.Calls()), 10, "the budget is used before it refuses")
	require.LessOrEqual(t, used, int64(limit))
	require.LessOrEqual(t, r.Tokens.Total, used)
}

// A role that a team plays is a run of that team; delegated work shows below the step that handed it over.
func TestTeamInATeam(t *testing.T) {
	t.Parallel()
	model, env := server(t, modelserver.Config{Rules: []modelserver.Rule{
		{When: modelserver.When{System: modelserver.Match("You write"), Tool: modelserver.Match("fine")}, Reply: modelserver.Reply{Text: "the draft"}},
		{When: modelserver.When{System: modelserver.Match("You write")}, Reply: modelserver.Reply{Tools: []modelserver.Use{{ID: "x", Name: "delegate", Arguments: `{"role": "checker", "prompt": "check this"}`}}}},
		{When: modelserver.When{System: modelserver.Match("You check")}, Reply: modelserver.Reply{Text: "fine"}},
		{When: modelserver.When{System: modelserver.Match("You print")}, Reply: modelserver.Reply{Text: "printed"}},
	}})
	var progress buffer
	r, err := local.Run(t.Context(), local.Options{Manifests: load(t, mixed), Getenv: env, Progress: &progress})
	require.NoError(t, err, progress.String())
	require.Equal(t, "printed", r.Output)
	require.ElementsMatch(t, []string{"draft Succeeded", "draft/checker-1 Succeeded", "left Succeeded", "right Succeeded", "publish Succeeded"}, brief(r))
	require.Contains(t, progress.String(), "publish/setter: Succeeded")
	require.Contains(t, progress.String(), "publish/printer: Succeeded")
	used := int64(0)
	for _, c := range model.Calls() {
		used += modelserver.PromptTokens(c.Request)
	}
	require.Equal(t, used, r.Tokens.Input, "the tokens of child runs and delegates count")
	require.Equal(t, 7, len(model.Calls()))
}

// A child run whose input does not fit fails the step that it is, with the cause.
func TestTeamInATeamRefusesItsInput(t *testing.T) {
	t.Parallel()
	_, err := local.Run(t.Context(), local.Options{Manifests: load(t, strings.Replace(mixed, "{name: text, required: true}", "{name: text, type: number}", 1)), Provider: "mock", Getenv: none})
	var failed *local.FailedError
	require.ErrorAs(t, err, &failed)
	require.ErrorContains(t, err, "text")
	require.Equal(t, "publish", failed.Step)
}

func TestConfigErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		manifests string
		change    func(*local.Options)
		want      string
	}{
		"missing input":  {linear, func(o *local.Options) { o.Input = nil }, "topic"},
		"no such team":   {linear, func(o *local.Options) { o.Team = "ghost" }, `ArkTeam "ghost" (--team) is not among the manifests; there are: newsroom`},
		"no such agent":  {linear, func(o *local.Options) { o.Agent = "ghost" }, `ArkAgent "ghost" (--agent) is not among the manifests; there are: newsroom-editor, newsroom-researcher, newsroom-writer`},
		"agent's prompt": {tooled, nil, "agent clerk needs a prompt"},
		"no key":         {linear, func(o *local.Options) { o.Provider = "openai" }, "set OPENAI_API_KEY"},
		"provider":       {linear, func(o *local.Options) { o.Provider = "nobody" }, `provider "nobody"`},
		"mock script":    {linear, func(o *local.Options) { o.MockScript, o.MockScriptName = []byte("replies: 7"), "script.yaml" }, "script.yaml:1"},
		"both":           {linear, func(o *local.Options) { o.Team, o.Agent = "a", "b" }, "exclude each other"},
		"resume":         {linear, func(o *local.Options) { o.Resume = "x" }, "--resume x needs --store"},
		"empty store":    {linear, func(o *local.Options) { o.Resume, o.Store = "x", t.TempDir() }, `there is no run "x" in store`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := local.Options{Manifests: load(t, strings.Replace(c.manifests, "URL", "http://x", 1)), Provider: "mock", Input: map[string]any{"topic": "x"}, Getenv: none}
			if c.manifests == tooled {
				o.Input = nil
			}
			if c.change != nil {
				c.change(&o)
			}
			r, err := local.Run(t.Context(), o)
			var config *local.ConfigError
			require.ErrorAs(t, err, &config)
			require.Nil(t, r)
			require.Contains(t, err.Error(), c.want)
		})
	}
}
