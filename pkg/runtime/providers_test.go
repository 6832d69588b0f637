package runtime_test

import (
	"context"
	"encoding/json"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/anthropic"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/llm/openai"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/tools"
	"arkonis.dev/ark/pkg/work"
)

// What a call came to, as the ledger has it.
const (
	free    = "free"    // refused: nothing is charged
	full    = "full"    // nobody knows: all that was reserved is charged
	told    = "told"    // what the server said is charged
	guessed = "guessed" // answered without a usage: all that was reserved is charged
)

// misbehaviour is a faulty model server, and the one state that a task comes to with it.
type misbehaviour struct {
	rules  []modelserver.Rule
	refuse map[string][]string // by provider
	schema string
	tool   bool
	idle   time.Duration

	code   task.Code     // "" for a task that succeeds
	calls  []string      // what each call came to
	always bool          // until the task's time allows no other call
	gap    time.Duration // at least, before the second call
	note   bool
}

func misbehaviours() map[string]misbehaviour {
	ok := modelserver.Reply{Text: "here", Usage: &modelserver.Usage{Prompt: 5, Completion: 1}}
	once := func(r modelserver.Reply) []modelserver.Rule {
		return []modelserver.Rule{{When: modelserver.When{Call: 1}, Reply: r}, {Reply: ok}}
	}
	broken := func(r modelserver.Reply) misbehaviour {
		return misbehaviour{rules: once(r), calls: []string{full, told}}
	}
	refused := func(r modelserver.Reply) misbehaviour {
		return misbehaviour{rules: once(r), calls: []string{free, told}}
	}
	final := func(r modelserver.Reply, code task.Code, came string) misbehaviour {
		return misbehaviour{rules: reply(r), code: code, calls: []string{came}}
	}
	stubborn := func(r modelserver.Reply, code task.Code, came string) misbehaviour {
		return misbehaviour{rules: reply(r), code: code, calls: []string{came, came}, always: true}
	}
	const object = `{"type":"object","properties":{"n":{"type":"integer"}},"required":["n"],"additionalProperties":false}`
	cut := modelserver.Reply{Text: "half an answer", Fault: modelserver.FaultCut, After: 300}
	return map[string]misbehaviour{
		"429":                       refused(modelserver.Reply{Status: 429}),
		"429 with Retry-After":      {rules: once(modelserver.Reply{Status: 429, RetryAfter: "1"}), calls: []string{free, told}, gap: time.Second},
		"429 with a year":           refused(modelserver.Reply{Status: 429, RetryAfter: "31536000"}),
		"429 always":                stubborn(modelserver.Reply{Status: 429}, task.CodeRateLimited, free),
		"500":                       broken(modelserver.Reply{Status: 500}),
		"503":                       broken(modelserver.Reply{Status: 503}),
		"529":                       refused(modelserver.Reply{Status: 529}),
		"502 always":                stubborn(modelserver.Reply{Status: 502}, task.CodeProviderFailed, full),
		"400":                       final(modelserver.Reply{Status: 400, Error: "no"}, task.CodeProviderRefused, free),
		"401":                       final(modelserver.Reply{Status: 401}, task.CodeProviderAuth, free),
		"403":                       final(modelserver.Reply{Status: 403}, task.CodeProviderAuth, free),
		"404":                       final(modelserver.Reply{Status: 404}, task.CodeProviderRefused, free),
		"422":                       final(modelserver.Reply{Status: 422, Error: "no"}, task.CodeProviderRefused, free),
		"no credit":                 final(modelserver.Reply{Status: 402}, task.CodeRateLimited, free),
		"prompt too long":           final(modelserver.Reply{Status: 413}, task.CodeContextTooLong, free),
		"filtered":                  final(modelserver.Reply{Text: "x", Finish: "content_filter", Usage: ok.Usage}, task.CodeContentFiltered, told),
		"says nothing":              {rules: once(modelserver.Reply{Usage: ok.Usage}), calls: []string{told, told}},
		"says nothing, ever":        {rules: reply(modelserver.Reply{Text: " \n", Usage: ok.Usage}), code: task.CodeEmptyAnswer, calls: []string{told, told, told}},
		"thinks and says nothing":   {rules: once(modelserver.Reply{Reasoning: "hm", Usage: ok.Usage}), calls: []string{told, told}},
		"reset":                     broken(modelserver.Reply{Fault: modelserver.FaultReset}),
		"reset in the middle":       broken(modelserver.Reply{Text: "half", Fault: modelserver.FaultReset, After: 200}),
		"hang":                      {rules: once(modelserver.Reply{Fault: modelserver.FaultHang}), idle: 200 * time.Millisecond, calls: []string{full, told}},
		"hang in the middle":        {rules: once(modelserver.Reply{Text: "half", Fault: modelserver.FaultHang, After: 200}), idle: 200 * time.Millisecond, calls: []string{full, told}},
		"hang always":               {rules: reply(modelserver.Reply{Fault: modelserver.FaultHang}), code: task.CodeTimeout, calls: []string{full}},
		"half a stream":             broken(cut),
		"half a stream always":      stubborn(cut, task.CodeProviderFailed, full),
		"a stream that merely ends": broken(modelserver.Reply{Text: "half", Fault: modelserver.FaultEnd, After: 200}),
		"wrong JSON":                broken(modelserver.Reply{Body: "data: {nonsense\n\n"}),
		"a web page":                broken(modelserver.Reply{Body: "<html>Welcome</html>", ContentType: "text/html"}),
		"no finish reason":          broken(modelserver.Reply{Text: "x", Finish: "none", NoUsage: true}),
		"usage missing":             {rules: reply(modelserver.Reply{Text: "x", NoUsage: true}), calls: []string{guessed}},
		"usage larger than asked":   {rules: reply(modelserver.Reply{Text: "x", Usage: &modelserver.Usage{Prompt: 5, Completion: 1 << 20}}), calls: []string{told}},
		"endless tool loop":         {rules: reply(modelserver.Reply{ToolLoop: true}), tool: true, code: task.CodeMaxTurns, calls: []string{told, told, told}},
		"cut at the limit":          final(modelserver.Reply{Text: "half", Finish: "length"}, task.CodeTruncated, told),
		"1 GiB":                     final(modelserver.Reply{Fault: modelserver.FaultHuge}, task.CodeProviderFailed, full),
		"1 GiB in a line":           final(modelserver.Reply{Fault: modelserver.FaultLine}, task.CodeProviderFailed, full),
		"1 GiB from a bomb":         final(modelserver.Reply{Fault: modelserver.FaultBomb}, task.CodeProviderFailed, full),
		"headers without an end":    broken(modelserver.Reply{Fault: modelserver.FaultHeaders}),
		"a redirect":                final(modelserver.Reply{Status: 307, Location: "http://elsewhere.invalid"}, task.CodeProviderRefused, free),
		"tools refused":             {rules: reply(ok), refuse: map[string][]string{llm.OpenAI: {"tools"}, llm.Anthropic: {"tools"}}, tool: true, calls: []string{free, told}, note: true},
		"structured output refused": {rules: reply(modelserver.Reply{Text: `{"n":1}`, Usage: ok.Usage}), refuse: map[string][]string{llm.OpenAI: {"response_format"}, llm.Anthropic: {"output_config"}}, schema: object, calls: []string{free, told}, note: true},
		"everything refused, one by one": {rules: reply(ok), tool: true, calls: []string{free, free, told}, note: true, refuse: map[string][]string{
			llm.OpenAI: {"max_tokens", "tools"}, llm.Anthropic: {"cache_control", "tools"},
		}},
	}
}

