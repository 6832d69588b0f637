package pipeline_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/task"
)

// play answers everything that is due until the run ends or the answer says to stop.
func play(t *testing.T, plan *pipeline.Plan, s *pipeline.State, answer func(*pipeline.Submit) (pipeline.TaskEnded, bool)) {
	t.Helper()
	now := epoch()
	for {
		actions := plan.Decide(s, now).Actions
		progress := false
		for _, a := range actions {
			switch a := a.(type) {
			case *pipeline.Submit:
				if e, ok := answer(a); ok {
					e.TaskID, e.At = a.TaskID, now
					plan.Apply(s, e)
					progress = true
				}
			case *pipeline.Finish:
				plan.Apply(s, pipeline.Ended{Phase: a.Phase, Reason: a.Reason, Message: a.Message, FailedStep: a.FailedStep, Output: a.Output, At: now})
				return
			}
			now = now.Add(time.Second)
		}
		if !progress {
			return
		}
	}
}

// TestStatusIsBounded holds the size of the status with everything as large as it can be.
func TestStatusIsBounded(t *testing.T) {
	t.Parallel()
	for name, unit := range map[string]string{"plain": "x", "escaped": "<", "quotes": `"`, "control": "\x01", "wide": "\U0001F600", "broken": "\xff"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := fan(998)
			long := strings.Repeat(unit, 50_000)
			for i := range spec.Pipeline {
				spec.Pipeline[i].Name = fmt.Sprintf("%s%0*d", strings.Repeat("n", 53), 6, i)
				spec.Pipeline[i].DependsOn, spec.Pipeline[i].ContinueOnError = nil, true
			}
			plan := compile(t, spec)
			s := plan.Start()
			play(t, plan, s, func(a *pipeline.Submit) (pipeline.TaskEnded, bool) {
				if strings.HasSuffix(a.Step, "7") {
					return pipeline.TaskEnded{Status: task.Failed, Code: task.CodeProviderFailed, Message: long, Output: long}, true
				}
				return pipeline.TaskEnded{Status: task.Succeeded, Output: long, Pod: strings.Repeat("p", 63)}, true
			})
			text, err := json.Marshal(plan.Status(s, epoch()))
			require.NoError(t, err)
			t.Logf("%d bytes", len(text))
			require.Less(t, len(text), 200<<10)
			require.Greater(t, len(text), 50<<10, "it is bounded, not empty")
		})
	}
}

// TestStatusKeepsWhatMatters: of more steps than fit, the unfinished and the failed ones stay.
func TestStatusKeepsWhatMatters(t *testing.T) {
	t.Parallel()
	spec := fan(500)
	for i := range spec.Pipeline {
		spec.Pipeline[i].ContinueOnError = true
	}
	plan := compile(t, spec)
	s := plan.Start()
	play(t, plan, s, func(a *pipeline.Submit) (pipeline.TaskEnded, bool) {
		switch {
		case a.Step == "s3" || a.Step == "s400":
			return pipeline.TaskEnded{Status: task.Failed, Code: task.CodeInternal, Message: "broken"}, true
		case strings.HasSuffix(a.Step, "55"):
			return pipeline.TaskEnded{}, false
		}
		return pipeline.TaskEnded{Status: task.Succeeded, Output: "fine"}, true
	})
	status := plan.Status(s, epoch())
	require.Len(t, status.Steps, 150)
	require.Equal(t, &v1alpha1.StepCounts{Total: 502, Pending: 1, Running: 5, Succeeded: 494, Failed: 2}, status.StepCounts)
	require.Equal(t, "496/502", status.StepSummary)
	phases := map[v1alpha1.StepPhase][]string{}
	for i := range status.Steps {
		phases[status.Steps[i].Phase] = append(phases[status.Steps[i].Phase], status.Steps[i].Name)
	}
	require.Equal(t, []string{"s55", "s155", "s255", "s355", "s455"}, phases[v1alpha1.StepRunning])
	require.Equal(t, []string{"s3", "s400"}, phases[v1alpha1.StepFailed])
	require.Len(t, phases[v1alpha1.StepSucceeded], 143)
	require.Contains(t, phases[v1alpha1.StepSucceeded], "s499", "the newest")
	require.NotContains(t, phases[v1alpha1.StepSucceeded], "start", "the oldest")
}

