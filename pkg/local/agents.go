package local

import (
	"cmp"
	"fmt"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/settings"
)

// agent is one agent with everything resolved that its runtime needs.
type agent struct {
	name     string
	team     string // whose inline role it is, or empty
	spec     v1alpha1.ArkAgentSpec
	model    string
	provider string // openai, anthropic or mock
	env      variables

	resolved   settings.Resolved
	memory     *v1alpha1.ArkMemorySpec // nil: it remembers nothing between tasks
	memoryFrom string                  // the object that says so
	warnings   []string
}

// override is what the caller uses instead of what the manifests say.
type override struct{ Model, Provider string }

// agent resolves an agent. Its problems are sentences for a person.
func (c *catalog) agent(name string, o override, getenv func(string) string) (*agent, []string) {
	object := c.agents[name]
	if object == nil {
		return nil, []string{fmt.Sprintf("ArkAgent %q is not among the manifests; there are: %s", name, names(c.agents))}
	}
	return c.resolve(object, o, getenv)
}

func (c *catalog) resolve(object *v1alpha1.ArkAgent, o override, getenv func(string) string) (*agent, []string) {
	name := object.Name
	a := &agent{name: name, team: object.Labels[v1alpha1.LabelTeam], spec: object.Spec}
	a.model = cmp.Or(o.Model, a.spec.Model)
	a.provider = llm.Detect(cmp.Or(o.Provider, string(a.spec.Provider)), a.model)
	a.env, a.warnings = c.environment(name, &a.spec.AgentPod, getenv)
	problems := c.compose(a)
	var problem string
	if a.memory, a.memoryFrom, problem = c.memorySpec(a); problem != "" {
		problems = append(problems, fmt.Sprintf("ArkAgent %s: %s", name, problem))
	}
	return a, problems
}

// compose makes the system prompt and the model's parameters from the agent and its settings.
func (c *catalog) compose(a *agent) (problems []string) {
	base, problem := c.basePrompt(a)
	if problem != "" {
		problems = append(problems, problem)
	}
	var wrong []string
	a.resolved, wrong = settings.Resolve(&a.spec.AgentTemplate, base, c.settingsOf(a))
	problems = append(problems, wrong...)
	for _, name := range settings.Names(&a.spec.AgentTemplate) {
		if c.settings[name] == nil {
			problems = append(problems, fmt.Sprintf("ArkAgent %s: ArkSettings %q is not among the manifests; there are: %s", a.name, name, names(c.settings)))
		}
	}
	return problems
}

// settingsOf are an agent's settings, as far as they are among the manifests, the strongest last.
func (c *catalog) settingsOf(a *agent) []*v1alpha1.ArkSettings {
	var all []*v1alpha1.ArkSettings
	for _, name := range settings.Names(&a.spec.AgentTemplate) {
		if s := c.settings[name]; s != nil {
			all = append(all, s)
		}
	}
	return all
}

func (c *catalog) basePrompt(a *agent) (text, problem string) {
	ref := a.spec.SystemPromptRef
	switch {
	case ref == nil:
		return a.spec.SystemPrompt, ""
	case ref.ConfigMapKeyRef != nil:
		text, problem = c.configMapKey(ref.ConfigMapKeyRef.Name, ref.ConfigMapKeyRef.Key)
	case ref.SecretKeyRef != nil:
		text, problem = c.secretKey(ref.SecretKeyRef.Name, ref.SecretKeyRef.Key)
	}
	if problem != "" {
		problem = fmt.Sprintf("ArkAgent %s: systemPromptRef: %s%s", a.name, problem, notInFiles)
	}
	return text, problem
}

// podName is the name of the runtime that plays an agent in this process.
func podName(agent string) string { return agent + "-local" }
