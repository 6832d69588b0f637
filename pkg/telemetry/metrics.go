package telemetry

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
)

// instruments are the metrics of an agent. Names under gen_ai.* are those of the semantic conventions.
type instruments struct {
	chatDuration metric.Float64Histogram
	chatTokens   metric.Int64Histogram
	toolDuration metric.Float64Histogram
	taskDuration metric.Float64Histogram
	queueWait    metric.Float64Histogram
	unknownCalls metric.Int64Counter
	refusals     metric.Int64Counter
	takeOvers    metric.Int64Counter
	reconcile    metric.Float64Histogram
}

func newInstruments(m metric.Meter) (*instruments, error) {
	var i instruments
	var errs [9]error
	seconds := metric.WithUnit("s")
	i.chatDuration, errs[0] = m.Float64Histogram("gen_ai.client.operation.duration", seconds,
		metric.WithDescription("Duration of model calls"),
		metric.WithExplicitBucketBoundaries(0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92))
	i.chatTokens, errs[1] = m.Int64Histogram("gen_ai.client.token.usage", metric.WithUnit("{token}"),
		metric.WithDescription("Tokens used by model calls"),
		metric.WithExplicitBucketBoundaries(1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304))
	i.toolDuration, errs[2] = m.Float64Histogram("ark.tool.duration", seconds, metric.WithDescription("Duration of tool calls"))
	i.taskDuration, errs[3] = m.Float64Histogram("ark.task.duration", seconds,
		metric.WithDescription("Duration of tasks, from the take-over to the stored result"))
	i.queueWait, errs[4] = m.Float64Histogram("ark.task.queue_wait", seconds,
		metric.WithDescription("Time from a task's creation to its first take-over"))
	i.unknownCalls, errs[5] = m.Int64Counter("ark.llm.calls_unknown",
		metric.WithDescription("Model calls whose outcome is unknown; each was charged in full"))
	i.refusals, errs[6] = m.Int64Counter("ark.budget.refused", metric.WithDescription("Model calls that a budget refused"))
	i.takeOvers, errs[7] = m.Int64Counter("ark.task.take_overs",
		metric.WithDescription("Tasks taken over from another pod or an earlier life"))
	i.reconcile, errs[8] = m.Float64Histogram("ark.controller.reconcile.duration", seconds,
		metric.WithDescription("Duration of reconciles"))
	return &i, errors.Join(errs[:]...)
}

func (t *Telemetry) recordChat(ctx context.Context, c Chat, e ChatEnd, took time.Duration) {
	if t == nil {
		return
	}
	base := []attribute.KeyValue{keyOperation.String(c.Operation), keyProvider.String(c.Provider), keyRequestModel.String(c.Model)}
	duration := base
	if e.ErrorType != "" {
		duration = append(slices.Clip(duration), keyErrorType.String(e.ErrorType))
	}
	t.metrics.chatDuration.Record(ctx, took.Seconds(), metric.WithAttributes(duration...))
	if e.Usage == (Usage{}) {
		return
	}
	for kind, n := range map[string]int64{"input": e.Usage.Input, "output": e.Usage.Output} {
		attributes := append(slices.Clip(base), keyTokenType.String(kind))
		t.metrics.chatTokens.Record(ctx, n, metric.WithAttributes(attributes...))
	}
}

func (t *Telemetry) recordTool(ctx context.Context, name, errorType string, took time.Duration) {
	if t == nil {
		return
	}
	attributes := []attribute.KeyValue{keyToolName.String(name)}
	if errorType != "" {
		attributes = append(attributes, keyErrorType.String(errorType))
	}
	t.metrics.toolDuration.Record(ctx, took.Seconds(), metric.WithAttributes(attributes...))
}

// TaskTaken records the take-over of a task: how long it waited in the queue, or that an earlier attempt at it ended
// without a result.
func (t *Telemetry) TaskTaken(ctx context.Context, agent string, waited time.Duration, again bool) {
	if t == nil {
		return
	}
	attributes := metric.WithAttributes(keyAgentName.String(agent))
	if again {
		t.metrics.takeOvers.Add(ctx, 1, attributes)
		return
	}
	t.metrics.queueWait.Record(ctx, waited.Seconds(), attributes)
}

// TaskDone records a task whose result is stored. Outcome is its status or, failed, its code.
func (t *Telemetry) TaskDone(ctx context.Context, agent, outcome string, took time.Duration) {
	if t == nil {
		return
	}
	t.metrics.taskDuration.Record(ctx, took.Seconds(),
		metric.WithAttributes(keyAgentName.String(agent), keyOutcome.String(outcome)))
}

// CallUnknown counts model calls whose outcome nobody knows.
func (t *Telemetry) CallUnknown(ctx context.Context, agent string, n int) {
	if t == nil || n == 0 {
		return
	}
	t.metrics.unknownCalls.Add(ctx, int64(n), metric.WithAttributes(keyAgentName.String(agent)))
}

// BudgetRefused counts a model call that was not made because of a budget.
func (t *Telemetry) BudgetRefused(ctx context.Context, agent string) {
	if t == nil {
		return
	}
	t.metrics.refusals.Add(ctx, 1, metric.WithAttributes(keyAgentName.String(agent)))
}

// Memory is the state of what an agent remembers with, as metrics show it. The counts are those since its start.
type Memory struct {
	Healthy              bool
	Operations, Failures int64
}

// WatchMemory has the state of an agent's memory among the metrics, until the returned function is called.
func (t *Telemetry) WatchMemory(agent, backend string, state func() Memory) (stop func() error, err error) {
	if t == nil {
		return func() error { return nil }, nil
	}
	healthy, errHealthy := t.meter.Int64ObservableGauge("ark.memory.healthy",
		metric.WithDescription("1 while the agent's memory works, 0 from the first failure to the next operation that works"))
	operations, errOperations := t.meter.Int64ObservableCounter("ark.memory.operations",
		metric.WithDescription("Operations on the agent's memory, vectors included"))
	failures, errFailures := t.meter.Int64ObservableCounter("ark.memory.failures",
		metric.WithDescription("Operations on the agent's memory that failed"))
	if err := errors.Join(errHealthy, errOperations, errFailures); err != nil {
		return nil, err
	}
	attributes := metric.WithAttributes(keyAgentName.String(agent), keyBackend.String(backend))
	r, err := t.meter.RegisterCallback(func(_ context.Context, o metric.Observer) error {
		s := state()
		one := int64(0)
		if s.Healthy {
			one = 1
		}
		o.ObserveInt64(healthy, one, attributes)
		o.ObserveInt64(operations, s.Operations, attributes)
		o.ObserveInt64(failures, s.Failures, attributes)
		return nil
	}, healthy, operations, failures)
	if err != nil {
		return nil, err
	}
	return r.Unregister, nil
}

// Reconciled records a reconcile of a controller.
func (t *Telemetry) Reconciled(ctx context.Context, controller string, took time.Duration, err error) {
	if t == nil {
		return
	}
	attributes := []attribute.KeyValue{keyController.String(controller)}
	if err != nil {
		attributes = append(attributes, keyErrorType.String("reconcile"))
	}
	t.metrics.reconcile.Record(ctx, took.Seconds(), metric.WithAttributes(attributes...))
}
