package mcp_test

import (
	"log/slog"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/tools"
	"arkonis.dev/ark/pkg/tools/mcp"
)

// BenchmarkCall is one call of a tool and its answer, over each transport.
func BenchmarkCall(b *testing.B) {
	serve := func(handler http.Handler) mcp.Config {
		h := newHost(b, func() http.Handler { return handler })
		return mcp.Config{Name: "s", URL: h.url()}
	}
	for name, config := range map[string]func() mcp.Config{
		"streamable": func() mcp.Config { return serve(streamable(newSDKServer(newWorld(), nil), nil)) },
		"sse":        func() mcp.Config { return serve(sse(newSDKServer(newWorld(), nil))) },
		"rest":       func() mcp.Config { return serve(rest(newWorld())) },
		"stdio":      func() mcp.Config { return stdioConfig(b, "tools") },
	} {
		b.Run(name, func(b *testing.B) {
			network := tools.NewNetwork(tools.Guard{}, nil)
			defer network.Close()
			s, err := mcp.Start(b.Context(), []mcp.Config{config()}, network, slog.New(slog.DiscardHandler))
			require.NoError(b, err)
			defer s.Close()
			require.NoError(b, s.Settle(b.Context()))
			empty, err := tools.NewSet()
			require.NoError(b, err)
			set, err := s.Offer(b.Context(), empty)
			require.NoError(b, err)
			call := prepare(set, "s__echo", "x")
			for b.Loop() {
				r, err := call.Call(b.Context(), "task", "1")
				if err != nil || r.IsError {
					b.Fatal(r, err)
				}
			}
		})
	}
}

// BenchmarkOffer is what each task pays for the tools of three servers.
func BenchmarkOffer(b *testing.B) {
	network := tools.NewNetwork(tools.Guard{}, nil)
	defer network.Close()
	var configs []mcp.Config
	for _, name := range []string{"a", "b", "c"} {
		h := newHost(b, func() http.Handler { return streamable(newSDKServer(newWorld(), nil), nil) })
		configs = append(configs, mcp.Config{Name: name, URL: h.url()})
	}
	s, err := mcp.Start(b.Context(), configs, network, slog.New(slog.DiscardHandler))
	require.NoError(b, err)
	defer s.Close()
	require.NoError(b, s.Settle(b.Context()))
	empty, err := tools.NewSet()
	require.NoError(b, err)
	for b.Loop() {
		if _, err := s.Offer(b.Context(), empty); err != nil {
			b.Fatal(err)
		}
	}
}
