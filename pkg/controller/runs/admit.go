package runs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller"
	"arkonis.dev/ark/pkg/controller/teamspec"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/runner"
)

// inlineSnapshot is the size in bytes above which the snapshot of a run that was applied without one goes to the payload
// store: it shares the status with the steps.
const inlineSnapshot = 16 << 10

// maxSnapshot bounds what is read back of a snapshot, in bytes.
const maxSnapshot = 16 << 20

// refusal is why a run cannot start.
type refusal struct{ reason, message string }

// admit returns a run as it is now and the spec that it is driven with. What has to be the same for every process that
// ever drives it is committed before: when it began, for a run that was applied without one the snapshot of its team, and
// what a retry takes over. run is nil when the run cannot start; its end is committed then.
func (c *Controller) admit(ctx context.Context, run *v1alpha1.ArkRun, now time.Time) (*v1alpha1.ArkRun, *v1alpha1.ArkRunSpec, error) {
	// It comes first, as the object is small yet, and a run that cannot start is its team's too.
	run, err := c.adopt(ctx, run)
	if err != nil {
		return nil, nil, err
	}
	s, wrong, err := c.start(ctx, run, now)
	if err != nil {
		return nil, nil, err
	}
	if wrong != nil {
		return nil, nil, c.fail(ctx, run, wrong.reason, wrong.message, now)
	}
	spec := s.spec
	if startOf(run).IsZero() || s.resolved != nil || s.reused != nil {
		begun, err := c.commitStart(ctx, run, s, now)
		if refusal, ok := errors.AsType[refusedError](err); ok {
			return nil, nil, c.fail(ctx, run, v1alpha1.ReasonStatusRefused, "the run cannot start: "+refusal.Error(), now)
		}
		if err != nil || begun.Status.Phase.Terminal() {
			return nil, nil, err
		}
		run = begun
		if s.resolved != nil {
			// Another process may have been faster: what stands in the status now is what counts.
			if spec, _, _, err = c.specOf(ctx, run, nil); err != nil {
				return nil, nil, err
			}
		}
	}
	return run, spec, nil
}

// start is what a run begins with. resolved and reused are nil when nothing of them is to be committed.
type start struct {
	spec     *v1alpha1.ArkRunSpec
	resolved *v1alpha1.ResolvedRun
	reused   *v1alpha1.ReusedResults
}

func (c *Controller) start(ctx context.Context, run *v1alpha1.ArkRun, now time.Time) (s start, wrong *refusal, err error) {
	old, wrong, err := c.earlierOf(ctx, run)
	if wrong != nil || err != nil {
		return s, wrong, err
	}
	if s.spec, s.resolved, wrong, err = c.specOf(ctx, run, old); wrong != nil || err != nil {
		return s, wrong, err
	}
	s.reused, wrong, err = c.takeOver(ctx, run, s.spec, old, now)
	return s, wrong, err
}

// specOf is the spec that a run is driven with: its own, or the snapshot in its status, or a new one, which is then
// returned as resolved and has to be committed.
func (c *Controller) specOf(ctx context.Context, run *v1alpha1.ArkRun, old *earlier) (spec *v1alpha1.ArkRunSpec, resolved *v1alpha1.ResolvedRun, wrong *refusal, err error) {
	if ref := run.Spec.AgentRef; ref != nil && startOf(run).IsZero() {
		if wrong, err = c.agentThere(ctx, run.Namespace, ref.Name); wrong != nil || err != nil {
			return nil, nil, wrong, err
		}
	}
	if hasSnapshot(&run.Spec) {
		return &run.Spec, nil, nil, nil
	}
	if r := run.Status.Resolved; r != nil {
		spec, err := c.readSnapshot(ctx, r)
		if spec != nil || err != nil {
			return spec, nil, nil, err
		}
		c.log.WarnContext(ctx, "the snapshot of a run is lost, it is taken anew", "run", controller.KeyOf(run).String())
	}
	input, err := inputOf(run, old)
	if err != nil {
		return nil, nil, &refusal{v1alpha1.ReasonInvalidInput, err.Error()}, nil
	}
	trigger := v1alpha1.Trigger{}
	if run.Spec.Trigger != nil {
		trigger = *run.Spec.Trigger
	}
	spec, wrong, err = c.snapshot(ctx, run.Namespace, run.Spec.TeamRef.Name, input, trigger)
	if wrong != nil || err != nil {
		return nil, nil, wrong, err
	}
	spec.Parent, spec.RetryOf = run.Spec.Parent, run.Spec.RetryOf
	if t := run.Spec.TimeoutSeconds; t > 0 {
		spec.TimeoutSeconds = t
	}
	if n := run.Spec.MaxTokens; n > 0 {
		spec.MaxTokens = n
	}
	if run.Spec.Trigger == nil {
		spec.Trigger = nil
	}
	resolved, err = c.storeSnapshot(ctx, string(run.UID), spec)
	return spec, resolved, nil, err
}

