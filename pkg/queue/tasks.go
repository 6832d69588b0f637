package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Defaults of TasksConfig.
const (
	// DefaultAckWait lets a task go on within 15 s of its process's death.
	DefaultAckWait   = 12 * time.Second
	DefaultHeartbeat = 5 * time.Second
	// pullExpiry is how long one request for tasks stays with the server before it is made anew.
	pullExpiry = 30 * time.Second
	// maxWaiting is how many requests of all pods of an agent may wait at once.
	maxWaiting = 4096
)

// TasksConfig says how an agent's process takes tasks.
type TasksConfig struct {
	Slots     int           // tasks at once, 1 if 0
	AckWait   time.Duration // a task is delivered again when nothing was heard of it for so long; DefaultAckWait if 0
	Heartbeat time.Duration // of the server while no task comes; two missed ones renew the subscription; DefaultHeartbeat if 0
	Paused    bool          // take none before Resume
}

func (c *TasksConfig) validate() error {
	if c.Slots == 0 {
		c.Slots = 1
	}
	if c.AckWait == 0 {
		c.AckWait = DefaultAckWait
	}
	if c.Heartbeat == 0 {
		c.Heartbeat = DefaultHeartbeat
	}
	if c.Slots < 0 || c.AckWait < 0 {
		return fmt.Errorf("config: Slots %d and AckWait %s must not be negative", c.Slots, c.AckWait)
	}
	if c.Heartbeat < 0 || 2*c.Heartbeat > pullExpiry {
		return fmt.Errorf("config: Heartbeat %s is not between 0 and %s", c.Heartbeat, pullExpiry/2)
	}
	return nil
}

// Tasks takes the tasks of one agent. It asks the server for exactly as many as it has free slots: a delivery holds
// a slot from the moment it arrives until Ack, Nak, Term or Release.
type Tasks struct {
	q        *Queue
	cfg      TasksConfig
	ns       string
	agent    string
	consumer string

	ctx   context.Context // ends with Stop
	stop  context.CancelFunc
	out   chan *Delivery
	freed chan struct{} // a slot became free
	// turned says that Pause or Resume was called.
	turned chan struct{}
	done   chan struct{} // everything is handed back

	mu     sync.Mutex
	held   int // slots in use
	paused bool
}

// Tasks starts to take the tasks of an agent. Several processes may do so for one agent; each task goes to one of
// them. The context bounds the start only; Stop ends it.
func (q *Queue) Tasks(ctx context.Context, namespace, agent string, cfg TasksConfig) (*Tasks, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("take tasks of agent %s/%s: %w", namespace, agent, err)
	}
	t := &Tasks{
		q: q, cfg: cfg, ns: namespace, agent: agent,
		out:    make(chan *Delivery, cfg.Slots),
		freed:  make(chan struct{}, 1),
		turned: make(chan struct{}, 1),
		done:   make(chan struct{}),
		paused: cfg.Paused,
	}
	t.ctx, t.stop = context.WithCancel(context.WithoutCancel(ctx))
	if err := t.start(ctx); err != nil {
		t.stop()
		return nil, fmt.Errorf("take tasks of agent %s/%s: %w", namespace, agent, err)
	}
	return t, nil
}

func (t *Tasks) start(ctx context.Context) error {
	var err error
	if t.consumer, err = t.q.takeFrom(ctx, t.ns, t.agent, t.cfg.AckWait); err != nil {
		return err
	}
	p, err := newPuller(t)
	if err != nil {
		return err
	}
	go p.run()
	return nil
}

// Next waits for a task. The error is ErrStopped after Stop, or the context's.
func (t *Tasks) Next(ctx context.Context) (*Delivery, error) {
	select {
	case d := <-t.out:
		return d, nil
	case <-t.ctx.Done():
		return nil, ErrStopped
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Stop takes no more tasks and hands back at once those that Next has not returned. Deliveries that were returned
// stay valid. It returns when all is handed back or the context ends.
func (t *Tasks) Stop(ctx context.Context) error {
	t.stop()
	select {
	case <-t.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop taking tasks of agent %s/%s: %w", t.ns, t.agent, context.Cause(ctx))
	}
}

// Pause takes no more tasks, and hands back at once those that Next has not returned, until Resume. Deliveries that
// were returned stay valid. It does not wait.
func (t *Tasks) Pause() { t.turn(true) }

// Resume takes tasks again after Pause.
func (t *Tasks) Resume() { t.turn(false) }

func (t *Tasks) turn(paused bool) {
	t.mu.Lock()
	changed := t.paused != paused
	t.paused = paused
	t.mu.Unlock()
	if !changed {
		return
	}
	select {
	case t.turned <- struct{}{}:
	default: // the puller is about to look
	}
}

func (t *Tasks) isPaused() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.paused
}

// take claims a slot for a message that arrived, release gives it back.
func (t *Tasks) take() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.held++
}

