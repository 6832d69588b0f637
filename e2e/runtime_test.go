package e2e

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

func TestRuntimeAnswers(t *testing.T) {
	t.Parallel()
	f := newFleet(t, modelserver.Config{}, work.Config{})
	started := time.Now()
	p := f.pod("writer-0", []string{"AGENT_MODEL=m-2", "SYSTEM_PROMPT=You write.", "OUTPUT_FORMAT=plain"})
	p.becomes(true)
	t.Logf("ready after %s, %d KiB resident", time.Since(started).Round(time.Millisecond), resident(t, p))
	r := f.result(f.task("hello").ID)
	require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
	require.Equal(t, "echo: hello", r.Output.Inline)
	require.Equal(t, "writer-0", r.Pod)
	call := f.models.Calls()[0]
	require.Equal(t, "m-2", call.Request.Model)
	require.Contains(t, call.Request.System(), "You write.\n\nAnswer in plain text, without any markup.")

	require.Eventually(t, func() bool {
		_, body := p.get("/metrics")
		return strings.Contains(body, "gen_ai_client_token_usage_count") && strings.Contains(body, "ark_task_duration_seconds_count")
	}, patience, 10*time.Millisecond)
	status, _ := p.get("/healthz")
	require.Equal(t, http.StatusOK, status)
	p.terminate()
	<-p.done
	require.NoError(t, p.err)
}

// resident is the memory of a process in KiB.
func resident(t *testing.T, p *pod) int {
	t.Helper()
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0 // not on this system
	}
	defer func() { _ = f.Close() }()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.Fields(rest)[0])
			require.NoError(t, err)
			return n
		}
	}
	return 0
}

func TestReplicasShareTheLoad(t *testing.T) {
	t.Parallel()
	f := newFleet(t, modelserver.Config{Delay: 300 * time.Millisecond}, work.Config{}) // the model, and not the machine, takes the time
	for _, name := range []string{"writer-0", "writer-1"} {
		f.pod(name, []string{"MAX_CONCURRENT_TASKS=2"}).becomes(true)
	}
	var tasks []*task.Task
	for i := range 24 {
		tasks = append(tasks, f.task(fmt.Sprint("task ", i)))
	}
	pods := map[string]int{}
	for _, tk := range tasks {
		pods[f.result(tk.ID).Pod]++
	}
	require.GreaterOrEqual(t, min(pods["writer-0"], pods["writer-1"]), 6, "%v", pods)
	require.Len(t, f.models.Calls(), 24)
}

// desk is a server of tools that counts calls by path and body, and holds some until they are let go.
type desk struct {
	url   string
	began chan string
	mu    sync.Mutex
	calls map[string]int
}

// newDesk holds a call as long as hold says, at most until the test ends or the caller goes.
func newDesk(t *testing.T, hold func(path, body string, n int) time.Duration) *desk {
	t.Helper()
	d := &desk{began: make(chan string, 1024), calls: map[string]int{}}
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := make([]byte, 1024)
		n, _ := r.Body.Read(body)
		key := r.URL.Path + " " + string(body[:n])
		d.mu.Lock()
		d.calls[key]++
		times := d.calls[key]
		d.mu.Unlock()
		d.began <- key
		select {
		case <-time.After(hold(r.URL.Path, string(body[:n]), times)):
		case <-ended:
		case <-r.Context().Done():
			return
		}
		fmt.Fprint(w, "seen")
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(ended) })
	d.url = server.URL
	return d
}

func (d *desk) counts() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.calls)
}

// tools are an unsafe and a safe one.
func (d *desk) tools() string {
	return fmt.Sprintf(`WEBHOOK_TOOLS=[{"name":"pay","url":"%s/pay"},{"name":"look","url":"%s/look","method":"GET"}]`, d.url, d.url)
}

// A process dies in the middle of a tool loop. Another one goes on from the journal, within 15 s and without settings of
// the test: no answered call is made again, and a tool that is not safe to repeat is not called twice.
func TestKilledRuntimesTaskGoesOn(t *testing.T) {
	t.Parallel()
	const within = 15 * time.Second
	took := within
	for try := 0; try < 3 && took >= within; try++ { // of a busy machine one that is quick enough is asked for
		took = goesOnAfter(t)
		t.Logf("went on after %s", took.Round(time.Millisecond))
	}
	require.Less(t, took, within)
}

