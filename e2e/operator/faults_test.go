package operator

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller/agents"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/work"
)

// Two agents, and four teams of them: a plain pipeline, one with a forEach, one that delegates, and one in which a team
// plays a role.
const crowd = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: ant}
spec: {model: gpt-test, systemPrompt: You are an ant., limits: {retries: 20, timeoutSeconds: 3600, maxConcurrentTasks: 8, maxDailyTokens: 100000000, maxTokensPerCall: 500}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: bee}
spec: {model: gpt-test, systemPrompt: You are a bee., limits: {retries: 20, timeoutSeconds: 3600, maxConcurrentTasks: 8, maxDailyTokens: 100000000, maxTokensPerCall: 500}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: plain}
spec:
  inputs: [{name: prompt, required: true}]
  successfulRunsHistoryLimit: 1000
  failedRunsHistoryLimit: 1000
  roles: [{name: a, arkAgent: ant}, {name: b, arkAgent: bee}]
  pipeline:
  - {name: one, role: a, inputs: {prompt: "one {{ .input.prompt }}."}}
  - {name: two, role: b, dependsOn: [one], inputs: {prompt: "two {{ .input.prompt }}: {{ .steps.one.output }}"}}
  - {name: three, role: a, dependsOn: [two], inputs: {prompt: "three {{ .input.prompt }}: {{ .steps.two.output }}"}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: fan}
spec:
  inputs: [{name: prompt, required: true}]
  successfulRunsHistoryLimit: 1000
  failedRunsHistoryLimit: 1000
  roles: [{name: a, arkAgent: ant}, {name: b, arkAgent: bee}]
  pipeline:
  - {name: one, role: a, inputs: {prompt: "one {{ .input.prompt }}."}}
  - {name: two, role: b, dependsOn: [one], forEach: {items: '["p","q"]'}, inputs: {prompt: "two {{ .input.prompt }} {{ .item }}."}}
  - {name: three, role: a, dependsOn: [two], inputs: {prompt: "three {{ .input.prompt }}: {{ .steps.two.output }}"}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: boss}
spec:
  inputs: [{name: prompt, required: true}]
  successfulRunsHistoryLimit: 1000
  failedRunsHistoryLimit: 1000
  roles: [{name: a, arkAgent: ant, canDelegate: [b]}, {name: b, arkAgent: bee}]
  pipeline:
  - {name: one, role: b, inputs: {prompt: "one {{ .input.prompt }}."}}
  - {name: two, role: a, dependsOn: [one], inputs: {prompt: "ask {{ .input.prompt }}: {{ .steps.one.output }}"}}
  - {name: three, role: b, dependsOn: [two], inputs: {prompt: "three {{ .input.prompt }}: {{ .steps.two.output }}"}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: nest}
spec:
  inputs: [{name: prompt, required: true}]
  successfulRunsHistoryLimit: 1000
  failedRunsHistoryLimit: 1000
  roles: [{name: a, arkAgent: ant}, {name: crew, arkTeam: plain}]
  pipeline:
  - {name: one, role: a, inputs: {prompt: "one {{ .input.prompt }}."}}
  - {name: two, role: crew, inputs: {prompt: "{{ .input.prompt }} below"}, dependsOn: [one]}
  - {name: three, role: a, dependsOn: [two], inputs: {prompt: "three {{ .input.prompt }}: {{ .steps.two.output }}"}}
