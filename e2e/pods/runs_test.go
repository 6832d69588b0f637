package pods

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// ark runs the command in the world's namespace as a user with a kubeconfig, and requires its exit code.
func (w *world) ark(code int, args ...string) (stdout, stderr string) {
	w.t.Helper()
	return w.arkAs(shared.cluster.Kubeconfig(), code, args...)
}

func (w *world) arkAs(kubeconfig string, code int, args ...string) (stdout, stderr string) {
	w.t.Helper()
	out, said, got := w.try(kubeconfig, args...)
	require.Equal(w.t, code, got, "ark %s\n%s%s", strings.Join(args, " "), out, said)
	return out, said
}

// try is arkAs for a command that may end in any way; one that does not run at all ends with -1.
func (w *world) try(kubeconfig string, args ...string) (stdout, stderr string, code int) {
	cmd := exec.CommandContext(w.t.Context(), shared.ark, append([]string{args[0], "-n", w.namespace}, args[1:]...)...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig)
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); cmd.ProcessState == nil {
		return "", err.Error(), -1
	}
	return out.String(), said.String(), cmd.ProcessState.ExitCode()
}

// samples are the teams of deploy/samples and what they are triggered with.
var samples = map[string]struct {
	file, input string
	steps       []string
}{
	"newsroom":     {"linear.yaml", "topic=tides", []string{"researcher", "writer", "editor"}},
	"review-board": {"parallel.yaml", "plan=Move the database.", []string{"cost", "operations", "security", "chair"}},
	"help-desk":    {"dynamic.yaml", "prompt=Should we cache this page?", []string{"lead"}},
	"poets":        {"loop.yaml", "language=French", []string{"draft", "translator"}},
	"front-desk":   {"routed.yaml", "prompt=Why was I charged twice?", []string{"route"}},
	"agency":       {"memory.yaml", "to=Porto", []string{"listen", "plan"}},
	"weather":      {"webhook-tool.yaml", "city=Lisbon", []string{"forecaster"}},
}

// Every sample team succeeds when it is triggered, and kubectl alone shows what became of it.
func TestSamples(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	files, err := filepath.Glob("../../deploy/samples/*.yaml")
	require.NoError(t, err)
	require.Len(t, files, len(samples), "a sample without a team here, or the other way round")
	for _, s := range samples {
		w.kubectl("apply", "-f", filepath.Join("../../deploy/samples", s.file))
	}
	teams := slices.Sorted(maps.Keys(samples))
	for _, team := range teams {
		w.kubectl("wait", "--for=condition=Ready", "arkteam/"+team, "--timeout="+patience.String())
	}
	for _, team := range teams {
		s := samples[team]
		output, progress := w.ark(0, "trigger", team, "--input", s.input, "--watch")
		require.NotEmpty(t, strings.TrimSpace(output), team)
		require.Regexp(t, `(?m)^Run Succeeded in \S+ - [1-9]\d* tokens$`, progress)
		run, _, _ := strings.Cut(progress, "\n")

		table := w.kubectl("get", "arkrun", "-l", "arkonis.dev/team="+team)
		require.Regexp(t, `^NAME +TEAM +PHASE +STEPS +TOKENS +STARTED +DURATION +AGE\n`, table)
		require.Regexp(t, fmt.Sprintf(`(?m)^%s +%s +Succeeded +%d/%[3]d +[1-9]\d* +`, run, team, len(s.steps)), table)

		whole := w.kubectl("describe", "arkrun", run)
		for _, step := range s.steps {
			require.Regexp(t, `(?m)^ +Name: +`+step+`$`, whole)
			require.Regexp(t, `StepSucceeded +.* +ark +step `+regexp.QuoteMeta(step)+` succeeded with \d+ tokens`, w.eventually("describe", "arkrun", run, "StepSucceeded.*step "+step+" "))
			require.Regexp(t, `(?m)^`+step+`(\t[^\t]*){2}`, first(w.ark(0, "get", run)))
		}
		require.Regexp(t, `(?m)^ +Output: +\S`, whole)
		require.Regexp(t, `(?m)^ +Total Tokens: +[1-9]`, whole)
		require.Regexp(t, `(?m)^ +Phase: +Succeeded$`, whole)
		require.Equal(t, output, first(w.ark(0, "output", run)))
	}
}

func first(a, _ string) string { return a }

// eventually is what kubectl prints once it matches: Events of Kubernetes are recorded a moment after what they tell of.
func (w *world) eventually(args ...string) string {
	w.t.Helper()
	pattern := regexp.MustCompile(args[len(args)-1])
	var out string
	require.Eventually(w.t, func() bool {
		out = w.kubectl(args[:len(args)-1]...)
		return pattern.MatchString(out)
	}, patience, pollEvery, "kubectl %v", args)
	return out
}

const ownModel = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: pair}
spec:
  roles:
  - {name: writer, model: gpt-test, systemPrompt: You write.}
  - {name: critic, model: gpt-test, systemPrompt: refuse}
  pipeline:
  - {role: writer, inputs: {prompt: question 1}}
  - {role: critic, dependsOn: [writer], inputs: {prompt: "Judge: {{ .steps.writer.output }}"}}
