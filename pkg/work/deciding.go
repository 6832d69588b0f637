package work

import (
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// releasing decides that a task is handed back in good order.
type releasing struct{ epoch int }

func (r releasing) decide(t *turn, o *op) step {
	j := t.journal(o.key)
	switch {
	case j == nil:
		return stepUnloaded
	case r.epoch > j.epoch && !o.reloaded:
		o.reload, o.reloaded = true, true
		return stepUnloaded
	case j.epoch == 0:
		o.outcome = ErrGone
	case r.epoch != j.epoch:
		o.outcome = ErrFenced
	case !j.released:
		t.write(j, &record{Epoch: j.epoch, Release: true})
	}
	return stepEnded
}

// settling decides that calls of a task that nobody works on any more are charged in full: those that its journal says
// are open, and reservations in budgets that no journal knows of, such as those of a run that was removed meanwhile.
type settling struct {
	epoch  int // of the journal when nobody did
	strays []scopeKey
	count  int
	moved  bool // the journal is in another epoch: somebody took the task over, or the journal was removed
}

func (s *settling) decide(t *turn, o *op) step {
	j := t.journal(o.key)
	if j == nil {
		return stepUnloaded
	}
	if s.moved = s.epoch != j.epoch; s.moved {
		return stepEnded
	}
	entries := j.unknown()
	ends, ok := j.endsOf(t, o, entries)
	for _, key := range s.strays {
		if t.book.scopes[key] == nil {
			o.missing = append(o.missing, key)
		}
	}
	if !ok || len(o.missing) > 0 {
		return stepUnloaded
	}
	s.count = len(entries)
	if len(entries) > 0 {
		t.write(j, &record{Epoch: j.epoch, Settled: true, Entries: entries})
		t.settleAll(ends)
	}
	prefix := strings.TrimSuffix(ledgerHolder(o.key, 0), "0")
	for _, key := range s.strays {
		budget := t.book.scopes[key]
		for _, holder := range budget.state.Holders() {
			if reserved, open := budget.state.Open(holder); open && strings.HasPrefix(holder, prefix) {
				t.settle(budget, holder, reserved, 0)
			}
		}
	}
	return stepEnded
}

// takingOver decides a take-over.
type takingOver struct {
	id, pod, process string
	task             *task.Task
	retries          int
	until            *atomic.Int64 // when its client gives it up, in nanoseconds by this process's clock; nil for never
	quiet            time.Duration // how long nothing may have been heard of another pod that holds the task

	epoch     int
	takenAt   time.Time
	takeOvers int
	again     bool    // it is stored already
	follows   uint64  // sequence of the record before; unknownSeq when that was not known
	record    *record // what was written
}

const unknownSeq = ^uint64(0)

func (a *takingOver) decide(t *turn, o *op) step {
	j := t.journal(o.key)
	if j == nil {
		return stepUnloaded
	}
	if j.taker == a.id {
		a.again = true
		a.taken(j)
		return stepEnded
	}
	if j.takers[a.id] {
		o.outcome = ErrFenced // an old request that was on its way for long
		return stepEnded
	}
	if a.until != nil && t.at.UnixNano() > a.until.Load() {
		o.outcome = errLate
		return stepEnded
	}
	entries := j.unknown()
	ends, ok := j.endsOf(t, o, entries)
	if !ok {
		return stepUnloaded
	}
	if o.outcome = a.refuse(t, j); o.outcome == nil && a.held(t, j) {
		o.outcome = ErrHeld
		return stepEnded
	}
	if o.outcome != nil && len(entries) == 0 {
		return stepEnded
	}
	a.follows = j.seq
	if t.touched(j) {
		a.follows = unknownSeq
	}
	if j.task == nil {
		j.task = lean(a.task)
	}
	a.record = &record{
		Epoch: j.epoch + 1, Entries: entries, TakeOver: &takeOver{ID: a.id, Pod: a.pod, Process: a.process, Refused: o.outcome != nil},
	}
	t.write(j, a.record)
	t.settleAll(ends)
	t.requeue(o.key)
	a.taken(j)
	return stepEnded
}

func (a *takingOver) taken(j *journal) {
	a.epoch, a.takenAt, a.takeOvers = j.epoch, j.takenAt, j.takeOvers
}

// held says that another pod seems to be at work. That the queue has given the task away says little: a NATS server that is
// started anew, and had not stored that the task was delivered, delivers it at once.
func (a *takingOver) held(t *turn, j *journal) bool {
	return j.epoch > 0 && j.taker != "" && !j.released && j.pod != a.pod && t.now.Sub(j.at) < a.quiet
}

// refuse says why nobody may work on the task any more.
func (a *takingOver) refuse(t *turn, j *journal) error {
	crashes := j.crashes
	if j.died(a.process) {
		crashes++
	}
	switch deadline := a.task.Deadline; {
	case j.done:
		return ErrDone
	case !deadline.IsZero() && !t.now.Before(deadline):
		return task.Errorf(task.CodeDeadline, "the run's deadline (%s) passed before the task was worked on to its end", deadline.UTC().Format(time.RFC3339))
	case crashes > a.retries:
		return task.Errorf(task.CodePoison,
			"%d times the process that worked on the task ended and did not hand it back; look at the agent's logs for the cause, or raise limits.retries (%d)",
			crashes, a.retries)
	case j.full():
		return task.Errorf(task.CodePoison, "the journal of the task has %d MiB, which is the limit", journalLimit>>20)
	case len(a.task.Budgets) > maxBudgets:
		return task.Errorf(task.CodeBadTask, "the task has %d budgets, at most %d are possible", len(a.task.Budgets), maxBudgets)
	default:
		return nil
	}
}

// maxBudgets is how many budgets a task may have.
const maxBudgets = 16

// delegating decides that work is handed over.
type delegating struct {
	epoch  int
	wanted delegation
	made   *delegation
	parent *task.Task
}

// Bounds of delegation.
const (
	MaxDepth    = 8  // tasks above a delegated one
	MaxChildren = 32 // of one task
)

func (d *delegating) decide(t *turn, o *op) step {
	j := t.journal(o.key)
	switch {
	case j == nil:
		return stepUnloaded
	case d.epoch > j.epoch && !o.reloaded:
		o.reload, o.reloaded = true, true
		return stepUnloaded
	case j.epoch == 0 || j.task == nil:
		o.outcome = ErrGone
		return stepEnded
	case d.epoch != j.epoch:
		o.outcome = ErrFenced
		return stepEnded
	}
	d.parent = j.task
	if d.made = j.children[d.wanted.Call]; d.made != nil && !j.done {
		return stepEnded
	}
	if o.outcome = d.refuse(j); o.outcome != nil {
		return stepEnded
	}
	made := d.wanted
	made.Agent = j.task.Roles[made.Role].Agent
	made.Child = task.ChildID(j.task.ID, made.Call)
	made.At = t.now.UTC()
	made.Number = 1
	for _, other := range j.children {
		if other.Role == made.Role {
			made.Number++
		}
	}
	d.made = &made
	t.write(j, &record{Epoch: j.epoch, Delegate: d.made})
	return stepEnded
}

// refuse says what the task may not do, in words for a model.
func (d *delegating) refuse(j *journal) error {
	role := d.wanted.Role
	parent := j.task
	_, known := parent.Roles[role]
	switch {
	case j.done:
		return ErrDone
	case !slices.Contains(parent.CanDelegate, role):
		return refusef("this task may not hand work to role %q, only to %s", role, list(parent.CanDelegate))
	case !known:
		return refusef("no agent plays the role %q in this run", role)
	case role == parent.Role || slices.ContainsFunc(parent.Ancestry, func(a task.Ancestor) bool { return a.Role == role }):
		return refusef("role %q is already at work above this task; handing it back would go in a circle", role)
	case len(parent.Ancestry) >= MaxDepth:
		return refusef("work was handed over %d times in a row, which is the limit; do it yourself", MaxDepth)
	case len(j.children) >= MaxChildren:
		return refusef("this task has handed over %d pieces of work, which is the limit; do the rest yourself", MaxChildren)
	default:
		return nil
	}
}

func list(names []string) string {
	if len(names) == 0 {
		return "nobody"
	}
	return strings.Join(names, ", ")
}

// child is the task that a delegation makes.
func (d *delegation) task(parent *task.Task) *task.Task {
	role := parent.Roles[d.Role]
	return &task.Task{
		Version:     task.Version,
		ID:          d.Child,
		Kind:        task.KindDelegate,
		Namespace:   parent.Namespace,
		Agent:       d.Agent,
		Run:         parent.Run,
		Step:        fmt.Sprintf("%s/%s-%d", parent.Step, d.Role, d.Number),
		Role:        d.Role,
		Prompt:      d.Prompt,
		Attached:    parent.Attached,
		PromptHash:  role.PromptHash,
		Deadline:    parent.Deadline,
		Created:     d.At,
		Budgets:     parent.Budgets,
		CanDelegate: role.CanDelegate,
		Roles:       parent.Roles,
		Ancestry:    append(slices.Clone(parent.Ancestry), task.Ancestor{Task: parent.ID, Role: parent.Role}),
	}
}

// key names the child.
func (d *delegation) key(parent *task.Task) queue.Key {
	return queue.Key{Namespace: parent.Namespace, Agent: d.Agent, RunUID: parent.Run.UID, TaskID: d.Child}
}
