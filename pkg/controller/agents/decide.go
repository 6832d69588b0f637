package agents

import (
	"fmt"
	"slices"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/settings"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/work"
)

// busyPause is how often an agent is looked at that has something to do, although nothing is heard of it.
const busyPause = 10 * time.Second

// usagePause is how often an agent is looked at that has used tokens: they leave the window, a slot of it at a time.
const usagePause = 30 * time.Minute

// plan is what shall be.
type plan struct {
	// fault is why the agent cannot be as it shall be: its pods stay as they are.
	fault *fault

	resolved settings.Resolved
	prompt   *corev1.Secret // nil with a fault
	queue    *corev1.Secret
	// deployment is nil with a fault.
	deployment *appsv1.Deployment
	policy     *networkingv1.NetworkPolicy // nil: none shall be

	// refusal is why the tasks that wait for the agent fail at once; nil where they wait.
	refusal *task.Error

	replicas int32
	scaling  scaling
	after    time.Duration // when to look again although nothing has changed; 0 is never
}

// decide says what shall be of an agent. It is pure.
func decide(in *input) *plan {
	p := &plan{queue: queueSecret(in), policy: networkPolicy(in)}
	p.scale(in)
	p.refuse(in)
	p.after = soonest(p.after, until(in.access.RenewAt, in.now))
	if slices.ContainsFunc(in.budgets, func(b budget) bool { return b.spent > 0 }) {
		p.after = soonest(p.after, usagePause)
	}
	if in.backlog.Waiting+in.backlog.Held > 0 {
		// The last task is acknowledged after its result was heard of.
		p.after = soonest(p.after, busyPause)
	}
	if p.fault = p.resolve(in); p.fault != nil {
		return p
	}
	p.prompt = promptSecret(in.agent, p.resolved.Prompt)
	p.deployment = deployment(in, p)
	if p.fault = tooLong(p.deployment.Spec.Template.Spec.Containers[0].Env); p.fault != nil {
		p.prompt, p.deployment = nil, nil
	}
	return p
}

// resolve finds what the pods are made of, or says why that cannot be.
func (p *plan) resolve(in *input) *fault {
	if errs := in.agent.Validate(); len(errs) > 0 {
		return &fault{v1alpha1.ReasonInvalidSpec, errs.ToAggregate().Error()}
	}
	if in.absent != nil {
		return in.absent
	}
	if f := missing(in.refs, in.found); f != nil {
		return f
	}
	base, f := basePrompt(in)
	if f != nil {
		return f
	}
	var wrong []string
	p.resolved, wrong = settings.Resolve(&in.agent.Spec.AgentTemplate, base, in.settings)
	for i := range in.agent.Spec.MCPServers {
		s := &in.agent.Spec.MCPServers[i]
		for _, reason := range settings.Refused(s, in.settings) {
			wrong = append(wrong, fmt.Sprintf("spec.mcpServers[%s]: %s", s.Name, reason))
		}
		if s.Command != "" && in.agent.Spec.Image == "" {
			wrong = append(wrong, fmt.Sprintf("spec.mcpServers[%s]: a command needs spec.image, an image that holds it", s.Name))
		}
	}
	if b := p.resolved.MemoryBackend; in.agent.Spec.MemoryRef == nil && b != "" && b != v1alpha1.MemoryNATS && b != v1alpha1.MemoryInContext {
		wrong = append(wrong, fmt.Sprintf("ArkSettings %s: memoryBackend %s needs an address: name an ArkMemory with memoryRef instead",
			p.resolved.MemoryFrom, b))
	}
	if len(wrong) > 0 {
		return &fault{v1alpha1.ReasonInvalidSpec, strings.Join(wrong, "; ")}
	}
	return nil
}

// maxVariable is how long a variable may be, its name included, in bytes: a process with a longer one does not start.
const maxVariable = 128<<10 - 2

// tooLong finds a variable that is too long.
func tooLong(all []corev1.EnvVar) *fault {
	for _, v := range all {
		if n := len(v.Name) + len(v.Value); n > maxVariable {
			return &fault{v1alpha1.ReasonInvalidSpec, fmt.Sprintf("the variable %s of the pods would have %d bytes, at most %d are possible: "+
				"shorten what it is made of", v.Name, n, maxVariable)}
		}
	}
	return nil
}

// basePrompt is the agent's own prompt.
func basePrompt(in *input) (string, *fault) {
	for _, r := range in.refs {
		if r.use != usePrompt {
			continue
		}
		text := ""
		if c := in.found[objectKey{r.kind, r.name}]; c != nil {
			text = c.values[r.key]
		}
		if strings.TrimSpace(text) == "" {
			return "", &fault{
				v1alpha1.ReasonPromptResolutionError,
				fmt.Sprintf("%s: the key %s of the %s %s is empty: write the prompt there", r.use, r.key, r.kind, r.name),
			}
		}
		return text, nil
	}
	return in.agent.Spec.SystemPrompt, nil
}

// scale sets the number of pods.
func (p *plan) scale(in *input) {
	spec := &in.agent.Spec
	if b := usedUp(in.budgets); b != nil {
		p.replicas, p.after = 0, until(b.resetsAt, in.now)
		return
	}
	if spec.Autoscaling == nil {
		p.replicas = *spec.Replicas
		return
	}
	p.replicas, p.scaling, p.after = autoscale(*spec.Autoscaling, in.current(), in.backlog, in.scaling, in.now)
}

// refuse says what becomes of the tasks that wait for an agent whose daily budget is used up: no pod would find out for
// them. Those that count as held may wait too: of a pod that is gone, they do until they are given to another one.
func (p *plan) refuse(in *input) {
	b := usedUp(in.budgets)
	if b == nil || in.agent.Spec.Limits.OnBudgetExceeded != v1alpha1.BudgetFail || in.backlog.Waiting+in.backlog.Held == 0 {
		return
	}
	says := work.BudgetError{Scope: b.scope, Limit: b.limit, Spent: b.spent, Asked: b.least, FreesAt: b.resetsAt} // as a pod would hear it
	p.refusal = &task.Error{Code: task.CodeBudgetExceeded, Scope: b.scope, ResetsAt: b.resetsAt, Message: says.Error()}
}

// current is how many pods there shall be until now.
func (in *input) current() int32 {
	if d := in.live.deployment; d != nil && d.Spec.Replicas != nil {
		return *d.Spec.Replicas
	}
	return 0
}

// until is how long it is to a time, at least a moment; 0 for the zero time.
func until(t, now time.Time) time.Duration {
	if t.IsZero() {
		return 0
	}
	return max(t.Sub(now), time.Second)
}
