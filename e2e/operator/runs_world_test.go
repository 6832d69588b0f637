package operator

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/queue/identity"
	"arkonis.dev/ark/pkg/trigger"
)

// pod starts a process of ark runtime for an ArkAgent, as the pod of its Deployment would: with the Deployment's
// environment and the agent's own credentials. Tests of this package have no nodes, so nothing else does.
func (w *world) pod(agent, name string, env ...string) *exec.Cmd {
	w.t.Helper()
	d := w.deployment(agent+"-agent", "the Deployment", func(d *appsv1.Deployment) bool { return len(d.Spec.Template.Spec.Containers) > 0 })
	cmd := exec.CommandContext(w.t.Context(), shared.ark, "runtime", "--listen", "", "--grace-period", "10s", "--log-format", "text", "--log-level", "warn")
	cmd.Env = append(w.environment(&d.Spec.Template.Spec.Containers[0]), "POD_NAME="+name,
		"SYSTEM_PROMPT_PATH=", "PATH="+os.Getenv("PATH"), "HOME="+os.TempDir())
	if w.external == "" {
		a := w.agent(agent)
		authority, ca := w.keys()
		creds := w.credentials(authority, identity.Agent{Namespace: w.namespace, Name: agent, UID: string(a.UID)})
		cmd.Env = append(cmd.Env, "NATS_CREDS="+creds, "NATS_CA="+ca)
	}
	cmd.Env = append(cmd.Env, env...)
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

// environment is that of a container, as far as it stands in the Deployment and in Secrets.
func (w *world) environment(c *corev1.Container) []string {
	w.t.Helper()
	var out []string
	for _, v := range c.Env {
		value := strings.ReplaceAll(v.Value, "$$", "$")
		if from := v.ValueFrom; from != nil && from.SecretKeyRef != nil {
			secret, err := w.clients.Core.CoreV1().Secrets(w.namespace).Get(w.t.Context(), from.SecretKeyRef.Name, metav1.GetOptions{})
			require.NoError(w.t, err)
			value = string(secret.Data[from.SecretKeyRef.Key])
		}
		out = append(out, v.Name+"="+value)
	}
	return out
}

// podsOf starts a pod for each ArkAgent of the world, once those of the team's inline roles are there.
func (w *world) podsOf(team string) {
	w.t.Helper()
	t := until(w, w.clients.Teams(w.namespace), team, "a status", func(t *v1alpha1.ArkTeam) bool { return t.Status.ObservedGeneration > 0 })
	agents, err := w.clients.Agents(w.namespace).List(w.t.Context(), metav1.ListOptions{})
	require.NoError(w.t, err)
	for _, r := range t.Status.Roles {
		require.True(w.t, slices.ContainsFunc(agents.Items, func(a v1alpha1.ArkAgent) bool { return a.Name == r.Agent }), "role %s", r.Name)
	}
	for i := range agents.Items {
		w.pod(agents.Items[i].Name, agents.Items[i].Name+"-0")
	}
}

// fire triggers a team by hand and returns the name of the run.
func (w *world) fire(team string, input map[string]any, id string) string {
	w.t.Helper()
	event, err := trigger.Manual(trigger.Request{Namespace: w.namespace, Team: team, Input: input, ID: id})
	require.NoError(w.t, err)
	_, err = w.clients.Events(w.namespace).Create(w.t.Context(), event, metav1.CreateOptions{})
	require.NoError(w.t, err)
	event = until(w, w.clients.Events(w.namespace), event.Name, "an outcome", func(e *v1alpha1.ArkEvent) bool {
		run, refused := trigger.Outcome(e)
		return run != "" || refused != nil
	})
	run, refused := trigger.Outcome(event)
	require.Nil(w.t, refused)
	return run
}
