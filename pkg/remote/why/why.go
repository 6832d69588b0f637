// Package why says why a run is as it is: one answer, with what it is seen by, and the next command to type. It is pure:
// whoever asks gathers the Facts.
//
// The rules stand in an order: the first one that holds is the answer. What keeps everything from going on comes first
// (the operator is away), then what the run itself says, then what keeps the work from being taken up (in the order in
// which it must be mended), then what merely takes long.
package why

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// Facts are what is known of a run and of all that it depends on. What could not be read is left out and named in Unseen.
type Facts struct {
	Now time.Time
	Run *v1alpha1.ArkRun
	// Team is nil for a run of an agent, and when TeamMissing.
	Team        *v1alpha1.ArkTeam
	TeamMissing bool
	// Agents by name: those that the run's roles name. Missing ones are there with a nil Agent.
	Agents map[string]Agent
	// Children are the runs of teams that play a role, by the task that they carry out.
	Children map[string]*v1alpha1.ArkRun
	Operator Operator
	// Unseen says what could not be read and why.
	Unseen []string
}

// Agent is what is known of an agent.
type Agent struct {
	Agent *v1alpha1.ArkAgent
	Pods  []corev1.Pod
}

// Operator is what is known of ark's operator.
type Operator struct {
	// Seen says that the workload could be looked for; Kind, Namespace and Name are empty when there is none.
	Seen                  bool
	Kind, Namespace, Name string
	Desired, Ready        int32
	Pods                  []corev1.Pod
	// Data is what the aggregated API answers.
	Data DataAPI
}

// DataAPI is whether the operator can be reached through the API server.
type DataAPI string

const (
	DataUnknown     DataAPI = ""            // it was not asked, or the answer says nothing
	DataServed      DataAPI = "Served"      // the operator answers
	DataUnavailable DataAPI = "Unavailable" // it is installed, and the operator does not answer
	DataAbsent      DataAPI = "Absent"      // it is not installed
)

// Answer is why a run is as it is.
type Answer struct {
	Run   string `json:"run"`
	Phase string `json:"phase"`
	// Cause in one CamelCase word.
	Cause string `json:"cause"`
	// Message is the answer in one sentence.
	Message string `json:"message"`
	// Evidence is what it is seen by.
	Evidence []string `json:"evidence,omitempty"`
	// Next are the commands to type, the most useful first; empty when nothing has to be done.
	Next []string `json:"next,omitempty"`
}

// Causes. Those of a failed step are its reasons, as in task.Code.
const (
	Succeeded          = "Succeeded"
	Cancelled          = "Cancelled"
	Cancelling         = "Cancelling"
	OperatorAway       = "OperatorAway"
	Suspended          = "Suspended"
	TeamMissing        = "TeamMissing"
	AgentMissing       = "AgentMissing"
	BudgetUsedUp       = "BudgetUsedUp"
	ImageCannotStart   = "ImageCannotStart"
	PodCannotStart     = "PodCannotStart"
	Unschedulable      = "Unschedulable"
	ToolServerDown     = "ToolServerDown"
	CallTooLarge       = "CallTooLarge"
	Unhealthy          = "Unhealthy"
	ConfigMissing      = "ConfigMissing"
	NoReadyPod         = "NoReadyPod"
	ScaledToZero       = "ScaledToZero"
	WaitingForDelegate = "WaitingForDelegate"
	WaitingForTeam     = "WaitingForTeam"
	WaitingToRetry     = "WaitingToRetry"
	QueueFull          = "QueueFull"
	ModelSlow          = "ModelSlow"
	Starting           = "Starting"
	NotTakenUp         = "NotTakenUp"
	Working            = "Working"
)

// SpecOf is what a run is driven with: its own spec, or for a run that was applied without a snapshot the one in its status,
// as far as that stands there.
func SpecOf(run *v1alpha1.ArkRun) *v1alpha1.ArkRunSpec {
	if r := run.Status.Resolved; r != nil && r.Spec != nil {
		return r.Spec
	}
	return &run.Spec
}

