package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"arkonis.dev/ark/pkg/task"
)

// The desk does for agents what they must not do themselves, because it needs rights over whole streams: make their
// consumer, publish results and put tasks away. An agent asks under its own name, ark.desk.<ns>.<agent>.<verb>, and an
// identity lets it ask under no other. The desk takes nothing from a request but what it checks: no header reaches a
// stream, and a result is stored only for a task that is in the queue of that agent and of the run that it names.

// Verbs of the desk. What follows them in the subject is in brackets.
const (
	deskHello    = "hello"
	deskConsumer = "consumer"
	deskWaiting  = "waiting"
	deskResult   = "result" // .<run uid>.<task id>
	deskPutAway  = "dead"   // .<task id>
)

const (
	// deskSlots is how many requests are worked on at once; others wait in the connection. One agent has a quarter of them
	// at most, and is told to come again when it has more.
	deskSlots = 512
	deskShare = deskSlots / 4
	deskBytes = 32 << 20
	// maxAckWait bounds what an agent may ask for.
	maxAckWait = time.Hour
)

// errShare is the answer to an agent that has its share under way.
var errShare = fmt.Errorf("%w: the agent has too many requests under way", ErrUnavailable)

// ErrNotYours means that an agent wants to do something about a task that is not in its queue.
var ErrNotYours = errors.New("the agent's queue does not hold this task")

func deskSubject(namespace, agent, verb string, rest ...string) string {
	tokens := []string{"ark.desk", Token(namespace), Token(agent), verb}
	for _, r := range rest {
		tokens = append(tokens, Token(r))
	}
	return strings.Join(tokens, ".")
}

type deskRequest struct {
	AckWait time.Duration `json:"ackWait,omitempty"` // of deskConsumer
	Reason  string        `json:"reason,omitempty"`  // of deskPutAway
	Unread  bool          `json:"unread,omitempty"`  // of deskPutAway
}

type deskReply struct {
	Won     bool   `json:"won,omitempty"`     // of deskResult
	Waiting uint64 `json:"waiting,omitempty"` // of deskWaiting
	// Consumer is the name of the agent's consumer, of deskConsumer.
	Consumer string `json:"consumer,omitempty"`
	Kind     string `json:"kind,omitempty"` // of an error
	Error    string `json:"error,omitempty"`
}

// deskKinds are the errors that keep their meaning on the way to an agent.
func deskKinds() map[string]error {
	return map[string]error{
		"full": ErrFull, "too-large": ErrTooLarge, "unavailable": ErrUnavailable, "unknown": ErrUnknownOutcome,
		"not-yours": ErrNotYours,
	}
}

func (r *deskReply) fail(err error) {
	r.Error = err.Error()
	for kind, e := range deskKinds() {
		if errors.Is(err, e) {
			r.Kind = kind
		}
	}
}

func (r *deskReply) err() error {
	if r.Error == "" {
		return nil
	}
	if e := deskKinds()[r.Kind]; e != nil {
		return fmt.Errorf("%w (%s)", e, r.Error)
	}
	return errors.New(r.Error)
}

// Answerable says whether a reply subject is one that only whoever asked listens to: an inbox of the same account, or the
// one-time subject that the server made for a request from another account.
func Answerable(reply string) bool {
	return strings.HasPrefix(reply, nats.InboxPrefix) || strings.HasPrefix(reply, "_R_.")
}

// ServeAgents answers the requests of agents that are attached to the queue (see Attach), until stop, which waits for
// those that are being worked on. Several processes may do so at once. It returns when the server knows of it.
func (q *Queue) ServeAgents(ctx context.Context) (stop func(), err error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var group sync.WaitGroup
	slots := make(chan struct{}, deskSlots)
	shares := NewShares(deskShare, deskBytes)
	sub, err := q.agents().QueueSubscribe("ark.desk.>", "ark-desk", func(m *nats.Msg) {
		done, ok := shares.Take(m.Subject, len(m.Data))
		if !ok {
			q.answerAgent(m, &deskReply{}, errShare)
			return
		}
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			done()
			return
		}
		group.Go(func() {
			defer func() { <-slots }()
			defer done()
			q.serveAgent(ctx, m)
		})
	})
	if err == nil {
		err = q.agents().FlushTimeout(q.cfg.Timeout)
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("serve agents: %w", err)
	}
	stopped := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(stopped) })
	return func() {
		if sub.Drain() == nil {
			select {
			case <-stopped:
			case <-time.After(q.cfg.Timeout):
			}
		}
		group.Wait()
		cancel()
	}, nil
}

