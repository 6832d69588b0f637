package runs

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

func run(uid string, change ...func(*v1alpha1.ArkRun)) *v1alpha1.ArkRun {
	r := &v1alpha1.ArkRun{ObjectMeta: metav1.ObjectMeta{Name: "r", Namespace: "n", UID: types.UID(uid)}}
	for _, c := range change {
		c(r)
	}
	return r
}

func ended(r *v1alpha1.ArkRun) { r.Status.Phase = v1alpha1.RunFailed }

func deleting(r *v1alpha1.ArkRun) { r.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }

func TestDecide(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		facts facts
		want  course
	}{
		"nothing":                           {facts{}, course{}},
		"a new run":                         {facts{run: run("a")}, course{drive: true}},
		"a live run":                        {facts{run: run("a"), drive: "a"}, course{drive: true}},
		"a run that has ended":              {facts{run: run("a", ended)}, course{settle: true}},
		"it ended elsewhere":                {facts{run: run("a", ended), drive: "a"}, course{settle: true}},
		"a run that is gone":                {facts{drive: "a"}, course{forget: "a"}},
		"another one has its name":          {facts{run: run("b"), drive: "a"}, course{forget: "a", drive: true}},
		"another one, which has ended":      {facts{run: run("b", ended), drive: "a"}, course{forget: "a", settle: true}},
		"it is being removed":               {facts{run: run("a", deleting), drive: "a"}, course{forget: "a"}},
		"it is being removed and unknown":   {facts{run: run("a", deleting)}, course{forget: "a"}},
		"it has ended and is being removed": {facts{run: run("a", ended, deleting)}, course{forget: "a"}},
	} {
		require.Equal(t, c.want, decide(c.facts), name)
	}
}

func TestStatusDue(t *testing.T) {
	t.Parallel()
	opened, written := time.Unix(100, 0), time.Unix(200, 0)
	require.Zero(t, statusDue(false, opened, time.Time{}, pace(1)))
	require.Zero(t, statusDue(false, opened, written, pace(1)))
	require.Equal(t, opened.Add(100*time.Millisecond), statusDue(true, opened, time.Time{}, pace(1)))
	require.Equal(t, written.Add(time.Second), statusDue(true, opened, written, pace(10)))
	require.Equal(t, written.Add(10*time.Second), statusDue(true, opened, written, pace(100)), "many runs share the writes")
	require.Equal(t, opened.Add(4600*time.Millisecond), statusDue(true, opened, time.Time{}, pace(100)))
	require.Equal(t, written.Add(time.Minute), statusDue(true, opened, written, pace(100_000)))
}

func TestEarliest(t *testing.T) {
	t.Parallel()
	require.Zero(t, earliest())
	require.Zero(t, earliest(time.Time{}, time.Time{}))
	require.Equal(t, time.Unix(1, 0), earliest(time.Time{}, time.Unix(2, 0), time.Unix(1, 0)))
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	for value, want := range map[string]bool{"": false, "true": true, "yes": false} {
		_, yes := cancelled(run("a", func(r *v1alpha1.ArkRun) { r.Annotations = map[string]string{v1alpha1.AnnotationCancel: value} }))
		require.Equal(t, want, yes, value)
	}
	reason, _ := cancelled(run("a", func(r *v1alpha1.ArkRun) {
		r.Annotations = map[string]string{v1alpha1.AnnotationCancel: "true", v1alpha1.AnnotationCancelReason: "enough"}
	}))
	require.Equal(t, "enough", reason)
}

func TestStartOf(t *testing.T) {
	t.Parallel()
	at := metav1.NewMicroTime(time.Unix(7, 0))
	require.Zero(t, startOf(run("a")))
	require.Equal(t, at.Time, startOf(run("a", func(r *v1alpha1.ArkRun) { r.Spec.Trigger = &v1alpha1.Trigger{FiredAt: &at} })))
	require.Equal(t, at.Time, startOf(run("a", func(r *v1alpha1.ArkRun) { r.Status.StartTime = &at })))
}

func TestHasSnapshot(t *testing.T) {
	t.Parallel()
	team := &v1alpha1.Reference{Name: "t"}
	require.False(t, hasSnapshot(&v1alpha1.ArkRunSpec{TeamRef: team}))
	require.True(t, hasSnapshot(&v1alpha1.ArkRunSpec{AgentRef: team, Prompt: "p"}))
	require.True(t, hasSnapshot(&v1alpha1.ArkRunSpec{TeamRef: team, Roles: []v1alpha1.RunRole{{Name: "a", Agent: "a"}}}))
}

// A trace that nobody began is the same whoever drives the run, and a trace that somebody began stays.
func TestTraceOfARun(t *testing.T) {
	t.Parallel()
	require.Equal(t, traceparent(run("a")), traceparent(run("a")))
	require.NotEqual(t, traceparent(run("a")), traceparent(run("b")))
	require.Len(t, traceID(run("a")), 32)
	given := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	r := run("a", func(r *v1alpha1.ArkRun) { r.Annotations = map[string]string{v1alpha1.AnnotationTrace: given} })
	require.Equal(t, given, traceparent(r))
	require.Equal(t, "0af7651916cd43dd8448eb211c80319c", traceID(r))
}

// Events tell what has changed, each once, and never more than some at once.
func TestNews(t *testing.T) {
	t.Parallel()
	running := &v1alpha1.ArkRunStatus{Phase: v1alpha1.RunRunning, Steps: []v1alpha1.StepStatus{
		{Name: "a", Phase: v1alpha1.StepRunning, Agent: "x"}, {Name: "b", Phase: v1alpha1.StepPending},
	}}
	require.Equal(t, []announcement{
		{"Normal", "Started", "the run has started"}, {"Normal", "StepStarted", "step a was given to agent x"},
	}, news(&v1alpha1.ArkRunStatus{}, running))
	require.Empty(t, news(running, running))
	failed := &v1alpha1.ArkRunStatus{Phase: v1alpha1.RunFailed, Message: "step a failed", Steps: []v1alpha1.StepStatus{
		{Name: "a", Phase: v1alpha1.StepFailed, Reason: "Timeout", Message: "too slow"}, {Name: "b", Phase: v1alpha1.StepSkipped},
	}}
	require.Equal(t, []announcement{
		{"Warning", "StepFailed", "step a failed (Timeout): too slow"}, {"Warning", "Failed", "the run ended as Failed: step a failed"},
	}, news(running, failed))
	many := &v1alpha1.ArkRunStatus{Phase: v1alpha1.RunSucceeded}
	for i := range 100 {
		many.Steps = append(many.Steps, v1alpha1.StepStatus{Name: strings.Repeat("s", i+1), Phase: v1alpha1.StepSucceeded})
	}
	many.Steps = append(many.Steps, v1alpha1.StepStatus{Name: "late", Phase: v1alpha1.StepFailed, Reason: "Timeout", Message: "too slow"})
	told := news(running, many)
	require.Len(t, told, eventsPerStatus+1)
	require.Equal(t, announcement{"Warning", "StepFailed", "step late failed (Timeout): too slow"}, told[0], "what went wrong comes first")
}
