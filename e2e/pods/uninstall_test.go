package pods

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm/modelserver"
)

// Teams whose agents make one call of the model after the other for ever, twice a second: by themselves, for a lead that
// waits for them, and as a team that is a step of another one. One agent waits for an answer that does not come.
const restless = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkMemory
metadata: {name: notes}
spec: {backend: nats, nats: {}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: ant}
spec: {model: gpt-test, systemPrompt: endless, memoryRef: {name: notes}, limits: {maxConcurrentTasks: 20, timeoutSeconds: 3600, maxTurns: 1000, maxTokensPerCall: 100}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: thinker}
spec: {model: gpt-test, systemPrompt: ponder, limits: {timeoutSeconds: 3600}, terminationGracePeriodSeconds: 600}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: alone}
spec:
  inputs: [{name: prompt, required: true}]
  failedRunsHistoryLimit: 20
  roles: [{name: a, arkAgent: ant}]
  pipeline: [{name: one, role: a, inputs: {prompt: "alone {{ .input.prompt }}."}}]
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: above}
spec:
  inputs: [{name: prompt, required: true}]
  failedRunsHistoryLimit: 20
  roles: [{name: crew, arkTeam: alone}]
  pipeline: [{name: one, role: crew, inputs: {prompt: "below {{ .input.prompt }}"}}]
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: desk}
spec:
  entry: lead
  failedRunsHistoryLimit: 20
  roles:
  - {name: lead, model: gpt-test, systemPrompt: delegate, canDelegate: [worker], limits: {timeoutSeconds: 3600}}
  - {name: worker, model: gpt-test, systemPrompt: endless, memoryRef: {name: notes}, limits: {maxConcurrentTasks: 20, timeoutSeconds: 3600, maxTurns: 1000, maxTokensPerCall: 100}}
`

// perTeam is how many runs of each team are live.
const perTeam = 3

// busy triggers runs of all the teams, and returns their names once each of their agents is in the middle of its calls. The
// names in whose are the world's own: prompts of an earlier time do not count.
func (w *world) busy(whose string) (runs []string) {
	w.t.Helper()
	before := len(w.calls())
	for i := range perTeam {
		n := fmt.Sprintf("%s%d", whose, i)
		for _, team := range []string{"alone", "above", "desk"} {
			out, _ := w.ark(0, "trigger", team, "--input", "prompt="+n)
			runs = append(runs, strings.TrimSpace(out))
		}
	}
	w.ask("thinker", whose+"-thinker", whose+" thinks.")
	runs = append(runs, whose+"-thinker")
	require.EventuallyWithT(w.t, func(c *assert.CollectT) {
		asked := tasks(w.calls()[before:])
		for i := range perTeam {
			require.GreaterOrEqual(c, asked[fmt.Sprintf("alone %s%d.", whose, i)], 3, asked)
			require.GreaterOrEqual(c, asked[fmt.Sprintf("alone below %s%d.", whose, i)], 3, asked)
		}
		require.GreaterOrEqual(c, asked[delegated], 3*perTeam, asked)
		require.Positive(c, asked[whose+" thinks."], asked)
	}, patience, 200*time.Millisecond)
	return runs
}

// delegated is what the leads of team desk ask their workers.
const delegated = "Do it."

// taskOf is the task of a call: the last line of its prompt, behind what the agent remembers. Those of the test end with a
// full stop, other ones are "". Tasks of delegates have all the same.
func taskOf(c modelserver.Call) string {
	lines := strings.Split(strings.TrimSpace(c.Request.Prompt()), "\n")
	if last := lines[len(lines)-1]; strings.HasSuffix(last, ".") {
		return last
	}
	return ""
}

// tasks counts the calls of each task.
func tasks(calls []modelserver.Call) map[string]int {
	out := map[string]int{}
	for _, c := range calls {
		if t := taskOf(c); t != "" {
			out[t]++
		}
	}
	return out
}

// uninstall runs the command and returns when it began, when it said what it is waited for, and when it was done.
func uninstall(t *testing.T, until string, args ...string) (began, said, done time.Time, out string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), shared.ark, append([]string{"uninstall", "--timeout", patience.String()}, args...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+shared.cluster.Kubeconfig())
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	var errs strings.Builder
	cmd.Stderr = &errs
	began = time.Now()
	require.NoError(t, cmd.Start())
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if strings.Contains(lines.Text(), until) {
			said = time.Now()
		}
		out += fmt.Sprintf("%6.1fs %s\n", time.Since(began).Seconds(), lines.Text())
	}
	err = cmd.Wait()
	done = time.Now()
	require.NoError(t, err, "%s%s", out, errs.String())
	require.False(t, said.IsZero(), "%q was not said: %s", until, out)
	t.Logf("%s after %s, done after %s\n%s%s", until, said.Sub(began), done.Sub(began), out, errs.String())
	return began, said, done, out + errs.String()
}

// silent says that no task made more calls after its end was asked for than one makes in 2 s, and that none was made once the
// command was done. They are counted and not timed: on a machine that is busy with other things, whoever calls is as slow as
// whoever is to stop it.
func (w *world) silent(ended, done time.Time) {
	w.t.Helper()
	const most = 4
	var late []modelserver.Call
	for _, c := range w.calls() {
		if c.In.After(ended) {
			late = append(late, c)
		}
	}
	after := tasks(late)
	for _, c := range late {
		require.False(w.t, taskOf(c) != "" && c.In.After(done), "%q was asked after the end", taskOf(c))
	}
	w.t.Logf("calls after the end was asked for: %v", after)
	for prompt, n := range after {
		if prompt == delegated {
			n = (n + perTeam - 1) / perTeam
		}
		require.LessOrEqual(w.t, n, most, "calls for %q", prompt)
	}
}

// reinstall installs ark as the package's tests found it, and returns when it works.
func reinstall(t *testing.T) {
	t.Helper()
	out, err := ark(t.Context(), "install", "--image", arkImage, "--wait", "--timeout", patience.String(), "--log-level", "debug")
	require.NoError(t, err, out)
}

const other = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: writer}
spec: {model: gpt-test, systemPrompt: You write.}
`