func (q *Queue) serveAgent(ctx context.Context, m *nats.Msg) {
	if !Answerable(m.Reply) {
		return
	}
	ctx, cancel := context.WithTimeout(Extract(ctx, m.Header), q.cfg.Timeout)
	defer cancel()
	var reply deskReply
	err := q.atDesk(ctx, m, &reply)
	q.answerAgent(m, &reply, err)
}

func (q *Queue) answerAgent(m *nats.Msg, reply *deskReply, failure error) {
	if !Answerable(m.Reply) {
		return
	}
	if failure != nil {
		reply.fail(failure)
	}
	body, err := json.Marshal(reply)
	if err == nil {
		err = q.agents().Publish(m.Reply, body)
	}
	if err != nil {
		q.cfg.Logger.Debug("an agent was not answered", "subject", m.Subject, "error", err)
	}
}

func (q *Queue) atDesk(ctx context.Context, m *nats.Msg, reply *deskReply) (err error) {
	tokens := strings.Split(m.Subject, ".")
	if len(tokens) < 5 {
		return fmt.Errorf("subject %q is not one of the desk", m.Subject)
	}
	names := make([]string, 0, 4) // namespace, agent, and what follows the verb
	for i, t := range tokens {
		if i < 2 || i == 4 {
			continue
		}
		name, err := Untoken(t)
		if err != nil {
			return err
		}
		names = append(names, name)
	}
	switch verb := tokens[4]; {
	case verb == deskHello && len(names) == 2:
		return nil
	case verb == deskConsumer && len(names) == 2:
		r, err := readDeskRequest(m)
		if err != nil {
			return err
		}
		if r.AckWait <= 0 || r.AckWait > maxAckWait {
			return fmt.Errorf("an AckWait of %s is not between 0 and %s", r.AckWait, maxAckWait)
		}
		reply.Consumer, err = q.takeFrom(ctx, names[0], names[1], r.AckWait)
		return err
	case verb == deskWaiting && len(names) == 2:
		reply.Waiting, err = q.waiting(ctx, names[0], names[1])
		return err
	case verb == deskResult && len(names) == 4:
		reply.Won, err = q.resultFrom(ctx, Key{names[0], names[1], names[2], names[3]}, m.Data)
		return err
	case verb == deskPutAway && len(names) == 3:
		return q.putAwayFor(ctx, taskSubject(names[0], names[1], names[2]), m)
	default:
		return fmt.Errorf("subject %q: the desk knows no such request; is it older than the agent?", m.Subject)
	}
}

func readDeskRequest(m *nats.Msg) (r deskRequest, err error) {
	if err := json.Unmarshal(m.Data, &r); err != nil {
		return r, fmt.Errorf("request at the desk: %w", err)
	}
	return r, nil
}

// resultFrom stores a result that an agent sends. Without a task that waits for it there may still be the same result,
// which an agent that heard no answer sends again.
func (q *Queue) resultFrom(ctx context.Context, key Key, body []byte) (won bool, err error) {
	r, err := readResult(key, body)
	if err != nil {
		return false, err
	}
	m, err := q.queued(ctx, taskSubject(key.Namespace, key.Agent, key.TaskID))
	if err == nil && m.Header.Get(headerRun) == Token(key.RunUID) {
		return q.PublishResult(ctx, key, r)
	}
	if err != nil && !errors.Is(err, ErrNoTask) {
		return false, err
	}
	again, err := json.Marshal(r)
	if err != nil {
		return false, err
	}
	won, err = q.holds(ctx, resultSubject(key), again)
	if errors.Is(err, ErrNoResult) {
		return false, fmt.Errorf("%w: %s", ErrNotYours, key)
	}
	return won, err
}