// goesOnAfter kills a process in the middle of a task and returns how long it takes until another one has ended it.
func goesOnAfter(t *testing.T) time.Duration {
	t.Helper()
	d := newDesk(t, func(_, _ string, n int) time.Duration {
		if n == 1 {
			return time.Hour
		}
		return 0
	})
	f := newFleet(t, modelserver.Config{Rules: []modelserver.Rule{
		{When: modelserver.When{Call: 1}, Reply: modelserver.Reply{Text: "first", Tools: []modelserver.Use{{Name: "pay", Arguments: `{"eur":5}`}, {Name: "look", Arguments: `{}`}}}},
		{Reply: modelserver.Reply{Text: "done"}},
	}}, work.Config{})
	first := f.pod("writer-0", []string{d.tools()})
	tk := f.task("pay")
	<-d.began
	<-d.began
	f.pod("writer-1", []string{d.tools()}).becomes(true)
	first.kill()
	killed := time.Now()
	r := f.result(tk.ID)
	took := time.Since(killed)
	require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
	require.Equal(t, []any{"done", "writer-1", 2}, []any{r.Output.Inline, r.Pod, r.ModelCalls})
	require.Equal(t, map[string]int{`/pay {"eur":5}`: 1, "/look ": 2}, d.counts())
	calls := f.models.Calls()
	require.Len(t, calls, 2, "the answered call is not made again")
	var told []string
	for _, m := range calls[1].Request.Messages[3:] {
		told = append(told, m.Content)
	}
	require.Contains(t, told[0], "the outcome of this call of pay is unknown")
	require.Equal(t, "seen", told[1])
	return took
}

// loop has the model call a tool and then end, for each prompt.
func loop(tool string, delay time.Duration) modelserver.Config {
	return modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		r := &modelserver.Reply{Delay: delay, Text: "done", Usage: &modelserver.Usage{Prompt: 100, Completion: 200}}
		if c.Request.Messages[len(c.Request.Messages)-1].Role == "user" {
			r.Tools = []modelserver.Use{{Name: tool, Arguments: fmt.Sprintf(`{"of":%q}`, c.Request.Prompt())}}
		}
		return r
	}}
}

// byPrompt counts the calls of each prompt.
func byPrompt(calls []modelserver.Call) map[string]int {
	n := map[string]int{}
	for _, c := range calls {
		n[c.Request.Prompt()]++
	}
	return n
}

// The NATS server is restarted below running tasks: nothing is lost, nothing is done twice, and the agent was never ended.
func TestNATSRestartsUnderneath(t *testing.T) {
	t.Parallel()
	d := newDesk(t, func(string, string, int) time.Duration { return 200 * time.Millisecond })
	f := newFleet(t, loop("pay", 200*time.Millisecond), work.Config{})
	p := f.pod("writer-0", []string{d.tools(), "MAX_CONCURRENT_TASKS=6"})
	p.becomes(true)
	var tasks []*task.Task
	want, paid := map[string]int{}, map[string]int{}
	for i := range 30 {
		prompt := fmt.Sprint("task-", i)
		tasks = append(tasks, f.task(prompt))
		want[prompt] = 2
		paid[fmt.Sprintf(`/pay {"of":%q}`, prompt)] = 1
	}
	for range 3 {
		for range 4 {
			<-d.began
		}
		f.stopNATS()
		f.startNATS()
	}
	for _, tk := range tasks {
		r := f.result(tk.ID)
		require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
		require.Zero(t, r.Usage.UnknownCalls)
	}
	require.Equal(t, want, byPrompt(f.models.Calls()))
	require.Equal(t, paid, d.counts())
	p.becomes(true)
	back := time.Now()
	require.Equal(t, task.Succeeded, f.result(f.task("after").ID).Status)
	t.Logf("a task after the last restart took %s", time.Since(back).Round(time.Millisecond))
}

