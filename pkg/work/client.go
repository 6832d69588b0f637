// Package work is the work service and its client: how an agent gets at a task and everything that the task does and
// pays for.
//
// An agent touches the queue only to take its tasks and to publish their results. Everything else it asks of the
// service: to take a task over, to append to its journal, to reserve tokens and to settle them, to hand work to other
// roles and wait for it, to store and read payloads. The service is the only writer of the ledger stream.
//
// # The journal
//
// Each task has a journal: a subject whose messages are records of entries. A take-over begins a new epoch and fences
// the earlier ones, so that of two processes that hold one task only the later one appends. Entries that account for
// model calls move the task's budgets, and the journal and all budgets that an append touches change in one atomic
// batch:
//
//	Intent   reserves tokens in every budget of the task; it must be stored before the call is made
//	Answer   settles the reservation with what was used
//	Failed   settles it too: with what is known to be used, or in full when nobody knows
//
// An Intent without an outcome that a take-over finds is charged in full and marked as failed with Unknown set. So is
// one that is still open a while after the task got its result.
//
// Reservations that do not fit are refused with a *BudgetError at once when spent tokens stand in the way. Those that
// only other open reservations stand in the way of wait their turn, first come first served, until the context of the
// caller ends.
//
// # Requests
//
// Every request can be sent again, and the client does so when no answer comes: take-overs and appends carry ids that
// are journaled, delegated work has derived ids, payloads are named by their content. A service keeps nothing that it
// could not read from the streams again; when it is killed, the next one goes on, and two of them at once are
// harmless, because every batch carries the sequences that it expects.
//
// All types are safe for concurrent use.
package work

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nuid"
	"golang.org/x/sync/errgroup"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

const (
	// answerTimeout is how long one request waits for its answer, beside what it asks the service to wait, before it is
	// sent again.
	answerTimeout = 2 * time.Second
	// requestTries is how often a request is sent before the service counts as unavailable.
	requestTries = 6
	// retryDelay is the first pause when nobody listens, doubled each time: about 600 ms in all, enough for a service
	// that is just starting.
	retryDelay = 20 * time.Millisecond
	// giveUpTimeout bounds how long an append whose caller has gone is waited for.
	giveUpTimeout = time.Second
)

// requester sends a request and returns its answer: a connection, or the service itself.
type requester interface {
	RequestMsgWithContext(ctx context.Context, m *nats.Msg) (*nats.Msg, error)
}

// answerer answers requests without messages: a service in the same process. Neither a request nor a reply may be changed
// afterwards. lost says that there is no answer.
type answerer interface {
	ask(ctx context.Context, from caller, verb string, request, reply any) (told, lost error)
}

// Client asks the work service on behalf of agents.
type Client struct {
	to      requester
	process string
	timeout time.Duration // answerTimeout
	poll    time.Duration // pollLimit
}

// NewClient makes a client on a connection, which stays the caller's.
func NewClient(nc *nats.Conn) *Client { return newClient(nc) }

func newClient(to requester) *Client {
	return &Client{to: to, process: nuid.Next(), timeout: answerTimeout, poll: pollLimit}
}

// TakeOver takes a task over that the caller got from the queue: from now on the caller alone appends to its journal.
// quiet is how long no other pod may have stored anything of the task, a minute at most and 0 for whatever they did: one
// that did seems to be at work, and the error is ErrHeld. What the pod itself has begun, and what was handed back, is taken
// over at once. A task that another client had and did not hand back has cost a process its life; one that this client had
// has not: what was answered to it may have been lost.
//
// Errors: ErrDone and ErrGone (acknowledge the task and stop), ErrHeld (hand it back for a while), *task.Error with
// DeadlineExceeded, PoisonTask (too many processes that held it have died) or BadTask (publish it as the task's result),
// ErrUnavailable, or the context's.
func (c *Client) TakeOver(ctx context.Context, key queue.Key, pod string, quiet time.Duration) (*Session, error) {
	s := &Session{client: c, namespace: key.Namespace, agent: key.Agent}
	var reply takeOverReply
	request := takeOverRequest{Run: key.RunUID, Task: key.TaskID, Pod: pod, Process: c.process, ID: nuid.Next(), Patience: c.timeout.Milliseconds(), Quiet: quiet.Milliseconds()}
	err := c.ask(ctx, s.caller(), verbTakeOver, request, &reply, 0)
	if err != nil {
		return nil, fmt.Errorf("take over task %s of agent %s/%s: %w", key.TaskID, key.Namespace, key.Agent, err)
	}
	s.task, s.takenAt, s.takeOvers = reply.Task, reply.TakenAt, reply.TakeOvers
	s.holder = holder{Run: reply.Task.Run.UID, Task: key.TaskID, Epoch: reply.Epoch}
	if err := s.loadJournal(ctx, reply.page); err != nil {
		return nil, fmt.Errorf("read the journal of task %s: %w", key.TaskID, err)
	}
	return s, nil
}

// Session is a task in the hands of one process, from its take-over on.
type Session struct {
	client    *Client
	namespace string
	agent     string
	holder    holder
	task      *task.Task
	takenAt   time.Time
	takeOvers int
	journal   []Entry

	mu      sync.Mutex // one append at a time
	appends int        // of this epoch that are stored or given up
	pending *pending   // an append whose outcome is not known
}

// Task is the task as the queue holds it. Do not change it.
func (s *Session) Task() *task.Task { return s.task }

