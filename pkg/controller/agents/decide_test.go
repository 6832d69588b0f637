package agents

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// TestAutoscale plays an agent's queue over time: after so many seconds so many tasks wait and are held, and so many pods
// there shall be, to be looked at again after so many seconds.
func TestAutoscale(t *testing.T) {
	t.Parallel()
	type moment struct {
		at            int
		waiting, held int64
		want          int32
		after         int
	}
	for _, c := range []struct {
		name        string
		least, most int32
		target      int32
		down        int64
		from        int32
		moments     []moment
		lowered     int32 // the greatest number, before the last moment
	}{
		{name: "from zero and back", most: 10, target: 5, down: 60, moments: []moment{
			{0, 0, 0, 0, 0},
			{1, 1, 0, 1, 0},
			{2, 12, 1, 3, 0},
			{3, 3, 10, 3, 0},
			{10, 0, 1, 3, 60},
			{40, 0, 0, 3, 30},
			{70, 0, 0, 1, 60},
			{130, 0, 0, 0, 0},
		}},
		{name: "held tasks keep a pod", most: 10, target: 5, down: 0, from: 1, moments: []moment{{0, 0, 1, 1, 0}, {9, 0, 0, 0, 0}}},
		{name: "a peak starts the wait anew", most: 9, least: 1, target: 1, down: 100, from: 4, moments: []moment{
			{0, 0, 1, 4, 100}, {50, 4, 0, 4, 0}, {60, 0, 1, 4, 100}, {159, 0, 1, 4, 1}, {160, 0, 1, 1, 0},
		}},
		{name: "what was needed meanwhile stays", most: 9, least: 1, target: 1, down: 100, from: 6, moments: []moment{
			{0, 1, 0, 6, 100}, {50, 3, 0, 6, 50}, {60, 1, 0, 6, 40}, {100, 1, 0, 3, 100}, {200, 1, 0, 1, 0},
		}},
		{name: "within bounds", most: 3, least: 2, target: 5, down: 10, moments: []moment{{0, 0, 0, 2, 0}, {1, 1000, 0, 3, 0}}},
		{name: "a lowered limit holds at once", most: 9, target: 1, down: 100, from: 9, lowered: 4, moments: []moment{{0, 9, 0, 9, 0}, {1, 9, 0, 4, 0}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := v1alpha1.Autoscaling{MinReplicas: &c.least, MaxReplicas: c.most, TargetPendingTasks: c.target, ScaleDownAfterSeconds: &c.down}
			pods, state := c.from, scaling{}
			for i, m := range c.moments {
				if c.lowered > 0 && i == len(c.moments)-1 {
					s.MaxReplicas = c.lowered
				}
				var after time.Duration
				pods, state, after = autoscale(s, pods, queue.Backlog{Waiting: m.waiting, Held: m.held}, state, noon.Add(time.Duration(m.at)*time.Second))
				require.Equal(t, m.want, pods, "pods at %d s", m.at)
				require.Equal(t, time.Duration(m.after)*time.Second, after, "wait at %d s", m.at)
			}
		})
	}
}

// Hints come through at once and then once in a while, and the last one is never lost.
func TestPace(t *testing.T) {
	t.Parallel()
	p, k := newPace(), controller.Key{Name: "a"}
	next := func(ms int) string {
		wait, due := p.next(k, time.Second, noon.Add(time.Duration(ms)*time.Millisecond))
		return fmt.Sprint(wait, due)
	}
	for _, c := range []struct {
		ms   int
		want string
	}{{0, "0s true"}, {100, "900ms false"}, {200, "0s false"}, {1100, "900ms false"}, {1900, "0s false"}, {2050, "950ms false"}, {9000, "0s true"}} {
		require.Equal(t, c.want, next(c.ms), "%d ms", c.ms)
	}
}

const small = `{kind: ArkAgent, metadata: {name: writer}, spec: {model: mock, systemPrompt: x}}`

