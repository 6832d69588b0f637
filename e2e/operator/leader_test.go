package operator

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// leads says that an operator acts.
func (o *operator) leads() bool { return strings.Contains(o.logs.String(), `msg="controllers start"`) }

// waitsToLead returns when an operator is there and another one acts.
func (o *operator) waitsToLead() {
	o.w.t.Helper()
	require.EventuallyWithT(o.w.t, func(c *assert.CollectT) {
		require.ErrorContains(c, o.ready(o.w.t.Context()), "another operator leads")
	}, patience, 50*time.Millisecond)
	require.False(o.w.t, o.leads())
}

// Of two operators one acts. When it is killed the other goes on with all runs, and when it was only stopped for a while
// it ends as soon as it knows: nothing is written by both, and nothing is done twice.
func TestTwoOperators(t *testing.T) {
	t.Parallel()
	const runs = 12
	w := newWorld(t)
	n := w.externalNATS()
	n.start()
	first := w.launch("POD_NAME=ark-first")
	first.becomesReady()
	second := w.launch("POD_NAME=ark-second")
	second.waitsToLead()
	models, release := w.soloTeam()
	w.runOf("held", "solo", map[string]any{"topic": "held"})
	burst := func(prefix string) {
		for i := range runs {
			name := fmt.Sprintf("%s-%d", prefix, i)
			w.runOf(name, "solo", map[string]any{"topic": name})
		}
	}

	burst("killed")
	first.kill()
	second.becomesReady()
	third := w.launch("POD_NAME=ark-third")
	third.waitsToLead()

	burst("paused")
	require.NoError(t, second.cmd.Process.Signal(syscall.SIGSTOP))
	third.becomesReady()
	burst("after")
	require.NoError(t, second.cmd.Process.Signal(syscall.SIGCONT))
	select {
	case <-second.done:
		require.NotEqual(t, 0, second.cmd.ProcessState.ExitCode())
		require.Contains(t, second.logs.String(), "the Lease was lost to another operator")
	case <-time.After(patience):
		t.Fatal("an operator that lost its Lease goes on")
	}

	fourth := w.launch("POD_NAME=ark-fourth")
	fourth.waitsToLead()
	burst("handed-over")
	require.Equal(t, 0, third.stop().ExitCode())
	fourth.becomesReady()
	release()
	w.doneOnce("held", "done: held")
	require.Equal(t, 1, times(models, "held"))
	for _, prefix := range []string{"killed", "paused", "after", "handed-over"} {
		for i := range runs {
			name := fmt.Sprintf("%s-%d", prefix, i)
			w.doneOnce(name, "done: "+name)
			require.Equal(t, 1, times(models, name), name)
		}
	}
	w.writtenByOne()
}

// doneOnce waits for a run that succeeds at its first attempt.
func (w *world) doneOnce(run, output string) {
	w.t.Helper()
	r := w.ended(run)
	require.Equal(w.t, v1alpha1.RunSucceeded, r.Status.Phase, "%s: %s", run, r.Status.Message)
	require.Equal(w.t, output, r.Status.Output)
	require.Equal(w.t, int32(1), r.Status.Steps[0].Attempts)
}

// writtenByOne: the status of no run was written more often than one operator writes it, and what the operators made was
// made once.
func (w *world) writtenByOne() {
	w.t.Helper()
	entries, err := shared.api.Audit()
	require.NoError(w.t, err)
	statuses, made := map[string]int{}, map[string]int{}
	for _, e := range entries {
		if e.User != account(w.system) || e.Namespace != w.namespace || !e.Write() {
			continue
		}
		switch {
		case e.Resource == "arkruns" && e.Subresource == "status" && e.Code == 200:
			statuses[e.Name]++
		case e.Code == 201 && e.Resource != "events":
			made[e.Resource+"/"+e.Name]++
		}
	}
	list, err := w.clients.Runs(w.namespace).List(w.t.Context(), metav1.ListOptions{})
	require.NoError(w.t, err)
	for i := range list.Items {
		r := &list.Items[i]
		life := r.Status.CompletionTime.Sub(r.CreationTimestamp.Time)
		require.LessOrEqual(w.t, statuses[r.Name], 4+int(life/time.Second)+1, r.Name)
	}
	require.NotEmpty(w.t, made)
	for what, n := range made {
		require.Equal(w.t, 1, n, what)
	}
}
