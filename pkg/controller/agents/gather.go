package agents

import (
	"context"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/kube"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/queue/identity"
	"arkonis.dev/ark/pkg/settings"
	"arkonis.dev/ark/pkg/work"
)

// input is everything that a decision about an agent follows from. Nothing in it is changed.
type input struct {
	agent *v1alpha1.ArkAgent // with defaults
	pods  Pods
	now   time.Time

	settings []*v1alpha1.ArkSettings
	memory   *v1alpha1.ArkMemory // that of memoryRef
	absent   *fault              // settings or memory that are not there
	refs     []reference
	found    map[objectKey]*content
	access   Access

	budgets []budget
	backlog queue.Backlog
	reports []work.Report // of pods that are there
	running []*corev1.Pod
	scaling scaling // as it was left by the decision before

	live owned
}

// owned is what ark has made for an agent, nil where there is nothing.
type owned struct {
	deployment *appsv1.Deployment
	policy     *networkingv1.NetworkPolicy
	prompt     *corev1.Secret // without its data
	queue      *corev1.Secret // without its data
}

// Names of what an agent owns.
func deploymentName(agent string) string   { return agent + v1alpha1.AgentDeploymentSuffix }
func promptSecretName(agent string) string { return agent + "-prompt" }
func queueSecretName(agent string) string  { return agent + "-queue" }

// gather reads what is. What is not in the cache is read only when it has changed.
func (a *Agents) gather(ctx context.Context, object *v1alpha1.ArkAgent, m *memo) (*input, error) {
	in := &input{agent: object.DeepCopy(), pods: a.cfg.Pods, now: a.now(), scaling: m.scaling, found: map[objectKey]*content{}}
	in.agent.SetDefaults()
	a.gatherObjects(in)
	if last, live := m.deployment, in.live.deployment; last != nil && live != nil && last.UID == live.UID && last.Generation > live.Generation {
		in.live.deployment = last
	}
	in.refs = references(in.agent, in.memory, a.cfg.Pods.EnvFrom)
	if err := a.gatherContents(ctx, in); err != nil {
		return nil, err
	}
	if err := a.gatherAccess(ctx, in, m); err != nil {
		return nil, err
	}
	if err := a.gatherBudgets(ctx, in); err != nil {
		return nil, err
	}
	var err error
	if in.backlog, err = a.cfg.Queue.Backlog(ctx, object.Namespace, object.Name); err != nil {
		return nil, err
	}
	return in, nil
}

// gatherObjects takes from the cache.
func (a *Agents) gatherObjects(in *input) {
	c, ns, name := a.cfg.Cache, in.agent.Namespace, in.agent.Name
	for _, s := range settings.Names(&in.agent.Spec.AgentTemplate) {
		if o, ok := c.Settings.Get(ns, s); ok {
			in.settings = append(in.settings, o)
		} else if in.absent == nil {
			in.absent = &fault{v1alpha1.ReasonReferenceNotFound, "there is no ArkSettings " + s + ": create it"}
		}
	}
	if r := in.agent.Spec.MemoryRef; r != nil {
		o, ok := c.Memories.Get(ns, r.Name)
		if ok {
			in.memory = o
		} else if in.absent == nil {
			in.absent = &fault{v1alpha1.ReasonReferenceNotFound, "there is no ArkMemory " + r.Name + ": create it"}
		}
	}
	if d, ok := c.Deployments.Get(ns, deploymentName(name)); ok {
		in.live.deployment = d
	}
	if p, ok := c.NetworkPolicies.Get(ns, deploymentName(name)); ok {
		in.live.policy = p
	}
	in.live.prompt, in.live.queue = a.secret(ns, promptSecretName(name)), a.secret(ns, queueSecretName(name))
	pods := map[string]bool{}
	for _, p := range c.Pods.By(podsByAgent, ns+"/"+name) {
		in.running = append(in.running, p)
		pods[p.Name] = true
	}
	slices.SortFunc(in.running, func(x, y *corev1.Pod) int { return x.CreationTimestamp.Compare(y.CreationTimestamp.Time) })
	for _, r := range a.cfg.Reports(ns, name) {
		if pods[r.Pod] {
			in.reports = append(in.reports, r)
		}
	}
}

// secret is what the cache has of a Secret.
func (a *Agents) secret(namespace, name string) *corev1.Secret {
	m, ok := a.cfg.Cache.Secrets.Get(namespace, name)
	if !ok {
		return nil
	}
	return &corev1.Secret{ObjectMeta: m.ObjectMeta}
}

func (a *Agents) gatherContents(ctx context.Context, in *input) error {
	values := map[objectKey][]string{}
	for _, r := range in.refs {
		k := objectKey{r.kind, r.name}
		switch {
		case !r.value:
			values[k] = append(values[k], nil...)
		case r.key != "":
			values[k] = append(values[k], r.key)
		default:
			values[k] = append(values[k], addressKeys()...)
		}
	}
	for k, wanted := range values {
		informer := a.cfg.Cache.ConfigMaps
		if k.kind == kindSecret {
			informer = a.cfg.Cache.Secrets
		}
		var meta *metav1.PartialObjectMetadata
		if m, ok := informer.Get(in.agent.Namespace, k.name); ok {
			meta = m
		}
		c, err := a.contents.get(ctx, k.kind, meta, wanted)
		if err != nil {
			return err
		}
		if c != nil {
			in.found[k] = c
		}
	}
	return nil
}

// keyCredentials and keyQueueAuthority are the keys of the Secret that lets an agent into the queue; keyAuthorities is that
// of what it trusts besides, in the same Secret.
const (
	keyCredentials    = "ark.creds"
	keyQueueAuthority = "ca.crt"
	keyAuthorities    = "authorities.crt"
)

// gatherAccess asks how the agent reaches the queue. Credentials that were issued and that the cache does not show yet are
// not issued again.
func (a *Agents) gatherAccess(ctx context.Context, in *input, m *memo) error {
	current := m.credentials
	if meta, ok := a.cfg.Cache.Secrets.Get(in.agent.Namespace, queueSecretName(in.agent.Name)); ok && metav1.IsControlledBy(meta, in.agent) {
		c, err := a.contents.get(ctx, kindSecret, meta, []string{keyCredentials})
		if err != nil {
			return err
		}
		if c != nil {
			current = []byte(c.values[keyCredentials])
		}
	}
	var err error
	in.access, err = a.cfg.Access(identity.Agent{Namespace: in.agent.Namespace, Name: in.agent.Name, UID: string(in.agent.UID)}, current)
	m.credentials = in.access.Credentials
	return err
}

// podsByAgent is the index of pods by the agent that they are of.
const podsByAgent = "agents/pod"

func podAgent(p *corev1.Pod) []string {
	return []string{p.Namespace + "/" + p.Labels[v1alpha1.LabelAgent]}
}

// describe is how messages name an agent.
func describe(a *v1alpha1.ArkAgent) string { return kube.Describe("ArkAgent", a.Namespace, a.Name) }
