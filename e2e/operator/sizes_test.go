package operator

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/llm/modelserver"
)

// maxStatus is what a status may take, in bytes as it is written.
const maxStatus = 200 << 10

// statusSize demands that a run's status is small, and returns its size.
func statusSize(t *testing.T, r *v1alpha1.ArkRun) int {
	t.Helper()
	body, err := json.Marshal(&r.Status)
	require.NoError(t, err)
	require.Less(t, len(body), maxStatus)
	return len(body)
}

// sized starts a model server that answers "broken TEXT" with an error that says it, and everything else with the number of # that
// it was shown. It returns the environment of pods that ask it.
func (w *world) sized() []string {
	w.t.Helper()
	s, err := modelserver.Start(w.t.Context(), modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		prompt := c.Request.Prompt()
		r := &modelserver.Reply{Usage: &modelserver.Usage{Prompt: 1, Completion: 1}}
		if why, ok := strings.CutPrefix(prompt, "broken "); ok {
			return &modelserver.Reply{Status: 400, Error: why}
		}
		r.Text = strconv.Itoa(strings.Count(prompt, "#"))
		return r
	}})
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _ = s.Close() })
	return []string{"OPENAI_BASE_URL=" + s.URL(), "OPENAI_API_KEY=k"}
}

// wideTeam has chains of steps: each step of a chain depends on the one before it. One step, early in the list, fails, and the
// run goes on.
func wideTeam(chains, length int) string {
	var b strings.Builder
	b.WriteString(`
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: worker}
spec: {model: gpt-test, systemPrompt: You work., limits: {maxConcurrentTasks: 20, timeoutSeconds: 3600}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: wide}
spec:
  roles: [{name: r, arkAgent: worker}]
  pipeline:
  - {name: bad, role: r, continueOnError: true, inputs: {prompt: "broken ` + strings.Repeat("so long a message ", 500) + `"}}
`)
	for c := range chains {
		for i := range length {
			if c == chains-1 && i == length-1 {
				break // the one that fails makes the number round
			}
			fmt.Fprintf(&b, "  - {name: s-%d-%d, role: r, inputs: {prompt: \"step %d %d\"}", c, i, c, i)
			if i > 0 {
				fmt.Fprintf(&b, ", dependsOn: [s-%d-%d]", c, i-1)
			}
			b.WriteString("}\n")
		}
	}
	return b.String()
}

// A pipeline of 1,000 steps runs. Its status is bounded at every moment and says so: it counts all steps, and shows those
// that are worked on and those that failed.
func TestAPipelineOfAThousandSteps(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.apply(wideTeam(20, 50))
	w.pod("worker", "worker-0", w.sized()...)
	w.runOf("wide", "wide", nil)
	largest, live := 0, 0
	r := until(w, w.clients.Runs(w.namespace), "wide", "end of the run", func(r *v1alpha1.ArkRun) bool {
		largest = max(largest, statusSize(t, r))
		running := 0
		for i := range r.Status.Steps {
			if p := r.Status.Steps[i].Phase; p == v1alpha1.StepRunning || p == v1alpha1.StepWaiting {
				running++
			}
		}
		if c := r.Status.StepCounts; c != nil && !r.Status.Phase.Terminal() {
			require.EqualValues(t, 1000, c.Total)
			require.EqualValues(t, c.Running, running, "all that are worked on are shown")
			live = max(live, running)
		}
		return r.Status.Phase.Terminal()
	})
	require.Equal(t, v1alpha1.RunSucceeded, r.Status.Phase, r.Status.Message)
	require.Equal(t, v1alpha1.StepCounts{Total: 1000, Succeeded: 999, Failed: 1}, *r.Status.StepCounts)
	require.Equal(t, "1000/1000", r.Status.StepSummary)
	require.Len(t, r.Status.Steps, 150)
	require.Equal(t, "bad", r.Status.Steps[0].Name, "the failed step is shown, however many came later")
	require.Equal(t, v1alpha1.StepFailed, r.Status.Steps[0].Phase)
	require.Contains(t, r.Status.Steps[0].Message, "so long a message")
	require.Positive(t, live)
	seconds := r.Status.CompletionTime.Sub(r.Status.StartTime.Time).Seconds()
	writes := w.writes("wide")
	require.LessOrEqual(t, writes, 4+int(seconds)+1)
	t.Logf("%d writes in %.1f s, a status of at most %d KiB", writes, seconds, largest>>10)
}

