package local

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/mock"
	"arkonis.dev/ark/pkg/llm/providers"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/tools"
)

// equipment gives agents their providers and tools. Agents with the same server and key share a provider, so that
// what one learned of the server holds for all. It is not safe for concurrent use.
type equipment struct {
	catalog *catalog
	noMCP   bool

	network *tools.Network
	models  *providers.Pool
}

func newEquipment(c *catalog, script mock.Script, noMCP bool) *equipment {
	return &equipment{
		catalog: c, noMCP: noMCP,
		network: tools.NewNetwork(tools.Guard{}, http.ProxyFromEnvironment),
		models:  providers.NewPool(script),
	}
}

// outfit is what an agent is started with. Problems are sentences for a person.
func (e *equipment) outfit(a *agent) (outfit, []string) {
	servers, problems := e.toolServers(a)
	config, more := e.config(a)
	o := outfit{Config: config, servers: servers, network: e.network}
	problems = append(problems, more...)
	return o, append(problems, e.remember(a, &o)...)
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
		Model: a.model, SystemPrompt: a.resolved.Prompt, Provider: provider, Tools: set,
		Limits: runtime.Limits{
			MaxTokensPerCall:   l.MaxTokensPerCall,
			MaxConcurrentTasks: int(l.MaxConcurrentTasks),
			Timeout:            time.Duration(l.TimeoutSeconds) * time.Second,
			MaxTurns:           int(l.MaxTurns),
			WaitForBudget:      l.OnBudgetExceeded == v1alpha1.BudgetWait,
		},
		Temperature: a.resolved.Temperature, TopP: a.resolved.TopP,
	}, problems
}

// provider is that of an agent's model.
func (e *equipment) provider(a *agent) (llm.Provider, []string) {
	server := a.server(a.provider)
	p, err := e.models.Get(server)
	if err != nil {
		return nil, []string{fmt.Sprintf("ArkAgent %s: %s", a.name, noProvider(err, server, "model "+a.model, "try the team without a model with --provider mock"))}
	}
	return p, nil
}

// server is the one that the agent's environment names for a provider.
func (a *agent) server(provider string) providers.Server {
	key, baseURL := providers.Variables(provider)
	s := providers.Server{Provider: provider}
	if key != "" {
		s.Key, s.BaseURL = a.env.get(key), a.env.get(baseURL)
	}
	return s
}

// noProvider is why there is no provider for what, in a sentence; instead is what else can be done about a missing key.
func noProvider(err error, s providers.Server, what, instead string) string {
	key, baseURL := providers.Variables(s.Provider)
	switch {
	case errors.Is(err, providers.ErrNoKey):
		return fmt.Sprintf("%s needs a key: set %s, set %s to a server that needs none, or %s", what, key, baseURL, instead)
	case errors.Is(err, providers.ErrUnknown):
		return fmt.Sprintf("provider %q (%s) is not one that ark knows: use openai, anthropic or mock", s.Provider, what)
	default:
		return err.Error()
	}
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
