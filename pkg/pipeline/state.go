package pipeline

import (
	"slices"
	"time"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/task"
)

// State is how far a run is: the fold of its events. Only Plan.Apply changes it. It can be written as JSON and read
// again. A State belongs to one goroutine; its Plan may be shared.
type State struct {
	// Steps stand in the order of the plan.
	Steps []StepState `json:"steps"`
	// Done is the number of steps that ended in a way that lets the run go on.
	Done int `json:"done"`
	// Tasks of the run in the order in which they became due, delegated ones among them.
	Tasks []TaskState `json:"tasks,omitempty"`
	// Open are the indices of the tasks without a result, ascending.
	Open []int `json:"open,omitempty"`
	// Agents is what is known of them, Choices are the committed ones by step.
	Agents  map[string]AgentReadiness `json:"agents,omitempty"`
	Choices map[string]string         `json:"choices,omitempty"`
	// Names counts the delegated work by what its names begin with.
	Names map[string]int `json:"names,omitempty"`
	// Usage and ToolCalls of every task that ended: attempts, judges, routers, delegates, child runs.
	Usage     task.Usage `json:"usage"`
	ToolCalls int        `json:"toolCalls,omitempty"`
	// Ending is set once it is certain how the run ends, FinishIssued once that was handed out, Ended (never without
	// Ending) once it is committed.
	Ending       *Ending   `json:"ending,omitempty"`
	FinishIssued bool      `json:"finishIssued,omitempty"`
	Ended        bool      `json:"ended,omitempty"`
	EndedAt      time.Time `json:"endedAt,omitzero"`

	index map[string]int // tasks by id; made by Apply when it is missing
}

// Ending is how a run ends. From the moment that it is known nothing new is started; open tasks are withdrawn, and when
// the last of them has its result the end is committed.
type Ending struct {
	Phase      v1alpha1.RunPhase `json:"phase"`
	Reason     string            `json:"reason"`
	Message    string            `json:"message,omitempty"`
	FailedStep string            `json:"failedStep,omitempty"`
	Output     string            `json:"output,omitempty"`
	OutputRef  *task.Ref         `json:"outputRef,omitempty"`
}

// StepState is how far a step is. Phase moves
//
//	Pending -> Running -> Succeeded | Failed
//	Pending -> Skipped | Failed | Succeeded    its condition is false; a template fails; it has no items, or a preset result
//	Pending -> Skipped, Running -> Cancelled   the run ended first
//
// and never leaves the phases on the right. Validating and Waiting are seen in Status only: they are Running with all
// open tasks at a judge, or with tasks that nobody can take yet. A step is Running in iterations; each has one unit,
// or with forEach one for each item.
type StepState struct {
	Phase v1alpha1.StepPhase `json:"phase"`
	// Remaining is the number of dependencies that are not done.
	Remaining int `json:"remaining,omitempty"`
	// Agent that works on the step, once it is known.
	Agent string `json:"agent,omitempty"`
	// Iteration of the loop, from 0; Items of the forEach in this iteration.
	Iteration int              `json:"iteration,omitempty"`
	Items     []v1alpha1.Value `json:"items,omitempty"`
	Units     []Unit           `json:"units,omitempty"`
	// Next is the first unit that was not started, Settled the number of units that are done or failed.
	Next    int `json:"next,omitempty"`
	Settled int `json:"settled,omitempty"`
	// Output of the newest iteration that is complete; Raw is the agent's own text when it differs. HasOutput is false
	// as long as there is none that templates may see.
	Output    string    `json:"output,omitempty"`
	Raw       string    `json:"raw,omitempty"`
	OutputRef *task.Ref `json:"outputRef,omitempty"`
	HasOutput bool      `json:"hasOutput,omitempty"`

	Usage     task.Usage `json:"usage"`
	ToolCalls int        `json:"toolCalls,omitempty"`
	Notes     []string   `json:"notes,omitempty"`    // of its tasks and of the work that they delegated, each once
	Attempts  int        `json:"attempts,omitempty"` // the most that a unit of the newest iteration took
	Task      int        `json:"task"`               // index of the newest task, -1 for none
	Started   time.Time  `json:"started,omitzero"`
	Completed time.Time  `json:"completed,omitzero"`
	Reason    string     `json:"reason,omitempty"`
	Message   string     `json:"message,omitempty"`

	// From is the run in which a result was worked on that is taken over.
	From string `json:"from,omitempty"`

	Selected      string `json:"selected,omitempty"` // routed: the capability
	RoutingReason string `json:"routingReason,omitempty"`

	data parsed // of Output
	hash parsed // of Output
}

// parsed is a value that is derived from another field when it is asked for.
type parsed struct {
	of    string
	value any
}

// UnitPhase is how far a unit is. It moves
//
//	idle -> routing -> working      the router's choice is known; only in a routed run
//	idle -> working
//	working -> working              the task failed and is retried, or the answer is corrected
//	working -> judging              the answer fits all but the semantic check
//	judging -> judging              the judge failed or gave no verdict
//	judging -> working              the judge refused the answer, which is corrected
//	working, judging -> done        the answer is accepted
//	routing, working, judging -> failed
//
// Each arrow but the last two makes one task, with an id of its own.
type UnitPhase string

