package agents

import (
	"context"
	"errors"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arkonis.dev/ark/pkg/kube"
)

// conflictRetry is how often a name is tried again that something else has: its end is not heard of.
const conflictRetry = 30 * time.Second

// outcome is what came of a plan.
type outcome struct {
	deployment *appsv1.Deployment // as it is now, nil for none
	conflict   error              // kube.ErrConflict: a name is taken
	err        error              // anything else
	after      time.Duration
}

// apply makes what is be as it shall be. The Deployment comes after what it needs.
func (a *Agents) apply(ctx context.Context, in *input, p *plan) outcome {
	out := outcome{deployment: in.live.deployment}
	core, ns := a.cfg.Clients.Core, in.agent.Namespace
	secrets, policies := core.CoreV1().Secrets(ns), core.NetworkingV1().NetworkPolicies(ns)
	if p.queue != nil {
		_, _, err := kube.Apply(ctx, a.cfg.Applier, secrets, in.live.queue, p.queue)
		out.note(err)
	}
	if p.prompt != nil {
		_, _, err := kube.Apply(ctx, a.cfg.Applier, secrets, in.live.prompt, p.prompt)
		out.note(err)
	}
	switch {
	case p.policy != nil:
		_, _, err := kube.Apply(ctx, a.cfg.Applier, policies, in.live.policy, p.policy)
		out.note(err)
	case in.live.policy != nil && metav1.IsControlledBy(in.live.policy, in.agent):
		out.note(kube.Delete(ctx, a.cfg.Applier, policies, "NetworkPolicy", in.live.policy))
	}
	if p.deployment != nil && out.err == nil && out.conflict == nil {
		now, _, err := kube.Apply(ctx, a.cfg.Applier, core.AppsV1().Deployments(ns), in.live.deployment, p.deployment)
		out.note(err)
		out.deployment = now
	}
	if p.refusal != nil {
		n, err := a.cfg.Queue.RefuseTasks(ctx, ns, in.agent.Name, p.refusal)
		if n > 0 {
			a.log.InfoContext(ctx, "tasks have failed: the daily budget is used up", "namespace", ns, "agent", in.agent.Name,
				"scope", p.refusal.Scope, "tasks", n)
		}
		out.note(err)
	}
	if out.conflict != nil {
		out.after = conflictRetry
	}
	return out
}

func (o *outcome) note(err error) {
	switch {
	case err == nil:
	case errors.Is(err, kube.ErrConflict):
		o.conflict = errors.Join(o.conflict, err)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		// Everything in the namespace goes, the agent too.
	default:
		o.err = errors.Join(o.err, err)
	}
}
