package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"arkonis.dev/ark/pkg/task"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/propagation"
)

// Headers of ark's messages, beside the W3C trace context.
const (
	headerVersion = "Ark-Version" // of the body
	headerRun     = "Ark-Run"     // uid of the run, where the subject does not hold it
)

var errSubject = errors.New("the names in it are too long")

// message makes a message that carries the version and the trace of the context.
func message(ctx context.Context, subject string, body []byte) *nats.Msg {
	m := &nats.Msg{Subject: subject, Data: body, Header: nats.Header{}}
	m.Header.Set(headerVersion, strconv.Itoa(task.Version))
	Inject(ctx, m.Header)
	return m
}

// publish stores a message and says in its error whether it was stored. id is Nats-Msg-Id: a help against doubles for
// as long as the server remembers it, no guarantee.
func (q *Queue) publish(ctx context.Context, m *nats.Msg, id string) (*jetstream.PubAck, error) {
	if len(m.Subject) > maxSubject {
		return nil, fmt.Errorf("subject of %d bytes: %w", len(m.Subject), errSubject)
	}
	if err := ended(ctx); err != nil {
		return nil, err
	}
	if id != "" {
		m.Header.Set(jetstream.MsgIDHeader, id)
	}
	ctx, cancel := q.bounded(ctx)
	defer cancel()
	ack, err := q.js.PublishMsg(ctx, m)
	return ack, classify(err)
}

// bounded gives a context without a deadline one.
func (q *Queue) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, ok := ctx.Deadline(); ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, q.cfg.Timeout)
}

// Inject writes the trace of the context into the headers of a message, as W3C traceparent and tracestate.
func Inject(ctx context.Context, h nats.Header) {
	propagation.TraceContext{}.Inject(ctx, carrier(h))
}

// Extract returns ctx with the trace that the headers of a message carry.
func Extract(ctx context.Context, h nats.Header) context.Context {
	return propagation.TraceContext{}.Extract(ctx, carrier(h))
}

// carrier reads and writes NATS headers, whose names are case-sensitive, without canonical upper case.
type carrier nats.Header

func (c carrier) Get(key string) string {
	if v := c[key]; len(v) > 0 {
		return v[0]
	}
	return ""
}

func (c carrier) Set(key, value string) { c[key] = []string{value} }

func (c carrier) Keys() []string {
	keys := make([]string, 0, len(c))
	for k := range c {
		keys = append(keys, k)
	}
	return keys
}
