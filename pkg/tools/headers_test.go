package tools_test

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/tools"
)

// The value of a header that stands in a file is the one that stands there when the call is made.
func TestHeadersFromFilesAreReadForEveryCall(t *testing.T) {
	t.Parallel()
	seen := make(chan string, 1)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		seen <- r.Header.Get("X-Key") + " " + r.Header.Get("X-Fixed")
	}))
	t.Cleanup(server.Close)
	file := filepath.Join(t.TempDir(), "key")
	network := tools.NewNetwork(tools.Guard{}, nil)
	t.Cleanup(network.Close)
	w, err := tools.NewWebhook(tools.WebhookConfig{
		Name: "look", URL: server.URL, Headers: map[string]string{"X-Fixed": "f"}, HeaderFiles: map[string]string{"X-Key": file},
	}, network)
	require.NoError(t, err)
	set, err := tools.NewSet(w)
	require.NoError(t, err)
	call := func() tools.Result {
		r, err := set.Prepare(llm.ToolCall{Name: "look", Arguments: "{}"}).Call(t.Context(), "t", "1.0")
		require.NoError(t, err)
		return r
	}
	r := call()
	require.True(t, r.IsError)
	require.Contains(t, r.Text, "look: read the header X-Key: open ")
	for _, step := range []struct{ content, want string }{{"one\n", "one f"}, {"two", "two f"}, {" ", "two f"}, {"three", "three f"}} {
		require.NoError(t, os.WriteFile(file, []byte(step.content), 0o600))
		require.False(t, call().IsError)
		require.Equal(t, step.want, <-seen)
	}
	require.NoError(t, os.Remove(file))
	require.False(t, call().IsError)
	require.Equal(t, "three f", <-seen, "the last good value stands")
}
