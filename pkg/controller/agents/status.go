package agents

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	k8slabels "k8s.io/apimachinery/pkg/labels"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/work"
)

const (
	// statusPause is the least time between two writes of a status, unless a condition changes.
	statusPause = 10 * time.Second
	// maxMessage bounds the message of a condition, in bytes.
	maxMessage = 4096
	// maxConnections and maxConnectionMessage are the API's bounds of toolConnections.
	maxConnections       = 32
	maxConnectionMessage = 1024
)

// status is what the agent's status shall be.
func status(in *input, p *plan, o outcome) *v1alpha1.ArkAgentStatus {
	s := in.agent.Status.DeepCopy()
	s.ObservedGeneration = in.agent.Generation
	s.Selector = k8slabels.Set(selector(in.agent.Name)).String()
	s.DesiredReplicas = p.replicas
	s.Replicas, s.ReadyReplicas = 0, 0
	if d := o.deployment; d != nil && metav1.IsControlledBy(d, in.agent) {
		s.Replicas, s.ReadyReplicas = d.Status.Replicas, d.Status.ReadyReplicas
	}
	if p.fault == nil {
		s.SystemPromptHash = p.resolved.PromptHash
	}
	s.PendingTasks, s.RunningTasks = in.backlog.Waiting, running(in.reports)
	set := func(kind string, holds metav1.ConditionStatus, reason, message string) {
		meta.SetStatusCondition(&s.Conditions, metav1.Condition{
			Type: kind, Status: holds, Reason: reason, Message: clip(message, maxMessage),
			ObservedGeneration: in.agent.Generation, LastTransitionTime: metav1.NewTime(in.now.Truncate(time.Second)),
		})
	}
	holds, reason, message := ready(in, p, o)
	set(v1alpha1.ConditionReady, holds, reason, message)
	budgetStatus(in, s, set)
	toolStatus(in, s, set)
	probeStatus(in, s, set)
	return s
}

func running(reports []work.Report) int64 {
	n := 0
	for _, r := range reports {
		n += r.RunningTasks
	}
	return int64(n)
}

// ready is the condition Ready.
func ready(in *input, p *plan, o outcome) (holds metav1.ConditionStatus, reason, message string) {
	d := o.deployment
	stay := ""
	if d != nil && d.Status.Replicas > 0 {
		stay = ". Until then the pods that there are stay as they are"
	}
	switch {
	case o.conflict != nil:
		return metav1.ConditionFalse, v1alpha1.ReasonNameConflict, o.conflict.Error()
	case p.fault != nil:
		return metav1.ConditionFalse, p.fault.reason, p.fault.message + stay
	case o.err != nil:
		return metav1.ConditionFalse, v1alpha1.ReasonReconcileError, o.err.Error()
	case d == nil:
		return metav1.ConditionFalse, v1alpha1.ReasonProgressing, "no pods yet"
	case usedUp(in.budgets) != nil:
		return metav1.ConditionFalse, v1alpha1.ReasonScaledToZero, usedUp(in.budgets).String()
	case p.replicas == 0 && in.agent.Spec.Autoscaling != nil:
		return metav1.ConditionTrue, v1alpha1.ReasonScaledToZero, "nothing is to be done: pods start with the first task"
	case p.replicas == 0:
		return metav1.ConditionFalse, v1alpha1.ReasonScaledToZero, "spec.replicas is 0: tasks wait until it is more"
	}
	return rollout(in, p, d)
}

// rollout says how far the pods are.
func rollout(in *input, p *plan, d *appsv1.Deployment) (holds metav1.ConditionStatus, reason, message string) {
	s := &d.Status
	current := s.ObservedGeneration >= d.Generation
	count := fmt.Sprintf("%d of %d pods are ready", s.ReadyReplicas, p.replicas)
	switch {
	case current && s.ReadyReplicas >= p.replicas && s.UpdatedReplicas >= p.replicas && s.Replicas == s.UpdatedReplicas:
		return metav1.ConditionTrue, v1alpha1.ReasonAllReplicasReady, count
	case s.ReadyReplicas >= p.replicas:
		return metav1.ConditionTrue, v1alpha1.ReasonProgressing, count + "; they are being replaced" + trouble(in, d)
	default:
		return metav1.ConditionFalse, v1alpha1.ReasonProgressing, count + trouble(in, d)
	}
}

// trouble says what keeps pods from being ready, for one of them.
func trouble(in *input, d *appsv1.Deployment) string {
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentReplicaFailure && c.Status == corev1.ConditionTrue {
			return ": no pod can be made: " + c.Message
		}
	}
	for _, p := range slices.Backward(in.running) {
		if text := podTrouble(p); text != "" {
			return fmt.Sprintf(": pod %s: %s", p.Name, text)
		}
	}
	for _, r := range in.reports {
		if !r.Ready && len(r.Reasons) > 0 {
			return fmt.Sprintf(": pod %s: %s", r.Pod, strings.Join(r.Reasons, "; "))
		}
	}
	return ""
}

