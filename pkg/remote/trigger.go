package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/trigger"
)

// RefusedError means that a trigger was recorded and no run is made, ever.
type RefusedError struct {
	Target, Reason, Message string
}

func (e *RefusedError) Error() string {
	text := fmt.Sprintf("trigger %s: refused (%s)", e.Target, e.Reason)
	if e.Message != "" {
		text += ": " + e.Message
	}
	return text
}

// UndecidedError means that something was recorded and that the operator has not answered yet. It still may.
type UndecidedError struct {
	Kind, Name string // of the object: an ArkEvent, which makes a run, or an ArkRun
	After      time.Duration
}

func (e *UndecidedError) Error() string {
	return fmt.Sprintf("%s %s is recorded, and ark's operator has not taken it up within %s: it runs when the operator does; see 'ark status', or take it back with 'kubectl delete %s %s'",
		e.Kind, e.Name, e.After.Round(time.Second), strings.ToLower(e.Kind), e.Name)
}

// Trigger records a trigger and returns its run, as it is when it was made. Sent again with the same id, it is the same
// trigger. What is too large for an event is recorded as the run itself. patience bounds the wait for the operator.
func (c *Cluster) Trigger(ctx context.Context, r trigger.Request, patience time.Duration) (*v1alpha1.ArkRun, error) {
	r.Namespace = c.Namespace
	target := r.Team + r.Agent
	input, err := json.Marshal(r.Input)
	if err != nil {
		return nil, fmt.Errorf("trigger %s: %w", target, err)
	}
	if size := len(input) + len(r.Prompt); size > eventInput {
		return c.triggerLarge(ctx, r, size, patience)
	}
	event, err := trigger.Manual(r)
	if err != nil {
		return nil, err
	}
	events := c.Clients.Events(c.Namespace)
	recorded, err := events.Create(ctx, event, metav1.CreateOptions{FieldManager: fieldManager})
	if apierrors.IsAlreadyExists(err) {
		recorded, err = events.Get(ctx, event.Name, metav1.GetOptions{})
	}
	if err != nil {
		return nil, c.explain(err, "trigger", target+" "+c.In())
	}
	waiting, cancel := context.WithTimeoutCause(ctx, patience, &UndecidedError{kindEvent, recorded.Name, patience})
	defer cancel()
	recorded, err = kube.Follow(waiting, events, recorded, func(e *v1alpha1.ArkEvent) bool {
		run, refused := trigger.Outcome(e)
		return run != "" || refused != nil
	})
	if err != nil {
		return nil, c.undecided(ctx, waiting, err, "trigger", target)
	}
	name, refused := trigger.Outcome(recorded)
	if refused != nil {
		return nil, &RefusedError{target, refused.Reason, refused.Message}
	}
	run, err := c.made(waiting, name)
	if err != nil {
		return nil, c.undecided(ctx, waiting, err, "trigger", target)
	}
	return run, nil
}

func (c *Cluster) undecided(ctx, waiting context.Context, err error, verb, target string) error {
	if late, ok := errors.AsType[*UndecidedError](context.Cause(waiting)); ok && ctx.Err() == nil {
		return late
	}
	return c.explain(err, verb, target+" "+c.In())
}

// made returns a run as soon as it is there.
func (c *Cluster) made(ctx context.Context, name string) (*v1alpha1.ArkRun, error) {
	runs := c.Clients.Runs(c.Namespace)
	for {
		run, err := runs.Get(ctx, name, metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return run, err
		}
		// A watch without a version begins with what is there: nothing is missed.
		w, err := runs.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", name).String()})
		if err != nil {
			return nil, err
		}
		select {
		case <-ctx.Done():
			w.Stop()
			return nil, context.Cause(ctx)
		case event := <-w.ResultChan():
			w.Stop()
			if run, ok := event.Object.(*v1alpha1.ArkRun); ok {
				return run, nil
			}
		}
	}
}

// Target finds what a name means: a team or an agent.
func (c *Cluster) Target(ctx context.Context, name string) (team *v1alpha1.ArkTeam, agent *v1alpha1.ArkAgent, err error) {
	team, err = c.Clients.Teams(c.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil && (!apierrors.IsNotFound(err) || notServed(err)) {
		return nil, nil, c.explain(err, "get", kindTeam+" "+name+" "+c.In())
	}
	isTeam := err == nil
	agent, err = c.Clients.Agents(c.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, nil, c.explain(err, "get", kindAgent+" "+name+" "+c.In())
	}
	isAgent := err == nil
	switch {
	case isTeam && isAgent:
		return nil, nil, fmt.Errorf("%q is a team and an agent %s: say which with --team %s or --agent %s", name, c.In(), name, name)
	case isTeam:
		return team, nil, nil
	case isAgent:
		return nil, agent, nil
	}
	teams, _ := c.names(ctx, kindTeam)
	agents, _ := c.names(ctx, kindAgent)
	return nil, nil, missing("team or agent", "namespace "+c.Namespace, name, append(teams, agents...))
}
