package mcp_test

import (
	"log/slog"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/tools"
	"arkonis.dev/ark/pkg/tools/mcp"
)

func TestAConfigurationThatIsWrongSaysWhat(t *testing.T) {
	t.Parallel()
	const url = "https://example.com/mcp"
	for want, configs := range map[string][]mcp.Config{
		"": {{Name: "a.b-c_d", URL: url, Headers: map[string]string{"Host": "x"}, Token: "t"}, {Name: "c", Command: "x", Args: []string{"y"}}},
		`mcp server "-": name: use 1 to 63 letters, digits, hyphens, underscores and dots, with a letter or digit at both ends`: {{Name: "-", URL: url}},
		`mcp server "a": give exactly one of url and command`:                                                                   {{Name: "a"}},
		`mcp server "a": url must be an http:// or https:// address with a host`:                                                {{Name: "a", URL: "ftp://x"}},
		`mcp server "a": transport "carrier-pigeon" is not one of auto, streamable-http, sse, stdio, rest`:                      {{Name: "a", URL: url, Transport: "carrier-pigeon"}},
		`mcp server "a": transport stdio goes with command, the others with url`:                                                {{Name: "a", URL: url, Transport: mcp.Stdio}},
		`mcp server "a": headers, token and certificates need url`:                                                              {{Name: "a", Command: "x", Token: "t"}},
		`mcp server "a": args, env and dir need command`:                                                                        {{Name: "a", URL: url, Args: []string{"x"}}},
		`mcp server "a": give one of token and token file`:                                                                      {{Name: "a", URL: url, Token: "t", TokenFile: "f"}},
		`mcp server "a": cert file and key file go together`:                                                                    {{Name: "a", URL: url, CertFile: "f"}},
		`mcp server "a": header mcp-session-id is set by the protocol`:                                                          {{Name: "a", URL: url, Headers: map[string]string{"mcp-session-id": "x"}}},
		`mcp server "a": header Authorization and a bearer token exclude each other`:                                            {{Name: "a", URL: url, Token: "t", Headers: map[string]string{"Authorization": "x"}}},
		`mcp server "a": call timeout is negative`:                                                                              {{Name: "a", URL: url, CallTimeout: -1}},
		`mcp server "a" stands twice: give each server a name of its own`:                                                       {{Name: "a", URL: url}, {Name: "a", URL: url}},
	} {
		t.Run(want, func(t *testing.T) {
			t.Parallel()
			network := tools.NewNetwork(tools.Guard{}, nil)
			s, err := mcp.Start(t.Context(), configs, network, slog.New(slog.DiscardHandler))
			if want != "" {
				require.EqualError(t, err, want)
				return
			}
			require.NoError(t, err)
			s.Close()
		})
	}
}

func TestServersDoNotHoldUpTheStart(t *testing.T) {
	t.Parallel()
	held := make(chan struct{})
	h := newHost(t, func() http.Handler {
		return http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			select {
			case <-held:
			case <-r.Context().Done():
			}
		})
	})
	defer close(held)
	quick := newHost(t, func() http.Handler { return rest(newWorld()) })
	network := tools.NewNetwork(tools.Guard{}, nil)
	s, err := mcp.Start(t.Context(), []mcp.Config{
		{Name: "hangs", URL: h.url(), ConnectTimeout: 3 * time.Second, Required: true, Guidance: " Use with care. "},
		{Name: "quick", URL: quick.url()},
	}, network, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	defer s.Close()
	require.ErrorContains(t, s.Ready(), "required tool server hangs: it was not reached yet")
	require.NoError(t, s.Settle(t.Context()))
	require.ErrorContains(t, s.Ready(), "required tool server hangs: no answer within 3s")
	require.Equal(t, mcp.Health{Name: "quick", Healthy: true, Tools: []string{"count", "echo"}}, s.Health()[1])
	require.Equal(t, []string{"Use with care."}, s.Guidance())
}
