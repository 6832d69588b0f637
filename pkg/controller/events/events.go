// Package events acts on ArkEvents: it fires manual ones, once, and removes them after a while. To fire is to accept a
// trigger: it is stored durably under its idempotency key before the event says so, and a run is made of it by the team
// controller.
package events

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller"
	"arkonis.dev/ark/pkg/controller/teamspec"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runner"
	"arkonis.dev/ark/pkg/telemetry"
	"arkonis.dev/ark/pkg/trigger"
)

// manualKey is the idempotency key of a manual event, which fires once.
const manualKey = "manual"

// Config is what the controller works with. Observe and Telemetry may be left out.
type Config struct {
	Clients *kube.Clients
	Cache   *kube.Cache
	Queue   *queue.Queue
	// Kept is how long a manual event is there after it was made.
	Kept      time.Duration
	Workers   int
	Logger    *slog.Logger
	Observe   controller.Observer
	Telemetry *telemetry.Telemetry
}

// Events is the controller.
type Events struct {
	*controller.Controller
	cfg Config
	log *slog.Logger
}

// New makes the controller. It registers with the cache.
func New(c Config) (*Events, error) {
	e := &Events{cfg: c, log: c.Logger.With("controller", "events")}
	e.Controller = controller.New("events", c.Workers, e.reconcile, c.Logger, c.Observe)
	err := c.Cache.Events.OnChange(func(old, now *v1alpha1.ArkEvent) {
		if now != nil && (old == nil || old.UID != now.UID || old.Generation != now.Generation) {
			e.Add(controller.KeyOf(now))
		}
	})
	if err != nil {
		return nil, fmt.Errorf("events: %w", err)
	}
	return e, nil
}

func (e *Events) reconcile(ctx context.Context, key controller.Key) (controller.Result, error) {
	event, ok := e.cfg.Cache.Events.Get(key.Namespace, key.Name)
	if !ok || event.DeletionTimestamp != nil || event.Spec.Source.Type != v1alpha1.EventManual {
		return controller.Result{}, nil
	}
	now := time.Now()
	left := event.CreationTimestamp.Add(e.cfg.Kept).Sub(now)
	if left <= 0 {
		return controller.Result{}, e.remove(ctx, event)
	}
	if !decided(&event.Status) {
		status, err := e.fire(ctx, event, now)
		if err != nil {
			return controller.Result{}, err
		}
		changed := event.DeepCopy()
		changed.Status = status
		if _, err := kube.UpdateStatus(ctx, e.cfg.Clients.Events(key.Namespace), "ArkEvent", changed); err != nil && !apierrors.IsNotFound(err) {
			return controller.Result{}, err
		}
	}
	return controller.Result{After: left}, nil
}

// decided says whether a manual event has fired, or was refused for good.
func decided(s *v1alpha1.ArkEventStatus) bool { return s.FiredCount > 0 || s.SkippedCount > 0 }

func (e *Events) remove(ctx context.Context, event *v1alpha1.ArkEvent) error {
	uid := event.UID
	err := e.cfg.Clients.Events(event.Namespace).Delete(ctx, event.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove event %s: %w", event.Name, err)
	}
	return nil
}

// fire accepts the trigger of each target, or none when one of them is refused. It can be repeated: what was accepted
// stays as it was.
func (e *Events) fire(ctx context.Context, event *v1alpha1.ArkEvent, now time.Time) (v1alpha1.ArkEventStatus, error) {
	if event.Spec.Suspended {
		return refused(event, &teamspec.Refusal{Reason: v1alpha1.ReasonSuspended, Message: "the event is suspended"}, now), nil
	}
	firings := make([]trigger.Firing, 0, len(event.Spec.Targets))
	for i := range event.Spec.Targets {
		f, wrong, err := e.firing(ctx, event, i, now)
		if err != nil {
			return v1alpha1.ArkEventStatus{}, err
		}
		if wrong != nil {
			return refused(event, wrong, now), nil
		}
		firings = append(firings, *f)
	}
	status := fired(event, now)
	for i := range firings {
		f, err := e.accept(ctx, &firings[i], i)
		if errors.Is(err, queue.ErrTooLarge) {
			return refused(event, &teamspec.Refusal{Reason: v1alpha1.ReasonInvalidInput, Message: "the input is too large for a trigger: " + err.Error()}, now), nil
		}
		if err != nil {
			return status, err
		}
		at := metav1.NewTime(f.FiredAt)
		status.LastRuns = append(status.LastRuns, v1alpha1.EventRun{Name: f.Run, Target: f.Target(), FiredAt: &at})
	}
	return status, nil
}