// agentThere refuses a run of an agent that does not exist.
func (c *Controller) agentThere(ctx context.Context, namespace, name string) (*refusal, error) {
	if _, ok := c.cfg.Cache.Agents.Get(namespace, name); ok {
		return nil, nil
	}
	_, err := c.cfg.Clients.Agents(namespace).Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return &refusal{v1alpha1.ReasonAgentNotFound, fmt.Sprintf("there is no ArkAgent %q in the namespace %s", name, namespace)}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read agent %s: %w", name, err)
	}
	return nil, nil
}

// readSnapshot returns nil for a snapshot that the payload store has lost.
func (c *Controller) readSnapshot(ctx context.Context, r *v1alpha1.ResolvedRun) (*v1alpha1.ArkRunSpec, error) {
	if r.Spec != nil {
		return r.Spec, nil
	}
	if r.Ref == nil {
		return nil, nil
	}
	text, err := c.cfg.Queue.Text(ctx, runner.StoredText(r.Ref), maxSnapshot)
	if errors.Is(err, queue.ErrNoPayload) || errors.Is(err, queue.ErrCorrupt) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the snapshot: %w", err)
	}
	spec := &v1alpha1.ArkRunSpec{}
	if err := json.Unmarshal([]byte(text), spec); err != nil {
		return nil, fmt.Errorf("read the snapshot: %w", err)
	}
	return spec, nil
}

func (c *Controller) storeSnapshot(ctx context.Context, uid string, spec *v1alpha1.ArkRunSpec) (*v1alpha1.ResolvedRun, error) {
	body, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("store the snapshot: %w", err)
	}
	if len(body) <= inlineSnapshot {
		return &v1alpha1.ResolvedRun{Spec: spec}, nil
	}
	ref, err := c.cfg.Queue.PutPayload(ctx, uid, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("store the snapshot: %w", err)
	}
	return &v1alpha1.ResolvedRun{Ref: refOf(ref)}, nil
}

// snapshot takes a team as it is now.
func (c *Controller) snapshot(ctx context.Context, namespace, team string, input map[string]any, trigger v1alpha1.Trigger) (*v1alpha1.ArkRunSpec, *refusal, error) {
	spec, wrong, err := teamspec.Snapshot(ctx, c.cfg.Cache, c.cfg.Clients, namespace, team, input, trigger)
	if wrong != nil {
		return nil, &refusal{wrong.Reason, wrong.Message}, nil
	}
	return spec, nil, err
}

// commitStart writes when a run began, its snapshot if it has one of its own, and what it has taken over.
func (c *Controller) commitStart(ctx context.Context, run *v1alpha1.ArkRun, s start, now time.Time) (*v1alpha1.ArkRun, error) {
	status := run.Status
	status.Phase, status.Resolved, status.ObservedGeneration = v1alpha1.RunRunning, s.resolved, run.Generation
	if s.reused != nil {
		status.Reused = s.reused
	}
	began := startOf(run)
	if began.IsZero() {
		began = now.Truncate(time.Microsecond)
	}
	start := metav1.NewMicroTime(began)
	status.StartTime, status.TraceID = &start, traceID(run)
	status.Conditions = conditions(run, metav1.ConditionFalse, "Running", "", began)
	return c.writeStatus(ctx, run, status)
}