// Every misbehaviour of a model server ends in its one state, over either protocol. What was called is what was
// reserved before, call by call, and each call is charged with what it came to.
func TestModelServersMisbehave(t *testing.T) {
	t.Parallel()
	for _, provider := range []string{llm.OpenAI, llm.Anthropic} {
		for name, m := range misbehaviours() {
			t.Run(provider+"/"+name, func(t *testing.T) {
				t.Parallel()
				m.run(t, provider)
			})
		}
	}
}

// end is how a task ended with a misbehaving server.
type end struct {
	result *task.Result
	came   []string
	calls  []modelserver.Call
}

func (m misbehaviour) run(t *testing.T, provider string) {
	untimed := m.idle == 0 && !m.always && m.code != task.CodeTimeout
	got := patiently(func(e end) bool { return untimed || slices.Equal(e.came, m.calls) }, func(scale int) end {
		return m.try(t, provider, scale)
	})
	r := got.result
	if m.code == "" {
		require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
	} else {
		require.Equal(t, m.code, r.Error.Code, r.Error.Message)
	}
	require.Equal(t, m.note, strings.Contains(strings.Join(r.Notes, "\n"), "does not accept"), r.Notes)
	require.Equal(t, m.calls, got.came)
	if m.gap > 0 {
		require.GreaterOrEqual(t, got.calls[1].In.Sub(got.calls[0].In), m.gap)
	}
}