func (t *Tasks) release() {
	t.mu.Lock()
	t.held--
	t.mu.Unlock()
	select {
	case t.freed <- struct{}{}:
	default:
	}
}

func (t *Tasks) free() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.paused {
		return 0
	}
	return t.cfg.Slots - t.held
}

// pullRequest is JetStream's request for the next messages.
type pullRequest struct {
	Batch     int           `json:"batch"`
	Expires   time.Duration `json:"expires"`
	Heartbeat time.Duration `json:"idle_heartbeat"`
}

func (t *Tasks) pull(inbox string, n int) error {
	req, err := json.Marshal(pullRequest{Batch: n, Expires: pullExpiry, Heartbeat: t.cfg.Heartbeat})
	if err != nil {
		return err
	}
	return t.q.nc.PublishRequest("$JS.API.CONSUMER.MSG.NEXT."+StreamTasks+"."+t.consumer, inbox, req)
}

// deliver decodes a message and queues it for Next. A message that cannot be read never reaches Next.
func (t *Tasks) deliver(m *nats.Msg) {
	t.take()
	d, err := newDelivery(t, m)
	if err != nil {
		go t.bury(d, err)
		return
	}
	select {
	case t.out <- d:
	default:
		// More than was asked for, after a renewal: another process may have a free slot.
		d.handBack()
	}
}

// retryWait is the pause before a subscription that failed is made anew.
const retryWait = 200 * time.Millisecond

// puller keeps requests with the server for all free slots of a Tasks. Its state belongs to the goroutine of run.
type puller struct {
	t *Tasks

	sub     *nats.Subscription
	msgs    chan *nats.Msg
	status  chan nats.Status
	leaving sync.WaitGroup   // subscriptions that were replaced and have not ended
	asked   int              // messages that the server still owes
	heard   time.Time        // when it last said something
	looked  time.Time        // when it was last asked what is pending
	retry   <-chan time.Time // set while the subscription is broken
}

func newPuller(t *Tasks) (*puller, error) {
	p := &puller{t: t, status: t.q.nc.StatusChanged(nats.RECONNECTING, nats.CONNECTED)}
	if err := p.subscribe(); err != nil {
		t.q.nc.RemoveStatusListener(p.status)
		return nil, err
	}
	return p, nil
}

func (p *puller) run() {
	defer close(p.t.done)
	defer p.t.q.nc.RemoveStatusListener(p.status)
	watch := time.NewTicker(p.t.cfg.Heartbeat)
	defer watch.Stop()
	status := (<-chan nats.Status)(p.status)
	p.ask()
	for {
		select {
		case <-p.t.ctx.Done():
			p.drain()
			return
		case m := <-p.msgs:
			p.receive(m)
		case <-p.t.freed:
			p.ask()
		case <-p.t.turned:
			p.turn()
		case now, ok := <-status:
			switch {
			case !ok:
				status = nil // the connection is closed for good; Stop is still to come
			case now == nats.RECONNECTING:
				// A server may take the subscription, when it is back, for the one of requests that it has forgotten
				// how to answer.
				_ = p.sub.Unsubscribe()
			default:
				// The server has forgotten the requests of the connection before.
				p.renew()
			}
		case <-p.retry:
			p.renew()
		case <-watch.C:
			p.check()
		}
	}
}

// ask requests as many messages as there are free slots that no request covers.
func (p *puller) ask() {
	n := p.t.free() - p.asked
	if n <= 0 || p.retry != nil {
		return
	}
	if p.asked == 0 {
		p.heard = time.Now()
	}
	if err := p.t.pull(p.sub.Subject, n); err != nil {
		p.broken(err)
		return
	}
	p.asked += n
}

// receive handles a task, or a word of the server about a request.
func (p *puller) receive(m *nats.Msg) {
	p.heard = time.Now()
	status := m.Header.Get("Status")
	if status == "" || m.Reply != "" {
		p.asked--
		p.t.deliver(m)
		return
	}
	switch status {
	case "100": // heartbeat
	case "404", "408": // the request has ended, with this many messages still to come
		p.asked -= unfilled(m)
		p.ask()
	default: // 409: consumer deleted, server shutting down, leader changed; 503: no consumer, no stream
		p.broken(fmt.Errorf("server answers %s %s", status, m.Header.Get("Description")))
	}
}