// rolled is the Deployment of a plan with pods in some state.
func rolled(in *input, total, updated, ready int32) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Generation: 2, OwnerReferences: kube.Controlled("ArkAgent", in.agent)},
		Status:     appsv1.DeploymentStatus{ObservedGeneration: 2, Replicas: total, UpdatedReplicas: updated, ReadyReplicas: ready},
	}
}

// TestReady shows the condition Ready for what can be.
func TestReady(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, agent string
		change      func(in *input, o *outcome)
		want        string
	}{
		{"no Deployment", small, func(_ *input, o *outcome) { o.deployment = nil }, "False Progressing no pods yet"},
		{"ready", small, func(in *input, o *outcome) { o.deployment = rolled(in, 1, 1, 1) }, "True AllReplicasReady 1 of 1 pods are ready"},
		{"not seen by the Deployment's controller", small, func(in *input, o *outcome) {
			o.deployment = rolled(in, 1, 1, 1)
			o.deployment.Generation = 3
		}, "True Progressing 1 of 1 pods are ready; they are being replaced"},
		{"rolling", small, func(in *input, o *outcome) { o.deployment = rolled(in, 2, 1, 1) }, "True Progressing 1 of 1 pods are ready; they are being replaced"},
		{"a pod that ends", small, func(in *input, _ *outcome) {
			in.running = []*corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
				State:                corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}},
				LastTerminationState: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 2, Message: "error: OPENAI_API_KEY is not set\n"}},
			}}}}}
		}, "False Progressing 0 of 1 pods are ready: pod p: ended with code 2: error: OPENAI_API_KEY is not set"},
		{"no image", small, func(in *input, _ *outcome) {
			in.running = []*corev1.Pod{{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{
				State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "not found"}},
			}}}}}
		}, "False Progressing 0 of 1 pods are ready: pod p: ErrImagePull: not found"},
		{"the pod's own word", small, func(in *input, _ *outcome) {
			in.reports = []work.Report{{Pod: "p", Reasons: []string{"tool server search cannot be reached"}}}
		}, "False Progressing 0 of 1 pods are ready: pod p: tool server search cannot be reached"},
		{"conflict", small, func(_ *input, o *outcome) { o.conflict = fmt.Errorf("apply: %w", kube.ErrConflict) }, "False NameConflict apply: the name is taken"},
		{"error", small, func(_ *input, o *outcome) { o.err = errors.New("quota") }, "False ReconcileError quota"},
		{"scaled to zero by hand", strings.Replace(small, "model:", "replicas: 0, model:", 1), nil, "False ScaledToZero spec.replicas is 0: tasks wait until it is more"},
		{"nothing to do", strings.Replace(small, "model:", "autoscaling: {minReplicas: 0}, model:", 1), nil, "True ScaledToZero nothing is to be done: pods start with the first task"},
		{"budget", small, func(in *input, _ *outcome) {
			in.budgets = []budget{{scope: "agent.writer", limit: 10, spent: 9, resetsAt: noon.Add(time.Hour)}}
		}, "False ScaledToZero the agent's daily budget is used up: 9 of 10 tokens, and a call needs more than what is left; the next one is possible at 2026-01-02T13:00:00Z"},
		{"missing, while pods go on", strings.Replace(small, "model:", "env: [{name: A, valueFrom: {secretKeyRef: {name: s, key: k}}}], model:", 1), func(in *input, o *outcome) {
			o.deployment = rolled(in, 1, 1, 1)
		}, "False SecretNotFound env[A]: there is no Secret s: create it. Until then the pods that there are stay as they are"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			in := readInput(t, []byte(c.agent))
			o := outcome{deployment: rolled(in, 0, 0, 0)}
			if c.change != nil {
				c.change(in, &o)
			}
			got := meta.FindStatusCondition(status(in, decide(in), o).Conditions, v1alpha1.ConditionReady)
			require.Equal(t, c.want, fmt.Sprintf("%s %s %s", got.Status, got.Reason, got.Message))
		})
	}
}

