package local

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/anthropic"
	"arkonis.dev/ark/pkg/llm/mock"
	"arkonis.dev/ark/pkg/llm/openai"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/tools"
)

// equipment gives agents their providers and tools. Agents with the same server and key share a provider, so that
// what one learned of the server holds for all. It is not safe for concurrent use.
type equipment struct {
	catalog *catalog
	script  mock.Script
	noMCP   bool

	network *tools.Network
	models  map[modelServer]llm.Provider
	mock    llm.Provider
}

// modelServer is what providers are shared by.
type modelServer struct{ provider, baseURL, key string }

func newEquipment(c *catalog, script mock.Script, noMCP bool) *equipment {
	return &equipment{
		catalog: c, script: script, noMCP: noMCP,
		network: tools.NewNetwork(tools.Guard{}, http.ProxyFromEnvironment),
		models:  map[modelServer]llm.Provider{},
	}
}

// outfit is what an agent is started with. Problems are sentences for a person.
func (e *equipment) outfit(a *agent) (outfit, []string) {
	servers, problems := e.toolServers(a)
	config, more := e.config(a)
	return outfit{Config: config, servers: servers, network: e.network}, append(problems, more...)
}

// config is an agent's runtime without its queue and its MCP servers.
func (e *equipment) config(a *agent) (runtime.Config, []string) {
	provider, problems := e.provider(a)
	set, more := e.tools(a)
	problems = append(problems, more...)
	l := a.spec.Limits
	if l == nil {
		l = &v1alpha1.AgentLimits{}
	}
	return runtime.Config{
		Namespace: e.catalog.namespace, Agent: a.name, Pod: podName(a.name),
		Model: a.model, SystemPrompt: a.prompt, Provider: provider, Tools: set,
		Limits: runtime.Limits{
			MaxTokensPerCall:   l.MaxTokensPerCall,
			MaxConcurrentTasks: int(l.MaxConcurrentTasks),
			Timeout:            time.Duration(l.TimeoutSeconds) * time.Second,
			MaxTurns:           int(l.MaxTurns),
			WaitForBudget:      l.OnBudgetExceeded == v1alpha1.BudgetWait,
		},
		Temperature: a.temperature, TopP: a.topP,
	}, problems
}

func (e *equipment) provider(a *agent) (llm.Provider, []string) {
	switch a.provider {
	case llm.Mock:
		if e.mock == nil {
			e.mock = mock.New(e.script)
		}
		return e.mock, nil
	case llm.OpenAI:
		return e.model(a, "OPENAI", func(s modelServer) (llm.Provider, error) {
			return openai.New(openai.Config{BaseURL: s.baseURL, APIKey: s.key})
		})
	case llm.Anthropic:
		return e.model(a, "ANTHROPIC", func(s modelServer) (llm.Provider, error) {
			return anthropic.New(anthropic.Config{BaseURL: s.baseURL, APIKey: s.key})
		})
	default:
		return nil, []string{fmt.Sprintf("ArkAgent %s: provider %q (model %s) is not one that ark knows: use openai, anthropic or mock", a.name, a.provider, a.model)}
	}
}

// model is the provider of the server that <prefix>_BASE_URL and <prefix>_API_KEY name.
func (e *equipment) model(a *agent, prefix string, connect func(modelServer) (llm.Provider, error)) (llm.Provider, []string) {
	server := modelServer{provider: a.provider, baseURL: a.env.get(prefix + "_BASE_URL"), key: a.env.get(prefix + "_API_KEY")}
	if p := e.models[server]; p != nil {
		return p, nil
	}
	if server.key == "" && server.baseURL == "" {
		return nil, []string{fmt.Sprintf("ArkAgent %s: model %s needs a key: set %s_API_KEY, set %s_BASE_URL to a server that needs none, or try the team without a model with --provider mock", a.name, a.model, prefix, prefix)}
	}
	p, err := connect(server)
	if err != nil {
		return nil, []string{fmt.Sprintf("ArkAgent %s: %v", a.name, err)}
	}
	e.models[server] = p
	return p, nil
}

// tools makes an agent's webhook tools.
func (e *equipment) tools(a *agent) (*tools.Set, []string) {
	var problems []string
	var all []tools.Tool
	for i := range a.spec.Tools {
		t := &a.spec.Tools[i]
		headers, missing := e.headers(a, t)
		problems = append(problems, missing...)
		w, err := tools.NewWebhook(tools.WebhookConfig{
			Name: t.Name, Description: t.Description, URL: t.URL, Method: string(t.Method), Headers: headers,
			InputSchema: json.RawMessage(t.InputSchema), Timeout: time.Duration(t.TimeoutSeconds) * time.Second,
			Idempotent: t.Idempotent,
		}, e.network)
		if err != nil {
			problems = append(problems, fmt.Sprintf("ArkAgent %s: %v", a.name, err))
			continue
		}
		all = append(all, w)
	}
	set, err := tools.NewSet(all...)
	if err != nil {
		problems = append(problems, fmt.Sprintf("ArkAgent %s: %v", a.name, err))
	}
	return set, problems
}

func (e *equipment) headers(a *agent, t *v1alpha1.WebhookTool) (map[string]string, []string) {
	out := make(map[string]string, len(t.Headers))
	var problems []string
	for i := range t.Headers {
		h := &t.Headers[i]
		value := h.Value
		if ref := h.Secret(); ref != nil {
			v, missing := e.catalog.secretKey(ref.Name, ref.Key)
			if missing != "" {
				problems = append(problems, fmt.Sprintf("ArkAgent %s: tool %s: header %s: %s%s", a.name, t.Name, h.Name, missing, notInFiles))
			}
			value = v
		}
		out[h.Name] = value
	}
	return out, problems
}