// writes counts what was written of a run.
func (w *world) writes(run string) int {
	w.t.Helper()
	entries, err := shared.api.Audit()
	require.NoError(w.t, err)
	n := 0
	for i := range entries {
		if e := &entries[i]; e.Write() && e.Resource == "arkruns" && e.Namespace == w.namespace && e.Name == run {
			n++
		}
	}
	return n
}

const manyItems = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: long}
spec:
  inputs: [{name: text, required: true}]
  roles: [{name: r, arkAgent: hand}]
  pipeline: [{role: r, inputs: {prompt: "{{ .input.text }}"}}]
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: each}
spec:
  inputs: [{name: items, type: array, required: true}]
  roles: [{name: r, arkAgent: hand}]
  pipeline:
  - {name: all, role: r, forEach: {items: "{{ toJson .input.items }}", maxItems: 1000, maxParallel: 100}, inputs: {prompt: "item {{ .item }}"}}
---
apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: hand}
spec: {model: gpt-test, systemPrompt: You work., limits: {maxConcurrentTasks: 20, timeoutSeconds: 3600}}
`

// A step of many items, an input of 500 kB, and 100 teams at once.
func TestManyOfThem(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.apply(manyItems)
	w.pod("hand", "hand-0", w.sized()...)
	const items, teams = 500, 100
	list := make([]any, items)
	for i := range list {
		list[i] = i
	}
	w.runOf("each", "each", map[string]any{"items": list})
	const long = 500_000
	w.runOf("long", "long", map[string]any{"text": strings.Repeat("#", long)})
	var b strings.Builder
	for i := range teams {
		fmt.Fprintf(&b, "---\napiVersion: arkonis.dev/v1alpha1\nkind: ArkTeam\nmetadata: {name: team-%d}\nspec:\n"+
			"  roles: [{name: r, arkAgent: hand}]\n  pipeline: [{role: r, inputs: {prompt: \"%s\"}}]\n", i, strings.Repeat("#", i))
	}
	w.apply(b.String())
	for i := range teams {
		w.runOf(fmt.Sprintf("of-team-%d", i), fmt.Sprintf("team-%d", i), nil)
	}
	r := w.ended("each")
	require.Equal(t, v1alpha1.RunSucceeded, r.Status.Phase, r.Status.Message)
	require.EqualValues(t, items, r.Status.Steps[0].Iterations)
	statusSize(t, r)
	r = w.ended("long")
	require.Equal(t, strconv.Itoa(long), r.Status.Output, r.Status.Message)
	statusSize(t, r)
	for i := range teams {
		r := w.ended(fmt.Sprintf("of-team-%d", i))
		require.Equal(t, v1alpha1.RunSucceeded, r.Status.Phase, r.Status.Message)
		require.Equal(t, strconv.Itoa(i), r.Status.Output)
	}
	require.Eventually(t, func() bool { return w.seenRuns(t.Context()) == teams }, patience, patience/100, "each team tells of its run")
}

// seenRuns counts the teams that tell of a run that has succeeded.
func (w *world) seenRuns(ctx context.Context) int {
	teams, err := w.clients.Teams(w.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return 0
	}
	n := 0
	for i := range teams.Items {
		if s := &teams.Items[i].Status; s.LastRunPhase == v1alpha1.RunSucceeded && strings.HasPrefix(s.LastRunName, "of-team-") {
			n++
		}
	}
	return n
}

const remembers = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: remembers}
spec:
  successfulRunsHistoryLimit: 10000
  roles: [{name: r, model: mock, systemPrompt: You work.}]
  pipeline: [{role: r, inputs: {prompt: x}}]
`

