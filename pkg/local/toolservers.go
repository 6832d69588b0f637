package local

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/memory"
	"arkonis.dev/ark/pkg/runtime"
	"arkonis.dev/ark/pkg/settings"
	"arkonis.dev/ark/pkg/tools"
	"arkonis.dev/ark/pkg/tools/mcp"
)

// outfit is one agent's runtime without its queue, and the MCP servers and the memory that it is to be connected to.
type outfit struct {
	runtime.Config
	servers []toolServer
	memory  *memory.Config // nil: none
	network *tools.Network
}

// toolServer is an MCP server before it is connected to. A client certificate, which is read from files, is still in
// memory: tls.crt, tls.key and perhaps ca.crt.
type toolServer struct {
	config      mcp.Config
	certificate map[string]string
}

// start connects the agent to its servers, in the background. Certificates are written below dir.
func (o *outfit) start(ctx context.Context, dir string, log *slog.Logger) (*mcp.Servers, error) {
	configs := make([]mcp.Config, 0, len(o.servers))
	for _, s := range o.servers {
		c := s.config
		if err := s.writeCertificate(&c, filepath.Join(dir, o.Agent, c.Name)); err != nil {
			return nil, fmt.Errorf("MCP server %s: %w", c.Name, err)
		}
		configs = append(configs, c)
	}
	return mcp.Start(ctx, configs, o.network, log.With("agent", o.Agent))
}

// requiredTime bounds how long the start of a run waits for the servers that it cannot do without.
const requiredTime = 60 * time.Second

// required waits for the servers without which the agent would take no task: on a laptop nobody repairs them while the
// run waits. The others may come and go.
func (o *outfit) required(ctx context.Context, servers *mcp.Servers) error {
	if !slices.ContainsFunc(o.servers, func(s toolServer) bool { return s.config.Required }) {
		return nil
	}
	wait, cancel := context.WithTimeout(ctx, requiredTime)
	defer cancel()
	err := servers.Settle(wait)
	if ready := servers.Ready(); ready != nil {
		return configErrorf("ArkAgent %s: %v; start it, or take required: true off, or run without such tools with --no-mcp", o.Agent, ready)
	}
	return err
}

func (s *toolServer) writeCertificate(c *mcp.Config, dir string) error {
	if len(s.certificate) == 0 {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("keep its certificate: %w", err)
	}
	for key, to := range map[string]*string{"tls.crt": &c.CertFile, "tls.key": &c.KeyFile, "ca.crt": &c.CAFile} {
		text, ok := s.certificate[key]
		if !ok {
			continue
		}
		*to = filepath.Join(dir, key)
		if err := os.WriteFile(*to, []byte(text), 0o600); err != nil {
			return fmt.Errorf("keep its certificate: %w", err)
		}
	}
	return nil
}

// toolServers are the MCP servers of an agent. Problems are sentences for a person.
func (e *equipment) toolServers(a *agent) (servers []toolServer, problems []string) {
	if e.noMCP {
		return nil, nil
	}
	for i := range a.spec.MCPServers {
		m := &a.spec.MCPServers[i]
		s, wrong := e.toolServer(a, m)
		wrong = append(wrong, settings.Refused(m, e.catalog.settingsOf(a))...)
		if err := s.config.Validate(); err != nil && len(wrong) == 0 {
			wrong = append(wrong, err.Error())
		}
		for _, w := range wrong {
			problems = append(problems, fmt.Sprintf("ArkAgent %s: MCP server %s: %s", a.name, m.Name, w))
		}
		servers = append(servers, s)
	}
	return servers, problems
}

func (e *equipment) toolServer(a *agent, m *v1alpha1.MCPServer) (s toolServer, problems []string) {
	s.config = mcp.Config{
		Name: m.Name, URL: m.URL, Command: m.Command, Args: m.Args, Transport: mcp.Transport(m.Transport),
		Required: m.Required, Idempotent: m.Idempotent, Headers: map[string]string{},
	}
	if m.Command != "" {
		s.config.Env = commandEnv(a.env)
	}
	if m.Tools != nil {
		s.config.Allow, s.config.Deny = m.Tools.Allow, m.Tools.Deny
	}
	secret := func(ref *v1alpha1.KeyReference, what string) string {
		value, missing := e.catalog.secretKey(ref.Name, ref.Key)
		if missing != "" {
			problems = append(problems, what+": "+missing+notInFiles)
		}
		return value
	}
	for i := range m.Headers {
		h := &m.Headers[i]
		s.config.Headers[h.Name] = h.Value
		if ref := h.Secret(); ref != nil {
			s.config.Headers[h.Name] = secret(ref, "header "+h.Name)
		}
	}
	switch {
	case m.Auth == nil:
	case m.Auth.MTLS != nil:
		s.certificate = map[string]string{}
		name := m.Auth.MTLS.SecretRef.Name
		for _, key := range []string{"tls.crt", "tls.key"} {
			s.certificate[key] = secret(&v1alpha1.KeyReference{Name: name, Key: key}, "auth")
		}
		if ca, missing := e.catalog.secretKey(name, "ca.crt"); missing == "" {
			s.certificate["ca.crt"] = ca
		}
	case m.Auth.Token() != nil:
		s.config.Token = secret(m.Auth.Token(), "auth")
	}
	return s, problems
}

// commandEnv is the environment of a command: what programs need to run, and what the agent's manifest sets, but for
// the keys of model servers.
func commandEnv(e variables) []string {
	env := []string{}
	for _, name := range []string{"PATH", "HOME", "USER", "SHELL", "LANG", "TMPDIR"} {
		if v := e.getenv(name); v != "" {
			env = append(env, name+"="+v)
		}
	}
	for name, value := range e.set {
		switch strings.TrimPrefix(name, "AGENT_") {
		case "OPENAI_API_KEY", "ANTHROPIC_API_KEY":
			continue
		}
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}
