package why

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// agentOf: the agent of a step that is due cannot work.
func agentOf(f *Facts) *Answer {
	for _, name := range needed(f) {
		agent, known := f.Agents[name]
		if !known {
			continue
		}
		if agent.Agent == nil {
			return &Answer{
				Cause: AgentMissing, Message: fmt.Sprintf("there is no agent %s", name),
				Evidence: waits(f, name), Next: []string{command(f, "kubectl get arkagents")},
			}
		}
		if a := unable(f, agent); a != nil {
			a.Evidence = append(a.Evidence, waits(f, name)...)
			return a.brief()
		}
	}
	return nil
}

// needed are the agents that the run waits for: those of the steps that are worked on; before it has started, all.
func needed(f *Facts) []string {
	var names []string
	for _, s := range leaves(f) {
		if s.Agent != "" && !slices.Contains(names, s.Agent) {
			names = append(names, s.Agent)
		}
	}
	if len(names) > 0 || started(f) {
		return names
	}
	for name := range f.Agents {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// waits is what the run says of an agent that it waits for.
func waits(f *Facts, agent string) []string {
	for _, s := range leaves(f) {
		if s.Agent == agent {
			return append([]string{fmt.Sprintf("step %s is %s for %s", s.Name, s.Phase, since(f, s.StartTime))}, said(s.Message)...)
		}
	}
	return nil
}

// unable says why an agent takes no tasks; nil when it does, or when nothing says that it does not.
func unable(f *Facts, agent Agent) *Answer {
	a := agent.Agent
	status := &a.Status
	if c := condition(status.Conditions, v1alpha1.ConditionBudgetExceeded, metav1.ConditionTrue); c != nil {
		return dailyBudget(f, a, c)
	}
	if status.ReadyReplicas > 0 {
		return nil
	}
	if c := condition(status.Conditions, v1alpha1.ConditionReady, metav1.ConditionFalse); c != nil {
		switch c.Reason {
		case v1alpha1.ReasonPromptResolutionError, v1alpha1.ReasonSecretNotFound, v1alpha1.ReasonReferenceNotFound:
			return &Answer{
				Cause: ConfigMissing, Message: fmt.Sprintf("agent %s has no pods: %s", a.Name, c.Message),
				Evidence: []string{"condition Ready is False: " + c.Reason}, Next: []string{command(f, "kubectl describe arkagent %s", a.Name)},
			}
		case v1alpha1.ReasonNameConflict:
			return &Answer{
				Cause: c.Reason, Message: fmt.Sprintf("agent %s has no pods: %s", a.Name, c.Message),
				Next: []string{command(f, "kubectl describe arkagent %s", a.Name)},
			}
		}
	}
	if stuck := stuckPod(agent.Pods); stuck != nil {
		return &Answer{
			Cause: stuck.cause, Message: fmt.Sprintf("agent %s cannot start: %s", a.Name, stuck.says), Evidence: []string{stuck.evidence},
			Next: []string{command(f, "kubectl describe pod %s", stuck.pod), command(f, stuck.next, a.Name)},
		}
	}
	if c := condition(status.Conditions, v1alpha1.ConditionMCPDegraded, metav1.ConditionTrue); c != nil {
		return &Answer{
			Cause: ToolServerDown, Message: fmt.Sprintf("agent %s is not ready: a tool server that it needs is down", a.Name),
			Evidence: append(downTools(a), said(c.Message)...), Next: []string{command(f, "kubectl edit arkagent %s", a.Name), command(f, "kubectl describe arkagent %s", a.Name)},
		}
	}
	if c := condition(status.Conditions, v1alpha1.ConditionHealthy, metav1.ConditionFalse); c != nil {
		return &Answer{
			Cause: Unhealthy, Message: fmt.Sprintf("agent %s is not ready: its model does not answer as the probe wants", a.Name),
			Evidence: said(c.Message), Next: []string{command(f, "kubectl logs -l %s=%s", v1alpha1.LabelAgent, a.Name), command(f, "kubectl describe arkagent %s", a.Name)},
		}
	}
	return noPod(f, agent)
}

// noPod: nothing says more than that no pod is ready.
func noPod(f *Facts, agent Agent) *Answer {
	a := agent.Agent
	if a.Spec.Replicas != nil && *a.Spec.Replicas == 0 && a.Spec.Autoscaling == nil {
		return &Answer{
			Cause: ScaledToZero, Message: fmt.Sprintf("agent %s is scaled to zero", a.Name),
			Evidence: []string{fmt.Sprintf("ArkAgent %s has spec.replicas: 0", a.Name)},
			Next:     []string{command(f, "kubectl scale arkagent %s --replicas=1", a.Name)},
		}
	}
	out := &Answer{
		Cause: NoReadyPod, Message: fmt.Sprintf("agent %s has no ready pod", a.Name),
		Evidence: []string{fmt.Sprintf("%d of %d pods are ready", a.Status.ReadyReplicas, a.Status.DesiredReplicas)},
		Next:     []string{command(f, "kubectl describe pods -l %s=%s", v1alpha1.LabelAgent, a.Name), command(f, "kubectl describe arkagent %s", a.Name)},
	}
	if len(agent.Pods) == 0 {
		out.Next[0] = command(f, "kubectl describe deployment %s", a.Name+v1alpha1.AgentDeploymentSuffix)
	}
	if c := condition(a.Status.Conditions, v1alpha1.ConditionReady, metav1.ConditionFalse); c != nil {
		out.Evidence = append(out.Evidence, strings.TrimSuffix("condition Ready is False: "+c.Reason+": "+c.Message, ": "))
	}
	return out
}

// downTools are the tool servers of an agent that do not answer.
func downTools(a *v1alpha1.ArkAgent) []string {
	if a == nil {
		return nil
	}
	var out []string
	for _, t := range a.Status.ToolConnections {
		if !t.Healthy {
			where := ""
			for _, m := range a.Spec.MCPServers {
				if m.Name == t.Name && m.URL != "" {
					where = " at " + m.URL
				}
			}
			out = append(out, fmt.Sprintf("tool server %s%s: %s", t.Name, where, cmp.Or(t.Message, "it does not answer")))
		}
	}
	return out
}

// stuck is a pod that does not start.
type stuck struct {
	pod, cause, says, evidence string
	next                       string // a command with %s for the agent
}

// stuckPod finds a pod that says why it does not start.
func stuckPod(pods []corev1.Pod) *stuck {
	for i := range pods {
		p := &pods[i]
		for _, c := range slices.Concat(p.Status.InitContainerStatuses, p.Status.ContainerStatuses) {
			if w := c.State.Waiting; w != nil {
				if s := stuckContainer(p.Name, &c, w); s != nil {
					return s
				}
			}
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				return &stuck{
					pod: p.Name, cause: Unschedulable, says: "no node can take its pod", next: "kubectl edit arkagent %s",
					evidence: fmt.Sprintf("pod %s: %s: %s", p.Name, c.Reason, c.Message),
				}
			}
		}
	}
	return nil
}

func stuckContainer(pod string, c *corev1.ContainerStatus, w *corev1.ContainerStateWaiting) *stuck {
	s := &stuck{
		pod: pod, cause: PodCannotStart, next: "kubectl edit arkagent %s",
		evidence: strings.TrimSuffix(fmt.Sprintf("pod %s, container %s: %s: %s", pod, c.Name, w.Reason, w.Message), ": "),
	}
	switch w.Reason {
	case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "RegistryUnavailable", "ImageInspectError":
		s.cause, s.says = ImageCannotStart, "its image "+c.Image+" cannot be pulled"
	case "CreateContainerConfigError":
		s.says = "something that its pod refers to is missing"
	case "CreateContainerError", "RunContainerError":
		s.cause, s.says = ImageCannotStart, "its container cannot be started"
	case "CrashLoopBackOff":
		s.says, s.next = "its container ends again and again", "kubectl logs -l "+v1alpha1.LabelAgent+"=%s --previous"
		if last := c.LastTerminationState.Terminated; last != nil {
			s.evidence += fmt.Sprintf(" (last: exit code %d, %s)", last.ExitCode, last.Reason)
			if text := said(last.Message); len(text) > 0 {
				s.says += ": " + text[0]
			}
		}
	default: // PodInitializing, ContainerCreating: it is about to start
		return nil
	}
	return s
}