// Thousands of finished runs that are not kept any longer cost one delete each, and no list or read of any of them.
func TestHistoryOfThousands(t *testing.T) {
	t.Parallel()
	const finished, kept = 2000, 5
	w := newWorld(t)
	o := w.start()
	w.apply(remembers)
	team := until(w, w.clients.Teams(w.namespace), "remembers", "a status", func(t *v1alpha1.ArkTeam) bool { return t.Status.ObservedGeneration > 0 })
	o.stop()
	w.finished(team, finished)
	w.kubectl("patch", "arkteam", "remembers", "--type=merge", "-p", fmt.Sprintf(`{"spec":{"successfulRunsHistoryLimit":%d}}`, kept))
	before, err := shared.api.Audit()
	require.NoError(t, err)
	runs := w.clients.Metadata.Resource(v1alpha1.Resource("arkruns")).Namespace(w.namespace)
	list, err := runs.List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	at := list.ResourceVersion
	gone, err := runs.Watch(t.Context(), metav1.ListOptions{ResourceVersion: at})
	require.NoError(t, err)
	defer func() { gone.Stop() }()
	w.start()
	for deleted := 0; deleted < finished-kept; {
		select {
		case e, more := <-gone.ResultChan():
			if !more { // a client's watch ends with its time-out; the next one goes on from there
				gone, err = runs.Watch(t.Context(), metav1.ListOptions{ResourceVersion: at})
				require.NoError(t, err)
				continue
			}
			require.Equal(t, watch.Deleted, e.Type, "nothing is written of a finished run")
			run, ok := e.Object.(metav1.Object)
			require.True(t, ok, "%T", e.Object)
			at = run.GetResourceVersion()
			deleted++
		case <-time.After(patience):
			t.Fatalf("%d of %d runs were removed", deleted, finished-kept)
		}
	}
	list, err = runs.List(t.Context(), metav1.ListOptions{})
	require.NoError(t, err)
	require.Len(t, list.Items, kept)
	for i := range list.Items {
		require.GreaterOrEqual(t, list.Items[i].Name, fmt.Sprintf("done-%04d", finished-kept), "the newest are kept")
	}
	entries, err := shared.api.Audit()
	require.NoError(t, err)
	asked := map[string]int{}
	for i := range entries[len(before):] {
		e := &entries[len(before)+i]
		if e.Resource == "arkruns" && e.Namespace == w.namespace && strings.HasPrefix(e.Agent, "ark-operator") {
			asked[e.Verb]++
		}
	}
	require.Equal(t, finished-kept, asked["delete"])
	require.LessOrEqual(t, asked["list"], 2, "that of the informer, and one of the sweep at most")
	require.Zero(t, asked["get"]+asked["update"]+asked["patch"]+asked["create"])
}

// finished makes runs of a team that have succeeded one after the other, done-0000 and so on. No operator is there.
func (w *world) finished(team *v1alpha1.ArkTeam, n int) {
	w.t.Helper()
	end := time.Now().Add(-time.Hour)
	g, ctx := errgroup.WithContext(w.t.Context())
	g.SetLimit(8)
	for i := range n {
		g.Go(func() error {
			run, err := w.clients.Runs(w.namespace).Create(ctx, &v1alpha1.ArkRun{
				ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("done-%04d", i), OwnerReferences: kube.Controlled("ArkTeam", team)},
				Spec:       v1alpha1.ArkRunSpec{TeamRef: &v1alpha1.Reference{Name: team.Name}},
			}, metav1.CreateOptions{})
			if err != nil {
				return err
			}
			at := metav1.NewMicroTime(end.Add(time.Duration(i) * time.Second))
			run.Status = v1alpha1.ArkRunStatus{Phase: v1alpha1.RunSucceeded, StartTime: &at, CompletionTime: &at}
			_, err = w.clients.Runs(w.namespace).UpdateStatus(ctx, run, metav1.UpdateOptions{})
			return err
		})
	}
	require.NoError(w.t, g.Wait())
}
