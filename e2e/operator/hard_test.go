package operator

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

func numbered(n int, prompt string) string {
	return fmt.Sprintf("apiVersion: arkonis.dev/v1alpha1\nkind: ArkAgent\nmetadata: {name: a-%d}\nspec: {model: mock, replicas: 0, systemPrompt: %q}\n", n, prompt)
}

// hasPrompt waits for an agent's Secret to hold a prompt.
func (w *world) hasPrompt(n int, prompt string) {
	w.t.Helper()
	name := fmt.Sprintf("a-%d-prompt", n)
	require.EventuallyWithT(w.t, func(c *assert.CollectT) {
		s, err := w.clients.Core.CoreV1().Secrets(w.namespace).Get(w.t.Context(), name, metav1.GetOptions{})
		require.NoError(c, err)
		require.Contains(c, string(s.Data["prompt"]), prompt)
	}, patience, 50*time.Millisecond)
}

// gone waits for a Deployment to be away.
func (w *world) gone(name string) {
	w.t.Helper()
	require.EventuallyWithT(w.t, func(c *assert.CollectT) {
		_, err := w.clients.Core.AppsV1().Deployments(w.namespace).Get(w.t.Context(), name, metav1.GetOptions{})
		require.True(c, apierrors.IsNotFound(err), "%v", err)
	}, patience, 50*time.Millisecond)
}

// An operator that is killed at any moment is followed by one that brings the world to what it shall be.
func TestKilledOperatorsConverge(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	const kills = 20
	o := w.start()
	for n := range kills {
		w.apply(numbered(n, "First."))
		if n%2 == 1 { // the operator dies while it is at it
			o.kill()
		} else {
			w.hasPrompt(n, "First.")
			o.kill()
		}
		if n > 0 {
			w.apply(numbered(n-1, "Second."))
		}
		if n > 1 {
			require.NoError(t, w.clients.Agents(w.namespace).Delete(t.Context(), fmt.Sprintf("a-%d", n-2), metav1.DeleteOptions{}))
		}
		o = w.start()
	}
	w.hasPrompt(kills-1, "First.")
	w.hasPrompt(kills-2, "Second.")
	for n := range kills - 2 {
		w.gone(fmt.Sprintf("a-%d-agent", n))
	}
	all, err := w.clients.Core.AppsV1().Deployments(w.namespace).List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, all.Items, 2)
}

// calls are what operators asked the API server for since a time, about the world's namespaces: watches apart.
func (w *world) calls(since time.Time) []string {
	w.t.Helper()
	entries, err := shared.api.Audit()
	require.NoError(w.t, err)
	var out []string
	for _, e := range entries {
		if e.Time.After(since) && strings.HasPrefix(e.Agent, "ark-operator") && e.Verb != "watch" && (e.Namespace == w.namespace || e.Namespace == w.system) {
			out = append(out, fmt.Sprintf("%s %s %s/%s %s", e.Verb, e.Resource, e.Namespace, e.Name, e.Subresource))
		}
	}
	return out
}

// idleTime is how long nothing may happen.
const idleTime = 30 * time.Second

// Where nothing changes, nothing is written, and nothing is read.
func TestIdleAgentsAreLeftAlone(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	for n := range 5 {
		w.apply(numbered(n, "First."))
	}
	w.apply(strings.Replace(writer, "model: mock", "model: mock, autoscaling: {minReplicas: 0}", 1))
	w.apply(full)
	w.deployment("full-agent", "its pods", func(d *appsv1.Deployment) bool { return d.Status.UpdatedReplicas == 2 })
	until(w, w.clients.Agents(w.namespace), "full", "its pods in its status", func(a *v1alpha1.ArkAgent) bool { return a.Status.Replicas == 2 })
	var began time.Time
	require.EventuallyWithT(t, func(c *assert.CollectT) { // a status waits 10 s for its next write
		began = time.Now().Add(-12 * time.Second)
		require.Empty(c, w.calls(began))
	}, patience, time.Second)
	select {
	case <-time.After(idleTime):
	case <-t.Context().Done():
	}
	require.Empty(t, w.calls(began))
}

// Many agents at once are all looked after; their namespace can be deleted with the operator there.
func TestManyAgentsAtOnce(t *testing.T) {
	t.Parallel()
	const many = 200
	w := newWorld(t)
	o := w.start()
	var docs []string
	for n := range many {
		docs = append(docs, numbered(n, "First."))
	}
	began := time.Now()
	w.apply(strings.Join(docs, "---\n"))
	applied := time.Since(began)
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		all, err := w.clients.Agents(w.namespace).List(t.Context(), metav1.ListOptions{ResourceVersion: "0"})
		require.NoError(c, err)
		done := 0
		for i := range all.Items {
			if s := &all.Items[i].Status; s.ObservedGeneration == 1 && s.SystemPromptHash != "" && s.Conditions[0].Reason == v1alpha1.ReasonScaledToZero {
				done++
			}
		}
		require.Equal(c, many, done)
	}, patience, 100*time.Millisecond)
	t.Logf("%d agents: applied in %s, all looked after after %s", many, applied, time.Since(began))
	require.NoError(t, w.clients.Core.CoreV1().Namespaces().Delete(t.Context(), w.namespace, metav1.DeleteOptions{}))
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		_, err := w.clients.Core.CoreV1().Namespaces().Get(t.Context(), w.namespace, metav1.GetOptions{})
		require.True(c, apierrors.IsNotFound(err), "%v", err)
	}, patience, 200*time.Millisecond)
	require.NoError(t, o.ready(t.Context()))
	require.NotContains(t, o.logs.String(), "panic")
}

// An agent that somebody's finalizer holds goes when that is gone, and what is deleted before its agent stays deleted.
func TestFinalizersAndForegroundDeletion(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	agents := w.clients.Agents(w.namespace)
	w.apply(strings.Replace(numbered(1, "First."), "{name: a-1}", "{name: a-1, finalizers: [example.org/mine]}", 1))
	w.apply(numbered(2, "First."))
	w.deployment("a-1-agent", "the Deployment", exists)
	w.deployment("a-2-agent", "the Deployment", exists)
	require.NoError(t, agents.Delete(t.Context(), "a-1", metav1.DeleteOptions{}))
	foreground := metav1.DeletePropagationForeground
	require.NoError(t, agents.Delete(t.Context(), "a-2", metav1.DeleteOptions{PropagationPolicy: &foreground}))
	w.gone("a-2-agent")
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		_, err := agents.Get(t.Context(), "a-2", metav1.GetOptions{})
		require.True(c, apierrors.IsNotFound(err), "%v", err)
	}, patience, 50*time.Millisecond)
	w.kubectl("patch", "arkagent", "a-1", "--type=merge", "-p", `{"metadata":{"finalizers":null}}`)
	w.gone("a-1-agent")
	w.gone("a-2-agent")
}
