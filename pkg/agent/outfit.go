package agent

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"arkonis.dev/ark/pkg/environ"
	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/mock"
	"arkonis.dev/ark/pkg/llm/providers"
	"arkonis.dev/ark/pkg/memory"
	"arkonis.dev/ark/pkg/prompt"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/tools"
	"arkonis.dev/ark/pkg/tools/mcp"
)

// outfit is what an agent works with, made of its environment without connecting to anything.
type outfit struct {
	config  runtime.Config // without the queue and what is connected
	servers []mcp.Config
	memory  *memory.Config // nil: none
	network *tools.Network
}

// newOutfit makes the outfit. faults are what is wrong with the variables although each can be read.
func newOutfit(env *environ.Agent, variables []string) (o *outfit, faults []string) {
	o = &outfit{network: tools.NewNetwork(tools.Guard{AllowLinkLocal: env.AllowLinkLocal, DenyPrivate: env.DenyPrivate}, http.ProxyFromEnvironment)}
	pool := providers.NewPool(mock.Script{})
	provider, fault := newProvider(env, pool)
	faults = append(faults, fault...)
	set, fault := o.webhooks(env)
	faults = append(faults, fault...)
	faults = append(faults, o.toolServers(env, variables)...)
	o.config = runtime.Config{
		Namespace: env.Namespace, Agent: env.Name, Pod: env.Pod,
		Model: env.Model, SystemPrompt: compose(env), Provider: provider, Tools: set,
		Limits: runtime.Limits{
			MaxTokensPerCall: env.MaxTokensPerCall, MaxConcurrentTasks: env.MaxConcurrentTasks, Timeout: env.Timeout, MaxTurns: env.MaxTurns,
			WaitForBudget: env.WaitForBudget,
		},
		Temperature: env.Temperature, TopP: env.TopP,
	}
	if p := env.Probe; p != nil {
		o.config.Probe = &runtime.Probe{
			Prompt: p.Prompt, Expect: p.Expect, Interval: p.Interval, Timeout: p.Timeout, FailureThreshold: p.FailureThreshold,
		}
	}
	return o, append(faults, o.remember(env, pool)...)
}

// modelServer is the one that the environment names for a provider.
func modelServer(env *environ.Agent, provider string) providers.Server {
	s := providers.Server{Provider: provider}
	switch provider {
	case llm.OpenAI:
		s.BaseURL, s.Key = env.OpenAI.BaseURL, env.OpenAI.Key
	case llm.Anthropic:
		s.BaseURL, s.Key = env.Anthropic.BaseURL, env.Anthropic.Key
	}
	return s
}

func newProvider(env *environ.Agent, pool *providers.Pool) (llm.Provider, []string) {
	server := modelServer(env, llm.Detect(env.Provider, env.Model))
	if env.Model == "" {
		return nil, nil // a fault already
	}
	p, err := pool.Get(server)
	key, url := providers.Variables(server.Provider)
	switch {
	case errors.Is(err, providers.ErrNoKey):
		return nil, []string{fmt.Sprintf("%s is not set: model %q needs a key; or set %s to a server that needs none, or %s to mock", key, env.Model, url, environ.Provider)}
	case errors.Is(err, providers.ErrUnknown):
		return nil, nil // a fault already
	case err != nil:
		return nil, []string{fmt.Sprintf("%s: %s", url, oneLine(err.Error()))}
	}
	return p, nil
}

