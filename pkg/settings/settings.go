// Package settings is what the ArkSettings of an agent come to: its system prompt, how its model is asked, and what it
// remembers with. The same agent comes to the same on a laptop and in a cluster. It is pure.
package settings

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
	"arkonis.dev/ark/pkg/environ"
	"arkonis.dev/ark/pkg/prompt"
)

// Names of prompt fragments with a place of their own.
const (
	persona     = "persona"     // before the agent's own prompt
	outputRules = "outputRules" // after everything else
)

// Resolved is what an agent and its settings come to.
type Resolved struct {
	Prompt            string // composed
	PromptHash        string // SHA-256 of it, in hex
	OutputFormat      string
	Temperature, TopP *float64
	// MemoryBackend is that of an agent without a memory of its own, and MemoryFrom the ArkSettings that name it; empty for
	// none.
	MemoryBackend v1alpha1.MemoryBackend
	MemoryFrom    string
}

// Names lists an agent's settings, the strongest last.
func Names(a *v1alpha1.AgentTemplate) []string {
	var out []string
	if a.ConfigRef != nil {
		out = append(out, a.ConfigRef.Name)
	}
	for _, r := range a.SettingsRefs {
		out = append(out, r.Name)
	}
	return out
}

// Refused says why settings forbid a tool server, in sentences that name them; nothing when they do not.
func Refused(m *v1alpha1.MCPServer, all []*v1alpha1.ArkSettings) (reasons []string) {
	server := environ.MCPServer{URL: m.URL, Command: m.Command}
	if m.Auth != nil {
		server.Auth = &environ.Auth{}
	}
	for _, p := range Policies(all) {
		reasons = append(reasons, p.Refuse(server)...)
	}
	return reasons
}

// Policies are what settings demand of tool servers.
func Policies(all []*v1alpha1.ArkSettings) []environ.MCPPolicy {
	var out []environ.MCPPolicy
	for _, s := range all {
		if p := s.Spec.Security; p != nil && (len(p.MCPAllowlist) > 0 || p.RequireMCPAuth) {
			out = append(out, environ.MCPPolicy{From: "ArkSettings " + s.Name, Allowlist: p.MCPAllowlist, RequireAuth: p.RequireMCPAuth})
		}
	}
	return out
}

// Resolve joins an agent whose own prompt is base with its settings, the strongest last. problems are sentences that name
// the settings with a wrong value, which is left out.
func Resolve(a *v1alpha1.AgentTemplate, base string, all []*v1alpha1.ArkSettings) (r Resolved, problems []string) {
	parts := prompt.Parts{Base: base}
	rules := ""
	for _, s := range all {
		rules = cmp.Or(addFragments(&parts, &s.Spec), rules)
		r.OutputFormat = cmp.Or(s.Spec.OutputFormat, r.OutputFormat)
		if s.Spec.MemoryBackend != "" {
			r.MemoryBackend, r.MemoryFrom = s.Spec.MemoryBackend, s.Name
		}
		problems = append(problems, r.sampling(s)...)
	}
	parts.Append = append(parts.Append, rules, prompt.Format(r.OutputFormat))
	for _, m := range a.MCPServers {
		parts.Guidance = append(parts.Guidance, m.Guidance)
	}
	r.Prompt = prompt.System(parts)
	hash := sha256.Sum256([]byte(r.Prompt))
	r.PromptHash = hex.EncodeToString(hash[:])
	return r, problems
}

// addFragments adds the pieces of settings to a prompt: persona and prepended fragments before the agent's own
// prompt, all others after it. The output rules are returned, because they end the prompt.
func addFragments(parts *prompt.Parts, s *v1alpha1.ArkSettingsSpec) (rules string) {
	parts.Prepend = append(parts.Prepend, s.PromptFragments[persona])
	for _, f := range s.Fragments {
		if f.Position == v1alpha1.FragmentPrepend {
			parts.Prepend = append(parts.Prepend, f.Text)
		} else {
			parts.Append = append(parts.Append, f.Text)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.PromptFragments)) {
		if name != persona && name != outputRules {
			parts.Append = append(parts.Append, s.PromptFragments[name])
		}
	}
	return s.PromptFragments[outputRules]
}

// sampling takes temperature and topP of settings.
func (r *Resolved) sampling(s *v1alpha1.ArkSettings) (problems []string) {
	for _, p := range []struct {
		field, text string
		most        float64
		to          **float64
	}{{"temperature", s.Spec.Temperature, 2, &r.Temperature}, {"topP", s.Spec.TopP, 1, &r.TopP}} {
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
