// Package trigger is how a run is asked for: what a manual trigger looks like, how runs are named after what triggered
// them, and what an ArkEvent says of what became of it. It is pure; whoever triggers and whoever acts on it share it.
package trigger

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/template"
)

// Request asks for one run of a team, or of an agent.
type Request struct {
	Namespace string
	// Exactly one of Team and Agent is set.
	Team, Agent string
	// Input of a run of a team, as JSON values.
	Input map[string]any
	// Prompt of a run of an agent; for a team it is the input prompt.
	Prompt string
	// ID tells this request from others, such as a UUID: the same one never makes a second run.
	ID string
	// Traceparent is the trace that the run belongs to, as a W3C header; empty to begin one.
	Traceparent string
}

const manualInfix = "-manual-"

// Manual makes the ArkEvent that carries a request out once. The same request has the same name: an event that is there
// already is the same trigger, sent again.
func Manual(r Request) (*v1alpha1.ArkEvent, error) {
	target := v1alpha1.EventTarget{Team: r.Team, Agent: r.Agent}
	name := r.Team + r.Agent
	switch {
	case (r.Team == "") == (r.Agent == ""):
		return nil, errors.New("trigger: name a team or an agent, and not both")
	case r.ID == "":
		return nil, errors.New("trigger: the request has no id")
	case r.Agent != "" && len(r.Input) > 0:
		return nil, fmt.Errorf("trigger: the agent %s takes a prompt and no inputs", r.Agent)
	case r.Agent != "" && r.Prompt == "":
		return nil, fmt.Errorf("trigger: the agent %s needs a prompt", r.Agent)
	}
	input := map[string]any{}
	maps.Copy(input, r.Input)
	if r.Team != "" && r.Prompt != "" {
		input[promptInput] = r.Prompt
	}
	if r.Agent != "" {
		target.Prompt = r.Prompt
	}
	for key, value := range input {
		text, err := json.Marshal(value)
		if err != nil {
			return nil, fmt.Errorf("trigger: input %s: %w", key, err)
		}
		if target.Input == nil {
			target.Input = map[string]string{}
		}
		target.Input[key] = string(text)
	}
	event := &v1alpha1.ArkEvent{
		TypeMeta: metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion().String(), Kind: "ArkEvent"},
		ObjectMeta: metav1.ObjectMeta{
			Name: manualName(name, r.ID), Namespace: r.Namespace, Annotations: map[string]string{v1alpha1.AnnotationInput: v1alpha1.InputJSON},
		},
		Spec: v1alpha1.ArkEventSpec{Source: v1alpha1.EventSource{Type: v1alpha1.EventManual}, Targets: []v1alpha1.EventTarget{target}},
	}
	if r.Traceparent != "" {
		event.Annotations[v1alpha1.AnnotationTrace] = r.Traceparent
	}
	return event, nil
}

// promptInput is the input that a target's prompt is for a team.
const promptInput = "prompt"

func manualName(target, id string) string {
	const most, least = 10, 6
	digits := min(most, v1alpha1.MaxNameLength-len(target)-len(manualInfix))
	if digits < least {
		target, digits = target[:v1alpha1.MaxNameLength-len(manualInfix)-most], most
	}
	return target + manualInfix + digest("manual", target, id)[:digits]
}

// Outcome is what became of a manual event: the name of its run, or the condition that says why there is none. Both are
// empty while nothing is decided.
func Outcome(e *v1alpha1.ArkEvent) (run string, refused *metav1.Condition) {
	if len(e.Status.LastRuns) > 0 {
		return e.Status.LastRuns[0].Name, nil
	}
	for i := range e.Status.Conditions {
		if c := &e.Status.Conditions[i]; c.Type == v1alpha1.ConditionReady && c.Status == metav1.ConditionFalse {
			return "", c
		}
	}
	return "", nil
}

// ID names one firing of one target of an event. key tells firings apart; it is what makes a repeated one the same.
func ID(eventUID, key string, target int) string {
	return eventUID + "/" + digest("key", key)[:32] + "/" + strconv.Itoa(target)
}

// RunName is the name of the run of a trigger. salt is 0, and counts on when another run has the name.
func RunName(target, id string, salt int) string {
	if len(target) > v1alpha1.MaxTeamNameLength {
		target = target[:v1alpha1.MaxTeamNameLength]
	}
	return v1alpha1.RunName(target, digest("run", id, strconv.Itoa(salt)))
}

// Traceparent begins a trace for a trigger that brought none, the same one whenever it is derived.
func Traceparent(id string) string {
	sum := digest("trace", id)
	return "00-" + sum[:32] + "-" + sum[32:48] + "-01"
}

// Render makes the input or the prompt of a target. Each value is a template over what the trigger brought; one that is a
// single action keeps its type. An event that carries JSON (v1alpha1.InputJSON) is taken as it is.
func Render(e *v1alpha1.ArkEvent, t *v1alpha1.EventTarget, data map[string]any) (input map[string]any, prompt string, err error) {
	literal := e.Annotations[v1alpha1.AnnotationInput] == v1alpha1.InputJSON
	input = make(map[string]any, len(t.Input)+1)
	for key, text := range t.Input {
		if literal {
			input[key], err = (v1alpha1.Value{Raw: []byte(text)}).Decode()
		} else {
			input[key], err = render("input "+key, text, data)
		}
		if err != nil {
			return nil, "", fmt.Errorf("input %s: %w", key, err)
		}
	}
	prompt = t.Prompt
	if !literal && prompt != "" {
		value, err := render("prompt", prompt, data)
		if err != nil {
			return nil, "", err
		}
		prompt = fmt.Sprint(value)
	}
	if t.Team != "" && prompt != "" {
		input[promptInput] = prompt
	}
	return input, prompt, nil
}

func render(name, text string, data map[string]any) (any, error) {
	t, err := template.Parse(name, text)
	if err != nil {
		return nil, err
	}
	return t.Value(data)
}

// Data is what the templates of an event see of a trigger that brought no body.
func Data(e *v1alpha1.ArkEvent, fired time.Time) map[string]any {
	return map[string]any{"trigger": map[string]any{"name": e.Name, "firedAt": fired.UTC().Format(time.RFC3339)}}
}

// Firing is a trigger that was accepted: everything that it takes to make its run, but the snapshot of the team.
type Firing struct {
	Version   int    `json:"v"`
	Namespace string `json:"namespace"`
	Event     string `json:"event"`
	EventUID  string `json:"eventUID"`
	ID        string `json:"id"`
	Run       string `json:"run"` // its name

	Kind    v1alpha1.TriggerKind `json:"kind"`
	FiredAt time.Time            `json:"firedAt"`
	Hops    int32                `json:"hops,omitempty"`

	Team  string          `json:"team,omitempty"`
	Agent string          `json:"agent,omitempty"`
	Input v1alpha1.Values `json:"input,omitempty"`

	Prompt      string `json:"prompt,omitempty"`
	Traceparent string `json:"traceparent"`
}

// Version of a Firing that this build writes.
const Version = 1

// Target is the team or agent that is fired.
func (f *Firing) Target() string { return f.Team + f.Agent }

// Trigger is how the run's spec names the firing.
func (f *Firing) Trigger() v1alpha1.Trigger {
	at := metav1.NewMicroTime(f.FiredAt)
	return v1alpha1.Trigger{Kind: f.Kind, Name: f.Event, ID: f.ID, FiredAt: &at, Hops: f.Hops}
}

func digest(parts ...string) string {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return hex.EncodeToString(h.Sum(nil))
}