// webhooks are the tools that are HTTP calls.
func (o *outfit) webhooks(env *environ.Agent) (set *tools.Set, faults []string) {
	var all []tools.Tool
	for i := range env.WebhookTools {
		t := &env.WebhookTools[i]
		w, err := tools.NewWebhook(tools.WebhookConfig{
			Name: t.Name, Description: t.Description, URL: t.URL, Method: t.Method, Headers: fixed(t.Headers), HeaderFiles: inFiles(t.Headers),
			InputSchema: json.RawMessage(t.InputSchema), Timeout: t.Timeout(), Idempotent: t.Idempotent,
		}, o.network)
		if err == nil {
			_, err = tools.NewSet(w)
		}
		if err != nil {
			faults = append(faults, fmt.Sprintf("%s: %s", environ.WebhookTools, oneLine(err.Error())))
			continue
		}
		all = append(all, w)
	}
	set, err := tools.NewSet(all...)
	if err != nil {
		faults = append(faults, fmt.Sprintf("%s: %s", environ.WebhookTools, oneLine(err.Error())))
	}
	return set, faults
}

// toolServers are the MCP servers. Commands get the environment without the secrets of ark.
func (o *outfit) toolServers(env *environ.Agent, variables []string) (faults []string) {
	public := without(variables, env.SecretNames())
	names := map[string]bool{}
	for i := range env.MCPServers {
		c := server(&env.MCPServers[i], public)
		if err := c.Validate(); err != nil {
			for line := range strings.Lines(err.Error()) {
				faults = append(faults, fmt.Sprintf("%s: %s", environ.MCPServers, oneLine(line)))
			}
		}
		for _, p := range env.MCPPolicies {
			p.From = cmp.Or(p.From, environ.MCPPolicies)
			for _, reason := range p.Refuse(env.MCPServers[i]) {
				faults = append(faults, fmt.Sprintf("%s: mcp server %q: %s", environ.MCPServers, c.Name, oneLine(reason)))
			}
		}
		if names[c.Name] {
			faults = append(faults, fmt.Sprintf("%s: mcp server %q stands twice: give each server a name of its own", environ.MCPServers, c.Name))
		}
		names[c.Name] = true
		o.servers = append(o.servers, c)
	}
	return faults
}

func server(s *environ.MCPServer, public []string) mcp.Config {
	c := mcp.Config{
		Name: s.Name, URL: s.URL, Command: s.Command, Args: s.Args, Transport: mcp.Transport(s.Transport),
		Headers: fixed(s.Headers), HeaderFiles: inFiles(s.Headers), Guidance: s.Guidance, Required: s.Required, Idempotent: s.Idempotent,
	}
	if s.Command != "" {
		c.Env = public
	}
	if s.Tools != nil {
		c.Allow, c.Deny = s.Tools.Allow, s.Tools.Deny
	}
	if a := s.Auth; a != nil {
		c.Token, c.CertFile, c.KeyFile, c.CAFile = a.Token, a.CertFile, a.KeyFile, a.CAFile
		c.TokenFile = a.File
	}
	return c
}

// fixed are the headers whose values do not change, inFiles the files of the others.
func fixed(all []environ.Header) map[string]string {
	out := map[string]string{}
	for _, h := range all {
		if h.File == "" {
			out[h.Name] = h.Value
		}
	}
	return out
}

func inFiles(all []environ.Header) map[string]string {
	out := map[string]string{}
	for _, h := range all {
		if h.File != "" {
			out[h.Name] = h.File
		}
	}
	return out
}

// without leaves out the variables of these names.
func without(variables, names []string) []string {
	return slices.DeleteFunc(slices.Clone(variables), func(v string) bool {
		name, _, _ := strings.Cut(v, "=")
		return slices.Contains(names, name)
	})
}

// compose is the system prompt: that of the environment, with the rule of the output format and the guidance of the tool
// servers unless whoever composed it has put them there.
func compose(env *environ.Agent) string {
	base := strings.TrimSuffix(strings.TrimSpace(env.SystemPrompt), prompt.Note)
	parts := prompt.Parts{Base: base}
	if rule := prompt.Format(env.OutputFormat); !strings.Contains(base, rule) {
		parts.Append = []string{rule}
	}
	for i := range env.MCPServers {
		if text := strings.TrimSpace(env.MCPServers[i].Guidance); !strings.Contains(base, text) {
			parts.Guidance = append(parts.Guidance, text)
		}
	}
	return prompt.System(parts)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }
