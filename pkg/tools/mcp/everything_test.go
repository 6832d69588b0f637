package mcp_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/e2e/services"
	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/tools"
	"arkonis.dev/ark/pkg/tools/mcp"
)

// ask calls a tool with arguments as a model does.
func (c *client) ask(name, arguments string) tools.Result {
	c.t.Helper()
	r, err := c.set().Prepare(llm.ToolCall{Name: name, Arguments: arguments}).Call(c.t.Context(), "task", name)
	require.NoError(c.t, err)
	return r
}

// The MCP project's own reference server, over each of its transports.
func TestTheReferenceServer(t *testing.T) {
	t.Parallel()
	for _, transport := range []string{"stdio", "streamableHttp", "sse"} {
		t.Run(transport, func(t *testing.T) {
			t.Parallel()
			server := services.FindEverything(t)
			config := mcp.Config{Name: "all"}
			if transport == "stdio" {
				config.Command, config.Args = server.Command()
			} else {
				config.URL = server.Serve(transport) // which transport it is, is found out
			}
			c := connect(t, config)
			require.Subset(t, c.names(), []string{"all__echo", "all__get-sum", "all__get-tiny-image", "all__get-structured-content"}, "%+v", c.Health())
			require.Equal(t, ok("Echo: hello"), c.ask("all__echo", `{"message":"hello"}`))
			require.Equal(t, ok("The sum of 2 and 40 is 42."), c.ask("all__get-sum", `{"a":2,"b":40}`))

			r := c.ask("all__get-sum", `{"a":"two"}`)
			require.True(t, r.IsError, "arguments are checked against the schema that the server gave")
			require.Contains(t, r.Text, "the arguments of all__get-sum do not fit its schema:")

			r = c.ask("all__get-structured-content", `{"location":"Chicago"}`)
			require.False(t, r.IsError, r.Text)
			var weather struct{ Temperature, Humidity float64 }
			require.NoError(t, json.Unmarshal([]byte(r.Text), &weather), r.Text)
			require.Equal(t, 82.0, weather.Humidity)

			r = c.ask("all__get-tiny-image", `{}`)
			require.False(t, r.IsError, r.Text)
			require.Contains(t, r.Text, "image/png")
			require.NotContains(t, r.Text, "iVBORw0", "an image is no text")

			r = c.ask("all__get-resource-reference", `{"resourceType":"Text","resourceId":1}`)
			require.False(t, r.IsError, r.Text)
			require.Contains(t, strings.ToLower(r.Text), "resource")

			if transport != "stdio" {
				server.Restart(transport)
				require.Equal(t, ok("Echo: again"), c.ask("all__echo", `{"message":"again"}`), "a session that the server forgot is opened anew")
			}
		})
	}
}