func TestStatusRefersToWhatIsCut(t *testing.T) {
	t.Parallel()
	plan := compile(t, oneRole(v1alpha1.Step{Name: "a", Role: "r"}, v1alpha1.Step{Name: "b", Role: "r"}))
	s := plan.Start()
	long := strings.Repeat("é", 40_000)
	ref := &task.Ref{Key: "uid/abc", Size: int64(len(long)), SHA256: "abc", Preview: "é"}
	play(t, plan, s, func(a *pipeline.Submit) (pipeline.TaskEnded, bool) {
		if a.Step == "a" {
			return pipeline.TaskEnded{Status: task.Succeeded, Output: long, OutputRef: ref}, true
		}
		return pipeline.TaskEnded{Status: task.Succeeded, Output: "short", OutputRef: &task.Ref{Key: "uid/def", Size: int64(len("short")), SHA256: "def"}}, true
	})
	status := plan.Status(s, epoch())
	require.Equal(t, &v1alpha1.PayloadRef{Key: "uid/abc", Size: int64(len(long)), SHA256: "abc"}, status.Steps[0].OutputRef)
	require.Equal(t, strings.Repeat("é", 12<<10), status.Steps[0].Output)
	require.Nil(t, status.Steps[1].OutputRef)
	require.Equal(t, "short", status.Steps[1].Output)
	r, ok := plan.Result(s, "a")
	require.True(t, ok)
	require.Equal(t, pipeline.StepResult{Step: "a", Output: long, OutputRef: ref, Agent: "t-r", Run: "team-run-1"}, r)
	require.Equal(t, "short", s.Output())
	_, ok = plan.Result(s, "nobody")
	require.False(t, ok)
}

func TestConditions(t *testing.T) {
	t.Parallel()
	plan := compile(t, oneRole(v1alpha1.Step{Name: "a", Role: "r"}))
	s := plan.Start()
	show := func() []string {
		var out []string
		for _, c := range plan.Status(s, epoch()).Conditions {
			out = append(out, fmt.Sprintf("%s=%s %s %s", c.Type, c.Status, c.Reason, c.LastTransitionTime.Sub(epoch())))
		}
		return out
	}
	require.Equal(t, []string{"Ready=False Running 0s", "Complete=False Running 0s"}, show())
	require.Empty(t, plan.Status(s, epoch()).Duration)
	plan.Apply(s, pipeline.Ended{Phase: v1alpha1.RunSucceeded, Reason: "Succeeded", At: epoch().Add(6300 * time.Millisecond)})
	require.Equal(t, []string{"Ready=True Succeeded 6.3s", "Complete=True Succeeded 6.3s"}, show())
	require.Equal(t, "6.3s", plan.Status(s, epoch()).Duration)
	s = plan.Start()
	plan.Apply(s, pipeline.Ended{Phase: v1alpha1.RunFailed, Reason: "TimedOut", At: epoch().Add(125 * time.Second)})
	require.Equal(t, []string{"Ready=False TimedOut 2m5s", "Complete=True TimedOut 2m5s"}, show())
	require.Equal(t, "2m5s", plan.Status(s, epoch()).Duration)
}

