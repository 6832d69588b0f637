package services

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// Everything is the MCP project's own reference server, on Node.js.
type Everything struct {
	tb         testing.TB
	node, main string
	port       int
	p          *process
}

// FindEverything finds the server; it is not started.
func FindEverything(t *testing.T) *Everything {
	t.Helper()
	node, err := exec.LookPath("node")
	if err != nil {
		Missing(t, fmt.Errorf("there is no Node.js: %w", err))
	}
	cache, err := os.UserCacheDir()
	require.NoError(t, err)
	found, err := filepath.Glob(filepath.Join(cache, "ark/npm/everything-*/node_modules/@modelcontextprotocol/server-everything/dist/index.js"))
	require.NoError(t, err)
	if len(found) == 0 {
		Missing(t, errors.New("the MCP reference server is not installed: .ci/everything does it"))
	}
	return &Everything{tb: t, node: node, main: slices.Max(found)}
}

// Command is the server over stdio.
func (e *Everything) Command() (program string, args []string) {
	return e.node, []string{e.main, "stdio"}
}

// Serve starts it over "streamableHttp" or "sse" on a port of its own, until the test ends, and returns its address.
func (e *Everything) Serve(transport string) (url string) {
	e.tb.Helper()
	p, port, err := onFreePort(func(port int) (*process, error) { return e.launch(transport, port) })
	require.NoError(e.tb, err)
	e.p, e.port = p, port
	e.tb.Cleanup(func() { e.p.kill() })
	return fmt.Sprintf("http://127.0.0.1:%d/%s", port, map[string]string{"streamableHttp": "mcp", "sse": "sse"}[transport])
}

// Restart kills it and starts it again on the same port: it has forgotten its sessions.
func (e *Everything) Restart(transport string) {
	e.tb.Helper()
	e.p.kill()
	p, err := e.launch(transport, e.port)
	require.NoError(e.tb, err)
	e.p = p
}

func (e *Everything) launch(transport string, port int) (*process, error) {
	cmd := exec.Command(e.node, e.main, transport)
	cmd.Env = append(os.Environ(), "PORT="+strconv.Itoa(port))
	return launch(cmd, "on port "+strconv.Itoa(port))
}