// try is one task with the misbehaving server. What it waits for takes scale times as long.
func (m misbehaviour) try(t *testing.T, provider string, scale int) end {
	t.Helper()
	m.idle *= time.Duration(scale)
	w := newWorld(t, modelserver.Config{Rules: m.rules, Refuse: m.refuse[provider]})
	w.agent("writer", func(c *runtime.Config) {
		c.Provider, c.Limits.MaxTokensPerCall, c.Limits.MaxTurns = m.provider(t, w, provider), 1000, 3
		if m.always {
			// The second attempt is within the task's time, and a third surely is not.
			c.Backoff = runtime.Backoff{Base: time.Duration(scale) * 2100 * time.Millisecond, Max: time.Hour}
		}
		if m.gap > 0 {
			c.Backoff.Max = time.Minute
		}
		if m.tool {
			c.Tools = set(t, fn{name: "look", schema: `{"type":"object"}`, safe: true, call: nothing})
		}
	})
	tk := w.task("writer", "x")
	tk.OutputSchema = json.RawMessage(m.schema)
	switch {
	case m.always:
		tk.TimeoutSeconds = int64(3 * scale)
	case m.code == task.CodeTimeout:
		tk.TimeoutSeconds = int64(scale)
	}
	r := w.do(tk)
	came, calls := w.came(tk), w.models.Calls()
	require.Equal(t, len(calls), len(came), "calls made are intents in the ledger")
	require.Equal(t, len(came), r.ModelCalls)
	for i, c := range calls {
		require.Equal(t, tk.ID+"-"+strconv.Itoa(i+1), c.Key)
	}
	return end{result: r, came: came, calls: calls}
}

func (m misbehaviour) provider(t *testing.T, w *world, name string) llm.Provider {
	t.Helper()
	var p llm.Provider
	var err error
	if name == llm.Anthropic {
		p, err = anthropic.New(anthropic.Config{BaseURL: w.models.URL(), IdleTimeout: m.idle})
	} else {
		p, err = openai.New(openai.Config{BaseURL: w.models.URL(), IdleTimeout: m.idle})
	}
	require.NoError(t, err)
	return p
}

func nothing(context.Context, tools.Call) (tools.Result, error) {
	return tools.Result{Text: "nothing"}, nil
}

// came says what each call of a task came to, in the order of their intents.
func (w *world) came(tk *task.Task) []string {
	w.t.Helper()
	journal, err := w.queue.History(w.t.Context(), "ark.call."+tk.Namespace+"."+tk.Agent+"."+tk.Run.UID+"."+tk.ID)
	require.NoError(w.t, err)
	var came []string
	reserved := map[int]int64{}
	for _, stored := range journal {
		var record struct {
			Entries []work.Entry `json:"entries"`
		}
		require.NoError(w.t, json.Unmarshal(stored.Body, &record))
		for _, e := range record.Entries {
			switch {
			case e.Intent != nil:
				reserved[e.Intent.Call] = e.Intent.Reserve
				came = append(came, "open")
			case e.Answer != nil:
				came[e.Answer.Call-1] = told
				if e.Answer.Usage.Total() == reserved[e.Answer.Call] {
					came[e.Answer.Call-1] = guessed
				}
			case e.Failed != nil:
				came[e.Failed.Call-1] = outcome(e.Failed, reserved[e.Failed.Call])
			}
		}
	}
	return came
}

func outcome(f *work.CallFailed, reserved int64) string {
	switch {
	case f.Charged == 0 && !f.Unknown:
		return free
	case f.Charged == reserved && f.Unknown:
		return full
	case f.Charged == f.Usage.Total():
		return told
	default:
		return "charged with " + strconv.FormatInt(f.Charged, 10)
	}
}