// firing is what is accepted for one target, or why it is refused.
func (e *Events) firing(ctx context.Context, event *v1alpha1.ArkEvent, i int, now time.Time) (*trigger.Firing, *teamspec.Refusal, error) {
	target := &event.Spec.Targets[i]
	input, prompt, err := trigger.Render(event, target, trigger.Data(event, now))
	if err != nil {
		return nil, &teamspec.Refusal{Reason: v1alpha1.ReasonInvalidInput, Message: err.Error()}, nil
	}
	values, err := v1alpha1.NewValues(input)
	if err != nil {
		return nil, &teamspec.Refusal{Reason: v1alpha1.ReasonInvalidInput, Message: err.Error()}, nil
	}
	id := trigger.ID(string(event.UID), manualKey, i)
	f := &trigger.Firing{
		Version: trigger.Version, Namespace: event.Namespace, Event: event.Name, EventUID: string(event.UID), ID: id,
		Kind: v1alpha1.TriggerManual, FiredAt: now.Truncate(time.Microsecond), Team: target.Team, Agent: target.Agent,
		Traceparent: e.trace(ctx, event, id),
	}
	if target.Agent != "" {
		f.Prompt = prompt
		wrong, err := e.agentThere(ctx, event.Namespace, target.Agent)
		if wrong != nil || err != nil {
			return nil, wrong, err
		}
	} else {
		f.Input = values
		_, wrong, err := teamspec.Snapshot(ctx, e.cfg.Cache, e.cfg.Clients, event.Namespace, target.Team, input, f.Trigger())
		if wrong != nil || err != nil {
			return nil, wrong, err
		}
	}
	if f.Hops > runner.MaxHops {
		return nil, &teamspec.Refusal{Reason: v1alpha1.ReasonInvalidSpec, Message: "too many runs have led to this one"}, nil
	}
	f.Run, err = e.freeName(ctx, f)
	return f, nil, err
}

func (e *Events) agentThere(ctx context.Context, namespace, name string) (*teamspec.Refusal, error) {
	_, err := e.cfg.Clients.Agents(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return &teamspec.Refusal{Reason: v1alpha1.ReasonAgentNotFound, Message: fmt.Sprintf("there is no ArkAgent %q in the namespace %s", name, namespace)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read agent %s: %w", name, err)
	}
	return nil, nil
}

// freeName is the name of the run of a firing: the first one that no run of another trigger has.
func (e *Events) freeName(_ context.Context, f *trigger.Firing) (string, error) {
	for salt := range maxSalt {
		name := trigger.RunName(f.Target(), f.ID, salt)
		run, ok := e.cfg.Cache.Runs.Get(f.Namespace, name)
		if !ok || run.Spec.Trigger != nil && run.Spec.Trigger.ID == f.ID {
			return name, nil
		}
	}
	return "", fmt.Errorf("trigger %s: no name for its run is free", f.ID)
}

const maxSalt = 8

// trace is the trace of a firing: a span below that of whoever triggered.
func (e *Events) trace(ctx context.Context, event *v1alpha1.ArkEvent, id string) string {
	parent := event.Annotations[v1alpha1.AnnotationTrace]
	if parent != "" {
		ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": parent})
	}
	ctx, span := e.cfg.Telemetry.Start(ctx, "trigger", trace.SpanKindConsumer, telemetry.KeyNamespace.String(event.Namespace))
	defer span.End("", "")
	carrier := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, carrier)
	if now := carrier.Get("traceparent"); now != "" {
		return now
	}
	return trigger.Traceparent(id)
}

// accept stores a firing. What was stored before under its key is what counts.
func (e *Events) accept(ctx context.Context, f *trigger.Firing, target int) (*trigger.Firing, error) {
	body, err := json.Marshal(f)
	if err != nil {
		return nil, fmt.Errorf("accept trigger: %w", err)
	}
	stored, err := e.cfg.Queue.AcceptTrigger(ctx, f.Namespace, f.EventUID, manualKey+"/"+strconv.Itoa(target), body)
	if err != nil {
		return nil, err
	}
	accepted := &trigger.Firing{}
	if err := json.Unmarshal(stored, accepted); err != nil {
		return nil, fmt.Errorf("read accepted trigger: %w", err)
	}
	return accepted, nil
}

func fired(event *v1alpha1.ArkEvent, now time.Time) v1alpha1.ArkEventStatus {
	at := metav1.NewTime(now)
	return v1alpha1.ArkEventStatus{
		ObservedGeneration: event.Generation, FiredCount: 1, LastFiredAt: &at,
		Conditions: ready(event, metav1.ConditionTrue, v1alpha1.ReasonReconciled, "the event has fired", now),
	}
}

func refused(event *v1alpha1.ArkEvent, r *teamspec.Refusal, now time.Time) v1alpha1.ArkEventStatus {
	return v1alpha1.ArkEventStatus{
		ObservedGeneration: event.Generation, SkippedCount: 1,
		Conditions: ready(event, metav1.ConditionFalse, r.Reason, r.Message, now),
	}
}

func ready(event *v1alpha1.ArkEvent, status metav1.ConditionStatus, reason, message string, now time.Time) []metav1.Condition {
	return []metav1.Condition{{
		Type: v1alpha1.ConditionReady, Status: status, Reason: reason, Message: message, ObservedGeneration: event.Generation,
		LastTransitionTime: metav1.NewTime(now),
	}}
}
