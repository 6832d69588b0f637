package runner

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/telemetry"
)

// spans are the spans of one run and of its steps: a step's span begins with its first task and ends with the step. They
// are the same in every process that drives the run; only the one that sees the end of a span sends it.
type spans struct {
	tel     *telemetry.Telemetry
	uid     string // of the run
	run     *telemetry.Span
	parent  context.Context //nolint:containedctx // carries the run's span to those of its steps, not a lifetime
	steps   map[string]*stepSpan
	since   time.Time // steps that ended earlier have had their spans sent
	traceID string
}

// unsent is how long the span of a step that has ended may not have been sent by an earlier process that was killed.
const unsent = 10 * time.Second

type stepSpan struct {
	ctx  context.Context //nolint:containedctx // carries the step's span to those of its tasks
	span *telemetry.Span
}

func startSpans(ctx context.Context, c *Config) *spans {
	if parent := c.Run.Annotations[v1alpha1.AnnotationTrace]; parent != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": parent})
	}
	team := ""
	if c.Run.Spec.TeamRef != nil {
		team = c.Run.Spec.TeamRef.Name
	}
	uid := string(c.Run.UID)
	ctx, span := c.Telemetry.Resume(ctx, "run "+uid, c.Started, "run", telemetry.KeyRun.String(c.Run.Name),
		telemetry.KeyTeam.String(team), telemetry.KeyNamespace.String(c.Run.Namespace))
	s := &spans{tel: c.Telemetry, uid: uid, run: span, parent: context.WithoutCancel(ctx), steps: map[string]*stepSpan{}, traceID: telemetry.TraceID(ctx)}
	before := latest(c.Run.Status.Steps)
	if before.IsZero() {
		before = c.Started // an earlier process may have ended before it wrote of any step
	}
	s.since = before.Add(-unsent)
	return s
}

// latest is when a step last began or ended according to a status, the zero time when none has.
func latest(steps []v1alpha1.StepStatus) time.Time {
	var last time.Time
	for i := range steps {
		for _, t := range []*metav1.MicroTime{steps[i].StartTime, steps[i].CompletionTime} {
			if t != nil && t.After(last) {
				last = t.Time
			}
		}
	}
	return last
}

// open starts the span of a step, or goes on with it.
func (s *spans) open(step, agent string, began time.Time) *stepSpan {
	open := &stepSpan{}
	open.ctx, open.span = s.tel.Resume(s.parent, "step "+s.uid+" "+step, began, "step", telemetry.KeyStep.String(step), telemetry.KeyAgent.String(agent))
	s.steps[step] = open
	return open
}

// recording says that somebody wants the spans.
func (s *spans) recording() bool { return trace.SpanFromContext(s.parent).IsRecording() }

// context is ctx with the span that an action belongs to.
func (s *spans) context(ctx context.Context, a pipeline.Action) context.Context {
	step, agent := "", ""
	switch a := a.(type) {
	case *pipeline.Submit:
		step, agent = a.Step, a.Agent
	case *pipeline.StartRun:
		step = a.Step
	default:
		return trace.ContextWithSpan(ctx, trace.SpanFromContext(s.parent))
	}
	open := s.steps[step]
	if open == nil {
		open = s.open(step, agent, time.Time{})
	}
	return trace.ContextWithSpan(ctx, trace.SpanFromContext(open.ctx))
}

// follow ends the spans of steps that are done.
func (s *spans) follow(status v1alpha1.ArkRunStatus) {
	for i := range status.Steps {
		step := &status.Steps[i]
		if !step.Phase.Terminal() {
			continue
		}
		open, end := s.steps[step.Name], time.Time{}
		if open == nil {
			if !s.missed(step) {
				continue
			}
			open, end = s.open(step.Name, step.Agent, step.StartTime.Time), step.CompletionTime.Time
		}
		delete(s.steps, step.Name)
		open.span.SetUsage(usage(step.TokenUsage))
		if step.Phase == v1alpha1.StepFailed || step.Phase == v1alpha1.StepCancelled {
			reason := step.Reason
			if reason == "" {
				reason = string(step.Phase)
			}
			open.span.EndAt(end, reason, step.Message)
		} else {
			open.span.EndAt(end, "", "")
		}
	}
	s.since = time.Time{} // what earlier processes have left is told
}

// missed says whether a step may have ended without its span having been sent: an earlier process, which was killed, saw its
// end, or nobody did.
func (s *spans) missed(step *v1alpha1.StepStatus) bool {
	return !s.since.IsZero() && step.Agent != "" && step.Reason != pipeline.ReasonReused &&
		step.StartTime != nil && step.CompletionTime != nil && step.CompletionTime.After(s.since)
}

// close ends all spans. end is the run's, nil when it goes on elsewhere: then its spans end there.
func (s *spans) close(end *v1alpha1.ArkRunStatus) {
	if end == nil {
		return
	}
	s.follow(*end)
	for step, open := range s.steps {
		delete(s.steps, step)
		open.span.End("", "")
	}
	s.run.SetUsage(usage(end.TotalTokenUsage))
	if end.Phase == v1alpha1.RunSucceeded {
		s.run.End("", "")
	} else {
		s.run.End(string(end.Phase), end.Message)
	}
}

func usage(u *v1alpha1.TokenUsage) telemetry.Usage {
	if u == nil {
		return telemetry.Usage{}
	}
	return telemetry.Usage{Input: u.InputTokens, Output: u.OutputTokens, Cached: u.CachedTokens}
}

func endSpan(span *telemetry.Span, err error) {
	if err != nil {
		span.End("publish", err.Error())
		return
	}
	span.End("", "")
}
