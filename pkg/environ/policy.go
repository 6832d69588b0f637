package environ

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// MCPPolicy is an entry of MCP_POLICIES: what one ArkSettings demands of the tool servers. It says nothing of commands,
// which are part of the agent's image. The zero policy allows everything.
type MCPPolicy struct {
	From string `json:"from"` // who demands it, for a person, such as "ArkSettings strict"
	// Allowlist are the beginnings of the only addresses that servers may have; empty: any. A beginning that ends with a
	// host means this host alone, not others that begin like it.
	Allowlist   []string `json:"allowlist,omitempty"`
	RequireAuth bool     `json:"requireAuth,omitempty"` // servers without auth are refused
}

// Refuse says why a server is refused, in sentences for a person; nothing when it is not, and for a command.
func (p MCPPolicy) Refuse(s MCPServer) (reasons []string) {
	if s.Command != "" {
		return nil
	}
	begins := func(prefix string) bool { return under(s.URL, prefix) }
	if len(p.Allowlist) > 0 && !slices.ContainsFunc(p.Allowlist, begins) {
		reasons = append(reasons, fmt.Sprintf("%s allows only URLs that begin with %s", p.From, strings.Join(p.Allowlist, " or ")))
	}
	if p.RequireAuth && s.Auth == nil {
		reasons = append(reasons, p.From+" demands auth of every MCP server")
	}
	return reasons
}

// under says whether an address begins with another one, also after dots in its path are resolved.
func under(address, prefix string) bool {
	u, err := url.Parse(address)
	if err != nil || u.User != nil {
		return false
	}
	_, host, _ := strings.Cut(prefix, "://")
	for _, text := range []string{address, (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).JoinPath().String()} {
		rest, ok := strings.CutPrefix(text, prefix)
		if !ok {
			return false
		}
		if host != "" && !strings.Contains(host, "/") && rest != "" && !strings.ContainsAny(rest[:1], "/?#") {
			return false
		}
	}
	return true
}