// Journal is what earlier holders of the task did, in order. Large entries are complete. Do not change it.
func (s *Session) Journal() []Entry { return s.journal }

// TakenAt is when the task was taken over for the first time.
func (s *Session) TakenAt() time.Time { return s.takenAt }

// TakeOvers is how often the task was taken over, this time included.
func (s *Session) TakeOvers() int { return s.takeOvers }

// Release says that the caller hands the task back in good order: the next take-over is not counted as one after a
// crash. The session is of no use afterwards.
func (s *Session) Release(ctx context.Context) error {
	if err := s.ask(ctx, verbRelease, releaseRequest{s.holder}, &struct{}{}, 0); err != nil {
		return fmt.Errorf("release task %s: %w", s.holder.Task, err)
	}
	return nil
}

// Delegate hands work to another role and returns the task that was queued for it. The same call always makes the same
// task, so Delegate can be repeated, also after a take-over. A *RefusedError says what the task may not do: hand work to
// that role, deeper or more often than it does already.
func (s *Session) Delegate(ctx context.Context, call, role, prompt string) (*task.Task, error) {
	text, err := s.PutPayload(ctx, prompt)
	if err != nil {
		return nil, fmt.Errorf("delegate to %s: %w", role, err)
	}
	var reply delegateReply
	if err := s.ask(ctx, verbDelegate, delegateRequest{s.holder, call, role, text}, &reply, 0); err != nil {
		return nil, fmt.Errorf("delegate to %s: %w", role, err)
	}
	return reply.Child, nil
}

// Await waits for the result of delegated work until the context ends.
func (s *Session) Await(ctx context.Context, childID string) (*task.Result, error) {
	for {
		wait := untilEnd(ctx, s.client.poll)
		var reply awaitReply
		if err := s.ask(ctx, verbAwait, awaitRequest{s.holder, childID, wait.Milliseconds()}, &reply, wait); err != nil {
			return nil, fmt.Errorf("wait for task %s: %w", childID, err)
		}
		if reply.Result != nil {
			return reply.Result, nil
		}
	}
}

// loadJournal reads the pages after the first and fetches what was moved out of the entries.
func (s *Session) loadJournal(ctx context.Context, p page) error {
	s.journal = p.Entries
	for p.Next != 0 {
		from := p.Next
		p = page{}
		if err := s.ask(ctx, verbJournal, journalRequest{s.holder, from}, &p, 0); err != nil {
			return err
		}
		s.journal = append(s.journal, p.Entries...)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for i := range s.journal {
		if s.journal[i].moved != nil {
			g.Go(func() error { return s.complete(ctx, &s.journal[i]) })
		}
	}
	return g.Wait()
}

func (s *Session) caller() caller { return caller{s.namespace, s.agent} }

func (s *Session) subject(verb string) string { return queue.WorkSubject(s.namespace, s.agent, verb) }

func (s *Session) ask(ctx context.Context, verb string, request, reply any, wait time.Duration) error {
	return s.client.ask(ctx, s.caller(), verb, request, reply, wait)
}

// untilEnd is how long the service is to wait at most: until the context ends, or it is time to ask again.
func untilEnd(ctx context.Context, limit time.Duration) time.Duration {
	deadline, ok := ctx.Deadline()
	if !ok {
		return limit
	}
	return max(min(time.Until(deadline), limit), time.Millisecond)
}

// ask sends a request until it is answered. wait is how long the service was told to wait.
func (c *Client) ask(ctx context.Context, from caller, verb string, request, reply any, wait time.Duration) error {
	if to, here := c.to.(answerer); here {
		return c.insist(ctx, func() (told, lost error) {
			ctx, cancel := context.WithTimeout(ctx, wait+c.timeout)
			defer cancel()
			return to.ask(ctx, from, verb, request, reply)
		})
	}
	m := &nats.Msg{Subject: queue.WorkSubject(from.namespace, from.agent, verb), Header: nats.Header{}}
	if err := encode(m, request, nil); err != nil {
		return err
	}
	answer, err := c.send(ctx, m, wait)
	if err != nil {
		return err
	}
	return decode(answer, reply)
}

// send returns the answer to a message, or the failure that it tells.
func (c *Client) send(ctx context.Context, m *nats.Msg, wait time.Duration) (answer *nats.Msg, err error) {
	queue.Inject(ctx, m.Header)
	err = c.insist(ctx, func() (told, lost error) {
		if answer, lost = c.once(ctx, m, wait); lost != nil {
			return nil, lost
		}
		return decodeFailure(answer), nil
	})
	return answer, err
}

// insist asks again while no answer comes, which lost says, or one that says so.
func (c *Client) insist(ctx context.Context, once func() (told, lost error)) error {
	delay := retryDelay
	for try := 1; ; try++ {
		told, lost := once()
		if lost == nil && !errors.Is(told, errAskAgain) {
			return told
		}
		err := cmp.Or(lost, told)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, nats.ErrMaxPayload):
			return err
		case try == requestTries, errors.Is(err, nats.ErrConnectionClosed):
			return unavailable(err)
		}
		if !pause(ctx, delay) {
			return context.Cause(ctx)
		}
		delay *= 2
	}
}

// unavailable makes ErrUnavailable of an error.
func unavailable(err error) error {
	if errors.Is(err, ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

func (c *Client) once(ctx context.Context, m *nats.Msg, wait time.Duration) (*nats.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, wait+c.timeout)
	defer cancel()
	return c.to.RequestMsgWithContext(ctx, m)
}

// pause waits, and says whether the context is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
