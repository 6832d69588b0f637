package pipeline

import (
	"fmt"
	"time"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/task"
)

// Decide says what is due at a time: every action that was not Issued. It reads the state and changes nothing; its cost
// grows with the number of open tasks.
func (p *Plan) Decide(s *State, now time.Time) Decision {
	var d Decision
	ending := s.Ending
	if ending == nil && !now.Before(p.deadline) {
		late := p.timedOut()
		ending = &late
	}
	for _, i := range s.Open {
		t := &s.Tasks[i]
		switch {
		case ending != nil || t.Unwanted:
			if !t.Withdrawn {
				d.Actions = append(d.Actions, withdraw(t, ending))
			}
		case t.Issued:
		case now.Before(t.NotBefore):
			d.wakeAt(t.NotBefore)
		case t.Team != "":
			d.Actions = append(d.Actions, p.startRun(t))
		default:
			d.Actions = append(d.Actions, p.submit(s, t))
		}
	}
	if ending == nil {
		d.wakeAt(p.deadline)
	}
	if ending != nil && len(s.Open) == 0 && !s.Ended && !s.FinishIssued {
		d.Actions = append(d.Actions, &Finish{
			Phase: ending.Phase, Reason: ending.Reason, Message: ending.Message, FailedStep: ending.FailedStep,
			Output: ending.Output, OutputRef: ending.OutputRef,
		})
	}
	return d
}

func (d *Decision) wakeAt(t time.Time) {
	if d.Wake.IsZero() || t.Before(d.Wake) {
		d.Wake = t
	}
}

func (p *Plan) timedOut() Ending {
	return Ending{
		Phase: v1alpha1.RunFailed, Reason: v1alpha1.ReasonTimedOut,
		Message: fmt.Sprintf("the run was not done after %s; timeoutSeconds allows more", p.deadline.Sub(p.run.Started)),
	}
}

func (p *Plan) submit(s *State, t *TaskState) *Submit {
	st := p.steps[t.Step]
	a := &Submit{
		TaskID: t.ID, Kind: t.Kind, Step: st.id, Role: st.role, Agent: t.Agent,
		Item: t.Item, Iteration: t.Iteration, Attempt: t.Attempt, Prompt: t.Prompt, Attached: t.Attached,
		TimeoutSeconds: st.spec.TimeoutSeconds, Deadline: p.deadline, Created: t.Created, Budgets: st.budgets,
	}
	switch t.Kind {
	case task.KindJudge:
		a.Model = st.spec.Validate.SemanticModel
	case task.KindRoute:
		a.Capabilities = p.capabilities()
	default:
		a.PromptHash, a.OutputSchema, a.CanDelegate = st.promptHash, st.outputSchema, st.canDelegate
		a.MaxOutputBytes = st.spec.MaxOutputBytes
		a.Chosen = len(p.candidates(st, &s.Steps[t.Step])) > 1
	}
	return a
}

func (p *Plan) capabilities() []task.Capability {
	out := make([]task.Capability, 0, len(p.routing.Capabilities))
	for i := range p.routing.Capabilities {
		c := &p.routing.Capabilities[i]
		out = append(out, task.Capability{ID: c.ID, Description: c.Description, Tags: c.Tags})
	}
	return out
}

func (p *Plan) startRun(t *TaskState) *StartRun {
	st := p.steps[t.Step]
	input, err := t.Input.Decode()
	if err != nil {
		input = nil // cannot be: the values were encoded by the fold
	}
	hops := int32(1)
	if p.run.Spec.Trigger != nil {
		hops += p.run.Spec.Trigger.Hops
	}
	return &StartRun{
		TaskID: t.ID, ChildName: childName(t), Team: t.Team, Step: st.id, Role: st.role,
		Item: t.Item, Iteration: t.Iteration, Attempt: t.Attempt, Each: st.items != nil, Input: input, Hops: hops,
		TimeoutSeconds: st.spec.TimeoutSeconds, Deadline: p.deadline, Created: t.Created, Budgets: st.budgets,
	}
}

func childName(t *TaskState) string { return v1alpha1.RunName(t.Team, t.ID) }

// withdraw ends a task that is not wanted. The code says whether the run's time is up, so that a later fold ends the
// run in the same way.
func withdraw(t *TaskState, ending *Ending) *Withdraw {
	a := &Withdraw{TaskID: t.ID, Agent: t.Agent, Code: task.CodeCancelled}
	if t.Team != "" {
		a.Agent, a.Team, a.Child = "", t.Team, childName(t)
	}
	switch {
	case t.Unwanted && (ending == nil || ending.Phase == v1alpha1.RunSucceeded):
		a.Message = "the task that delegated this one has ended"
	case ending.Reason == v1alpha1.ReasonTimedOut:
		a.Code, a.Message = task.CodeDeadline, ending.Message
	case ending.Reason == v1alpha1.ReasonCancelled:
		a.Message = ending.Message
	default:
		a.Message = "the run ended before: " + ending.Message
	}
	return a
}