const (
	UnitIdle    UnitPhase = ""
	UnitRouting UnitPhase = "routing"
	UnitWorking UnitPhase = "working"
	UnitJudging UnitPhase = "judging"
	UnitDone    UnitPhase = "done"
	UnitFailed  UnitPhase = "failed"
)

// Unit is the work on one item of one iteration.
type Unit struct {
	Phase UnitPhase `json:"phase,omitempty"`
	// Attempts is the number of tasks that were made for an answer, Judgings for a verdict: the next task's attempt.
	Attempts int `json:"attempts,omitempty"`
	Judgings int `json:"judgings,omitempty"`
	// Failures that were retried, Corrections of answers that were not accepted.
	Failures    int `json:"failures,omitempty"`
	Corrections int `json:"corrections,omitempty"`
	// Output is the answer under judgement or the accepted one; Raw the agent's own text when it differs.
	Output string    `json:"output,omitempty"`
	Raw    string    `json:"raw,omitempty"`
	Ref    *task.Ref `json:"ref,omitempty"`
	// Refused is the last answer that was not accepted and Feedback why: both are told to the agent.
	Refused    string    `json:"refused,omitempty"`
	RefusedRef *task.Ref `json:"refusedRef,omitempty"`
	Feedback   string    `json:"feedback,omitempty"`
	Message    string    `json:"message,omitempty"` // why the unit failed, or what happened to the answer
	Reason     string    `json:"reason,omitempty"`
}

// TaskState is one task. It is open until its result is folded.
type TaskState struct {
	ID        string    `json:"id"`
	Kind      task.Kind `json:"kind"`
	Step      int       `json:"step"` // index of the step, of a delegated task that of its outermost parent
	Item      int       `json:"item,omitempty"`
	Iteration int       `json:"iteration,omitempty"`
	Attempt   int       `json:"attempt,omitempty"`
	Agent     string    `json:"agent,omitempty"`
	Team      string    `json:"team,omitempty"` // a child run
	// Prompt, Attached (see Submit) and Input are dropped once the task is issued.
	Prompt    string          `json:"prompt,omitempty"`
	Attached  []Attachment    `json:"attached,omitempty"`
	Input     v1alpha1.Values `json:"input,omitempty"`
	Created   time.Time       `json:"created,omitzero"`
	NotBefore time.Time       `json:"notBefore,omitzero"` // of a retry with a back-off
	Started   time.Time       `json:"started,omitzero"`
	Pod       string          `json:"pod,omitempty"`
	// Issued and Withdrawn are known to this process only. Unwanted is set when the task that delegated it has ended.
	Issued    bool `json:"issued,omitempty"`
	Withdrawn bool `json:"withdrawn,omitempty"`
	Unwanted  bool `json:"unwanted,omitempty"`
	Done      bool `json:"done,omitempty"`
	// Reported is the usage in the result of a task that did not succeed, until it is Accounted for.
	Reported *task.Usage `json:"reported,omitempty"`

	Children []int          `json:"children,omitempty"`
	Child    *DelegatedWork `json:"child,omitempty"` // set for KindDelegate
}

// DelegatedWork is what a delegated task shows as a step of its own.
type DelegatedWork struct {
	Name      string             `json:"name"`
	Parent    string             `json:"parent"` // the step or delegated work that handed it over
	Role      string             `json:"role"`
	Phase     v1alpha1.StepPhase `json:"phase"`
	Output    string             `json:"output,omitempty"`
	OutputRef *task.Ref          `json:"outputRef,omitempty"`
	Usage     task.Usage         `json:"usage"`
	ToolCalls int                `json:"toolCalls,omitempty"`
	Completed time.Time          `json:"completed,omitzero"`
	Reason    string             `json:"reason,omitempty"`
	Message   string             `json:"message,omitempty"`
}

// find returns the index of a task, or -1.
func (s *State) find(id string) int {
	if s.index == nil {
		s.index = make(map[string]int, len(s.Tasks))
		for i := range s.Tasks {
			s.index[s.Tasks[i].ID] = i
		}
	}
	if i, ok := s.index[id]; ok {
		return i
	}
	return -1
}

// add makes a task known and opens it. It returns the task's index, or -1 when the id is known already.
func (s *State) add(t TaskState) int {
	if s.find(t.ID) >= 0 {
		return -1
	}
	i := len(s.Tasks)
	s.Tasks = append(s.Tasks, t)
	s.index[t.ID] = i
	s.Open = append(s.Open, i)
	return i
}

// close takes a task out of the open ones.
func (s *State) close(i int) {
	s.Tasks[i].Done = true
	s.Tasks[i].forget()
	if at, ok := slices.BinarySearch(s.Open, i); ok {
		s.Open = slices.Delete(s.Open, at, at+1)
	}
}

// forget drops what a task is asked.
func (t *TaskState) forget() { t.Prompt, t.Attached, t.Input = "", nil, nil }
