package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// SetDefaults fills in what was left out, as the API server does. Twice is the same as once. Like there, the roles of
// a team are left as they are: see RoleAgent.
func (a *ArkAgent) SetDefaults() { a.Spec.setDefaults() }

// SetDefaults fills in what was left out, as the API server does. The roles are left as they are: see RoleAgent.
func (t *ArkTeam) SetDefaults() {
	s := &t.Spec
	for i := range s.Inputs {
		or(&s.Inputs[i].Type, InputString)
	}
	setStepDefaults(s.Pipeline)
	if s.Routing != nil {
		or(&s.Routing.Provider, ProviderAuto)
	}
	orPointer(&s.SuccessfulRunsHistoryLimit, 10)
	orPointer(&s.FailedRunsHistoryLimit, 3)
}

// SetDefaults fills in what was left out, as the API server does.
func (r *ArkRun) SetDefaults() {
	setStepDefaults(r.Spec.Pipeline)
	if resolved := r.Status.Resolved; resolved != nil && resolved.Spec != nil {
		setStepDefaults(resolved.Spec.Pipeline)
	}
}

// SetDefaults fills in what was left out, as the API server does.
func (e *ArkEvent) SetDefaults() {
	s := &e.Spec
	or(&s.ConcurrencyPolicy, ConcurrencyAllow)
	or(&s.CatchUp, CatchUpLast)
	or(&s.StartingDeadlineSeconds, 86400)
	if s.Source.TeamOutput != nil {
		or(&s.Source.TeamOutput.OnPhase, OnSucceeded)
	}
	if hook := s.Source.Webhook; hook != nil {
		or(&hook.Auth, WebhookBearer)
		if hook.HMAC != nil {
			or(&hook.HMAC.Header, "X-Hub-Signature-256")
			or(&hook.HMAC.Algorithm, HMACSHA256)
		}
	}
}

// SetDefaults fills in what was left out, as the API server does.
func (s *ArkService) SetDefaults() {
	if s.Spec.Routing == nil {
		s.Spec.Routing = &ServiceRouting{}
	}
	or(&s.Spec.Routing.Strategy, StrategyRoundRobin)
	or(&s.Spec.Auth, ServiceBearer)
}

// SetDefaults fills in what was left out, as the API server does.
func (m *ArkMemory) SetDefaults() {
	or(&m.Spec.Backend, MemoryNATS)
	if m.Spec.Redis != nil {
		orPointer(&m.Spec.Redis.TTLSeconds, 3600)
	}
	if m.Spec.VectorStore != nil {
		or(&m.Spec.VectorStore.Collection, "agent-memories")
	}
}

// SetDefaults fills in what was left out, as the API server does.
func (s *ArkSettings) SetDefaults() {
	for i := range s.Spec.Fragments {
		or(&s.Spec.Fragments[i].Position, FragmentAppend)
	}
}

// SetDefaults fills in what was left out, as the API server does.
func (n *ArkNotify) SetDefaults() {
	s := &n.Spec
	orPointer(&s.RateLimitSeconds, 300)
	for i := range s.Channels {
		s.Channels[i].setDefaults()
	}
	if s.Channel != nil {
		s.Channel.setDefaults()
	}
	if s.RateLimiting != nil {
		or(&s.RateLimiting.WindowSeconds, 300)
		or(&s.RateLimiting.MaxPerWindow, 1)
	}
}

// SetDefaults fills in what was left out, as the API server does.
func (r *ArkRegistry) SetDefaults() {
	or(&r.Spec.Scope, ScopeNamespace)
	if r.Spec.Policy == nil {
		r.Spec.Policy = &RegistryPolicy{}
	}
	or(&r.Spec.Policy.MaxDepth, 3)
}

// RoleAgent returns the ArkAgent that the team makes for an inline role, with what the role says and no defaults; nil
// for a role that an ArkAgent or a team plays. The role inherits the team's notifyRef. Nothing is shared with the team.
func (t *ArkTeam) RoleAgent(role *Role) *ArkAgent {
	if role.Model == "" {
		return nil
	}
	agent := t.ownAgent(role.Name)
	agent.Spec = ArkAgentSpec{Model: role.Model, AgentTemplate: *role.AgentTemplate.DeepCopy()}
	if agent.Spec.NotifyRef == nil {
		agent.Spec.NotifyRef = t.Spec.NotifyRef.DeepCopy()
	}
	return agent
}