`

// The message of a run that failed says what is wrong and what to do, wherever it is read.
func TestAFailedRunIsTold(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.startModel()
	w.apply(ownModel)
	w.kubectl("wait", "--for=condition=Ready", "arkteam/pair", "--timeout="+patience.String())
	_, said := w.ark(2, "trigger", "pair", "--wait", "--timeout", patience.String())
	const cause = `step "critic" failed: model server http://model/v1 answered 401 Unauthorized: "Incorrect API key provided."; check the API key and what it may use`
	require.Contains(t, said, cause)
	run := strings.TrimPrefix(strings.TrimSpace(first(w.ark(0, "runs", "pair", "-o", "name"))), "arkrun.arkonis.dev/")
	require.Contains(t, said, "see 'ark why "+run+" -n "+w.namespace+"'")

	whole := w.eventually("describe", "arkrun", run, `Warning +StepFailed.*run ended as Failed`)
	require.Regexp(t, `(?m)^ +Message: +`+regexp.QuoteMeta(cause)+`$`, whole)
	require.Regexp(t, `(?m)^ +Failed Step: +critic$`, whole)
	require.Regexp(t, `(?m)^ +Reason: +ProviderAuth$`, whole)
	require.Regexp(t, `Warning +StepFailed .*step critic failed \(ProviderAuth\): model server`, whole)
	require.Contains(t, w.kubectl("get", "arkrun", run, "-o", "wide"), cause)
	require.Contains(t, first(w.ark(0, "runs", "-o", "wide")), cause)
	require.Equal(t, "[You write.] question 1", strings.TrimSpace(first(w.ark(0, "output", run, "--step", "writer"))))
	w.kubectl("wait", "arkteam/pair", "--for=jsonpath={.status.lastRunPhase}="+string(v1alpha1.RunFailed), "--timeout="+patience.String())
}

// viewer is a kubeconfig of somebody who has the role ark-view in the world's namespace, and nothing else.
func (w *world) viewer() string {
	w.t.Helper()
	w.kubectl("create", "serviceaccount", "viewer")
	w.kubectl("create", "rolebinding", "viewer", "--clusterrole=ark-view", "--serviceaccount="+w.namespace+":viewer")
	token := strings.TrimSpace(w.kubectl("create", "token", "viewer"))
	file := filepath.Join(w.t.TempDir(), "viewer")
	text, err := os.ReadFile(shared.cluster.Kubeconfig())
	require.NoError(w.t, err)
	require.NoError(w.t, os.WriteFile(file, text, 0o600))
	for _, args := range [][]string{{"set-credentials", "viewer", "--token=" + token}, {"set-context", "--current", "--user=viewer"}} {
		out, err := exec.CommandContext(w.t.Context(), shared.cluster.Kubectl(), append([]string{"--kubeconfig", file, "config"}, args...)...).CombinedOutput()
		require.NoError(w.t, err, string(out))
	}
	require.EventuallyWithT(w.t, func(c *assert.CollectT) { // RBAC is read from a cache
		out, err := kubectl(w.t.Context(), "-n", w.namespace, "--as=system:serviceaccount:"+w.namespace+":viewer", "auth", "can-i", "get", "arkruns")
		require.NoError(c, err, out)
	}, patience, pollEvery)
	return file
}

// Who may only view sees all there is of a run, what lives in the queue's stores too, and is told which role would do what
// is refused.
func TestAViewer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.kubectl("apply", "-f", "../../deploy/samples/linear.yaml")
	w.kubectl("wait", "--for=condition=Ready", "arkteam/newsroom", "--timeout="+patience.String())
	w.ark(0, "trigger", "newsroom", "--input", "topic=tides", "--wait", "--timeout", patience.String())
	viewer := w.viewer()
	for command, says := range map[string]string{
		"runs":                         `newsroom-run-\S+\tnewsroom\tSucceeded\t3/3`,
		"get @latest":                  `writer\tnewsroom-writer\tSucceeded`,
		"why @latest":                  `is Succeeded: nothing is wrong`,
		"logs @latest":                 `echo from newsroom-editor`,
		"output @latest":               `^echo from newsroom-editor`,
		"output @latest --step writer": `^echo from newsroom-writer`,
		"trace @latest":                `chat mock`,
		"status":                       `(?m)^operator\tReady, serves data.arkonis.dev$`,
	} {
		out, _ := w.arkAs(viewer, 0, strings.Fields(command)...)
		require.Regexp(t, says, out, command)
	}
	for command, says := range map[string]string{
		"trigger newsroom --input topic=x": `cannot create resource "arkevents".*; ask an administrator for one of the roles ark-edit and ark-admin\n$`,
		"submit newsroom x":                `cannot create resource "arkevents".*; ask an administrator for one of the roles ark-edit and ark-admin\n$`,
	} {
		_, said := w.arkAs(viewer, 1, strings.Fields(command)...)
		require.Regexp(t, says, said, command)
	}
}
