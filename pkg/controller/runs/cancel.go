package runs

import (
	"context"
	"fmt"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/controller"
)

// A run is cancelled when somebody asks for it, and when what it belongs to is being removed: the removal of a team or of
// a namespace is not followed by calls that somebody pays for, however long it takes until the run itself is removed.

// cancel has the run of a drive end if it is to be cancelled.
func (c *Controller) cancel(ctx context.Context, d *drive, run *v1alpha1.ArkRun, now time.Time) error {
	if d.cancelling {
		return nil
	}
	reason, yes := cancelled(run)
	if !yes {
		var err error
		if reason, yes, err = c.doomed(ctx, run); err != nil {
			return err
		}
	}
	if yes {
		d.cancelling, d.changed = true, true
		d.live.Cancel(reason, now)
	}
	return nil
}

// cancelled says whether somebody asked for the end of a run, and why.
func cancelled(run *v1alpha1.ArkRun) (reason string, yes bool) {
	if run.Annotations[v1alpha1.AnnotationCancel] != "true" {
		return "", false
	}
	if reason = run.Annotations[v1alpha1.AnnotationCancelReason]; reason == "" {
		reason = "the run was cancelled (annotation " + v1alpha1.AnnotationCancel + ")"
	}
	return reason, true
}

// doomed says whether the namespace of a run is being removed, or, for a run below another one, the team that it is a run
// of. The other runs of a team are removed with it.
func (c *Controller) doomed(ctx context.Context, run *v1alpha1.ArkRun) (reason string, yes bool, err error) {
	if ns, ok := c.cfg.Cache.Namespaces.Get("", run.Namespace); ok && ns.DeletionTimestamp != nil {
		return fmt.Sprintf("the namespace %s is being removed", run.Namespace), true, nil
	}
	if run.Spec.Parent == nil || run.Spec.TeamRef == nil {
		return "", false, nil
	}
	name := run.Spec.TeamRef.Name
	reason = fmt.Sprintf("the ArkTeam %s was removed", name)
	if team, ok := c.cfg.Cache.Teams.Get(run.Namespace, name); ok {
		return reason, going(team), nil
	}
	team, err := c.cfg.Clients.Teams(run.Namespace).Get(ctx, name, metav1.GetOptions{}) // the cache may be behind
	switch {
	case c.cfg.Cache.Missing(ctx, run.Namespace, err):
		return reason, true, nil
	case err != nil:
		return "", false, fmt.Errorf("read team %s: %w", name, err)
	default:
		return reason, going(team), nil
	}
}

// going says that a team is being removed, and its runs with it.
func going(team *v1alpha1.ArkTeam) bool {
	return team.DeletionTimestamp != nil && !slices.Contains(team.Finalizers, metav1.FinalizerOrphanDependents)
}

// teamChanged enqueues the live runs of a team that is being removed.
func (c *Controller) teamChanged(old, now *v1alpha1.ArkTeam) {
	if now != nil && (!going(now) || old != nil && going(old)) {
		return
	}
	team := now
	if now == nil {
		team = old
	}
	c.addLive(team.Namespace, func(run *v1alpha1.ArkRun) bool {
		return run.Spec.TeamRef != nil && run.Spec.TeamRef.Name == team.Name
	})
}

// namespaceChanged enqueues the live runs of a namespace that is being removed.
func (c *Controller) namespaceChanged(old, now *metav1.PartialObjectMetadata) {
	if now == nil || now.DeletionTimestamp == nil || old != nil && old.DeletionTimestamp != nil {
		return
	}
	c.addLive(now.Name, func(*v1alpha1.ArkRun) bool { return true })
}

func (c *Controller) addLive(namespace string, which func(*v1alpha1.ArkRun) bool) {
	for _, run := range c.cfg.Cache.Runs.In(namespace) {
		if !run.Status.Phase.Terminal() && which(run) {
			c.loop.Add(controller.KeyOf(run))
		}
	}
}
