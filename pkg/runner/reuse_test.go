package runner_test

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/runner"
	"arkonis.dev/ark/pkg/task"
)

// What a run takes over is its own: it is there, whole, when all that the stores hold of the earlier run is gone. Large
// outputs are copied from store to store.
func TestReusedResultsAreCopies(t *testing.T) {
	t.Parallel()
	b := newBench(t, two)
	ctx := t.Context()
	const size = 64 << 20
	sum := sha256.New()
	ref, err := b.queue.PutPayload(ctx, "earlier", io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{1}), size), sum))
	require.NoError(t, err)
	long := strings.Repeat("raw ", 20_000)
	results := []pipeline.StepResult{
		{Step: "small", Output: "{}", Raw: long, Agent: "writer", Run: "first"},
		{Step: "large", Output: "what the engine has of it", OutputRef: &ref, Agent: "writer", Run: "second"},
	}
	umlauts := "x" + strings.Repeat("ä", 100_000)
	beginning, err := b.queue.PutText(ctx, "earlier", umlauts)
	require.NoError(t, err)
	results = append(results, pipeline.StepResult{Step: "beginning", Output: umlauts[:1001], OutputRef: beginning.Ref, Held: 64 << 10})
	stored, err := runner.StoreReused(ctx, b.queue, "u1", results)
	require.NoError(t, err)
	_, err = b.queue.PurgeRun(ctx, "earlier")
	require.NoError(t, err)

	b.run.Status.Reused = &v1alpha1.ReusedResults{Steps: 3, Ref: &v1alpha1.PayloadRef{Key: stored.Key, Size: stored.Size, SHA256: stored.SHA256}}
	got, lost, err := runner.ReadReused(ctx, b.queue, b.run)
	require.NoError(t, err)
	require.False(t, lost)
	require.Len(t, got, 3)
	require.Equal(t, results[0], got[0])
	large := got[1]
	require.Equal(t, "u1/"+hex.EncodeToString(sum.Sum(nil)), large.OutputRef.Key)
	hash := sha256.Sum256([]byte(large.Output))
	require.Equal(t, large.OutputRef.SHA256, hex.EncodeToString(hash[:]))
	require.Len(t, large.Output, size)
	require.Equal(t, umlauts[:64<<10-1], got[2].Output, "as much as is needed, up to the last whole character")
	require.Equal(t, []any{"u1/" + beginning.Ref.SHA256, int64(len(umlauts))}, []any{got[2].OutputRef.Key, got[2].OutputRef.Size})

	_, err = b.queue.PurgeRun(ctx, "u1")
	require.NoError(t, err)
	got, lost, err = runner.ReadReused(ctx, b.queue, b.run)
	require.NoError(t, err)
	require.True(t, lost)
	require.Empty(t, got)
}

// A result whose body is lost cannot be taken over.
func TestResultsThatAreLost(t *testing.T) {
	t.Parallel()
	b := newBench(t, two)
	gone := &task.Ref{Key: "earlier/" + strings.Repeat("a", 64), Size: 3, SHA256: strings.Repeat("a", 64)}
	_, err := runner.StoreReused(t.Context(), b.queue, "u1", []pipeline.StepResult{{Step: "s", Output: "abc", OutputRef: gone}})
	require.ErrorContains(t, err, "take over the result of step s")
}
