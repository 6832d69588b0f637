package telemetry

import (
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	tracenoop "go.opentelemetry.io/otel/trace/noop"
)

// Resume starts a span below the one in ctx whose id follows from a name: whichever process starts it, it is the same span.
// The spans below it have a parent, also when the process that started it is killed: the one that goes on ends it. began is
// when the first one started. A process that does not end it sends nothing of it.
func (t *Telemetry) Resume(ctx context.Context, id string, began time.Time, name string, attributes ...attribute.KeyValue) (context.Context, *Span) {
	if t == nil {
		return ctx, &Span{span: tracenoop.Span{}}
	}
	sum := sha256.Sum256([]byte("span " + id))
	options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKindInternal), trace.WithAttributes(attributes...)}
	if !began.IsZero() {
		options = append(options, trace.WithTimestamp(began))
	}
	with, s := t.tracer.Start(context.WithValue(ctx, wantedID{}, trace.SpanID(sum[:8])), name, options...) //nolint:spancheck // Span.End ends it
	return trace.ContextWithSpan(ctx, trace.SpanFromContext(with)), &Span{span: s}                         //nolint:spancheck // the same
}

// wantedID is the key of a context for the id of the span that is started with it.
type wantedID struct{}

// ids makes the ids of traces and spans: at random, unless the context names one.
type ids struct{}

// NewIDs implements the SDK's generator.
func (i ids) NewIDs(ctx context.Context) (trace.TraceID, trace.SpanID) {
	var id trace.TraceID
	_, _ = crand.Read(id[:]) // it never fails
	return id, i.NewSpanID(ctx, id)
}

// NewSpanID implements the SDK's generator.
func (ids) NewSpanID(ctx context.Context, _ trace.TraceID) trace.SpanID {
	if id, ok := ctx.Value(wantedID{}).(trace.SpanID); ok {
		return id
	}
	var id trace.SpanID
	_, _ = crand.Read(id[:]) // it never fails
	return id
}
