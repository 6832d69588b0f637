package runs

import (
	"context"
	"fmt"

	"golang.org/x/time/rate"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/runner"
)

// announcer tells of runs and steps in Kubernetes Events. They are for people and decide nothing: when there are too many
// of one run, or of all, some are dropped: of all, only those that tell of nothing wrong.
type announcer struct {
	clients     *kube.Clients
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
	normal      *rate.Limiter
}

const (
	// eventsPerRun bounds the Events of one run, eventRefill is how many more it gets per second.
	eventsPerRun = 15
	eventRefill  = 1.0 / 60
	// eventsPerStatus bounds the Events of steps from one status to the next.
	eventsPerStatus = 8
	maxEventMessage = 1000 // bytes
	// normalPerSecond and normalAtOnce bound the Events of all runs that tell of nothing wrong.
	normalPerSecond, normalAtOnce = 10, 200
)

func newAnnouncer(c *kube.Clients) *announcer {
	b := record.NewBroadcasterWithCorrelatorOptions(record.CorrelatorOptions{BurstSize: eventsPerRun, QPS: eventRefill})
	scheme := runtime.NewScheme()
	_ = v1alpha1.AddToScheme(scheme) // it never fails
	return &announcer{
		clients: c, broadcaster: b, recorder: b.NewRecorder(scheme, corev1.EventSource{Component: "ark"}),
		normal: rate.NewLimiter(normalPerSecond, normalAtOnce),
	}
}

func (a *announcer) run(ctx context.Context) {
	w := a.broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: a.clients.Core.CoreV1().Events("")})
	<-ctx.Done()
	w.Stop()
	a.broadcaster.Shutdown()
}

// announcement is one Event.
type announcement struct{ kind, reason, message string }

// tell announces what has changed from one status of a run to the next. It does not wait.
func (a *announcer) tell(run *v1alpha1.ArkRun, old, now *v1alpha1.ArkRunStatus) {
	for _, n := range news(old, now) {
		if n.kind != corev1.EventTypeNormal || a.normal.Allow() {
			a.recorder.Event(run, n.kind, n.reason, n.message)
		}
	}
}

// news is what has changed from one status to the next, as far as people want to hear of it.
func news(old, now *v1alpha1.ArkRunStatus) []announcement {
	var out []announcement
	if old.Phase == "" && now.Phase == v1alpha1.RunRunning {
		out = append(out, announcement{corev1.EventTypeNormal, "Started", "the run has started"})
	}
	before := make(map[string]v1alpha1.StepPhase, len(old.Steps))
	for i := range old.Steps {
		before[old.Steps[i].Name] = old.Steps[i].Phase
	}
	var wrong, well []announcement
	for i := range now.Steps {
		s := &now.Steps[i]
		n, tell := stepNews(s)
		switch {
		case before[s.Name] == s.Phase || !tell:
		case n.kind == corev1.EventTypeWarning:
			wrong = append(wrong, n)
		default:
			well = append(well, n)
		}
	}
	steps := append(wrong, well...)
	out = append(out, steps[:min(eventsPerStatus, len(steps))]...)
	if now.Phase.Terminal() && old.Phase != now.Phase {
		out = append(out, endNews(now))
	}
	return out
}

func stepNews(s *v1alpha1.StepStatus) (n announcement, tell bool) {
	text := "step " + s.Name
	switch s.Phase {
	case v1alpha1.StepSucceeded:
		if s.TokenUsage != nil {
			text += fmt.Sprintf(" succeeded with %d tokens", s.TokenUsage.TotalTokens)
		} else {
			text += " succeeded"
		}
		return announcement{corev1.EventTypeNormal, "StepSucceeded", text}, true
	case v1alpha1.StepFailed:
		return announcement{corev1.EventTypeWarning, "StepFailed", short(fmt.Sprintf("%s failed (%s): %s", text, s.Reason, s.Message))}, true
	case v1alpha1.StepWaiting:
		return announcement{corev1.EventTypeNormal, "StepWaiting", short(fmt.Sprintf("%s waits: %s", text, s.Message))}, true
	case v1alpha1.StepRunning:
		return announcement{corev1.EventTypeNormal, "StepStarted", text + " was given to agent " + s.Agent}, s.Agent != ""
	default:
		return announcement{}, false
	}
}

func endNews(now *v1alpha1.ArkRunStatus) announcement {
	tokens := int64(0)
	if now.TotalTokenUsage != nil {
		tokens = now.TotalTokenUsage.TotalTokens
	}
	if now.Phase == v1alpha1.RunSucceeded {
		return announcement{corev1.EventTypeNormal, string(now.Phase), fmt.Sprintf("the run succeeded in %s with %d tokens", now.Duration, tokens)}
	}
	reason := runner.EndReason(now)
	if reason == "" {
		reason = string(now.Phase)
	}
	return announcement{corev1.EventTypeWarning, reason, short(fmt.Sprintf("the run ended as %s: %s", now.Phase, now.Message))}
}

func short(s string) string {
	if len(s) <= maxEventMessage {
		return s
	}
	return string([]rune(s[:maxEventMessage-4])) + " ..."
}
