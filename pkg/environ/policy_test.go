package environ_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/environ"
)

func TestPolicy(t *testing.T) {
	t.Parallel()
	p := environ.MCPPolicy{From: "ArkSettings strict", Allowlist: []string{"https://tools.example.com", "http://10.0.0.1:80", "https://other.example/mcp/"}, RequireAuth: true}
	for url, allowed := range map[string]bool{
		"https://tools.example.com":               true,
		"https://tools.example.com/":              true,
		"https://tools.example.com/mcp?x=1":       true,
		"https://tools.example.com?x=1":           true,
		"https://tools.example.com.evil.example/": false,
		"https://tools.example.community/":        false,
		"https://tools.example.com:8443/":         false,
		"https://tools.example.com:x@evil/":       false,
		"https://tools.example.com@evil/":         false,
		"http://tools.example.com/":               false,
		"http://10.0.0.1:8080/":                   false,
		"http://10.0.0.1:80/mcp":                  true,
		"https://other.example/mcp/a":             true,
		"https://other.example/mcp":               false,
		"https://other.example/mcp/../admin":      false,
		"https://other.example/mcp/%2e%2e/admin":  false,
		"https://other.example/":                  false,
	} {
		require.Equal(t, allowed, len(p.Refuse(environ.MCPServer{URL: url, Auth: &environ.Auth{}})) == 0, url)
	}
	require.Equal(t, []string{
		"ArkSettings strict allows only URLs that begin with https://tools.example.com or http://10.0.0.1:80 or https://other.example/mcp/",
		"ArkSettings strict demands auth of every MCP server",
	}, p.Refuse(environ.MCPServer{URL: "https://evil/"}))
	require.Empty(t, p.Refuse(environ.MCPServer{Command: "npx"}), "a command is part of the image")
	require.Empty(t, environ.MCPPolicy{}.Refuse(environ.MCPServer{URL: "http://any"}))
	require.Empty(t, environ.MCPPolicy{Allowlist: []string{"https://"}}.Refuse(environ.MCPServer{URL: "https://any/x"}), "a scheme alone allows its hosts")
}
