package pipeline

import (
	"encoding/json"
	"time"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/task"
)

// Event is something that happened to a run. Plan.Apply folds it into the state. Times are the broker's, of the stored
// message, so that every process folds the same.
type Event interface{ event() }

// TaskEnded is the stored result of a task, whoever wrote it: the agent, or ark that withdrew the task. The end of a
// child run comes as the TaskEnded of the StartRun that asked for it, with the usage of the whole child run.
type TaskEnded struct {
	TaskID    string
	Status    task.Status
	Output    string    // the answer; of a failed task the part that there was. How much of a large one: Plan.Reads
	OutputRef *task.Ref // where the answer is stored, when it is large
	Code      task.Code // unless Status is Succeeded
	Message   string    // unless Status is Succeeded: the cause and the next step
	Scope     string    // with task.CodeBudgetExceeded: the ledger's scope that refused; empty when unknown
	Usage     task.Usage
	ToolCalls int
	Notes     []string // what a person should know, such as a feature that the model server refused
	Pod       string
	Started   time.Time // first take-over
	At        time.Time
}

// Accounted is what a task of Plan.Unaccounted has cost, once its books are closed. It replaces what the task's result
// said: nothing when ark itself withdrew the task while an agent worked on it.
type Accounted struct {
	TaskID string
	Usage  task.Usage
}

// TaskStarted says that a pod took a task over. It is only shown.
type TaskStarted struct {
	TaskID string
	Pod    string
	At     time.Time
}

// Delegated is the stored record that a task handed work to another role. The child shows as a step of its own.
type Delegated struct {
	Parent, Child string // task ids
	Role, Agent   string
	At            time.Time
}

// Cancelled asks for the end of the run.
type Cancelled struct {
	Reason string // a sentence for people; may be empty
	At     time.Time
}

// AgentReadiness is what is known of an agent. It decides which of several agents gets a task, and is shown for tasks
// that wait. An agent that nothing is known of counts as ready.
type AgentReadiness struct {
	Agent   string
	Ready   bool
	Pending int    // tasks in its queue
	Message string // why it is not ready
}

// Chosen is the agent that a step was given when there were several, as it was committed before the task was
// published (Submit.Chosen). It must be applied before the results of the step, and wins over AgentReadiness: so a new
// process chooses as the old one did.
type Chosen struct {
	Step, Agent string
}

// Issued says that an action of a Decision was carried out. It is known to this process only: a fresh fold gives the
// action again, and carrying it out twice is harmless.
type Issued struct {
	ID string // Action.ActionID
}

// Ended is the committed end of the run, by this process or another.
type Ended struct {
	Phase      v1alpha1.RunPhase
	Reason     string
	Message    string
	FailedStep string
	Output     string
	OutputRef  *task.Ref
	At         time.Time
}

func (TaskEnded) event()      {}
func (Accounted) event()      {}
func (TaskStarted) event()    {}
func (Delegated) event()      {}
func (Cancelled) event()      {}
func (AgentReadiness) event() {}
func (Chosen) event()         {}
func (Issued) event()         {}
func (Ended) event()          {}

// Decision is what is due.
type Decision struct {
	// Actions in the order in which they became due. Those that were Issued are left out.
	Actions []Action
	// Wake is when Decide has to be asked again if nothing happens before; zero when no time is waited for.
	Wake time.Time
}

// Action is one effect that the run asks for: *Submit, *StartRun, *Withdraw or *Finish. Carrying one out twice, or in
// two processes, must be harmless: tasks and child runs have ids that are derived, the first result of a task wins, and
// the end of a run is committed under its resource version.
type Action interface {
	// ActionID is what Issued names.
	ActionID() string
}

// Submit queues a task. TaskID is derived by task.ID from Kind, the run, Step, Item, Iteration and Attempt.
type Submit struct {
	TaskID                   string
	Kind                     task.Kind // KindStep, KindJudge or KindRoute
	Step                     string
	Role                     string // empty for a run of one agent
	Agent                    string
	Item, Iteration, Attempt int

	Prompt   string
	Attached []Attachment // of which the prompt shows the beginning

	PromptHash   string            // of the system prompt that was in the run's snapshot
	OutputSchema json.RawMessage   // KindStep
	Model        string            // KindJudge: instead of the agent's own
	Capabilities []task.Capability // KindRoute: what may be chosen
	CanDelegate  []string          // KindStep; the role table is Plan.Roles

	TimeoutSeconds int64         // of the work on this task; 0 leaves it to the agent
	MaxOutputBytes int64         // the answer is cut here when it is folded; 0 is no limit
	Deadline       time.Time     // of the run
	Created        time.Time     // when it became due
	Budgets        []task.Budget // scopes of the step, of the run, and of the runs above

	// Chosen means that there were several agents and Agent was chosen by AgentReadiness. The choice (it stands in
	// Status) must be committed before the task is published, and given back as a Chosen event to every later fold.
	Chosen bool
}

// StartRun creates a child run: the step's role is a team. Its end comes back as the TaskEnded of TaskID.
type StartRun struct {
	TaskID                   string
	ChildName                string // name of the child run, derived from TaskID
	Team                     string
	Step, Role               string
	Item, Iteration, Attempt int
	Each                     bool           // the step has items
	Input                    map[string]any // not yet resolved against the team's declared inputs
	Hops                     int32          // of the child's trigger
	TimeoutSeconds           int64          // of the step; 0 leaves it to the team
	Deadline                 time.Time      // of this run: Run.Deadline of the child
	Created                  time.Time
	Budgets                  []task.Budget // Run.Budgets of the child
}

// Withdraw ends a task that is not wanted any more: publish a failed result with Code and Message (the first result
// wins) and hint its agent; of a StartRun, cancel the child run. The TaskEnded that follows ends the wait for it.
type Withdraw struct {
	TaskID  string
	Agent   string // empty for a child run
	Team    string // of a child run
	Child   string // name of the child run
	Code    task.Code
	Message string
}

// Finish commits the end of the run. Ended is the event that follows.
type Finish struct {
	Phase      v1alpha1.RunPhase
	Reason     string // a reason of v1alpha1, or ReasonOutputFailed
	Message    string
	FailedStep string
	Output     string
	OutputRef  *task.Ref // where Output is stored, when it is; Output may be its beginning then
}

// ActionID is the task's id.
func (a *Submit) ActionID() string { return a.TaskID }

// ActionID is the task's id.
func (a *StartRun) ActionID() string { return a.TaskID }

// ActionID is derived from the task's id.
func (a *Withdraw) ActionID() string { return withdrawPrefix + a.TaskID }

// ActionID is the same for every run.
func (a *Finish) ActionID() string { return finishID }

const (
	withdrawPrefix = "withdraw."
	finishID       = "finish"
)
