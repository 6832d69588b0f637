package why

import (
	"fmt"
	"strings"
	"time"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// freshly is how long a run may be Pending before that is worth an answer.
const freshly = 10 * time.Second

// slowCall is how long a step may be worked on before it is called slow.
const slowCall = time.Minute

// operatorAway: nothing is decided without an operator.
func operatorAway(f *Facts) *Answer {
	o := &f.Operator
	a := &Answer{Cause: OperatorAway, Message: "ark's operator is away: nothing goes on until it is back"}
	where := strings.ToLower(o.Kind) + "/" + o.Name
	switch {
	case o.Seen && o.Name == "":
		a.Message = "ark's operator is not there: its workload was not found"
		a.Next = []string{"ark status", "ark install"}
		if o.Data == DataServed {
			return nil // it is somewhere else
		}
		return a
	case o.Seen && o.Desired == 0:
		a.Evidence = []string{fmt.Sprintf("%s %s/%s has 0 replicas", o.Kind, o.Namespace, o.Name)}
		a.Next = []string{fmt.Sprintf("kubectl scale %s --replicas=1 -n %s", where, o.Namespace)}
		return a
	case o.Seen && o.Ready == 0:
		a.Evidence = []string{fmt.Sprintf("%s %s/%s has 0 of %d pods ready", o.Kind, o.Namespace, o.Name, o.Desired)}
		if stuck := stuckPod(o.Pods); stuck != nil {
			a.Evidence = append(a.Evidence, stuck.evidence)
		}
		a.Next = []string{"kubectl describe " + where + " -n " + o.Namespace, "kubectl logs " + where + " -n " + o.Namespace}
		return a
	case !o.Seen && o.Data == DataUnavailable:
		a.Evidence = []string{"the API data.arkonis.dev, which the operator serves, does not answer"}
		a.Next = []string{"ark status"}
		return a
	default:
		return nil
	}
}

func cancelling(f *Facts) *Answer {
	if f.Run.Annotations[v1alpha1.AnnotationCancel] != "true" {
		return nil
	}
	return &Answer{
		Cause: Cancelling, Message: "the run is being cancelled: it ends when its open tasks have been withdrawn",
		Next: []string{command(f, "ark get %s --watch", f.Run.Name)},
	}
}

// suspended: a team that is suspended starts nothing.
func suspended(f *Facts) *Answer {
	if f.Team == nil || !f.Team.Spec.Suspend || started(f) {
		return nil
	}
	return &Answer{
		Cause: Suspended, Message: fmt.Sprintf("team %s is suspended: its runs do not start", f.Team.Name),
		Evidence: []string{fmt.Sprintf("ArkTeam %s has spec.suspend: true", f.Team.Name)},
		Next:     []string{command(f, `kubectl patch arkteam %s --type merge -p '{"spec":{"suspend":false}}'`, f.Team.Name)},
	}
}

func teamMissing(f *Facts) *Answer {
	if !f.TeamMissing || started(f) {
		return nil
	}
	return &Answer{
		Cause: TeamMissing, Message: fmt.Sprintf("there is no team %s", f.Run.Spec.TeamRef.Name),
		Next: []string{command(f, "kubectl get arkteams")},
	}
}

func started(f *Facts) bool {
	return f.Run.Status.Phase != "" && f.Run.Status.Phase != v1alpha1.RunPending
}

// childOf: the step is a whole team, whose run has an answer of its own.
func childOf(f *Facts) *Answer {
	for _, s := range leaves(f) {
		child := f.Children[s.TaskID]
		if child == nil || child.Status.Phase.Terminal() {
			continue
		}
		return &Answer{
			Cause: WaitingForTeam, Message: fmt.Sprintf("step %s waits for the run %s of a team", s.Name, child.Name),
			Evidence: []string{fmt.Sprintf("run %s is %s", child.Name, child.Status.Phase)},
			Next:     []string{command(f, "ark why %s", child.Name)},
		}
	}
	return nil
}

// retrying: a step pauses before its next attempt.
func retrying(f *Facts) *Answer {
	for _, s := range leaves(f) {
		if s.Phase == v1alpha1.StepWaiting && strings.Contains(s.Message, "next attempt") {
			return &Answer{
				Cause: WaitingToRetry, Message: fmt.Sprintf("step %s failed and is tried again: %s", s.Name, s.Message),
				Evidence: []string{fmt.Sprintf("%d attempts so far", s.Attempts)},
				Next:     []string{command(f, "ark logs %s --step %s", f.Run.Name, s.Name)},
			}
		}
	}
	return nil
}

// calling: the model server of a step does not answer as it should, and is asked again; or a budget is waited for.
func calling(f *Facts) *Answer {
	for _, s := range leaves(f) {
		code, text, found := strings.Cut(s.Message, ": ")
		if !found || s.Phase != v1alpha1.StepRunning {
			continue
		}
		a := &Answer{Cause: code, Evidence: append([]string{fmt.Sprintf("step %s is worked on for %s", s.Name, since(f, s.StartTime))}, said(text)...)}
		agent := f.Agents[s.Agent].Agent
		switch code {
		case "RateLimited":
			a.Message = fmt.Sprintf("the model server limits the rate of agent %s: the call is tried again", s.Agent)
			a.Next = []string{command(f, "kubectl logs -l %s=%s", v1alpha1.LabelAgent, s.Agent), command(f, "kubectl edit arkagent %s", s.Agent)}
		case "ProviderFailed":
			secret, _ := keyOf(agent)
			a.Message = fmt.Sprintf("the model server of agent %s cannot be reached, or answers with errors: the call is tried again", s.Agent)
			a.Next = []string{command(f, "kubectl get secret %s -o jsonpath='{.data.OPENAI_BASE_URL}'", secret) + " | base64 -d", command(f, "kubectl describe arkagent %s", s.Agent)}
		case "EmptyAnswer":
			a.Message = fmt.Sprintf("the model of agent %s answers with nothing: the call is tried again", s.Agent)
			a.Next = []string{command(f, "kubectl edit arkagent %s", s.Agent)}
		case v1alpha1.ReasonBudgetExceeded:
			kind, name := "agent", s.Agent
			if daily := dailyRefused.FindStringSubmatch(text); daily != nil {
				kind, name = daily[1], daily[2]
			}
			a.Cause = BudgetUsedUp
			a.Message = fmt.Sprintf("step %s waits for the daily budget of %s %s, which is used up", s.Name, kind, name)
			a.Next = []string{command(f, "kubectl edit ark%s %s", kind, name)}
		default:
			continue
		}
		return a
	}
	return nil
}

// delegateOf: a step has handed work over and waits for it.
func delegateOf(f *Facts) *Answer {
	for _, s := range leaves(f) {
		if s.Parent == "" {
			continue
		}
		a := &Answer{
			Cause:    WaitingForDelegate,
			Message:  fmt.Sprintf("step %s waits for the work that it handed to agent %s", s.Parent, s.Agent),
			Evidence: []string{fmt.Sprintf("%s is %s for %s", s.Name, s.Phase, since(f, s.StartTime))},
			Next:     []string{command(f, "ark logs %s -f", f.Run.Name)},
		}
		if s.Message != "" {
			a.Evidence = append(a.Evidence, said(s.Message)...)
		}
		return a
	}
	return nil
}

// queued: the step's task waits behind others.
func queued(f *Facts) *Answer {
	for _, s := range leaves(f) {
		agent := f.Agents[s.Agent].Agent
		if agent == nil || s.Pod != "" || agent.Status.PendingTasks < 1 {
			continue
		}
		room := int64(agent.Status.ReadyReplicas) * concurrency(agent)
		if room == 0 || agent.Status.RunningTasks < room {
			continue
		}
		return &Answer{
			Cause: QueueFull, Message: fmt.Sprintf("step %s waits in the queue of agent %s, whose pods are all busy", s.Name, s.Agent),
			Evidence: []string{
				fmt.Sprintf("%d tasks wait, %d are worked on", agent.Status.PendingTasks, agent.Status.RunningTasks),
				fmt.Sprintf("%d ready pods take %d tasks each (limits.maxConcurrentTasks)", agent.Status.ReadyReplicas, concurrency(agent)),
			},
			Next: []string{command(f, "kubectl scale arkagent %s --replicas=%d", s.Agent, max(agent.Status.DesiredReplicas, agent.Status.ReadyReplicas)+1)},
		}
	}
	return nil
}

func concurrency(a *v1alpha1.ArkAgent) int64 {
	const unset = 5 // as the API's default
	if l := a.Spec.Limits; l != nil && l.MaxConcurrentTasks > 0 {
		return int64(l.MaxConcurrentTasks)
	}
	return unset
}

// pending: the run was made and nothing has become of it.
func pending(f *Facts) *Answer {
	if started(f) {
		return nil
	}
	age := f.Now.Sub(f.Run.CreationTimestamp.Time)
	if age < freshly {
		return &Answer{Cause: Starting, Message: fmt.Sprintf("the run was made %s ago and is about to start", span(age)), Next: []string{command(f, "ark get %s --watch", f.Run.Name)}}
	}
	a := &Answer{
		Cause: NotTakenUp, Message: fmt.Sprintf("the run was made %s ago and the operator has not started it", span(age)),
		Evidence: said(f.Run.Status.Message), Next: []string{"ark status"},
	}
	if o := f.Operator; o.Name != "" {
		a.Next = append(a.Next, fmt.Sprintf("kubectl logs %s/%s -n %s", strings.ToLower(o.Kind), o.Name, o.Namespace))
	}
	return a
}

// working: all is well; the step that has been worked on longest is what it waits for.
func working(f *Facts) *Answer {
	var oldest *v1alpha1.StepStatus
	for _, s := range leaves(f) {
		if oldest == nil || s.StartTime != nil && oldest.StartTime != nil && s.StartTime.Before(oldest.StartTime) {
			oldest = s
		}
	}
	if oldest == nil {
		return nil
	}
	a := &Answer{
		Cause: Working, Message: fmt.Sprintf("the run goes on: agent %s has worked on step %s for %s", oldest.Agent, oldest.Name, since(f, oldest.StartTime)),
		Evidence: said(oldest.Message), Next: []string{command(f, "ark logs %s -f", f.Run.Name)},
	}
	if oldest.StartTime != nil && f.Now.Sub(oldest.StartTime.Time) > slowCall {
		a.Cause = ModelSlow
		a.Message = fmt.Sprintf("the run is slow: agent %s has worked on step %s for %s", oldest.Agent, oldest.Name, since(f, oldest.StartTime))
	}
	if oldest.Pod != "" {
		a.Evidence = append(a.Evidence, "it is worked on by pod "+oldest.Pod)
		a.Next = append(a.Next, command(f, "kubectl logs %s", oldest.Pod))
	}
	a.Evidence = append(a.Evidence, downTools(f.Agents[oldest.Agent].Agent)...)
	if oldest.Attempts > 1 {
		a.Evidence = append(a.Evidence, fmt.Sprintf("it is attempt %d", oldest.Attempts))
	}
	return a
}

// slowest is the step that took longest.
func slowest(steps []v1alpha1.StepStatus) (slow *v1alpha1.StepStatus, took time.Duration) {
	for i := range steps {
		s := &steps[i]
		if s.StartTime == nil || s.CompletionTime == nil {
			continue
		}
		if d := s.CompletionTime.Sub(s.StartTime.Time); slow == nil || d > took {
			slow, took = s, d
		}
	}
	return slow, took
}