// putAwayFor puts a task away as the stream holds it, whatever the agent says that it got.
func (q *Queue) putAwayFor(ctx context.Context, subject string, m *nats.Msg) error {
	r, err := readDeskRequest(m)
	if err != nil {
		return err
	}
	raw, err := q.queued(ctx, subject)
	if errors.Is(err, ErrNoTask) {
		return fmt.Errorf("%w: %s", ErrNotYours, subject)
	}
	if err != nil {
		return err
	}
	return q.putAway(ctx, &nats.Msg{Subject: subject, Header: raw.Header, Data: raw.Data}, r.Reason, r.Unread)
}

// queued is the message of a task that is not acknowledged, ErrNoTask when there is none.
func (q *Queue) queued(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	m, err := q.tasks.GetLastMsgForSubject(ctx, subject)
	switch {
	case errors.Is(err, jetstream.ErrMsgNotFound):
		return nil, ErrNoTask
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrUnavailable, err)
	default:
		return m, nil
	}
}

// deskClient asks the desk in the name of one agent.
type deskClient struct {
	nc               *nats.Conn
	namespace, agent string
	timeout          time.Duration
}

func (d *deskClient) mine(namespace, agent string) error {
	if namespace != d.namespace || agent != d.agent {
		return fmt.Errorf("agent %s/%s: the queue is attached for agent %s/%s", namespace, agent, d.namespace, d.agent)
	}
	return nil
}

func (d *deskClient) hello(ctx context.Context) error {
	_, err := d.ask(ctx, deskSubject(d.namespace, d.agent, deskHello), nil)
	return err
}

func (d *deskClient) takeFrom(ctx context.Context, namespace, agent string, ackWait time.Duration) (consumer string, err error) {
	if err := d.mine(namespace, agent); err != nil {
		return "", err
	}
	reply, err := d.tell(ctx, deskSubject(namespace, agent, deskConsumer), deskRequest{AckWait: ackWait})
	return reply.Consumer, err
}

func (d *deskClient) waiting(ctx context.Context, namespace, agent string) (uint64, error) {
	reply, err := d.ask(ctx, deskSubject(namespace, agent, deskWaiting), nil)
	return reply.Waiting, err
}

func (d *deskClient) result(ctx context.Context, key Key, r *task.Result) (won bool, err error) {
	if err := d.mine(key.Namespace, key.Agent); err != nil {
		return false, err
	}
	body, err := json.Marshal(r)
	if err != nil {
		return false, err
	}
	if len(body) > task.MaxBody {
		return false, fmt.Errorf("%w: %d bytes", ErrTooLarge, len(body))
	}
	reply, err := d.ask(ctx, deskSubject(key.Namespace, key.Agent, deskResult, key.RunUID, key.TaskID), body)
	return reply.Won, err
}

func (d *deskClient) putAway(ctx context.Context, subject, reason string, unread bool) error {
	id, err := Untoken(subject[strings.LastIndexByte(subject, '.')+1:])
	if err != nil {
		return err
	}
	_, err = d.tell(ctx, deskSubject(d.namespace, d.agent, deskPutAway, id), deskRequest{Reason: reason, Unread: unread})
	return err
}

func (d *deskClient) tell(ctx context.Context, subject string, r deskRequest) (deskReply, error) {
	body, err := json.Marshal(r)
	if err != nil {
		return deskReply{}, err
	}
	return d.ask(ctx, subject, body)
}

// ask returns what the desk answers. Requests may be sent again.
func (d *deskClient) ask(ctx context.Context, subject string, body []byte) (reply deskReply, err error) {
	if err := ended(ctx); err != nil {
		return reply, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	m := message(ctx, subject, body)
	answer, err := d.nc.RequestMsgWithContext(ctx, m)
	if err != nil {
		return reply, classify(err)
	}
	if err := json.Unmarshal(answer.Data, &reply); err != nil {
		return reply, fmt.Errorf("%w: %w", ErrUnknownOutcome, err)
	}
	return reply, reply.err()
}
