// Package task holds the wire types of ark: what an agent is asked (Task), what it answered (Result), what both
// cost (Usage), and why something failed (Code).
//
// Bodies are versioned JSON. Everything that arrives from a queue is decoded with Decode, which bounds size, depth
// and the number of keys, so that no message can crash or exhaust its reader. The package is pure and links neither
// Kubernetes nor a model.
package task

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Version is the version of every body that this build writes. A reader refuses a higher one.
const Version = 1

// InlineLimit is the size in bytes above which a text travels as a reference to the payload store.
const InlineLimit = 32 << 10

// PreviewLimit is the size in bytes of the preview that a reference carries.
const PreviewLimit = 1 << 10

// Kind says what a task is for. It decides which parts of the agent take part: a judge and a router see neither the
// agent's system prompt nor its tools.
type Kind string

const (
	KindStep     Kind = "step"     // a step of a run, or the entry role of a dynamic team
	KindDelegate Kind = "delegate" // work that another agent handed over
	KindJudge    Kind = "judge"    // a semantic validation: answers VALID or INVALID with a reason
	KindRoute    Kind = "route"    // a routing decision: answers with one capability id
	KindProbe    Kind = "probe"    // stands in journals for the readiness probe; nobody queues such a task
)

// Task is one unit of paid work for one agent. It is immutable: whatever an attempt does is in its journal.
type Task struct {
	Version   int    `json:"v"`
	ID        string `json:"id"` // see ID
	Kind      Kind   `json:"kind"`
	Namespace string `json:"namespace"`
	Agent     string `json:"agent"` // the ArkAgent whose queue holds the task
	Run       Run    `json:"run"`

	Step      string `json:"step"` // the step's name in the run's status
	Role      string `json:"role,omitempty"`
	Iteration int    `json:"iteration,omitempty"` // of a loop, from 0
	Attempt   int    `json:"attempt,omitempty"`   // of a retry, from 0
	Item      int    `json:"item,omitempty"`      // of a forEach, from 0

	Prompt       Text            `json:"prompt"`
	PromptHash   string          `json:"promptHash,omitempty"`   // of the system prompt that the task was made for
	OutputSchema json.RawMessage `json:"outputSchema,omitempty"` // JSON Schema of the answer
	Model        string          `json:"model,omitempty"`        // instead of the agent's own (semanticModel)

	// Attached are payloads of the run of which the prompt shows the beginning only (see Ref.Beginning): the model is
	// offered read_payload from its first turn. Delegates inherit them. They have no previews.
	Attached []Ref `json:"attached,omitempty"`

	Capabilities []Capability `json:"capabilities,omitempty"` // KindRoute: what may be chosen

	// TimeoutSeconds bounds the work itself, from the first take-over and over redeliveries; 0 leaves it to the
	// agent's limits. Deadline is the run's: the only time that ends a task that still waits in the queue.
	TimeoutSeconds int64     `json:"timeoutSeconds,omitempty"`
	Deadline       time.Time `json:"deadline"`
	Created        time.Time `json:"created"`

	// Budgets are the scopes that every call of this task and of its delegates is reserved in, beside the agent's
	// own daily ones: the run's maxTokens, the step's maxTokens.
	Budgets []Budget `json:"budgets,omitempty"`

	// CanDelegate are the roles that this task may hand work to; Roles is the run's role table, which delegates
	// inherit. Ancestry lists the tasks above this one, outermost first.
	CanDelegate []string        `json:"canDelegate,omitempty"`
	Roles       map[string]Role `json:"roles,omitempty"`
	Ancestry    []Ancestor      `json:"ancestry,omitempty"`
}

// Run names the run that a task belongs to.
type Run struct {
	UID  string `json:"uid"`
	Name string `json:"name"`
	Team string `json:"team,omitempty"`
	// Session is the conversation that the run is a part of, where its trigger named one; see Task.Session.
	Session string `json:"session,omitempty"`
}

// Role is one entry of a run's role table: the agent that plays the role and whom it may delegate to.
type Role struct {
	Agent       string   `json:"agent"`
	CanDelegate []string `json:"canDelegate,omitempty"`
	PromptHash  string   `json:"promptHash,omitempty"`
}

// Ancestor is a task above a delegated one.
type Ancestor struct {
	Task string `json:"task"`
	Role string `json:"role"`
}

// Capability is one choice of a routing task.
type Capability struct {
	ID          string   `json:"id"`
	Description string   `json:"description,omitempty"`
	Tags        []string `json:"tags,omitempty"`
}

// Budget is a limit in tokens that a task is charged against. The scope is a ledger key such as "run.<uid>".
// Window is the length of a rolling window in seconds; 0 means that the budget never frees again.
type Budget struct {
	Scope  string `json:"scope"`
	Limit  int64  `json:"limit"`
	Window int64  `json:"window,omitempty"`
}

// Text is a body of any size: short ones inline, longer ones (InlineLimit) as a reference. Exactly one is set; the
// zero Text is the empty text.
type Text struct {
	Inline string `json:"inline,omitempty"`
	Ref    *Ref   `json:"ref,omitempty"`
}

// Ref points at a body in the payload store. Key is "<run uid>/<sha256>".
type Ref struct {
	Key     string `json:"key"`
	Size    int64  `json:"size"`
	SHA256  string `json:"sha256"`
	Preview string `json:"preview,omitempty"`
}

