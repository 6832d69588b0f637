package mcp

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPolicy(t *testing.T) {
	t.Parallel()
	p := Policy{From: "ArkSettings strict", Allowlist: []string{"https://tools.example.com", "http://10.0.0.1:80", "https://other.example/mcp/"}, RequireAuth: true}
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
		require.Equal(t, allowed, len(p.Refuse(Config{URL: url}, true)) == 0, url)
	}
	require.Equal(t, []string{
		"ArkSettings strict allows only URLs that begin with https://tools.example.com or http://10.0.0.1:80 or https://other.example/mcp/",
		"ArkSettings strict demands auth of every MCP server",
	}, p.Refuse(Config{URL: "https://evil/"}, false))
	require.Empty(t, p.Refuse(Config{Command: "npx"}, false), "a command is part of the image")
	require.Empty(t, Policy{}.Refuse(Config{URL: "http://any"}, false))
	require.Empty(t, Policy{Allowlist: []string{"https://"}}.Refuse(Config{URL: "https://any/x"}, false), "a scheme alone allows its hosts")
}