// adopt gives a run that somebody applied by hand what ark's own runs have: labels, the owner with which it goes, and
// the trace. What is there already stays.
func (c *Controller) adopt(ctx context.Context, run *v1alpha1.ArkRun) (*v1alpha1.ArkRun, error) {
	labels, annotations := map[string]string{}, map[string]string{}
	owners := run.OwnerReferences
	switch spec := &run.Spec; {
	case spec.AgentRef != nil:
		labels[v1alpha1.LabelAgent] = spec.AgentRef.Name
		if agent, ok := c.cfg.Cache.Agents.Get(run.Namespace, spec.AgentRef.Name); ok && metav1.GetControllerOf(run) == nil {
			owners = append(slices.Clip(owners), kube.Controlled("ArkAgent", agent)...)
		}
	case spec.TeamRef != nil:
		labels[v1alpha1.LabelTeam] = spec.TeamRef.Name
		if team, ok := c.cfg.Cache.Teams.Get(run.Namespace, spec.TeamRef.Name); ok && metav1.GetControllerOf(run) == nil {
			owners = append(slices.Clip(owners), kube.Controlled("ArkTeam", team)...)
		}
	}
	if run.Annotations[v1alpha1.AnnotationTrace] == "" {
		annotations[v1alpha1.AnnotationTrace] = traceparent(run)
	}
	if run.Annotations[v1alpha1.AnnotationStore] == "" {
		annotations[v1alpha1.AnnotationStore] = c.cfg.Queue.StoreID()
	}
	complete := len(annotations) == 0 && len(owners) == len(run.OwnerReferences)
	for k, v := range labels {
		complete = complete && run.Labels[k] == v
	}
	if complete {
		return run, nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": run.UID, "resourceVersion": run.ResourceVersion, "labels": labels, "annotations": annotations, "ownerReferences": owners,
	}})
	if err != nil {
		return nil, err
	}
	now, err := c.cfg.Clients.Runs(run.Namespace).Patch(ctx, run.Name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: kube.FieldManager})
	switch {
	case apierrors.IsNotFound(err):
		return nil, errGone
	case err != nil:
		return nil, fmt.Errorf("label %s: %w", kube.Describe(kind, run.Namespace, run.Name), err)
	}
	return now, nil
}

// traceparent is the trace of a run: the one in its annotation, or one that is derived from it, the same for every process.
func traceparent(run *v1alpha1.ArkRun) string {
	if parent := run.Annotations[v1alpha1.AnnotationTrace]; parent != "" {
		return parent
	}
	sum := sha256.Sum256([]byte("trace of run " + string(run.UID)))
	return "00-" + hex.EncodeToString(sum[:16]) + "-" + hex.EncodeToString(sum[16:24]) + "-01"
}

func traceID(run *v1alpha1.ArkRun) string {
	const from, to = 3, 35
	if parent := traceparent(run); len(parent) > to {
		return parent[from:to]
	}
	return ""
}

// fail ends a run that cannot start.
func (c *Controller) fail(ctx context.Context, run *v1alpha1.ArkRun, reason, message string, now time.Time) error {
	began := startOf(run)
	if began.IsZero() {
		began = now
	}
	start, end := metav1.NewMicroTime(began), metav1.NewMicroTime(now)
	status := v1alpha1.ArkRunStatus{
		ObservedGeneration: run.Generation, Phase: v1alpha1.RunFailed, Resolved: run.Status.Resolved, StartTime: &start, CompletionTime: &end,
		Duration: pipeline.Duration(now.Sub(began)), Message: clip(message), TraceID: traceID(run),
		Conditions: conditions(run, metav1.ConditionTrue, reason, clip(message), now),
	}
	now2, err := c.writeStatus(ctx, run, status)
	if err != nil {
		return err
	}
	c.voice.tell(run, &run.Status, &now2.Status)
	c.log.InfoContext(ctx, "run cannot start", "run", controller.KeyOf(run).String(), "reason", reason, "message", message)
	if run.Spec.Parent != nil {
		return c.tellParent(ctx, now2)
	}
	return nil
}

// maxMessage bounds a message of a status, in bytes.
const maxMessage = 4000

func clip(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	return string([]rune(s[:maxMessage-8])) + " ..."
}

// conditions are those of a run that has not succeeded.
func conditions(run *v1alpha1.ArkRun, complete metav1.ConditionStatus, reason, message string, at time.Time) []metav1.Condition {
	one := func(kind string, status metav1.ConditionStatus) metav1.Condition {
		return metav1.Condition{
			Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: run.Generation, LastTransitionTime: metav1.NewTime(at),
		}
	}
	return []metav1.Condition{one(v1alpha1.ConditionReady, metav1.ConditionFalse), one(v1alpha1.ConditionComplete, complete)}
}