// A process that is told to end lets 50 long tasks finish as far as its grace period allows and hands the others back at
// once, and not after the queue's patience, which is an hour here: none is lost, none is done twice, and the process is gone
// in time.
func TestTerminationLosesNothing(t *testing.T) {
	t.Parallel()
	const grace = 21 * time.Second
	draining := make(chan struct{})
	drain := sync.OnceFunc(func() { close(draining) })
	d := newDesk(t, func(_, body string, _ int) time.Duration {
		if strings.Contains(body, "long") {
			return time.Hour
		}
		<-draining
		return 0
	})
	t.Cleanup(drain)
	f := newFleet(t, loop("pay", 10*time.Millisecond), work.Config{})
	env := []string{d.tools(), "MAX_CONCURRENT_TASKS=50"}
	first := f.pod("writer-0", env, "--grace-period", grace.String(), "--ack-wait", "1h")
	first.becomes(true)
	tasks := map[string]*task.Task{}
	want, paid := map[string]int{}, map[string]int{}
	for i := range 50 {
		prompt := fmt.Sprint([]string{"short-", "long-"}[i%2], i)
		tasks[prompt] = f.task(prompt)
		want[prompt] = 2
		paid[fmt.Sprintf(`/pay {"of":%q}`, prompt)] = 1
	}
	for range 50 {
		<-d.began
	}
	f.pod("writer-1", env, "--ack-wait", "1h").becomes(true)
	told := time.Now()
	first.terminate()
	first.becomes(false)
	require.Contains(t, strings.Join(first.state().Reasons, " "), "shutting down")
	drain()
	<-first.done
	took := time.Since(told)
	t.Logf("gone after %s", took.Round(time.Millisecond))
	require.NoError(t, first.err)
	require.Less(t, took, grace)
	for prompt, tk := range tasks {
		r := f.result(tk.ID)
		require.Equal(t, task.Succeeded, r.Status, "%v", r.Error)
		require.Equal(t, map[bool]string{true: "writer-1", false: "writer-0"}[strings.HasPrefix(prompt, "long")], r.Pod)
		require.Zero(t, r.Usage.UnknownCalls)
	}
	require.Equal(t, want, byPrompt(f.models.Calls()))
	require.Equal(t, paid, d.counts(), "no tool that is not safe to repeat is called twice")
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, all := range f.results {
		require.Len(t, all, 1, id)
	}
}

// audit looks at every revision of every budget that the work service stores.
type audit struct {
	mu        sync.Mutex
	limit     int64
	revisions int
	most      int64
	wrong     []string
}

// look takes a commit of the ledger apart: a version, and then parts of a kind, a subject and a body.
func (a *audit) look(m *nats.Msg) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rest := m.Data[1:]
	number := func() uint64 {
		n, size := binary.Uvarint(rest)
		rest = rest[size:]
		return n
	}
	text := func() []byte {
		n := number()
		b := rest[:n]
		rest = rest[n:]
		return b
	}
	for n := number(); n > 0; n-- {
		rest = rest[1:]
		subject, body := string(text()), text()
		if !strings.HasPrefix(subject, "ark.budget.") {
			continue
		}
		b, err := work.DecodeBudget(body)
		if err != nil {
			a.wrong = append(a.wrong, err.Error())
			continue
		}
		sum := b.State.Spent(time.Now()) + b.State.Reserved()
		a.revisions++
		a.most = max(a.most, sum)
		if sum > a.limit {
			a.wrong = append(a.wrong, fmt.Sprintf("%s: %d of %d", b.Scope, sum, a.limit))
		}
	}
}

// 64 workers in four processes that are killed at random share a daily budget that runs out: at no revision does the
// ledger show more than the limit, and what the model server was asked for was reserved.
func TestDailyBudgetUnderKills(t *testing.T) {
	t.Parallel()
	const limit, n, pods = 150_000, 400, 4
	f := newFleet(t, loop("look", 30*time.Millisecond), work.Config{
		Daily: func(_, name, _ string) []task.Budget {
			return []task.Budget{{Scope: "agent." + name, Limit: limit, Window: 86400}}
		},
		Retries: func(string, string) int { return 1 << 20 },
	})
	d := newDesk(t, func(string, string, int) time.Duration { return 10 * time.Millisecond })
	a := &audit{limit: limit}
	sub, err := f.nc.Subscribe("ark.ledger.log", a.look)
	require.NoError(t, err)
	require.NoError(t, sub.SetPendingLimits(-1, -1))
	var tasks []*task.Task
	for i := range n {
		tasks = append(tasks, f.task(fmt.Sprint("task-", i)))
	}
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	start := func(i int) *pod {
		return f.pod(fmt.Sprint("writer-", i), []string{d.tools(), "MAX_CONCURRENT_TASKS=16"}, "--ack-wait", "1s")
	}
	fleet := make([]*pod, pods)
	for i := range fleet {
		fleet[i] = start(i)
	}
	var finished atomic.Bool
	kills := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for _, tk := range tasks {
			f.result(tk.ID)
		}
		finished.Store(true)
	}()
	// Where it takes long to start a process one is killed less often, or nothing is ever done; but none is spared for long,
	// as all that live may wait for what one of the dead has reserved.
	ended, last := 0, time.Now()
	for ticker := time.NewTicker(400 * time.Millisecond); !finished.Load(); {
		select {
		case <-ticker.C:
			now := f.ended()
			if now < ended+n/100 && time.Since(last) < 2*time.Second {
				continue
			}
			ended, last = now, time.Now()
			i := random.IntN(pods)
			fleet[i].kill()
			fleet[i] = start(i)
			kills++
		case <-done:
		}
	}
	succeeded, refused, unknown := 0, 0, int64(0)
	for _, tk := range tasks {
		r := f.result(tk.ID)
		unknown += r.Usage.UnknownCalls
		switch {
		case r.Status == task.Succeeded:
			succeeded++
		case r.Error.Code == task.CodeBudgetExceeded:
			require.Contains(t, r.Error.Message, "enough of it is free again at ", "a refusal says when")
			refused++
		default:
			require.Fail(t, r.Error.Error())
		}
	}
	require.NoError(t, f.nc.Flush())
	a.mu.Lock()
	defer a.mu.Unlock()
	t.Logf("%d kills, %d tasks succeeded, %d refused, %d calls of unknown outcome, %d calls at the server, %d revisions, at most %d of %d",
		kills, succeeded, refused, unknown, len(f.models.Calls()), a.revisions, a.most, int64(limit))
	require.Empty(t, a.wrong)
	require.Positive(t, succeeded)
	require.Positive(t, refused, "the budget runs out")
	require.Greater(t, kills, 3)
	require.Greater(t, a.revisions, 100)
	require.LessOrEqual(t, int64(300*len(f.models.Calls())), int64(limit), "what was billed never passes the limit")
}

