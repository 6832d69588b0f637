package agents

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/environ"
	"arkonis.dev/ark/pkg/settings"
)

// maxPromptVariable is how long a prompt may be that stands in a variable too, in bytes: a process gets no longer ones.
const maxPromptVariable = 100 << 10

// environment is that of the agent's container: what ark says, then what the operator adds for all agents, then what the
// agent says itself. A later one of the same name wins.
func environment(in *input, p *plan, t *toolFiles) []corev1.EnvVar {
	spec := &in.agent.Spec
	e := variables{}
	e.add(environ.Name, in.agent.Name)
	e.add(environ.Namespace, in.agent.Namespace)
	e.list = append(e.list, corev1.EnvVar{Name: environ.Pod, ValueFrom: &corev1.EnvVarSource{
		FieldRef: &corev1.ObjectFieldSelector{APIVersion: "v1", FieldPath: "metadata.name"},
	}})
	// A large answer or a tool's result is garbage soon: the collector is to see to it before the container's limit does.
	e.list = append(e.list, corev1.EnvVar{Name: "GOMEMLIMIT", ValueFrom: &corev1.EnvVarSource{
		ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory", Divisor: resource.MustParse("1")},
	}})
	e.add(environ.Model, spec.Model)
	if spec.Provider != v1alpha1.ProviderAuto {
		e.add(environ.Provider, string(spec.Provider))
	}
	e.add(environ.SystemPromptPath, dirPrompt+"/"+keyPrompt)
	if len(p.resolved.Prompt) < maxPromptVariable {
		e.list = append(e.list, corev1.EnvVar{Name: environ.SystemPrompt, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: promptSecretName(in.agent.Name)}, Key: keyPrompt,
		}}})
	}
	e.add(environ.OutputFormat, p.resolved.OutputFormat)
	e.float(environ.Temperature, p.resolved.Temperature)
	e.float(environ.TopP, p.resolved.TopP)
	e.limits(spec.Limits)
	e.probe(spec.LivenessProbe)
	if s := t.servers(in); len(s) > 0 {
		e.list = append(e.list, jsonVar(environ.MCPServers, s))
	}
	if all := settings.Policies(in.settings); len(all) > 0 {
		e.list = append(e.list, jsonVar(environ.MCPPolicies, all))
	}
	if w := t.webhooks(in); len(w) > 0 {
		e.list = append(e.list, jsonVar(environ.WebhookTools, w))
	}
	if in.memory != nil {
		e.list = append(e.list, t.memory(in)...)
	} else {
		e.add(environ.MemoryBackend, string(p.resolved.MemoryBackend))
	}
	e.add(environ.NATSURL, in.access.URL)
	if len(in.access.Credentials) > 0 {
		e.add(environ.NATSCreds, dirQueue+"/"+keyCredentials)
	}
	if len(in.access.CA) > 0 {
		e.add(environ.NATSCA, dirQueue+"/"+keyQueueAuthority)
	}
	if len(in.pods.CA) > 0 {
		e.add("SSL_CERT_DIR", dirCA)
	}
	if spec.Image != "" {
		// Another image may have no home that can be written, and no certificate authorities.
		e.add("HOME", dirTmp)
		e.add("SSL_CERT_FILE", dirProgram+"/ca-certificates.crt")
	}
	return later(e.list, common(in), spec.Env)
}

// variables are those that ark sets.
type variables struct{ list []corev1.EnvVar }

func (e *variables) add(name, value string) {
	if value != "" {
		e.list = append(e.list, corev1.EnvVar{Name: name, Value: literal(value)})
	}
}

func (e *variables) number(name string, n int64) {
	if n > 0 {
		e.add(name, strconv.FormatInt(n, 10))
	}
}

func (e *variables) float(name string, f *float64) {
	if f != nil {
		e.add(name, strconv.FormatFloat(*f, 'g', -1, 64))
	}
}

func (e *variables) limits(l *v1alpha1.AgentLimits) {
	e.number(environ.MaxTokensPerCall, l.MaxTokensPerCall)
	e.number(environ.MaxConcurrentTasks, int64(l.MaxConcurrentTasks))
	e.number(environ.TaskTimeout, l.TimeoutSeconds)
	e.number(environ.MaxTurns, int64(l.MaxTurns))
	if l.Retries != nil {
		e.add(environ.MaxRetries, strconv.Itoa(int(*l.Retries)))
	}
	e.add(environ.OnBudgetExceeded, string(l.OnBudgetExceeded))
}

func (e *variables) probe(p *v1alpha1.Probe) {
	if p == nil {
		return
	}
	e.add(environ.ProbeType, string(p.Type))
	if p.Type != v1alpha1.ProbeSemantic {
		return
	}
	e.add(environ.ValidatorPrompt, p.ValidatorPrompt)
	e.add(environ.ProbeExpect, p.Expect)
	e.number(environ.ProbeInterval, p.IntervalSeconds)
	e.number(environ.ProbeTimeout, p.TimeoutSeconds)
	e.number(environ.ProbeFailureThreshold, int64(p.FailureThreshold))
}

// common are the operator's variables for all agents, without those that the agent's own ConfigMaps and Secrets set: in a
// container, a variable wins over them wherever it comes from.
func common(in *input) []corev1.EnvVar {
	own := map[string]bool{}
	for _, from := range in.agent.Spec.EnvFrom {
		k := objectKey{kind: kindSecret}
		switch {
		case from.SecretRef != nil:
			k.name = from.SecretRef.Name
		case from.ConfigMapRef != nil:
			k = objectKey{kindConfigMap, from.ConfigMapRef.Name}
		}
		if c := in.found[k]; c != nil {
			for name := range c.hashes {
				own[from.Prefix+name] = true
			}
		}
	}
	var out []corev1.EnvVar
	for _, v := range in.pods.Env {
		if !own[v.Name] {
			out = append(out, v)
		}
	}
	return out
}

// later joins lists of variables. Of several with one name the last one stays, in the place of the last.
func later(lists ...[]corev1.EnvVar) []corev1.EnvVar {
	last := map[string]int{}
	var all []corev1.EnvVar
	for _, list := range lists {
		for _, v := range list {
			last[v.Name] = len(all)
			all = append(all, v)
		}
	}
	out := make([]corev1.EnvVar, 0, len(last))
	for i, v := range all {
		if last[v.Name] == i {
			out = append(out, v)
		}
	}
	return out
}

// environmentFrom are whole ConfigMaps and Secrets: the operator's for all agents where they exist, then the agent's own,
// which win.
func environmentFrom(in *input) []corev1.EnvFromSource {
	var all []corev1.EnvFromSource
	yes := true
	for _, name := range in.pods.EnvFrom {
		all = append(all, corev1.EnvFromSource{SecretRef: &corev1.SecretEnvSource{
			LocalObjectReference: corev1.LocalObjectReference{Name: name}, Optional: &yes,
		}})
	}
	return append(all, in.agent.Spec.EnvFrom...)
}
