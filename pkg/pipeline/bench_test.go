package pipeline_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/task"
)

func oneRole(steps ...v1alpha1.Step) v1alpha1.ArkRunSpec {
	return v1alpha1.ArkRunSpec{
		TeamRef: &v1alpha1.Reference{Name: "t"}, Roles: []v1alpha1.RunRole{{Name: "r", Agent: "t-r"}}, Pipeline: steps,
	}
}

// chainOf is a pipeline of n steps in a row, each of which reads the one before.
func chainOf(n int) v1alpha1.ArkRunSpec {
	steps := make([]v1alpha1.Step, n)
	for i := range steps {
		steps[i] = v1alpha1.Step{Name: fmt.Sprintf("s%d", i), Role: "r"}
		if i > 0 {
			before := steps[i-1].Name
			steps[i].DependsOn = []string{before}
			steps[i].Inputs = map[string]string{"prompt": "go on from {{ .steps." + before + ".output }}"}
		}
	}
	return oneRole(steps...)
}

// fan is one step, n parallel ones after it, and one that joins them.
func fan(n int) v1alpha1.ArkRunSpec {
	steps := []v1alpha1.Step{{Name: "start", Role: "r"}}
	join := v1alpha1.Step{Name: "join", Role: "r"}
	for i := range n {
		name := fmt.Sprintf("s%d", i)
		steps = append(steps, v1alpha1.Step{Name: name, Role: "r", DependsOn: []string{"start"}})
		join.DependsOn = append(join.DependsOn, name)
	}
	return oneRole(append(steps, join)...)
}

func each(n int) v1alpha1.ArkRunSpec {
	items := make([]int, n)
	value, _ := v1alpha1.NewValue(items)
	spec := oneRole(v1alpha1.Step{
		Name: "each", Role: "r", Inputs: map[string]string{"prompt": "{{ .item }}"},
		ForEach: &v1alpha1.ForEach{Items: "{{ .input.items }}", MaxParallel: 1000, MaxItems: 10000},
	})
	spec.Input = v1alpha1.Values{"items": value}
	return spec
}

// runThrough plays a whole run: after each event it is asked what is due, as a driver does. It returns the number of
// tasks.
func runThrough(tb testing.TB, spec v1alpha1.ArkRunSpec) int {
	tb.Helper()
	plan, err := pipeline.Compile(pipeline.Run{UID: "u", Name: "r", Namespace: "n", Spec: spec, Started: epoch()}, options())
	require.NoError(tb, err)
	s := plan.Start()
	now := epoch()
	var queue []string
	for tasks := 0; ; {
		for _, a := range plan.Decide(s, now).Actions {
			switch a := a.(type) {
			case *pipeline.Submit:
				queue = append(queue, a.TaskID)
			case *pipeline.Finish:
				require.Equal(tb, v1alpha1.RunSucceeded, a.Phase, a.Message)
				return tasks
			}
			plan.Apply(s, pipeline.Issued{ID: a.ActionID()})
		}
		require.NotEmpty(tb, queue)
		now = now.Add(time.Millisecond)
		last := len(queue) - 1
		plan.Apply(s, pipeline.TaskEnded{TaskID: queue[last], Status: task.Succeeded, Output: "done", At: now})
		queue = queue[:last]
		tasks++
	}
}

// TestLargeRunsAreFast holds the engine to time that does not explode with the size of a run.
func TestLargeRunsAreFast(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		spec  v1alpha1.ArkRunSpec
		tasks int
		most  time.Duration
	}{
		{"1000 steps in a row", chainOf(1000), 1000, time.Second},
		{"998 parallel steps", fan(998), 1000, time.Second},
		{"100 items", each(100), 100, time.Second},
		{"10000 items", each(10000), 10000, 20 * time.Second},
	} {
		start := time.Now()
		require.Equal(t, c.tasks, runThrough(t, c.spec), c.name)
		took := time.Since(start)
		t.Logf("%s: %s", c.name, took)
		require.Less(t, took, c.most, c.name)
	}
}

func BenchmarkRun(b *testing.B) {
	for _, c := range []struct {
		name string
		spec v1alpha1.ArkRunSpec
	}{
		{"chain-3", chainOf(3)}, {"chain-1000", chainOf(1000)}, {"fan-998", fan(998)}, {"each-100", each(100)}, {"each-10000", each(10000)},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				runThrough(b, c.spec)
			}
		})
	}
}

// BenchmarkStatus shows a finished run of 1000 steps.
func BenchmarkStatus(b *testing.B) {
	plan, err := pipeline.Compile(pipeline.Run{UID: "u", Name: "r", Namespace: "n", Spec: chainOf(1000), Started: epoch()}, options())
	require.NoError(b, err)
	s := plan.Start()
	for b.Loop() {
		plan.Status(s, epoch())
	}
}