// Explain answers. It always has an answer.
func Explain(f *Facts) *Answer {
	a := explain(f)
	a.Run = f.Run.Name
	a.Phase = string(f.Run.Status.Phase)
	if a.Phase == "" {
		a.Phase = string(v1alpha1.RunPending)
	}
	a.Evidence = append(a.Evidence, f.Unseen...)
	return a
}

func explain(f *Facts) *Answer {
	for _, rule := range []func(*Facts) *Answer{
		succeeded, cancelled, failed, // it has ended
		operatorAway, cancelling, suspended, teamMissing, // nothing goes on
		agentOf, childOf, retrying, calling, delegateOf, queued, // the step that is worked on
		pending, working,
	} {
		if a := rule(f); a != nil {
			return a
		}
	}
	return &Answer{Cause: Working, Message: "the run goes on", Next: []string{command(f, "ark logs %s -f", f.Run.Name)}}
}

// maxEvidence bounds a line of evidence, in characters: what the API server or a container says can be very long.
const maxEvidence = 600

// brief leaves out evidence that another line or the message says already, and cuts what is very long.
func (a *Answer) brief() *Answer {
	out := a.Evidence[:0:0]
	for i, e := range a.Evidence {
		words := core(e)
		told := words == "" || strings.Contains(a.Message, words)
		for j, other := range a.Evidence {
			told = told || i != j && strings.Contains(core(other), words) && (len(core(other)) > len(words) || j < i)
		}
		if told {
			continue
		}
		if text := []rune(e); len(text) > maxEvidence {
			e = string(text[:maxEvidence]) + " ..."
		}
		out = append(out, e)
	}
	a.Evidence = out
	return a
}

// core is what a line of evidence says, without the words that lead to it: who is not ready, how many pods, which pod.
func core(line string) string {
	if _, after, found := strings.Cut(line, "is not ready: "); found {
		line = after
	}
	if _, after, found := strings.Cut(line, " pods are ready: "); found {
		line = after
	}
	if strings.HasPrefix(line, "pod ") {
		if _, after, found := strings.Cut(line, ": "); found {
			line = after
		}
	}
	return line
}

// command is a command about the run's namespace.
func command(f *Facts, format string, args ...any) string {
	return fmt.Sprintf(format, args...) + " -n " + f.Run.Namespace
}

// condition finds a condition that has a status.
func condition(all []metav1.Condition, kind string, status metav1.ConditionStatus) *metav1.Condition {
	i := slices.IndexFunc(all, func(c metav1.Condition) bool { return c.Type == kind && c.Status == status })
	if i < 0 {
		return nil
	}
	return &all[i]
}

// active are the steps that are worked on, delegated work behind the step that handed it over.
func active(f *Facts) []*v1alpha1.StepStatus {
	var out []*v1alpha1.StepStatus
	for i := range f.Run.Status.Steps {
		switch s := &f.Run.Status.Steps[i]; s.Phase {
		case v1alpha1.StepRunning, v1alpha1.StepWaiting, v1alpha1.StepValidating:
			out = append(out, s)
		default:
		}
	}
	return out
}

// leaves are the active steps that wait for no other one: those on which the run hangs.
func leaves(f *Facts) []*v1alpha1.StepStatus {
	all := active(f)
	return slices.DeleteFunc(slices.Clone(all), func(s *v1alpha1.StepStatus) bool {
		return slices.ContainsFunc(all, func(below *v1alpha1.StepStatus) bool { return below.Parent == s.Name })
	})
}

// since is how long something has been going on, for people.
func since(f *Facts, t *metav1.MicroTime) string {
	if t == nil {
		return "some time"
	}
	return span(f.Now.Sub(t.Time))
}

func span(d time.Duration) string {
	switch {
	case d < 0:
		return "0s"
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d < time.Hour:
		return d.Round(time.Second).String()
	default:
		return d.Round(time.Minute).String()
	}
}
