package mcp

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Policy bounds which servers may be used at all. It says nothing of commands, which are part of the agent's image. The
// zero Policy allows everything.
type Policy struct {
	From string // who demands it, for a person, such as "ArkSettings strict"
	// Allowlist are the beginnings of the only addresses that servers may have; empty: any. A beginning that ends with a
	// host means this host alone, not others that begin like it.
	Allowlist   []string
	RequireAuth bool // servers without auth are refused
}

// Refuse says why a server is refused, in sentences for a person; nothing when it is not.
func (p Policy) Refuse(c Config, auth bool) (reasons []string) {
	if c.Command != "" {
		return nil
	}
	begins := func(prefix string) bool { return under(c.URL, prefix) }
	if len(p.Allowlist) > 0 && !slices.ContainsFunc(p.Allowlist, begins) {
		reasons = append(reasons, fmt.Sprintf("%s allows only URLs that begin with %s", p.From, strings.Join(p.Allowlist, " or ")))
	}
	if p.RequireAuth && !auth {
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