// ReadPayloadName is the tool with which a model reads on in a text of which it was given the beginning.
const ReadPayloadName = "read_payload"

// ID is how a model names a payload of its run; ParsePayloadID reads it.
func (r Ref) ID() string { return r.SHA256 + "-" + strconv.FormatInt(r.Size, 10) }

// ParsePayloadID is the reference that an ID stands for within a run, without a preview. It reports whether it is one;
// whether there is such a payload is for the store to say.
func ParsePayloadID(runUID, id string) (Ref, bool) {
	sum, size, _ := strings.Cut(id, "-")
	n, err := strconv.ParseInt(size, 10, 64)
	if raw, bad := hex.DecodeString(sum); bad != nil || len(raw) != sha256.Size || err != nil || n < 0 {
		return Ref{}, false
	}
	return Ref{Key: runUID + "/" + sum, SHA256: sum, Size: n}, true
}

// Beginning shows a model the first part of a payload and says how to read on in it.
func (r Ref) Beginning(first string) string {
	return fmt.Sprintf("%s\n\n(These are the first %d of %d bytes. %s%q.)", first, len(first), r.Size, readOn, r.ID())
}

// ShowsBeginning says whether a text was made by Beginning, or looks like it.
func ShowsBeginning(text string) bool { return strings.Contains(text, readOn) }

// readOn stands below the first part.
const readOn = "Read on with " + ReadPayloadName + ", id "

// Status is how a task ended.
type Status string

const (
	Succeeded Status = "Succeeded"
	Failed    Status = "Failed"
	Cancelled Status = "Cancelled"
)

// Result is the one answer to a task. The first stored result of a task wins; later ones are refused by the stream.
type Result struct {
	Version int    `json:"v"`
	TaskID  string `json:"task"`
	Status  Status `json:"status"`
	Output  Text   `json:"output"`          // of a failed task: the partial answer, if there was one
	Error   *Error `json:"error,omitempty"` // set unless Status is Succeeded

	Usage      Usage     `json:"usage"`
	ModelCalls int       `json:"modelCalls,omitempty"`
	ToolCalls  int       `json:"toolCalls,omitempty"`
	Notes      []string  `json:"notes,omitempty"` // what a person should know, such as a fallback that was taken
	Pod        string    `json:"pod,omitempty"`
	Started    time.Time `json:"started,omitzero"` // first take-over
	Completed  time.Time `json:"completed,omitzero"`
}

// Delegated records that a task handed work to another role. It is stored before the child task is queued.
type Delegated struct {
	Version int       `json:"v"`
	Parent  string    `json:"parent"` // task id
	Child   string    `json:"child"`  // task id
	Role    string    `json:"role"`
	Agent   string    `json:"agent"`
	At      time.Time `json:"at"`
}

// Usage counts tokens. CachedTokens are part of InputTokens, ReasoningTokens of OutputTokens.
type Usage struct {
	InputTokens     int64 `json:"inputTokens"`
	OutputTokens    int64 `json:"outputTokens"`
	CachedTokens    int64 `json:"cachedTokens,omitempty"`
	ReasoningTokens int64 `json:"reasoningTokens,omitempty"`
	// UnknownCalls is the number of model calls whose outcome nobody knows. Budgets are charged for them in full:
	// UnknownTokens is what was charged beyond what a server reported, which is all that the counts above hold.
	UnknownCalls  int64 `json:"unknownCalls,omitempty"`
	UnknownTokens int64 `json:"unknownTokens,omitempty"`
}

// Total is what budgets are charged: input, output, and what calls of unknown outcome cost.
func (u Usage) Total() int64 { return u.InputTokens + u.OutputTokens + u.UnknownTokens }

// Add returns the sum of both.
func (u Usage) Add(v Usage) Usage {
	return Usage{
		InputTokens:     u.InputTokens + v.InputTokens,
		OutputTokens:    u.OutputTokens + v.OutputTokens,
		CachedTokens:    u.CachedTokens + v.CachedTokens,
		ReasoningTokens: u.ReasoningTokens + v.ReasoningTokens,
		UnknownCalls:    u.UnknownCalls + v.UnknownCalls,
		UnknownTokens:   u.UnknownTokens + v.UnknownTokens,
	}
}

// Sub returns what u has more than v.
func (u Usage) Sub(v Usage) Usage {
	return u.Add(Usage{-v.InputTokens, -v.OutputTokens, -v.CachedTokens, -v.ReasoningTokens, -v.UnknownCalls, -v.UnknownTokens})
}

// ID derives the id of a task: 32 hex characters, the same for the same work wherever it is derived.
func ID(kind Kind, runUID, step string, item, iteration, attempt int) string {
	return hash("task", string(kind), runUID, step, strconv.Itoa(item), strconv.Itoa(iteration), strconv.Itoa(attempt))
}

// ChildID derives the id of delegated work from the parent's task and its tool call, so that a replay of the parent
// finds the same child.
func ChildID(parent, call string) string { return hash("child", parent, call) }

func hash(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		h.Write([]byte(strconv.Itoa(len(p))))
		h.Write([]byte{':'})
		h.Write([]byte(p))
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
