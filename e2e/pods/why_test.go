package pods

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	corev1 "k8s.io/api/core/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/remote/why"
)

// pollEvery is how often a command is typed again whose answer is not there yet.
const pollEvery = time.Second

// explained types `ark why` until the cause is the one that is meant and the texts are said, and returns the answer.
func (w *world) explained(run, cause string, says ...string) (a *why.Answer) {
	w.t.Helper()
	require.EventuallyWithT(w.t, func(c *assert.CollectT) {
		out, said, code := w.try(shared.cluster.Kubeconfig(), "why", run, "-o", "json")
		require.Zero(c, code, said)
		now := &why.Answer{}
		require.NoError(c, json.Unmarshal([]byte(out), now))
		require.Equal(c, cause, now.Cause, out)
		for _, text := range says {
			require.Contains(c, now.Message+"\n"+strings.Join(now.Evidence, "\n"), text)
		}
		a = now
	}, patience, pollEvery, "ark why %s", run)
	return a
}

// trouble is an object, or several, that make a run of the name hang or fail, and what is said of it.
type trouble struct {
	name  string
	agent string // fields of an ArkAgent's spec beside its model
	team  string // or those of an ArkTeam
	runs  int    // how many runs are made before the one that is asked about
	first string // a condition that kubectl waits for before
	cause string
	says  []string // of the message or the evidence
	next  string   // of the first command to type
}