`

// crowdAnswers are a model that takes its time: no two of its answers are the same, and who is told to ask hands work on
// before it answers.
func crowdAnswers(delay time.Duration) func(modelserver.Call) *modelserver.Reply {
	return func(c modelserver.Call) *modelserver.Reply {
		r := &modelserver.Reply{Delay: delay, Text: fmt.Sprintf("answer %d.", c.N)}
		messages := c.Request.Messages
		if strings.HasPrefix(c.Request.Prompt(), "ask ") && messages[len(messages)-1].Role == "user" {
			r.Text, r.Tools = "", []modelserver.Use{{ID: "t-1", Name: "delegate", Arguments: `{"role":"b","prompt":"help."}`}}
		}
		return r
	}
}

// tasksOf is how many tasks a run of each team of the crowd has, without those of the run below it.
var tasksOf = map[string]int{"plain": 3, "fan": 4, "boss": 4, "nest": 2}

// herd is pods that are killed and replaced.
type herd struct {
	w      *world
	env    []string
	random *rand.Rand
	alive  []*member
	dead   map[string]bool // by pod

	lacking []string // agents of pods that were not replaced yet
}

type member struct {
	agent, name string
	cmd         *exec.Cmd
}

func (h *herd) add(agent string) {
	name := fmt.Sprintf("%s-%d", agent, len(h.dead)+len(h.alive))
	h.alive = append(h.alive, &member{agent, name, h.w.pod(agent, name, h.env...)})
}

// kill ends one of the pods with SIGKILL.
func (h *herd) kill() {
	i := h.random.IntN(len(h.alive))
	m := h.alive[i]
	_ = m.cmd.Process.Kill()
	h.dead[m.name] = true
	h.alive = append(h.alive[:i], h.alive[i+1:]...)
	h.lacking = append(h.lacking, m.agent)
}

// replace starts a new pod for each one that was killed.
func (h *herd) replace() {
	for _, agent := range h.lacking {
		h.add(agent)
	}
	h.lacking = nil
}

// Two hundred runs are live while the operator is killed every 3 s, and agents at random. Every run succeeds, each task is
// done once, no answer that an agent got is paid for again, and the budgets hold exactly what the journals say.
func TestEverythingIsKilledWhileRunsAreLive(t *testing.T) {
	t.Parallel()
	// An operator is only killed once it has come to something, however long it took to start.
	const runs, agentKills, callsOfALife = 200, 12, 16
	w := newWorld(t)
	o := w.start()
	w.apply(crowd)
	models, err := modelserver.Start(t.Context(), modelserver.Config{Answer: crowdAnswers(800 * time.Millisecond)})
	require.NoError(t, err)
	defer func() { _ = models.Close() }()
	h := &herd{
		w: w, env: []string{"OPENAI_BASE_URL=" + models.URL(), "OPENAI_API_KEY=k"}, random: rand.New(rand.NewPCG(3, 5)),
		dead: map[string]bool{},
	}
	for _, agent := range []string{"ant", "bee", "ant", "bee"} {
		h.add(agent)
	}
	teams := []string{"plain", "fan", "boss", "nest"}
	var names []string
	for i := range runs {
		team := teams[i%len(teams)]
		names = append(names, fmt.Sprintf("%s-%03d", team, i))
		w.runOf(names[i], team, map[string]any{"prompt": names[i]})
	}
	began, kills, before := time.Now(), 0, 0
	all := w.allEnded(runs)
	half := time.NewTicker(1500 * time.Millisecond)
	defer half.Stop()
	for live, tick := true, 0; live; tick++ {
		select {
		case <-all:
			live = false
		case <-half.C:
			if len(h.dead) < agentKills && len(h.lacking) < 2 && h.random.IntN(3) > 0 {
				h.kill()
			}
			if tick%2 == 0 {
				continue
			}
			if len(models.Calls()) < before+callsOfALife {
				h.replace()
				continue
			}
			o.kill()
			kills++
			h.replace() // what there is of the new ones waits for an operator
			o = w.start()
			before = len(models.Calls())
		}
	}
	t.Logf("%d runs, %d kills of the operator, %d of agents: all ended after %s", runs, kills, len(h.dead), time.Since(began).Round(time.Second))
	for _, name := range names {
		r := w.ended(name)
		require.Equal(t, v1alpha1.RunSucceeded, r.Status.Phase, "%s: %s", name, r.Status.Message)
		require.Equal(t, "3/3", r.Status.StepSummary)
	}
	o.stop()
	w.audit(models.Calls(), h.dead)
}

// allEnded returns a channel that is closed when n runs that no run stands above have ended.
func (w *world) allEnded(n int) <-chan struct{} {
	done := make(chan struct{})
	ctx := w.t.Context()
	go func() {
		defer close(done)
		ended := map[string]bool{}
		for ctx.Err() == nil && len(ended) < n {
			events, err := w.clients.Runs(w.namespace).Watch(ctx, metav1.ListOptions{})
			if err != nil {
				continue
			}
			for e := range events.ResultChan() {
				if r, is := e.Object.(*v1alpha1.ArkRun); is && r.Spec.Parent == nil && r.Status.Phase.Terminal() {
					if ended[r.Name] = true; len(ended) == n {
						break
					}
				}
			}
			events.Stop()
		}
	}()
	return done
}

// openStore opens the store of an operator that has ended. shut closes it for the next one.
func (w *world) openStore() (q *queue.Queue, shut func()) {
	w.t.Helper()
	authority, _ := w.keys()
	quiet := slog.New(slog.DiscardHandler)
	server, err := queue.StartServer(w.t.Context(), queue.ServerConfig{StoreDir: w.store, Authority: authority, Logger: quiet})
	require.NoError(w.t, err)
	w.t.Cleanup(server.Shutdown) // it may be repeated
	conn, err := server.Connect("test")
	require.NoError(w.t, err)
	q, err = queue.Open(w.t.Context(), conn, queue.Config{Logger: quiet})
	require.NoError(w.t, err)
	return q, server.Shutdown
}

// audited is what the journal of a task says of one call.
type audited struct {
	pod      string
	lines    []work.Line // of its task
	answered bool
	unknown  bool
}

// audit compares the model server's log, the journals, the budgets and the runs after everything was killed.
func (w *world) audit(log []modelserver.Call, killed map[string]bool) {
	w.t.Helper()
	ctx, t := w.t.Context(), w.t
	q, shut := w.openStore()
	defer shut()
	var keys []queue.Key
	caughtUp := fmt.Errorf("everything was read")
	err := q.Results(ctx, "", func(r queue.Record) error {
		if r.Result != nil {
			keys = append(keys, r.Key)
		}
		return nil
	}, func() error { return caughtUp })
	require.ErrorIs(t, err, caughtUp)

	calls := map[string]*audited{}     // by the call's key
	spentByRun := map[string]int64{}   // by uid
	spentByAgent := map[string]int64{} // by name
	tasksByRun := map[string]int{}     // by uid
	unknown := 0
	for _, key := range keys {
		if key.Agent == "" { // a run below
			continue
		}
		tasksByRun[key.RunUID]++
		lines, err := work.ReadJournal(ctx, q, key, 1<<20)
		require.NoError(t, err)
		answers, spent, reserved := 0, int64(0), map[int]int64{}
		for _, l := range lines {
			switch e := l.Entry; {
			case e == nil:
			case e.Intent != nil:
				calls[fmt.Sprintf("%s-%d", key.TaskID, e.Intent.Call)] = &audited{pod: l.Pod, lines: lines}
				reserved[e.Intent.Call] = e.Intent.Reserve
			case e.Answer != nil:
				calls[fmt.Sprintf("%s-%d", key.TaskID, e.Answer.Call)].answered = true
				answers++
				spent += e.Answer.Usage.Total()
			case e.Failed != nil:
				require.True(t, e.Failed.Unknown, "%s: %+v", key, e.Failed)
				calls[fmt.Sprintf("%s-%d", key.TaskID, e.Failed.Call)].unknown = true
				cost := e.Failed.Cost(reserved[e.Failed.Call])
				spent += cost.Total()
				unknown++
			}
		}
		expected := 1
		if len(lines) > 0 && hasTool(lines) {
			expected = 2
		}
		require.Equal(t, expected, answers, "answers of %s", key)
		spentByRun[key.RunUID] += spent
		spentByAgent[key.Agent] += spent
	}
	w.auditCalls(log, calls, killed)
	t.Logf("%d tasks, %d model calls, %d of unknown outcome", len(keys), len(log), unknown)

	runs, err := w.clients.Runs(w.namespace).List(ctx, metav1.ListOptions{})
	require.NoError(t, err)
	below := map[string]int64{} // what the runs below a run have spent
	for i := range runs.Items {
		if p := runs.Items[i].Spec.Parent; p != nil {
			below[p.RunUID] += spentByRun[string(runs.Items[i].UID)]
		}
	}
	for i := range runs.Items {
		r := &runs.Items[i]
		require.Equal(t, tasksOf[r.Spec.TeamRef.Name], tasksByRun[string(r.UID)], "tasks of %s", r.Name)
		require.Equal(t, spentByRun[string(r.UID)]+below[string(r.UID)], r.Status.TotalTokenUsage.TotalTokens, "tokens of %s", r.Name)
	}
	for _, agent := range []string{"ant", "bee"} {
		stored, ok, err := q.Last(ctx, queue.BudgetSubject(w.namespace, agents.BudgetOfAgent+agent))
		require.NoError(t, err)
		require.True(t, ok)
		budget, err := work.DecodeBudget(stored.Body)
		require.NoError(t, err)
		require.Equal(t, spentByAgent[agent], budget.State.Spent(time.Now()), "the daily budget of %s", agent)
		require.Zero(t, budget.State.Reserved(), "the daily budget of %s", agent)
	}
}

func hasTool(lines []work.Line) bool {
	for _, l := range lines {
		if l.Entry != nil && l.Entry.ToolStart != nil {
			return true
		}
	}
	return false
}

// auditCalls holds the model server's log against the journals: each call was announced, none was made twice, and each one
// whose answer was not stored was made by a pod that was killed.
func (w *world) auditCalls(log []modelserver.Call, calls map[string]*audited, killed map[string]bool) {
	w.t.Helper()
	t := w.t
	seen := map[string]bool{}
	twice := 0
	for _, c := range log {
		require.False(t, seen[c.Key], "call %s was made twice: %s", c.Key, c.Request.Prompt())
		seen[c.Key] = true
		said := calls[c.Key]
		require.NotNil(t, said, "call %s is in no journal: %s", c.Key, c.Request.Prompt())
		if said.answered {
			continue
		}
		require.True(t, said.unknown, "call %s has no end", c.Key)
		if !killed[said.pod] {
			history, err := json.MarshalIndent(said.lines, "", " ")
			require.NoError(t, err)
			require.Failf(t, "lost answer", "the answer to %s is lost, but its pod %s was not killed: %s\n%s", c.Key, said.pod, c.Request.Prompt(), history)
		}
		if c.Whole {
			twice++
		}
	}
	t.Logf("answers that reached an agent which died before they were stored: %d", twice)
	for key, said := range calls {
		require.True(t, said.answered != said.unknown, "%s: %+v", key, said)
		require.True(t, seen[key] || said.unknown, "%s was answered, but the model server knows nothing of it", key)
	}
}