// RouterAgent returns the ArkAgent that a routed team makes for its router, without defaults; nil for other teams.
func (t *ArkTeam) RouterAgent() *ArkAgent {
	routing := t.Spec.Routing.DeepCopy()
	if routing == nil {
		return nil
	}
	agent := t.ownAgent(routerRole)
	agent.Spec.Model = routing.Model
	agent.Spec.Provider = routing.Provider
	agent.Spec.SystemPrompt = routing.SystemPrompt
	agent.Spec.EnvFrom = routing.EnvFrom
	agent.Spec.NotifyRef = t.Spec.NotifyRef.DeepCopy()
	return agent
}

// ownAgent is an agent of the team without a spec.
func (t *ArkTeam) ownAgent(role string) *ArkAgent {
	return &ArkAgent{
		TypeMeta: metav1.TypeMeta{APIVersion: GroupVersion().String(), Kind: "ArkAgent"},
		ObjectMeta: metav1.ObjectMeta{
			Name:      RoleAgentName(t.Name, role),
			Namespace: t.Namespace,
			Labels: map[string]string{
				LabelManagedBy: ManagedBy, LabelName: NameAgent, LabelInstance: RoleAgentName(t.Name, role),
				LabelAgent: RoleAgentName(t.Name, role), LabelTeam: t.Name, LabelRole: role,
			},
		},
	}
}

func (s *ArkAgentSpec) setDefaults() {
	or(&s.Provider, ProviderAuto)
	orPointer(&s.Replicas, 1)
	or(&s.NetworkPolicy, NetworkPolicyDefault)
	or(&s.TerminationGracePeriodSeconds, 150)
	if s.Limits == nil {
		s.Limits = &AgentLimits{}
	}
	s.Limits.setDefaults()
	for i := range s.MCPServers {
		or(&s.MCPServers[i].Transport, TransportAuto)
	}
	for i := range s.Tools {
		or(&s.Tools[i].Method, MethodPost)
		or(&s.Tools[i].TimeoutSeconds, 30)
	}
	if s.LivenessProbe != nil {
		s.LivenessProbe.setDefaults()
	}
	if s.Autoscaling != nil {
		s.Autoscaling.setDefaults()
	}
	if s.Resources == nil {
		s.Resources = defaultResources()
	}
}

func (l *AgentLimits) setDefaults() {
	or(&l.MaxTokensPerCall, 8000)
	or(&l.MaxConcurrentTasks, 5)
	or(&l.TimeoutSeconds, 120)
	orPointer(&l.Retries, 3)
	or(&l.MaxTurns, 25)
	or(&l.OnBudgetExceeded, BudgetFail)
}

func (p *Probe) setDefaults() {
	or(&p.Type, ProbeSemantic)
	or(&p.IntervalSeconds, 30)
	or(&p.Expect, "HEALTHY")
	or(&p.TimeoutSeconds, 15)
	or(&p.FailureThreshold, 3)
}

func (a *Autoscaling) setDefaults() {
	orPointer(&a.MinReplicas, 1)
	or(&a.MaxReplicas, 10)
	or(&a.TargetPendingTasks, 5)
	orPointer(&a.ScaleDownAfterSeconds, 300)
}

func (c *NotifyChannel) setDefaults() {
	if c.Webhook != nil {
		or(&c.Webhook.Method, MethodPost)
	}
}

func setStepDefaults(steps []Step) {
	for i := range steps {
		s := &steps[i]
		if s.Loop != nil {
			or(&s.Loop.MaxIterations, 10)
		}
		if s.ForEach != nil {
			or(&s.ForEach.As, "item")
			or(&s.ForEach.MaxParallel, 5)
			or(&s.ForEach.MaxItems, 100)
		}
		if s.Validate != nil {
			or(&s.Validate.OnFailure, ValidationFail)
			orPointer(&s.Validate.MaxRetries, 2)
		}
		if s.Retry != nil {
			or(&s.Retry.MaxAttempts, 3)
		}
	}
}

func defaultResources() *corev1.ResourceRequirements {
	return &corev1.ResourceRequirements{
		Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi"),
		},
		Limits: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("512Mi"),
		},
	}
}

// or sets a field that has its zero value.
func or[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

// orPointer sets a field that is nil.
func orPointer[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}
