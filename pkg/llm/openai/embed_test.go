package openai_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/mock"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/llm/openai"
	"arkonis.dev/ark/pkg/task"
)

var _ llm.Embedder = (*openai.Provider)(nil)

func TestEmbed(t *testing.T) {
	t.Parallel()
	s, p := serve(t, modelserver.Config{Key: "sk-test-secret"})
	res, err := p.Embed(t.Context(), llm.EmbedRequest{
		Model: "embed-1", Texts: []string{"tides", "moons"}, Dimensions: 8, Key: "task-1-2",
	})
	require.NoError(t, err)
	require.Equal(t, &llm.EmbedResponse{
		Vectors: [][]float32{mock.Vector("tides", 8), mock.Vector("moons", 8)},
		Usage:   task.Usage{InputTokens: 4}, Model: "embed-1",
	}, res)
	calls := s.Calls()
	require.Len(t, calls, 1)
	require.Equal(t, "/v1/embeddings", calls[0].URL)
	require.Equal(t, modelserver.APIEmbeddings, calls[0].API)
	require.Equal(t, "task-1-2", calls[0].Key)
	require.JSONEq(t, `{"model":"embed-1","input":["tides","moons"],"dimensions":8,"encoding_format":"float"}`, string(calls[0].Body))

	res, err = p.Embed(t.Context(), llm.EmbedRequest{Model: "embed-1", Texts: []string{"tides"}})
	require.NoError(t, err)
	require.Equal(t, [][]float32{mock.Vector("tides", 0)}, res.Vectors)
}

func TestEmbedCountsWhenTheServerDoesNot(t *testing.T) {
	t.Parallel()
	_, p := serve(t, modelserver.Config{Answer: func(modelserver.Call) *modelserver.Reply { return &modelserver.Reply{NoUsage: true} }})
	req := llm.EmbedRequest{Model: "m", Texts: []string{"tides", "moons"}}
	res, err := p.Embed(t.Context(), req)
	require.NoError(t, err)
	require.True(t, res.UsageMissing)
	require.Equal(t, task.Usage{InputTokens: llm.EmbedBound(req)}, res.Usage)
	require.GreaterOrEqual(t, llm.EmbedBound(req), int64(10))
}

func TestEmbedTakesVectorsInAnyOrder(t *testing.T) {
	t.Parallel()
	_, p := serve(t, modelserver.Config{Answer: func(modelserver.Call) *modelserver.Reply {
		return &modelserver.Reply{ContentType: "application/json", Body: `{"data":[{"index":1,"embedding":[0,1]},{"index":0,"embedding":[1,0]}],
			"usage":{"prompt_tokens":3,"total_tokens":5}}`}
	}})
	res, err := p.Embed(t.Context(), llm.EmbedRequest{Model: "m", Texts: []string{"a", "b"}})
	require.NoError(t, err)
	require.Equal(t, [][]float32{{1, 0}, {0, 1}}, res.Vectors)
	require.Equal(t, task.Usage{InputTokens: 5}, res.Usage)
}

func TestEmbedEndsInOneStateHoweverTheServerFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		reply   modelserver.Reply
		code    task.Code
		retry   bool
		unknown bool
	}{
		"401":              {modelserver.Reply{Status: 401, Error: "Incorrect API key provided: sk-test-secret."}, task.CodeProviderAuth, false, false},
		"404":              {modelserver.Reply{Status: 404, Error: "no such model"}, task.CodeProviderRefused, false, false},
		"429":              {modelserver.Reply{Status: 429, Error: "slow down"}, task.CodeRateLimited, true, false},
		"503":              {modelserver.Reply{Status: 503}, task.CodeProviderFailed, true, true},
		"too long":         {modelserver.Reply{Status: 400, Error: "This model's maximum context length is 8192 tokens"}, task.CodeContextTooLong, false, false},
		"reset":            {modelserver.Reply{Fault: modelserver.FaultReset}, task.CodeProviderFailed, true, true},
		"cut":              {modelserver.Reply{Fault: modelserver.FaultCut, After: 40}, task.CodeProviderFailed, true, true},
		"end":              {modelserver.Reply{Fault: modelserver.FaultEnd, After: 40}, task.CodeProviderFailed, true, true},
		"without an end":   {modelserver.Reply{Fault: modelserver.FaultLine}, task.CodeProviderFailed, false, true},
		"error in a 200":   {body(`{"error":{"message":"overloaded"}}`), task.CodeProviderFailed, true, true},
		"vLLM's error":     {body(`{"object":"error","message":"busy"}`), task.CodeProviderFailed, true, true},
		"no JSON":          {body(`<html>`), task.CodeProviderFailed, true, true},
		"no vectors":       {body(`{"data":[]}`), task.CodeProviderFailed, true, true},
		"too few":          {body(`{"data":[{"embedding":[1,2]}]}`), task.CodeProviderFailed, true, true},
		"too many":         {body(`{"data":[{"embedding":[1]},{"embedding":[1]},{"embedding":[1]}]}`), task.CodeProviderFailed, true, true},
		"one twice":        {body(`{"data":[{"index":0,"embedding":[1]},{"index":0,"embedding":[1]}]}`), task.CodeProviderFailed, true, true},
		"unlike lengths":   {body(`{"data":[{"embedding":[1,2]},{"embedding":[1]}]}`), task.CodeProviderFailed, true, true},
		"an empty vector":  {body(`{"data":[{"embedding":[1]},{"embedding":[]}]}`), task.CodeProviderFailed, true, true},
		"a vector of zero": {body(`{"data":[{"embedding":[1]},{"embedding":[0]}]}`), task.CodeProviderFailed, true, true},
		"too large":        {body(`{"data":[{"embedding":[1]},{"embedding":[1e99]}]}`), task.CodeProviderFailed, true, true},
		"a chat's answer":  {body(`{"choices":[{"message":{"content":"hello"},"finish_reason":"stop"}]}`), task.CodeProviderFailed, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, p := serve(t, modelserver.Config{Answer: func(modelserver.Call) *modelserver.Reply { return &c.reply }})
			res, err := p.Embed(t.Context(), llm.EmbedRequest{Model: "m", Texts: []string{"a", "b"}, Key: "k"})
			require.Nil(t, res)
			var failure *llm.Error
			require.ErrorAs(t, err, &failure)
			require.Equal(t, []any{c.code, c.retry, c.unknown}, []any{failure.Code, failure.Retry, failure.Unknown}, failure.Message)
			require.NotContains(t, fmt.Sprint(failure.Message, failure.Err), "sk-test-secret")
			require.Len(t, s.Calls(), 1, "one request, never a hidden retry")
		})
	}
}

func body(text string) modelserver.Reply {
	return modelserver.Reply{Body: text, ContentType: "application/json"}
}

func TestEmbedEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s, p := serve(t, modelserver.Config{Answer: func(modelserver.Call) *modelserver.Reply {
		return &modelserver.Reply{Fault: modelserver.FaultHang}
	}})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = s.WaitIn(t.Context(), 1)
		cancel()
	}()
	_, err := p.Embed(ctx, llm.EmbedRequest{Model: "m", Texts: []string{"a"}})
	var failure *llm.Error
	require.ErrorAs(t, err, &failure)
	require.Equal(t, task.CodeCancelled, failure.Code)
	require.True(t, failure.Unknown)
}