func unfilled(m *nats.Msg) int {
	n, err := strconv.Atoi(m.Header.Get("Nats-Pending-Messages"))
	if err != nil {
		return 0
	}
	return n
}

// check looks for silence: missed heartbeats, or heartbeats but no task although some wait.
func (p *puller) check() {
	if p.retry != nil || p.asked <= 0 {
		return
	}
	silence := time.Since(p.heard)
	if silence > 2*p.t.cfg.Heartbeat {
		p.broken(errors.New("no heartbeat"))
		return
	}
	if time.Since(p.looked) < pullExpiry/2 {
		return
	}
	p.looked = time.Now()
	waiting, err := p.t.q.waiting(p.t.ctx, p.t.ns, p.t.agent)
	if err != nil || waiting > 0 {
		p.broken(errors.Join(err, fmt.Errorf("%d tasks wait and none comes", waiting)))
	}
}

// broken schedules a new subscription.
func (p *puller) broken(err error) {
	p.t.q.cfg.Logger.Debug("task subscription is renewed", "namespace", p.t.ns, "agent", p.t.agent, "cause", err)
	p.retry = time.After(retryWait)
}

// renew makes a new consumer if need be, a new subscription and new requests. What was on its way to the old one is
// delivered again after AckWait.
func (p *puller) renew() {
	p.retry = nil
	consumer, err := p.t.q.takeFrom(p.t.ctx, p.t.ns, p.t.agent, p.t.cfg.AckWait)
	switch {
	case err == nil:
		p.t.consumer = consumer // another one where the store is another one
	case p.t.q.nc.IsClosed():
		return
	case !errors.Is(err, jetstream.ErrConsumerNameAlreadyInUse):
		p.broken(err)
		return
	}
	old, pending := p.sub, p.msgs
	if err := p.subscribe(); err != nil {
		p.broken(err)
		return
	}
	p.leave(old, pending)
	p.ask()
}

// leave ends a subscription that was replaced. Its requests may still be answered until the server knows, also after a
// reconnect, which brings back its interest before there are new requests.
func (p *puller) leave(old *nats.Subscription, msgs <-chan *nats.Msg) {
	p.leaving.Go(func() {
		p.finish(old, msgs, func(m *nats.Msg) {
			if m.Reply != "" {
				p.t.deliver(m)
			}
		})
	})
}

// turn follows Pause and Resume. The requests that the server has stay open until the subscription ends, so it ends
// with a pause, and a new one begins after it.
func (p *puller) turn() {
	if !p.t.isPaused() {
		p.renew()
		return
	}
	p.retry = nil
	p.drain()
	p.asked = 0
}

func (p *puller) subscribe() error {
	msgs := make(chan *nats.Msg, 2*p.t.cfg.Slots+256)
	sub, err := p.t.q.nc.ChanSubscribe(p.t.q.nc.NewInbox(), msgs)
	if err != nil {
		return fmt.Errorf("subscribe: %w", err)
	}
	p.sub, p.msgs, p.asked = sub, msgs, 0
	p.heard, p.looked = time.Now(), time.Now()
	return nil
}

// drain ends the subscription and hands back everything that nobody took.
func (p *puller) drain() {
	p.finish(p.sub, p.msgs, p.handBack)
	p.leaving.Wait()
	for {
		select {
		case d := <-p.t.out:
			d.handBack()
		default:
			return
		}
	}
}

// finish ends a subscription so that no message is lost on the way, and passes what still comes.
func (p *puller) finish(sub *nats.Subscription, msgs <-chan *nats.Msg, pass func(*nats.Msg)) {
	closed := make(chan struct{})
	sub.SetClosedHandler(func(string) { close(closed) })
	limit := time.NewTimer(p.t.q.cfg.Timeout)
	defer limit.Stop()
	for ended := sub.Drain() != nil; !ended; {
		select {
		case m := <-msgs:
			pass(m)
		case <-closed:
			ended = true
		case <-limit.C:
			ended = true
		}
	}
	for {
		select {
		case m := <-msgs:
			pass(m)
		default:
			return
		}
	}
}

func (p *puller) handBack(m *nats.Msg) {
	if m.Reply == "" {
		return
	}
	if err := nak(p.t.q.nc, m.Reply, 0); err != nil {
		p.t.q.cfg.Logger.Debug("task was not handed back, it comes again later", "subject", m.Subject, "error", err)
	}
}
