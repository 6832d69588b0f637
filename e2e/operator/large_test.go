package operator

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// An input that is too large for an event makes its run all the same, and only once; one that is too large for a run is
// refused with what to do.
func TestTriggersWithLargeInputs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.start()
	w.apply(nested)
	w.podsOf("below")
	file := func(size int) string {
		body, err := json.Marshal(map[string]string{"prompt": strings.Repeat("far ", size/4)})
		require.NoError(t, err)
		name := filepath.Join(t.TempDir(), "input.json")
		require.NoError(t, os.WriteFile(name, body, 0o600))
		return name
	}
	large := file(300_000)
	name := w.must("trigger", "below", "--input", "@"+large, "--id", "1")
	require.Equal(t, name, w.must("trigger", "below", "--input", "@"+large, "--id", "1"), "the same id is the same trigger")
	run := w.ended(name)
	require.Equal(t, v1alpha1.RunSucceeded, run.Status.Phase, run.Status.Message)
	require.Equal(t, v1alpha1.TriggerManual, run.Spec.Trigger.Kind)
	require.Greater(t, run.Status.TotalTokenUsage.InputTokens, int64(60_000), "all of it reaches the agent")

	submit := w.arkCommand("submit", "below-w", "-", "-o", "json")
	submit.Stdin = strings.NewReader(strings.Repeat("far ", 50_000))
	out, err := submit.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Contains(t, string(out), `"status": "Succeeded"`)

	_, said, code := w.ark("trigger", "below", "--input", "@"+file(1<<20))
	require.Equal(t, 1, code)
	require.Contains(t, said, "bytes, and a run takes at most 1048576: give it a part, or a place where its tools can read it")
	require.Equal(t, 1, strings.Count(said, "\n"), said)
}
