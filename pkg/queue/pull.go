package queue

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// retryWait is the pause before a subscription that failed is made anew.
const retryWait = 200 * time.Millisecond

// puller keeps requests with the server for all free slots of a Tasks. Its state belongs to the goroutine of run.
type puller struct {
	t *Tasks

	sub    *nats.Subscription
	msgs   chan *nats.Msg
	status chan nats.Status
	asked  int              // messages that the server still owes
	heard  time.Time        // when it last said something
	looked time.Time        // when it was last asked what is pending
	retry  <-chan time.Time // set while the subscription is broken
}

func newPuller(t *Tasks) (*puller, error) {
	p := &puller{t: t, status: t.q.nc.StatusChanged(nats.CONNECTED)}
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
		case _, ok := <-status:
			if !ok {
				status = nil // the connection is closed for good; Stop is still to come
				continue
			}
			// The server has forgotten the requests of the connection before.
			p.renew()
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
	waiting, err := p.t.pending(p.t.ctx)
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
	if err := p.t.ensureConsumer(p.t.ctx); err != nil {
		if p.t.q.nc.IsClosed() {
			return
		}
		if !errors.Is(err, jetstream.ErrConsumerNameAlreadyInUse) {
			p.broken(err)
			return
		}
	}
	old, pending := p.sub, p.msgs
	if err := p.subscribe(); err != nil {
		p.broken(err)
		return
	}
	_ = old.Unsubscribe()
	for len(pending) > 0 {
		if m := <-pending; m.Reply != "" {
			p.t.deliver(m)
		}
	}
	p.ask()
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

// drain ends the subscription so that no message is lost on the way, and hands back everything that nobody took.
func (p *puller) drain() {
	closed := make(chan struct{})
	p.sub.SetClosedHandler(func(string) { close(closed) })
	if err := p.sub.Drain(); err == nil {
		p.discard(closed)
	}
	for {
		select {
		case m := <-p.msgs:
			p.handBack(m)
		case d := <-p.t.out:
			d.handBack()
		default:
			return
		}
	}
}

func (p *puller) discard(closed <-chan struct{}) {
	limit := time.NewTimer(p.t.q.cfg.Timeout)
	defer limit.Stop()
	for {
		select {
		case m := <-p.msgs:
			p.handBack(m)
		case <-closed:
			return
		case <-limit.C:
			return
		}
	}
}

func (p *puller) handBack(m *nats.Msg) {
	if m.Reply != "" {
		nak(p.t.q.nc, m.Reply, 0)
	}
}
