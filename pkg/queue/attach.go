package queue

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrAgent is the answer of an agent's view of the queue to everything that agents do not do.
var ErrAgent = errors.New("this is an agent's view of the queue: it takes tasks, publishes their results and gives hints")

// Attach opens an agent's view of the queue that an operator, or whoever runs the work service, has made: the agent's
// Tasks, the results of these, hints, and WatchCancel. Everything else is ErrAgent. It needs no right over a stream and
// makes and changes nothing itself. Only Timeout and Logger of the configuration are looked at.
//
// The error is ErrUnavailable when the server cannot be reached or nobody serves agents there (see ServeAgents). The
// connection stays the caller's.
func Attach(ctx context.Context, nc *nats.Conn, namespace, agent string, cfg Config) (*Queue, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	q := &Queue{cfg: cfg, nc: nc, js: noJetStream{}, seen: map[string]bool{}}
	q.tasks, q.results, q.ledger, q.payloads = noStream{}, noStream{}, noStream{}, noStream{}
	q.log = newLedger(q)
	q.desk = &deskClient{nc: nc, namespace: namespace, agent: agent, timeout: cfg.Timeout}
	switch err := q.desk.hello(ctx); {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, fmt.Errorf("attach to the queue: %w: nobody serves agent %s/%s: is ark's operator running with this NATS server?",
			ErrUnavailable, namespace, agent)
	case err != nil && !nc.IsConnected(): // of a connection that never was, err says something about headers
		return nil, fmt.Errorf("attach to the queue: %w: there is no connection to %s: does a NATS server listen there, and does it let this one in?",
			ErrUnavailable, addresses(nc))
	case err != nil:
		return nil, fmt.Errorf("attach to the queue: %w: %w", ErrUnavailable, err)
	}
	return q, nil
}

// addresses are the servers of a connection, without passwords.
func addresses(nc *nats.Conn) string {
	var all []string
	for _, s := range nc.Servers() {
		if u, err := url.Parse(s); err == nil {
			all = append(all, u.Redacted())
		}
	}
	return strings.Join(all, ", ")
}

// noJetStream and noStream stand where the rights over streams are in other views of the queue. What they do not
// implement is not reached without what they refuse.
type noJetStream struct{ jetstream.JetStream }

func (noJetStream) PublishMsg(context.Context, *nats.Msg, ...jetstream.PublishOpt) (*jetstream.PubAck, error) {
	return nil, fmt.Errorf("%w: %w", jetstream.ErrNoStreamResponse, ErrAgent)
}

func (noJetStream) PublishMsgAsync(*nats.Msg, ...jetstream.PublishOpt) (jetstream.PubAckFuture, error) {
	return nil, ErrAgent
}

func (noJetStream) CreateStream(context.Context, jetstream.StreamConfig) (jetstream.Stream, error) {
	return nil, ErrAgent
}

func (noJetStream) CreateConsumer(context.Context, string, jetstream.ConsumerConfig) (jetstream.Consumer, error) {
	return nil, ErrAgent
}

func (noJetStream) OrderedConsumer(context.Context, string, jetstream.OrderedConsumerConfig) (jetstream.Consumer, error) {
	return nil, ErrAgent
}

type noStream struct{ jetstream.Stream }

func (noStream) Info(context.Context, ...jetstream.StreamInfoOpt) (*jetstream.StreamInfo, error) {
	return nil, ErrAgent
}

func (noStream) GetMsg(context.Context, uint64, ...jetstream.GetMsgOpt) (*jetstream.RawStreamMsg, error) {
	return nil, ErrAgent
}

func (noStream) GetLastMsgForSubject(context.Context, string) (*jetstream.RawStreamMsg, error) {
	return nil, ErrAgent
}

func (noStream) DeleteMsg(context.Context, uint64) error { return ErrAgent }

func (noStream) Purge(context.Context, ...jetstream.StreamPurgeOpt) error { return ErrAgent }
