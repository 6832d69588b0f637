package operator

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/queue/identity"
)

// pod starts a process of ark runtime for an ArkAgent that exists, as its pod would: with the agent's own credentials.
// Tests of this package have no nodes, so nothing else does.
func (w *world) pod(agent, name string, env ...string) *exec.Cmd {
	w.t.Helper()
	a := w.agent(agent)
	authority, ca := w.keys()
	creds := w.credentials(authority, identity.Agent{Namespace: w.namespace, Name: agent, UID: string(a.UID)})
	cmd := exec.CommandContext(w.t.Context(), shared.ark, "runtime", "--listen", "", "--grace-period", "10s", "--log-format", "text")
	cmd.Env = append([]string{
		"AGENT_NAME=" + agent, "AGENT_NAMESPACE=" + w.namespace, "POD_NAME=" + name, "MODEL=" + a.Spec.Model,
		"SYSTEM_PROMPT=" + a.Spec.SystemPrompt, "NATS_URL=tls://" + w.nats, "NATS_CREDS=" + creds, "NATS_CA=" + ca,
		"PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir(),
	}, env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said := &logs{}
	cmd.Stderr, cmd.Stdout = said, said
	require.NoError(w.t, cmd.Start())
	w.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if w.t.Failed() {
			w.t.Logf("pod %s:\n%s", name, said)
		}
	})
	return cmd
}

// ended waits for the end of a run.
func (w *world) ended(name string) *v1alpha1.ArkRun {
	w.t.Helper()
	return until(w, w.clients.Runs(w.namespace), name, "end of the run", func(r *v1alpha1.ArkRun) bool { return r.Status.Phase.Terminal() })
}

// runOf applies a run of a team with an input, by hand.
func (w *world) runOf(name, team string, input map[string]any) *v1alpha1.ArkRun {
	w.t.Helper()
	values, err := v1alpha1.NewValues(input)
	require.NoError(w.t, err)
	run, err := w.clients.Runs(w.namespace).Create(w.t.Context(), &v1alpha1.ArkRun{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       v1alpha1.ArkRunSpec{TeamRef: &v1alpha1.Reference{Name: team}, Input: values},
	}, metav1.CreateOptions{})
	require.NoError(w.t, err)
	return run
}

// brief is the steps of a run in a few words.
func brief(r *v1alpha1.ArkRun) string {
	var b strings.Builder
	for _, s := range r.Status.Steps {
		fmt.Fprintf(&b, "%s %s; ", s.Name, s.Phase)
	}
	return b.String()
}