func podTrouble(p *corev1.Pod) string {
	if !p.DeletionTimestamp.IsZero() {
		return ""
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
			return c.Message
		}
	}
	for _, c := range append(slices.Clone(p.Status.InitContainerStatuses), p.Status.ContainerStatuses...) {
		last := ""
		for _, t := range []*corev1.ContainerStateTerminated{c.State.Terminated, c.LastTerminationState.Terminated} {
			if t != nil && t.ExitCode != 0 && last == "" {
				last = strings.TrimSpace(fmt.Sprintf("ended with code %d: %s", t.ExitCode, t.Message))
			}
		}
		switch w := c.State.Waiting; {
		case last != "" && !c.Ready:
			return last
		case w != nil && w.Reason != "ContainerCreating" && w.Reason != "PodInitializing":
			return strings.TrimSpace(w.Reason + ": " + w.Message)
		}
	}
	return ""
}

// setter sets a condition.
type setter func(kind string, holds metav1.ConditionStatus, reason, message string)

// toolStatus is toolConnections and the condition MCPDegraded. While no pod has reported they stay as they were.
func toolStatus(in *input, s *v1alpha1.ArkAgentStatus, set setter) {
	if len(in.agent.Spec.MCPServers) == 0 {
		s.ToolConnections = nil
		meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionMCPDegraded)
		return
	}
	if len(in.reports) == 0 {
		return
	}
	s.ToolConnections = connections(in.reports)
	var down []string
	for _, c := range s.ToolConnections {
		if !c.Healthy {
			down = append(down, fmt.Sprintf("%s: %s", c.Name, c.Message))
		}
	}
	if len(down) > 0 {
		set(v1alpha1.ConditionMCPDegraded, metav1.ConditionTrue, v1alpha1.ReasonServerUnreachable, strings.Join(down, "; "))
		return
	}
	set(v1alpha1.ConditionMCPDegraded, metav1.ConditionFalse, v1alpha1.ReasonServersReachable, "all tool servers answer")
}

// connections joins what pods say of their tool servers: one is healthy when it is so to all of them.
func connections(reports []work.Report) []v1alpha1.ToolConnection {
	byName := map[string]v1alpha1.ToolConnection{}
	for _, r := range reports {
		for _, c := range r.ToolConnections {
			if known, ok := byName[c.Name]; !ok || known.Healthy {
				byName[c.Name] = v1alpha1.ToolConnection{Name: c.Name, Healthy: c.Healthy, Message: clip(c.Message, maxConnectionMessage)}
			}
		}
	}
	var out []v1alpha1.ToolConnection
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, byName[name])
	}
	return out[:min(len(out), maxConnections)]
}

// probeStatus is the condition Healthy. While nothing has answered it stays as it was.
func probeStatus(in *input, s *v1alpha1.ArkAgentStatus, set setter) {
	if p := in.agent.Spec.LivenessProbe; p == nil || p.Type != v1alpha1.ProbeSemantic {
		meta.RemoveStatusCondition(&s.Conditions, v1alpha1.ConditionHealthy)
		return
	}
	var last *work.Verdict
	for _, r := range in.reports {
		if r.Verdict != nil && (last == nil || r.Verdict.At.After(last.At)) {
			last = r.Verdict
		}
	}
	switch {
	case last == nil && meta.FindStatusCondition(s.Conditions, v1alpha1.ConditionHealthy) == nil:
		set(v1alpha1.ConditionHealthy, metav1.ConditionUnknown, v1alpha1.ReasonProbePending, "the semantic probe has not been answered yet")
	case last == nil:
	case last.Healthy:
		set(v1alpha1.ConditionHealthy, metav1.ConditionTrue, v1alpha1.ReasonProbeSucceeded, "the model answers as it shall")
	default:
		set(v1alpha1.ConditionHealthy, metav1.ConditionFalse, v1alpha1.ReasonProbeFailed, last.Message)
	}
}

// clip is at most n bytes of a text, ending with a whole character.
func clip(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

// pressing says whether a status must not wait: a condition has another status or reason, or is about another generation.
func pressing(old, now *v1alpha1.ArkAgentStatus) bool {
	if old.ObservedGeneration != now.ObservedGeneration || len(old.Conditions) != len(now.Conditions) {
		return true
	}
	for _, c := range now.Conditions {
		before := meta.FindStatusCondition(old.Conditions, c.Type)
		if before == nil || before.Status != c.Status || before.Reason != c.Reason {
			return true
		}
	}
	return false
}

// writeStatus writes a status that has changed, or says how long that has to wait.
func (a *Agents) writeStatus(ctx context.Context, in *input, s *v1alpha1.ArkAgentStatus, m *memo) (wait time.Duration, err error) {
	if equality.Semantic.DeepEqual(&in.agent.Status, s) {
		return 0, nil
	}
	if wait := statusPause - in.now.Sub(m.written); wait > 0 && !pressing(&in.agent.Status, s) {
		return wait, nil
	}
	next := in.agent.DeepCopy()
	next.Status = *s
	_, err = kube.UpdateStatus(ctx, a.cfg.Clients.Agents(in.agent.Namespace), "ArkAgent", next)
	if apierrors.IsNotFound(err) {
		return 0, nil // it was removed meanwhile
	}
	if err == nil {
		m.written = in.now
	}
	return 0, err
}
