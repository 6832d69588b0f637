package telemetry

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"go.opentelemetry.io/otel/codes"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// recorderLimit bounds the spans that a recorder keeps, so that a run without an end does not fill the memory.
const recorderLimit = 100_000

// Recorder keeps the finished spans of this process, for a span tree without any back end. The zero Recorder is
// ready to use, for one Telemetry, and safe for concurrent use.
type Recorder struct {
	mu      sync.Mutex
	spans   []recorded
	dropped int
}

type recorded struct {
	id, parent trace.SpanID
	trace      trace.TraceID
	node       Node
}

// Node is a finished span. Tokens are its own, not those below it; an empty Error means success.
type Node struct {
	Name                      string
	Started                   time.Time
	Duration                  time.Duration
	InputTokens, OutputTokens int64
	Error                     string // the error's type and message
	Children                  []*Node
}

// OnStart implements the SDK's span processor.
func (r *Recorder) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd implements the SDK's span processor.
func (r *Recorder) OnEnd(s sdktrace.ReadOnlySpan) {
	rec := recorded{
		id: s.SpanContext().SpanID(), parent: s.Parent().SpanID(), trace: s.SpanContext().TraceID(),
		node: Node{Name: s.Name(), Started: s.StartTime(), Duration: s.EndTime().Sub(s.StartTime())},
	}
	errorType := ""
	for _, a := range s.Attributes() {
		switch a.Key {
		case keyInputTokens:
			rec.node.InputTokens = a.Value.AsInt64()
		case keyOutputTokens:
			rec.node.OutputTokens = a.Value.AsInt64()
		case keyErrorType:
			errorType = a.Value.AsString()
		case KeyStep:
			if s.Name() == "step" { // a tree of steps without their names says little
				rec.node.Name += " " + a.Value.AsString()
			}
		}
	}
	if s.Status().Code == codes.Error {
		rec.node.Error = joinError(errorType, s.Status().Description)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.spans) == recorderLimit {
		r.dropped++
		return
	}
	r.spans = append(r.spans, rec)
}

func joinError(kind, message string) string {
	switch {
	case message == "":
		return cmp.Or(kind, "error")
	case kind == "":
		return message
	default:
		return kind + ": " + message
	}
}

// Shutdown implements the SDK's span processor. What was recorded stays.
func (r *Recorder) Shutdown(context.Context) error { return nil }

// ForceFlush implements the SDK's span processor.
func (r *Recorder) ForceFlush(context.Context) error { return nil }

// Tree is every finished span, as trees: a span whose parent is not (or not yet) here is a root. Siblings stand in
// the order in which they started.
func (r *Recorder) Tree() []*Node {
	r.mu.Lock()
	defer r.mu.Unlock()
	type key struct {
		trace trace.TraceID
		span  trace.SpanID
	}
	nodes := make(map[key]*Node, len(r.spans))
	for _, s := range r.spans {
		n := s.node
		nodes[key{s.trace, s.id}] = &n
	}
	var roots []*Node
	for _, s := range r.spans {
		n := nodes[key{s.trace, s.id}]
		if parent := nodes[key{s.trace, s.parent}]; parent != nil {
			parent.Children = append(parent.Children, n)
		} else {
			roots = append(roots, n)
		}
	}
	for _, n := range nodes {
		inOrder(n.Children)
	}
	inOrder(roots)
	return roots
}

func inOrder(nodes []*Node) {
	slices.SortStableFunc(nodes, func(a, b *Node) int {
		return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.Name, b.Name))
	})
}

// Dropped is the number of spans that did not fit.
func (r *Recorder) Dropped() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dropped
}

// WriteTree prints the recorded spans, one line each: name, duration, tokens in and out, and the error if there was
// one.
func (r *Recorder) WriteTree(w io.Writer) error {
	if err := WriteTree(w, r.Tree()); err != nil {
		return err
	}
	if n := r.Dropped(); n > 0 {
		if _, err := fmt.Fprintf(w, "(%d more spans were not kept)\n", n); err != nil {
			return fmt.Errorf("print the span tree: %w", err)
		}
	}
	return nil
}

// WriteTree prints trees of spans for people: one line a span, with its time, its end and its tokens.
func WriteTree(w io.Writer, roots []*Node) error {
	var lines []line
	for _, root := range roots {
		lines = flatten(lines, root, "", "")
	}
	width := 0
	for _, l := range lines {
		width = max(width, len([]rune(l.label)))
	}
	for _, l := range lines {
		if _, err := fmt.Fprintf(w, "%-*s  %s\n", width, l.label, l.facts()); err != nil {
			return fmt.Errorf("print the span tree: %w", err)
		}
	}
	return nil
}

type line struct {
	label string
	node  *Node
}

func flatten(lines []line, n *Node, own, below string) []line {
	lines = append(lines, line{label: own + n.Name, node: n})
	for i, c := range n.Children {
		if i == len(n.Children)-1 {
			lines = flatten(lines, c, below+"└─ ", below+"   ")
		} else {
			lines = flatten(lines, c, below+"├─ ", below+"│  ")
		}
	}
	return lines
}

func (l line) facts() string {
	s := fmt.Sprintf("%9s  %s", round(l.node.Duration), status(l.node))
	if l.node.InputTokens+l.node.OutputTokens > 0 {
		s += fmt.Sprintf("  %d in, %d out", l.node.InputTokens, l.node.OutputTokens)
	}
	if l.node.Error != "" {
		s += "  " + l.node.Error
	}
	return s
}

func status(n *Node) string {
	if n.Error != "" {
		return "error"
	}
	return "ok"
}

// round keeps three digits or so: a tree is read, not computed with.
func round(d time.Duration) time.Duration {
	switch {
	case d >= time.Second:
		return d.Round(10 * time.Millisecond)
	case d >= time.Millisecond:
		return d.Round(10 * time.Microsecond)
	default:
		return d.Round(100 * time.Nanosecond)
	}
}
