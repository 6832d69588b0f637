package mock_test

import (
	"context"
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/mock"
	"arkonis.dev/ark/pkg/task"
)

var _ llm.Embedder = (*mock.Provider)(nil)

func cosine(a, b []float32) float64 {
	sum := 0.0
	for i := range a {
		sum += float64(a[i]) * float64(b[i])
	}
	return sum
}

func TestEmbedIsDeterministicAndFindsWhatIsAlike(t *testing.T) {
	t.Parallel()
	p := mock.New(mock.Script{})
	req := llm.EmbedRequest{Model: "mock", Texts: []string{
		"The harbour of Lisbon closes at dusk.", "When does Lisbon's harbour close?", "Tomatoes need sun", "--", "日本語",
	}}
	res, err := p.Embed(t.Context(), req)
	require.NoError(t, err)
	again, err := mock.New(mock.Script{}).Embed(t.Context(), req)
	require.NoError(t, err)
	require.Equal(t, res, again)
	require.Equal(t, task.Usage{InputTokens: 10 + 9 + 5 + 1 + 3}, res.Usage)
	require.Len(t, res.Vectors, 5)
	for _, v := range res.Vectors {
		require.Len(t, v, mock.DefaultDimensions)
		require.InDelta(t, 1, math.Sqrt(cosine(v, v)), 1e-5)
	}
	require.Greater(t, cosine(res.Vectors[0], res.Vectors[1]), 0.3)
	require.Less(t, cosine(res.Vectors[0], res.Vectors[2]), 0.2)

	req.Dimensions = 8
	res, err = p.Embed(t.Context(), req)
	require.NoError(t, err)
	require.Len(t, res.Vectors[4], 8)
}

func TestEmbedRefusesWhatIsNoRequest(t *testing.T) {
	t.Parallel()
	p := mock.New(mock.Script{})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		req  llm.EmbedRequest
		code task.Code
	}{
		"no model":   {t.Context(), llm.EmbedRequest{Texts: []string{"a"}}, task.CodeInternal},
		"no text":    {t.Context(), llm.EmbedRequest{Model: "m"}, task.CodeInternal},
		"empty text": {t.Context(), llm.EmbedRequest{Model: "m", Texts: []string{"a", ""}}, task.CodeInternal},
		"cancelled":  {ended, llm.EmbedRequest{Model: "m", Texts: []string{"a"}}, task.CodeCancelled},
	} {
		_, err := p.Embed(c.ctx, c.req)
		var failure *llm.Error
		require.ErrorAs(t, err, &failure, name)
		require.Equal(t, c.code, failure.Code, name)
	}
}
