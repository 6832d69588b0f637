package runner

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/telemetry"
)

// spans are the spans of one run and of its steps: a step's span begins with its first task and ends with the step.
type spans struct {
	tel     *telemetry.Telemetry
	run     *telemetry.Span
	parent  context.Context //nolint:containedctx // carries the run's span to those of its steps, not a lifetime
	steps   map[string]*stepSpan
	traceID string
}

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
	ctx, span := c.Telemetry.Start(ctx, "run", trace.SpanKindInternal, telemetry.KeyRun.String(c.Run.Name),
		telemetry.KeyTeam.String(team), telemetry.KeyNamespace.String(c.Run.Namespace))
	return &spans{tel: c.Telemetry, run: span, parent: context.WithoutCancel(ctx), steps: map[string]*stepSpan{}, traceID: telemetry.TraceID(ctx)}
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
		open = &stepSpan{}
		open.ctx, open.span = s.tel.Start(s.parent, "step", trace.SpanKindInternal, telemetry.KeyStep.String(step), telemetry.KeyAgent.String(agent))
		s.steps[step] = open
	}
	return trace.ContextWithSpan(ctx, trace.SpanFromContext(open.ctx))
}

// follow ends the spans of steps that are done.
func (s *spans) follow(status v1alpha1.ArkRunStatus) {
	for i := range status.Steps {
		step := &status.Steps[i]
		open := s.steps[step.Name]
		if open == nil || !step.Phase.Terminal() {
			continue
		}
		delete(s.steps, step.Name)
		open.span.SetUsage(usage(step.TokenUsage))
		if step.Phase == v1alpha1.StepFailed || step.Phase == v1alpha1.StepCancelled {
			reason := step.Reason
			if reason == "" {
				reason = string(step.Phase)
			}
			open.span.End(reason, step.Message)
		} else {
			open.span.End("", "")
		}
	}
}

// close ends all spans; end is the run's, nil when it goes on elsewhere.
func (s *spans) close(end *v1alpha1.ArkRunStatus) {
	if end != nil {
		s.follow(*end)
	}
	for step, open := range s.steps {
		delete(s.steps, step)
		open.span.End("", "")
	}
	switch {
	case end == nil:
		s.run.Note("the run goes on in another process")
		s.run.End("", "")
	case end.Phase == v1alpha1.RunSucceeded:
		s.run.SetUsage(usage(end.TotalTokenUsage))
		s.run.End("", "")
	default:
		s.run.SetUsage(usage(end.TotalTokenUsage))
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