// What pods report and budgets hold stands in the status, and goes from it with what it was about.
func TestStatusFollowsReports(t *testing.T) {
	t.Parallel()
	in := readInput(t, []byte(`{kind: ArkAgent, metadata: {name: writer}, spec: {model: mock, mcpServers: [{name: a, url: "http://a"}, {name: b, url: "http://b"}],
		livenessProbe: {validatorPrompt: "Well?"}}}`))
	reason := func(s *v1alpha1.ArkAgentStatus, kind string) string {
		if c := meta.FindStatusCondition(s.Conditions, kind); c != nil {
			return string(c.Status) + " " + c.Reason + " " + c.Message
		}
		return ""
	}
	see := func() *v1alpha1.ArkAgentStatus {
		s := status(in, decide(in), outcome{deployment: rolled(in, 2, 2, 2)})
		in.agent.Status = *s
		return s
	}
	s := see()
	require.Equal(t, "Unknown ProbePending the semantic probe has not been answered yet", reason(s, "Healthy"))
	require.Empty(t, reason(s, "MCPDegraded")+reason(s, "BudgetExceeded"))
	require.Nil(t, s.DailyTokenUsage)

	in.backlog = queue.Backlog{Waiting: 4, Held: 3}
	in.budgets = []budget{{scope: "agent.writer", limit: 100, spent: 30}}
	in.reports = []work.Report{
		{Pod: "x", RunningTasks: 2, Verdict: &work.Verdict{Healthy: true, At: noon}, ToolConnections: []work.ToolConnection{{Name: "a", Healthy: true}, {Name: "b", Healthy: true}}},
		{Pod: "y", RunningTasks: 1, Verdict: &work.Verdict{Message: "it said no", At: noon.Add(time.Second)}, ToolConnections: []work.ToolConnection{{Name: "a", Message: "refused"}, {Name: "b", Healthy: true}}},
	}
	s = see()
	require.Equal(t, "False ProbeFailed it said no", reason(s, "Healthy"))
	require.Equal(t, "True ServerUnreachable a: refused", reason(s, "MCPDegraded"))
	require.Equal(t, "False WithinLimit the daily budget has room for another call", reason(s, "BudgetExceeded"))
	require.Equal(t, []v1alpha1.ToolConnection{{Name: "a", Message: "refused"}, {Name: "b", Healthy: true}}, s.ToolConnections)
	require.Equal(t, []int64{4, 3, 30, 100}, []int64{s.PendingTasks, s.RunningTasks, s.DailyTokenUsage.TotalTokens, s.DailyTokenUsage.Limit})

	in.reports = nil // an operator that has just started knows nothing yet
	s = see()
	require.Equal(t, "False ProbeFailed it said no", reason(s, "Healthy"))
	require.Equal(t, "True ServerUnreachable a: refused", reason(s, "MCPDegraded"))

	in.budgets[0].resetsAt = noon.Add(90 * time.Minute)
	s = see()
	require.Equal(t, int32(0), s.DesiredReplicas)
	require.Contains(t, reason(s, "BudgetExceeded"), "True DailyLimitReached")
	require.Equal(t, noon.Add(90*time.Minute), s.DailyTokenUsage.ResetsAt.UTC())
	require.Equal(t, busyPause, decide(in).after, "tasks wait")
	in.backlog = queue.Backlog{}
	require.Equal(t, usagePause, decide(in).after, "tokens leave the window")
	in.budgets[0].resetsAt = noon.Add(9 * time.Minute)
	require.Equal(t, 9*time.Minute, decide(in).after, "the budget frees")

	in.agent.Spec.MCPServers, in.agent.Spec.LivenessProbe, in.budgets = nil, nil, nil
	s = see()
	require.Empty(t, reason(s, "Healthy")+reason(s, "MCPDegraded")+reason(s, "BudgetExceeded"))
	require.Nil(t, s.ToolConnections)
}