func TestBadEnvironment(t *testing.T) {
	t.Parallel()
	good := []string{"AGENT_NAME=writer", "AGENT_NAMESPACE=default", "MODEL=mock", "NATS_URL=nats://127.0.0.1:1"}
	for name, c := range map[string]struct {
		env  []string
		args []string
		want string // regular expression of stderr
	}{
		"nothing":         {nil, nil, `^error: AGENT_NAME is not set: .*\nerror: AGENT_NAMESPACE is not set: .*\nerror: MODEL is not set: .*\nerror: NATS_URL is not set: .*\n$`},
		"a number":        {append(slices.Clone(good), "MAX_TURNS=many"), nil, `^error: MAX_TURNS is "many": it must be a whole number from 1 to 1000\n$`},
		"the prefix":      {append(slices.Clone(good), "AGENT_MAX_TOKENS=0"), nil, `^error: AGENT_MAX_TOKENS is "0": it must be a whole number from 1 to 10000000\n$`},
		"no key":          {append(slices.Clone(good), "AGENT_MODEL=gpt-5"), nil, `^error: OPENAI_API_KEY is not set: model "gpt-5" needs a key; .*\n$`},
		"no key, claude":  {append(slices.Clone(good), "AGENT_MODEL=claude-x"), nil, `^error: ANTHROPIC_API_KEY is not set: .*\n$`},
		"a tool's url":    {append(slices.Clone(good), `WEBHOOK_TOOLS=[{"name":"x","url":"ftp://x"}]`), nil, `^error: WEBHOOK_TOOLS: tool "x": url must begin with http:// or https://\n$`},
		"a tool's schema": {append(slices.Clone(good), `WEBHOOK_TOOLS=[{"name":"x","url":"http://x","inputSchema":{"type":"array"}}]`), nil, `^error: WEBHOOK_TOOLS: tool "x": its input schema must say "type": "object", .*\n$`},
		"a server":        {append(slices.Clone(good), `MCP_SERVERS=[{"name":"x","url":"http://x","transport":"carrier"}]`), nil, `^error: MCP_SERVERS: mcp server "x": transport "carrier" is not one of .*\n`},
		"a secret":        {append(slices.Clone(good), `MCP_SERVERS=[{"name":"x","url":"http://x","auth":{"type":"bearer","env":"NO_SUCH"}}]`), nil, `^error: MCP_SERVERS: server "x": auth: the variable NO_SUCH is not set\n$`},
		"telemetry":       {append(slices.Clone(good), "AGENT_OTEL_TRACES_EXPORTER=zipkin"), nil, `^error: OTEL_TRACES_EXPORTER is "zipkin": ark exports otlp or none\n$`},
		"an allowlist":    {append(slices.Clone(good), `MCP_SERVERS=[{"name":"x","url":"http://x/mcp"}]`, `MCP_POLICIES=[{"from":"ArkSettings s","allowlist":["https://y/"],"requireAuth":true}]`), nil, `^error: MCP_SERVERS: mcp server "x": ArkSettings s allows only URLs that begin with https://y/\nerror: MCP_SERVERS: mcp server "x": ArkSettings s demands auth of every MCP server\n$`},
		"a policy":        {append(slices.Clone(good), `MCP_POLICIES={}`), nil, `^error: MCP_POLICIES is "{}": it must be a JSON list such as .*\n$`},
		"a memory":        {append(slices.Clone(good), "MEMORY_BACKEND=redis"), nil, `^error: MEMORY_BACKEND is "redis": redis needs an address: set REDIS_URL, such as redis://host:6379/0\n$`},
		"a memory's name": {append(slices.Clone(good), "AGENT_MEMORY_BACKEND=nats", `WEBHOOK_TOOLS=[{"name":"recall","url":"http://x"}]`), nil, `^error: WEBHOOK_TOOLS: tool "recall" has the name of a tool of the agent's memory: give it another one\n$`},
		"vectors":         {append(slices.Clone(good), `MEMORY_VECTOR_STORE={"provider":"qdrant","endpoint":"q"}`, `MEMORY_EMBEDDING={"model":"e"}`), nil, `^error: OPENAI_API_KEY is not set: model "e", which makes the memory's vectors, needs a key; or name one in MEMORY_EMBEDDING, or set OPENAI_BASE_URL to a server that needs none\n$`},
		"no vectors":      {append(slices.Clone(good), `MEMORY_VECTOR_STORE={"provider":"qdrant","endpoint":"q"}`, `MEMORY_EMBEDDING={"model":"claude-x","apiKeyEnv":"PATH"}`, "PATH=k"), nil, `^error: MEMORY_EMBEDDING: model "claude-x": provider anthropic: only openai, what is compatible with it, and mock make vectors\n$`},
		"several":         {append(slices.Clone(good), "TEMPERATURE=hot", "PROVIDER=x"), nil, `^error: PROVIDER is "x": .*\nerror: TEMPERATURE is "hot": .*\n$`},
		"a flag":          {good, []string{"--ack-wait", "1ms"}, `^error: --ack-wait: 1ms is too short .*\n$`},
		"an address":      {good, []string{"--listen", "127.0.0.1:99999"}, `error: listen for probes on 127.0.0.1:99999: `},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := command(t.Context(), arkBinary(t), c.env, append([]string{"runtime"}, c.args...)...)
			require.Equal(t, 1, p.exitCode())
			require.Regexp(t, regexp.MustCompile(c.want), p.err.String())
		})
	}
}