// Where ark is taken out in the middle of runs, they are cancelled and say why, and no model is called any more. Installed
// again, it goes on with everything else. Where it is taken out with all that it has, nothing of it is left in any
// namespace, nothing waits for an operator that is gone, and it can be installed again.
func TestUninstalledWhileRunsAreLive(t *testing.T) {
	w, beside := newWorld(t), newWorld(t)
	w.startModel()
	w.apply(restless)
	beside.apply("apiVersion: arkonis.dev/v1alpha1\nkind: ArkTeam\nmetadata: {name: idle}\nspec: {roles: [{name: a, model: mock}], pipeline: [{role: a}]}")
	for _, team := range []string{"alone", "above", "desk"} {
		w.kubectl("wait", "--for=condition=Ready", "arkteam/"+team, "--timeout="+patience.String())
	}
	beside.kubectl("wait", "--for=condition=Ready", "arkteam/idle", "--timeout="+patience.String())

	runs := w.busy("first")
	_, said, done, _ := uninstall(t, "is cancelled")
	w.silent(said, done)
	for _, name := range runs {
		r, err := shared.clients.Runs(w.namespace).Get(t.Context(), name, metav1.GetOptions{})
		require.NoError(t, err)
		require.Equal(t, v1alpha1.RunCancelled, r.Status.Phase, "%s: %s", name, r.Status.Message)
		require.Equal(t, "ark was uninstalled", r.Status.Message, name)
	}
	left, err := shared.clients.Runs(w.namespace).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, left.Items, len(runs)+perTeam, "with the runs below those of team above")
	for i := range left.Items {
		require.True(t, left.Items[i].Status.Phase.Terminal(), "%s: %s", left.Items[i].Name, left.Items[i].Status.Phase)
	}
	_, err = kubectl(t.Context(), "-n", "ark-system", "get", "statefulset", "ark")
	require.Error(t, err)

	reinstall(t)
	w.busy("second")
	_, said, done, out := uninstall(t, "arkruns.arkonis.dev removed", "--purge", "--yes")
	require.NotContains(t, out, "WARNING")
	w.nothingOfArk()
	w.silent(said, done)
	require.NoError(t, shared.clients.Core.CoreV1().Namespaces().Delete(t.Context(), beside.namespace, metav1.DeleteOptions{}))
	gone, err := kubectl(t.Context(), "wait", "--for=delete", "namespace/"+beside.namespace, "--timeout="+patience.String())
	require.NoError(t, err, gone)

	reinstall(t)
	w.apply(other)
	w.ask("writer", "again", "question again")
	require.Equal(t, "[You write.] question again", w.answered("again"))
	w.silent(said, done)
}

// nothingOfArk says that the cluster has nothing of ark, and that what users made beside it is there.
func (w *world) nothingOfArk() {
	w.t.Helper()
	for _, args := range [][]string{
		{"-A", "-l", "app.kubernetes.io/managed-by=ark", "deployments,replicasets,pods,secrets,services,configmaps,networkpolicies"},
		{"-A", "-l", "app.kubernetes.io/part-of=ark", "statefulsets,pods,services,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets"},
		{"-l", "app.kubernetes.io/part-of=ark", "clusterroles,clusterrolebindings,apiservices,namespaces"},
		{"--ignore-not-found", "namespace", "ark-system"},
	} {
		out, err := kubectl(w.t.Context(), append([]string{"get", "-o", "name"}, args...)...)
		require.NoError(w.t, err, out)
		require.Empty(w.t, strings.TrimSpace(out), args)
	}
	for _, kind := range []string{"crd", "apiservices"} {
		out, err := kubectl(w.t.Context(), "get", kind, "-o", "name")
		require.NoError(w.t, err, out)
		require.NotContains(w.t, out, "arkonis.dev")
	}
	require.Contains(w.t, w.kubectl("get", "secret,pod", "-o", "name"), "secret/ark-api-keys")
}