// TestStatusOfAStep holds a whole status, times and all.
func TestStatusOfAStep(t *testing.T) {
	t.Parallel()
	spec := oneRole(
		v1alpha1.Step{Name: "a", Role: "r"},
		v1alpha1.Step{Name: "b", Role: "r", DependsOn: []string{"a"}, OutputSchema: `{"type": "integer"}`},
		v1alpha1.Step{Name: "c", Role: "r", DependsOn: []string{"b"}, If: "no"},
	)
	plan := compile(t, spec)
	s := plan.Start()
	at := func(seconds int) time.Time { return epoch().Add(time.Duration(seconds) * time.Second) }
	a, b := task.ID(task.KindStep, "uid-1", "a", 0, 0, 0), task.ID(task.KindStep, "uid-1", "b", 0, 0, 0)
	plan.Apply(s, pipeline.TaskEnded{
		TaskID: a, Status: task.Succeeded, Output: "A", Pod: "pod-1", ToolCalls: 3, At: at(2), Started: at(1),
		Usage: task.Usage{InputTokens: 10, OutputTokens: 5, CachedTokens: 4, ReasoningTokens: 2},
	})
	plan.Apply(s, pipeline.TaskEnded{TaskID: b, Status: task.Succeeded, Output: "7", Pod: "pod-2", At: at(5), Usage: task.Usage{InputTokens: 1}})
	plan.Apply(s, pipeline.Ended{Phase: v1alpha1.RunSucceeded, Reason: "Succeeded", Output: "7", At: at(6)})
	micro := func(seconds int) *metav1.MicroTime { m := metav1.NewMicroTime(at(seconds)); return &m }
	got := plan.Status(s, at(9))
	got.Conditions = nil
	require.Equal(t, v1alpha1.ArkRunStatus{
		Phase: v1alpha1.RunSucceeded, StepSummary: "3/3", StepCounts: &v1alpha1.StepCounts{Total: 3, Succeeded: 2, Skipped: 1},
		StartTime: micro(0), CompletionTime: micro(6), Duration: "6.0s", Output: "7",
		TotalTokenUsage: &v1alpha1.TokenUsage{InputTokens: 11, OutputTokens: 5, CachedTokens: 4, TotalTokens: 16},
		Steps: []v1alpha1.StepStatus{
			{
				Name: "a", Role: "r", Agent: "t-r", Phase: v1alpha1.StepSucceeded, TaskID: a, Attempts: 1, Output: "A", Pod: "pod-1",
				TokenUsage: &v1alpha1.TokenUsage{InputTokens: 10, OutputTokens: 5, CachedTokens: 4, TotalTokens: 15}, ToolCalls: 3,
				StartTime: micro(0), CompletionTime: micro(2),
			},
			{
				Name: "b", Role: "r", Agent: "t-r", Phase: v1alpha1.StepSucceeded, TaskID: b, Attempts: 1, Output: "7", Pod: "pod-2",
				TokenUsage: &v1alpha1.TokenUsage{InputTokens: 1, TotalTokens: 1}, Data: &v1alpha1.Value{Raw: []byte("7")},
				StartTime: micro(2), CompletionTime: micro(5),
			},
			{
				Name: "c", Role: "r", Phase: v1alpha1.StepSkipped, Message: "its condition is false", StartTime: micro(5), CompletionTime: micro(5),
			},
		},
	}, got)
}

// A result of an earlier run is there from the start.
func TestStatusOfAReusedStep(t *testing.T) {
	t.Parallel()
	plan := compile(t, oneRole(v1alpha1.Step{Name: "a", Role: "r"}, v1alpha1.Step{Name: "b", Role: "r"}))
	start := metav1.NewMicroTime(epoch())
	ref := &task.Ref{Key: "k"}
	s := plan.Start(pipeline.StepResult{Step: "a", Output: "{}", Raw: "```{}```", OutputRef: ref, Agent: "t-r", Run: "first"}, pipeline.StepResult{Step: "a", Output: "again"})
	require.Equal(t, v1alpha1.StepStatus{
		Name: "a", Role: "r", Agent: "t-r", Phase: v1alpha1.StepSucceeded, Reason: "Reused", Message: "taken over from run first",
		Output: "{}", StartTime: &start, CompletionTime: &start,
	}, plan.Status(s, epoch()).Steps[0])
	r, ok := plan.Result(s, "a")
	require.True(t, ok)
	require.Equal(t, pipeline.StepResult{Step: "a", Output: "{}", Raw: "```{}```", OutputRef: ref, Agent: "t-r", Run: "first"}, r)
}

// TestNoTextIsLongerThanTheSchemaAllows: also of a run with few steps, which share what all steps may show. The API server
// refused the whole status otherwise, and the run could not end.
func TestNoTextIsLongerThanTheSchemaAllows(t *testing.T) {
	t.Parallel()
	const schema = 32 << 10 // maxLength of status.output and status.steps[].output
	for n := 1; n <= 4; n++ {
		var steps []v1alpha1.Step
		for i := range n {
			steps = append(steps, v1alpha1.Step{Name: fmt.Sprintf("s%d", i), Role: "r"})
		}
		plan := compile(t, oneRole(steps...))
		s := plan.Start()
		play(t, plan, s, func(*pipeline.Submit) (pipeline.TaskEnded, bool) {
			return pipeline.TaskEnded{Status: task.Succeeded, Output: strings.Repeat("x", 100_000)}, true
		})
		status := plan.Status(s, epoch())
		require.Equal(t, v1alpha1.RunSucceeded, status.Phase)
		require.LessOrEqual(t, len(status.Output), schema)
		for i := range status.Steps {
			require.LessOrEqual(t, len(status.Steps[i].Output), schema, "%d steps", n)
			require.Greater(t, len(status.Steps[i].Output), 8<<10, "it is bounded, not empty")
		}
	}
}