var troubles = []trouble{
	// Pods that are not ready.
	{name: "zero", agent: `replicas: 0`, cause: why.ScaledToZero, says: []string{"spec.replicas: 0"}, next: "kubectl scale arkagent zero --replicas=1"},
	{
		name: "forbidden", agent: `podSecurityContext: {runAsUser: 0, runAsNonRoot: false}`, cause: why.NoReadyPod,
		says: []string{"no pod can be made", `violates PodSecurity "restricted:latest"`}, next: "kubectl describe deployment forbidden-agent",
	},
	{
		name: "noimage", agent: `image: "127.0.0.1:1/team/tool:1"`, cause: why.ImageCannotStart,
		says: []string{"its image 127.0.0.1:1/team/tool:1 cannot be pulled", "connection refused"}, next: "kubectl describe pod noimage-agent-",
	},
	{
		name: "crashing", agent: `env: [{name: MCP_SERVERS, value: "{"}]`, cause: why.PodCannotStart,
		says: []string{"its container ends again and again: error: MCP_SERVERS is", "CrashLoopBackOff"}, next: "kubectl describe pod crashing-agent-",
	},
	{
		name: "noroom", agent: `nodeSelector: {disk: none}`, cause: why.Unschedulable,
		says: []string{"no node can take its pod", "0/2 nodes are available"}, next: "kubectl describe pod noroom-agent-",
	},
	{
		name: "noprompt", agent: `systemPromptRef: {configMapKeyRef: {name: nothere, key: text}}`, cause: why.ConfigMissing,
		says: []string{"there is no ConfigMap nothere"}, next: "kubectl describe arkagent noprompt",
	},
	{
		name: "nosecret", agent: `envFrom: [{secretRef: {name: nothere}}]`, cause: why.ConfigMissing,
		says: []string{"there is no Secret nothere"}, next: "kubectl describe arkagent nosecret",
	},
	{
		name: "tooldown", agent: `mcpServers: [{name: search, url: "http://model:1/mcp", required: true}]`, cause: why.ToolServerDown,
		says: []string{"tool server search at http://model:1/mcp: "}, next: "kubectl edit arkagent tooldown",
	},
	{
		name: "mad", agent: `livenessProbe: {validatorPrompt: Are you well, intervalSeconds: 1, failureThreshold: 1}`,
		first: "condition=Healthy=false", cause: why.Unhealthy, says: []string{"its model does not answer as the probe wants"}, next: "kubectl logs -l arkonis.dev/agent=mad",
	},
	// Models.
	{
		name: "refused", agent: `systemPrompt: refuse`, cause: "ProviderAuth",
		says: []string{"the model server refuses the key of agent refused", "401 Unauthorized"}, next: "kubectl patch secret ark-api-keys",
	},
	{
		name: "limited", agent: `systemPrompt: limit, limits: {timeoutSeconds: 3600}`, cause: "RateLimited",
		says: []string{"limits the rate of agent limited", "429 Too Many Requests"}, next: "kubectl logs -l arkonis.dev/agent=limited",
	},
	{
		name: "unreachable", agent: `limits: {timeoutSeconds: 3600}, env: [{name: OPENAI_BASE_URL, value: "http://model:1/v1"}]`, cause: "ProviderFailed",
		says: []string{"cannot be reached", "http://model:1/v1"}, next: "kubectl get secret ark-api-keys",
	},
	{
		name: "late", agent: `systemPrompt: ponder, limits: {timeoutSeconds: 1, retries: 0}`, cause: "Timeout",
		says: []string{"agent late did not finish within its time", "raise timeoutSeconds"}, next: "ark logs late --step late",
	},
	// Budgets. A call may use some 390 tokens and uses some 60: two calls fit 440 of them only when the first is forgotten.
	{
		name: "daily", agent: `limits: {maxTokensPerCall: 50, maxDailyTokens: 440}`, runs: 1, cause: why.BudgetUsedUp,
		says: []string{"agent daily ha", "used up its daily budget", "440 tokens"}, next: "kubectl edit arkagent daily",
	},
	{
		name: "toolarge", agent: `limits: {maxTokensPerCall: 5000, maxDailyTokens: 440}`, cause: why.CallTooLarge,
		says: []string{"a call may use more tokens than the daily budget of agent toolarge has"}, next: "kubectl edit arkagent toolarge",
	},
	{
		name: "thrifty", team: `
  limits: {maxDailyTokens: 440}
  roles: [{name: writer, model: gpt-test, systemPrompt: You write., limits: {maxTokensPerCall: 50}}]
  pipeline: [{role: writer, inputs: {prompt: question}}]`,
		runs: 1, cause: why.BudgetUsedUp, says: []string{"team thrifty ha", "440 tokens"}, next: "kubectl edit arkteam thrifty",
	},
	{
		name: "short", team: `
  maxTokens: 440
  roles: [{name: writer, model: gpt-test, systemPrompt: You write., limits: {maxTokensPerCall: 50}}]
  pipeline:
  - {name: one, role: writer, inputs: {prompt: question}}
  - {name: two, role: writer, dependsOn: [one], inputs: {prompt: "{{ .steps.one.output }}"}}`,
		cause: why.BudgetUsedUp, says: []string{"the run's budget was used up", "step two failed", "of its 440 tokens (maxTokens)"}, next: "kubectl edit arkteam short",
	},
	// Other work.
	{
		name: "handing", team: `
  entry: lead
  roles:
  - {name: lead, model: gpt-test, systemPrompt: delegate, canDelegate: [worker], limits: {timeoutSeconds: 3600}}
  - {name: worker, model: gpt-test, systemPrompt: ponder, limits: {timeoutSeconds: 3600}}`,
		cause: why.WaitingForDelegate, says: []string{"step lead waits for the work that it handed to agent handing-worker"}, next: "ark logs handing -f",
	},
	{
		name: "above", team: `
  roles: [{name: below, arkTeam: handing}]
  pipeline: [{role: below, inputs: {prompt: question}}]`,
		cause: why.WaitingForTeam, says: []string{"step below waits for the run handing-run-"}, next: "ark why handing-run-",
	},
	{
		name: "hasty", team: `
  timeoutSeconds: 1
  roles: [{name: writer, model: gpt-test, systemPrompt: ponder}]
  pipeline: [{role: writer, inputs: {prompt: question}}]`,
		cause: "TimedOut", says: []string{"its timeoutSeconds has passed"}, next: "kubectl edit arkteam hasty",
	},
	// What is refused from the start.
	{
		name: "resting", team: `
  suspend: true
  roles: [{name: writer, arkAgent: zero}]
  pipeline: [{role: writer, inputs: {prompt: question}}]`,
		cause: "Suspended", says: []string{"team resting is suspended"}, next: "kubectl patch arkteam resting --type merge",
	},
	{
		name: "orphan", team: `
  roles: [{name: writer, arkAgent: nobody}]
  pipeline: [{role: writer, inputs: {prompt: question}}]`,
		cause: "ReferenceNotFound", says: []string{`there is no ArkAgent "nobody"`}, next: "kubectl describe arkteam orphan",
	},
	{name: "nobody", cause: "AgentNotFound", says: []string{"there is no agent nobody"}, next: "kubectl get arkagents"},
}

// manifest is what the trouble is made of, but for its runs.
func (p *trouble) manifest() string {
	kind, spec := "ArkTeam", p.team
	if p.agent != "" {
		kind, spec = "ArkAgent", " {model: gpt-test, "+p.agent+"}"
		if !strings.Contains(p.agent, "systemPrompt") {
			spec = " {model: gpt-test, systemPrompt: You write., " + p.agent + "}"
		}
	}
	if spec == "" {
		return ""
	}
	return fmt.Sprintf("---\napiVersion: arkonis.dev/v1alpha1\nkind: %s\nmetadata: {name: %s}\nspec:%s\n", kind, p.name, spec)
}

