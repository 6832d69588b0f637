package work

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"arkonis.dev/ark/pkg/task"
)

var (
	// ErrDone means that the task has a result: acknowledge it and stop.
	ErrDone = errors.New("the task has a result")
	// ErrHeld means that another pod has stored something of the task a moment ago: it seems to be alive, and is about to
	// be answered what it has paid for. Hand the task back for a while.
	ErrHeld = errors.New("another pod is at work on the task")
	// ErrGone means that the queue does not hold the task any more, or its journal was removed with its run:
	// acknowledge it and stop.
	ErrGone = errors.New("the task is gone")
	// ErrFenced means that another process has taken the task over: stop and say nothing to the queue.
	ErrFenced = errors.New("the task was taken over by another process")
	// ErrUnavailable means that the service or its ledger cannot be reached, or is full. What was asked may have been
	// done; asking the same again is safe.
	ErrUnavailable = errors.New("the work service cannot be reached")
)

// BudgetError says that a budget refused a reservation. No call may be made.
type BudgetError struct {
	Scope    string `json:"scope"` // as in task.Budget
	Limit    int64  `json:"limit"`
	Spent    int64  `json:"spent"`
	Reserved int64  `json:"reserved"` // by other calls that are under way
	Asked    int64  `json:"asked"`
	// FreesAt is when enough of what is spent leaves the rolling window; zero when it never does.
	FreesAt time.Time `json:"freesAt,omitzero"`
}

func (e *BudgetError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s is %d tokens: %d are spent", budgetName(e.Scope), e.Limit, e.Spent)
	if e.Reserved > 0 {
		fmt.Fprintf(&b, " and %d reserved by other calls", e.Reserved)
	}
	fmt.Fprintf(&b, ", and the next call may use up to %d", e.Asked)
	switch {
	case !e.FreesAt.IsZero():
		fmt.Fprintf(&b, "; enough of it is free again at %s", e.FreesAt.UTC().Format(time.RFC3339))
	default:
		b.WriteString("; raise it, or lower what a call may use (maxTokensPerCall, shorter prompts)")
	}
	return b.String()
}

// budgetName is how a person knows a scope.
func budgetName(scope string) string {
	kind, name, _ := strings.Cut(scope, ".")
	switch kind {
	case "run":
		return "maxTokens of the run"
	case "step":
		if _, step, ok := strings.Cut(name, "."); ok {
			return fmt.Sprintf("maxTokens of step %q", step)
		}
		return "maxTokens of the step"
	case "agent", "team":
		return fmt.Sprintf("maxDailyTokens of %s %q", kind, name)
	default:
		return fmt.Sprintf("the limit of budget %q", scope)
	}
}

// RefusedError says that a request asks for what it may not have, such as work for a role that the task may not
// delegate to. Its message is for whoever asked for it, which may be a model.
type RefusedError struct{ Message string }

func (e *RefusedError) Error() string { return e.Message }

func refusef(format string, args ...any) error {
	return &RefusedError{Message: fmt.Sprintf(format, args...)}
}

// partError says of an append that was refused that some of its entries are stored all the same: what its calls had used
// was not to wait for the reservation.
type partError struct{ error }

func (e *partError) Unwrap() error { return e.error }

// failure is an error as it travels. One field is set, and perhaps Part beside it.
type failure struct {
	Part    bool         `json:"part,omitempty"` // it is a partError
	Kind    string       `json:"kind,omitempty"` // of a sentinel
	Message string       `json:"message,omitempty"`
	Budget  *BudgetError `json:"budget,omitempty"`
	Task    *task.Error  `json:"task,omitempty"`
}

// kinds are the sentinels that travel by name.
var kinds = map[string]error{
	"done": ErrDone, "gone": ErrGone, "fenced": ErrFenced, "held": ErrHeld, "unavailable": ErrUnavailable,
	"withdrawn": errWithdrawn, "lost": errUploadLost, kindAgain: errAskAgain,
}

const (
	kindRefused = "refused"
	kindAgain   = "again"
)

// errAskAgain is what a client asks again after: errStopping, errLate or errLapsed.
var errAskAgain = fmt.Errorf("%w at the moment", ErrUnavailable)

var (
	// errStopping is the answer of a service that is about to end: another one may take the request.
	errStopping = fmt.Errorf("%w: it is stopping", errAskAgain)
	// errLate is the answer to a request that the client may have given up.
	errLate = fmt.Errorf("%w: it is too busy", errAskAgain)
	// errShare is the answer to an agent that has too much under way.
	errShare = fmt.Errorf("%w: the agent has too many requests under way", errAskAgain)
	// errLapsed is the end of an append that nobody has asked for any more. Who does after all waits anew.
	errLapsed = fmt.Errorf("%w: it had given the append up", errAskAgain)
)

// errCheck asks to read the budgets again before a reservation is refused.
var errCheck = errors.New("check the budgets")

// errWithdrawn is the end of an append that its caller has given up.
var errWithdrawn = errors.New("the append was withdrawn")

func newFailure(err error) *failure {
	if part, ok := errors.AsType[*partError](err); ok {
		f := newFailure(part.error)
		f.Part = true
		return f
	}
	var budget *BudgetError
	var refused *RefusedError
	var failed *task.Error
	switch {
	case errors.As(err, &budget):
		return &failure{Budget: budget}
	case errors.As(err, &refused):
		return &failure{Kind: kindRefused, Message: refused.Message}
	case errors.As(err, &failed):
		return &failure{Task: failed}
	case errors.Is(err, errAskAgain):
		return &failure{Kind: kindAgain, Message: err.Error()}
	}
	for kind, sentinel := range kinds {
		if errors.Is(err, sentinel) {
			return &failure{Kind: kind, Message: err.Error()}
		}
	}
	return &failure{Kind: "unavailable", Message: err.Error()}
}

func (f *failure) err() error {
	switch {
	case f == nil:
		return nil
	case f.Part:
		whole := *f
		whole.Part = false
		return &partError{whole.err()}
	case f.Budget != nil:
		return f.Budget
	case f.Task != nil:
		return f.Task
	case f.Kind == kindRefused:
		return &RefusedError{Message: f.Message}
	}
	sentinel, ok := kinds[f.Kind]
	if !ok {
		sentinel = ErrUnavailable
	}
	if f.Message == "" || f.Message == sentinel.Error() {
		return sentinel
	}
	return &remoteError{f.Message, sentinel}
}

// remoteError keeps the words of the service and the identity of the sentinel.
type remoteError struct {
	message  string
	sentinel error
}

func (e *remoteError) Error() string { return e.message }
func (e *remoteError) Unwrap() error { return e.sentinel }