// A process that is there before its queue server waits for it, alive and not ready.
func TestRuntimeWaitsForItsQueue(t *testing.T) {
	t.Parallel()
	f := newFleet(t, modelserver.Config{}, work.Config{})
	f.stopNATS()
	p := f.pod("writer-0", nil)
	p.becomes(false)
	status, _ := p.get("/healthz")
	require.Equal(t, http.StatusOK, status)
	f.startNATS()
	p.becomes(true)
	require.Equal(t, "echo: hello", f.result(f.task("hello").ID).Output.Inline)
}

// One of two pods asks the model; both are ready when it answers as expected, take no tasks when it does not, and go on
// when it does again. What they ask is paid from the agent's budget.
func TestSemanticReadiness(t *testing.T) {
	t.Parallel()
	const question = "Are you well?"
	var answer atomic.Value
	answer.Store("UNHEALTHY")
	f := newFleet(t, modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		if c.Request.Prompt() == question {
			return &modelserver.Reply{Text: answer.Load().(string), Usage: &modelserver.Usage{Prompt: 10, Completion: 1}}
		}
		return nil
	}}, work.Config{})
	env := []string{"VALIDATOR_PROMPT=" + question, "PROBE_INTERVAL_SECONDS=1", "PROBE_FAILURE_THRESHOLD=2"}
	pods := []*pod{f.pod("writer-0", env), f.pod("writer-1", env)}
	tk := f.task("hello")
	for _, p := range pods {
		p.becomes(false)
		require.Eventually(t, func() bool {
			return strings.Contains(strings.Join(p.state().Reasons, " "), `the model answered "UNHEALTHY", which does not hold the word HEALTHY`)
		}, patience, 10*time.Millisecond)
	}
	require.NotContains(t, byPrompt(f.models.Calls()), "hello", "an unready agent takes no tasks")
	answer.Store("HEALTHY")
	require.Equal(t, "echo: hello", f.result(tk.ID).Output.Inline)
	for _, p := range pods {
		p.becomes(true)
	}
	from, before := time.Now(), byPrompt(f.models.Calls())[question]
	answer.Store("no")
	for _, p := range pods {
		p.becomes(false)
	}
	asked := byPrompt(f.models.Calls())[question] - before
	require.LessOrEqual(t, asked, int(time.Since(from)/time.Second)+2, "one pod asks for both")
}