// run makes a run as somebody does who applies one by hand.
func (p *trouble) run(w *world, name string) {
	of := "agentRef: {name: " + p.name + "}, prompt: question"
	if p.team != "" {
		of = "teamRef: {name: " + p.name + "}"
	}
	w.apply("apiVersion: arkonis.dev/v1alpha1\nkind: ArkRun\nmetadata: {name: " + name + "}\nspec: {" + of + "}\n")
}

// `ark why` names what is wrong and what to type, and says nothing twice.
func TestWhy(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startModel()
	var all strings.Builder
	for i := range troubles {
		all.WriteString(troubles[i].manifest())
	}
	w.apply(all.String())
	for i := range troubles {
		p := &troubles[i]
		if p.first != "" {
			w.kubectl("wait", "--for="+p.first, "arkagent/"+p.name, "--timeout="+patience.String())
		}
		for n := range p.runs {
			name := fmt.Sprintf("%s-%d", p.name, n)
			p.run(w, name)
			until(w, shared.clients.Runs(w.namespace), name, "its end", func(r *v1alpha1.ArkRun) bool {
				return r.Status.Phase.Terminal()
			})
		}
		p.run(w, p.name)
	}
	for i := range troubles {
		p := &troubles[i]
		t.Run(p.name, func(t *testing.T) {
			w := &world{t: t, namespace: w.namespace}
			a := w.explained(p.name, p.cause, p.says...)
			said := strings.Join(append([]string{a.Message}, a.Evidence...), "\n")
			require.NotEmpty(t, a.Next)
			require.True(t, strings.HasPrefix(a.Next[0], p.next), "%q does not begin with %q", a.Next[0], p.next)
			require.Contains(t, a.Next[0], " -n "+w.namespace)
			require.Len(t, slices.Compact(slices.Sorted(slices.Values(a.Evidence))), len(a.Evidence), said)
			t.Logf("%s is %s: %s\n%s", a.Run, a.Phase, said, strings.Join(a.Next, "\n"))
		})
	}
}

// Without an operator nothing goes on: that is what is said, to whoever may not see its workload too, and a run that was
// made meanwhile is carried out when it is back. It stands apart from the parallel tests, which need the operator.
func TestTheOperatorIsAway(t *testing.T) {
	w := newWorld(t)
	w.kubectl("apply", "-f", "../../deploy/samples/linear.yaml")
	w.kubectl("wait", "--for=condition=Ready", "arkteam/newsroom", "--timeout="+patience.String())
	viewer := w.viewer()
	scale := func(n, wait string) {
		for _, args := range [][]string{{"scale", "statefulset/ark", "--replicas=" + n}, {"wait", "pod/ark-0", "--timeout=" + patience.String(), "--for=" + wait}} {
			out, err := kubectl(t.Context(), append([]string{"-n", "ark-system"}, args...)...)
			require.NoError(t, err, out)
		}
	}
	scale("0", "delete")
	back := func() {
		out, err := kubectl(t.Context(), "-n", "ark-system", "scale", "statefulset/ark", "--replicas=1")
		require.NoError(t, err, out)
		until(w, shared.clients.Core.CoreV1().Pods("ark-system"), "ark-0", "a ready operator", func(p *corev1.Pod) bool {
			return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue })
		})
	}
	w.apply("apiVersion: arkonis.dev/v1alpha1\nkind: ArkRun\nmetadata: {name: patient}\nspec: {teamRef: {name: newsroom}, input: {topic: tides}}\n")
	a := w.explained("patient", why.OperatorAway)
	require.Equal(t, []string{"StatefulSet ark-system/ark has 0 replicas"}, a.Evidence)
	require.Equal(t, "kubectl scale statefulset/ark --replicas=1 -n ark-system", a.Next[0])
	out, _ := w.arkAs(viewer, 0, "why", "patient")
	require.Contains(t, out, "ark's operator is away")
	require.EventuallyWithT(t, func(c *assert.CollectT) { // the StatefulSet's status follows its pod
		out, said, code := w.try(shared.cluster.Kubeconfig(), "status")
		require.Zero(c, code, said)
		require.Regexp(c, `^operator\tNotReady, 0 of 0 pods ready \(ark-system/ark\).*data.arkonis.dev does not answer\n`, out)
	}, patience, pollEvery)
	_, said := w.ark(1, "logs", "patient")
	require.Contains(t, said, "the operator does not answer: see 'ark status'")
	back()
	run := until(w, shared.clients.Runs(w.namespace), "patient", "its end", func(r *v1alpha1.ArkRun) bool { return r.Status.Phase.Terminal() })
	require.Equal(t, v1alpha1.RunSucceeded, run.Status.Phase, run.Status.Message)
}
