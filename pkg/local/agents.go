package local

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/prompt"
)

// agent is one agent with everything resolved that its runtime needs.
type agent struct {
	name     string
	team     string // whose inline role it is, or empty
	spec     v1alpha1.ArkAgentSpec
	model    string
	provider string // openai, anthropic or mock
	env      variables

	prompt            string // composed
	promptHash        string // SHA-256 of it, in hex
	temperature, topP *float64
	memory            *v1alpha1.ArkMemorySpec // nil: it remembers nothing between tasks
	memoryFrom        string                  // the object that says so
	warnings          []string
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
	parts := prompt.Parts{Base: base}
	format, rules := "", ""
	for _, name := range settingsOf(&a.spec.AgentTemplate) {
		s := c.settings[name]
		if s == nil {
			problems = append(problems, fmt.Sprintf("ArkAgent %s: ArkSettings %q is not among the manifests; there are: %s", a.name, name, names(c.settings)))
			continue
		}
		rules = cmp.Or(addFragments(&parts, &s.Spec), rules)
		format = cmp.Or(s.Spec.OutputFormat, format)
		problems = append(problems, a.sampling(s)...)
	}
	parts.Append = append(parts.Append, rules, prompt.Format(format))
	for _, m := range a.spec.MCPServers {
		parts.Guidance = append(parts.Guidance, m.Guidance)
	}
	a.prompt = prompt.System(parts)
	hash := sha256.Sum256([]byte(a.prompt))
	a.promptHash = hex.EncodeToString(hash[:])
	return problems
}

// settingsOf lists an agent's settings, the strongest last.
func settingsOf(a *v1alpha1.AgentTemplate) []string {
	var out []string
	if a.ConfigRef != nil {
		out = append(out, a.ConfigRef.Name)
	}
	for _, r := range a.SettingsRefs {
		out = append(out, r.Name)
	}
	return out
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

// addFragments adds the pieces of settings to a prompt: persona and prepended fragments before the agent's own
// prompt, all others after it. The output rules are returned, because they end the prompt.
func addFragments(parts *prompt.Parts, s *v1alpha1.ArkSettingsSpec) (outputRules string) {
	const persona, rules = "persona", "outputRules"
	parts.Prepend = append(parts.Prepend, s.PromptFragments[persona])
	for _, f := range s.Fragments {
		if f.Position == v1alpha1.FragmentPrepend {
			parts.Prepend = append(parts.Prepend, f.Text)
		} else {
			parts.Append = append(parts.Append, f.Text)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.PromptFragments)) {
		if name != persona && name != rules {
			parts.Append = append(parts.Append, s.PromptFragments[name])
		}
	}
	return s.PromptFragments[rules]
}

// sampling takes temperature and topP of settings.
func (a *agent) sampling(s *v1alpha1.ArkSettings) (problems []string) {
	for _, p := range []struct {
		field, text string
		most        float64
		to          **float64
	}{{"temperature", s.Spec.Temperature, 2, &a.temperature}, {"topP", s.Spec.TopP, 1, &a.topP}} {
		if p.text == "" {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(p.text), 64)
		if err != nil || !(v >= 0 && v <= p.most) {
			problems = append(problems, fmt.Sprintf("ArkSettings %s: spec.%s is %q: it must be a number from 0 to %g", s.Name, p.field, p.text, p.most))
			continue
		}
		*p.to = &v
	}
	return problems
}

// podName is the name of the runtime that plays an agent in this process.
func podName(agent string) string { return agent + "-local" }