// Where nobody may call the model until the window frees, the tasks that wait fail, unless the agent says that they wait.
func TestTasksThatNoBudgetIsLeftFor(t *testing.T) {
	t.Parallel()
	in := readInput(t, []byte(small))
	in.budgets = []budget{{scope: "agent.writer", limit: 10, spent: 3}, {scope: "team.duo", limit: 20, spent: 19, least: 5}}
	in.backlog = queue.Backlog{Waiting: 4, Held: 1}
	require.Nil(t, decide(in).refusal)
	in.budgets[1].resetsAt = noon.Add(time.Hour)
	refusal := decide(in).refusal
	require.Equal(t, task.CodeBudgetExceeded, refusal.Code)
	require.Equal(t, "team.duo", refusal.Scope)
	require.Equal(t, in.budgets[1].resetsAt, refusal.ResetsAt)
	require.Equal(t, `maxDailyTokens of team "duo" is 20 tokens: 19 are spent, and the next call may use up to 5; enough of it is free again at 2026-01-02T13:00:00Z`,
		refusal.Message, "as a pod would say it")
	in.backlog.Waiting = 0
	require.NotNil(t, decide(in).refusal, "the pod that was given the task may be gone")
	in.backlog.Held = 0
	require.Nil(t, decide(in).refusal)
	in.backlog.Waiting = 4
	in.agent.Spec.Limits.OnBudgetExceeded = v1alpha1.BudgetWait
	require.Nil(t, decide(in).refusal)
}

// A prompt that a process gets in no variable is only a file.
func TestLongPrompt(t *testing.T) {
	t.Parallel()
	in := readInput(t, []byte(small))
	in.agent.Spec.SystemPrompt = strings.Repeat("long ", 30_000)
	for _, v := range decide(in).deployment.Spec.Template.Spec.Containers[0].Env {
		require.NotEqual(t, "SYSTEM_PROMPT", v.Name)
	}
}

// What no process can be started with is a fault of the spec.
func TestLongVariable(t *testing.T) {
	t.Parallel()
	in := readInput(t, []byte(small))
	for i := range 3 {
		in.agent.Spec.Tools = append(in.agent.Spec.Tools, v1alpha1.WebhookTool{
			Name: fmt.Sprint("t", i), URL: "http://t/", Method: "POST", TimeoutSeconds: 1, InputSchema: `{"description":"` + strings.Repeat("x", 60_000) + `"}`,
		})
	}
	p := decide(in)
	require.Nil(t, p.deployment)
	require.Equal(t, v1alpha1.ReasonInvalidSpec, p.fault.reason)
	require.Contains(t, p.fault.message, "the variable WEBHOOK_TOOLS of the pods would have 18")
}

// A status waits unless a condition has changed.
func TestPressing(t *testing.T) {
	t.Parallel()
	base := v1alpha1.ArkAgentStatus{ObservedGeneration: 1, Conditions: []metav1.Condition{{Type: "Ready", Status: "True", Reason: "A", Message: "1"}}}
	for want, change := range map[bool][]func(*v1alpha1.ArkAgentStatus){
		false: {func(s *v1alpha1.ArkAgentStatus) { s.PendingTasks = 9 }, func(s *v1alpha1.ArkAgentStatus) { s.Conditions[0].Message = "2" }},
		true: {
			func(s *v1alpha1.ArkAgentStatus) { s.ObservedGeneration = 2 }, func(s *v1alpha1.ArkAgentStatus) { s.Conditions[0].Reason = "B" },
			func(s *v1alpha1.ArkAgentStatus) { s.Conditions[0].Status = "False" }, func(s *v1alpha1.ArkAgentStatus) { s.Conditions = nil },
		},
	} {
		for i, f := range change {
			now := base.DeepCopy()
			f(now)
			require.Equal(t, want, pressing(&base, now), "%v %d", want, i)
		}
	}
}
