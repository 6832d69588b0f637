package openai

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http"
	"slices"

	openaisdk "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/exchange"
	"arkonis.dev/ark/pkg/task"
)

// Embed makes vectors by the embeddings API, which compatible servers mostly have; see llm.Embedder. A server that ignores
// the number of dimensions answers vectors of another length.
func (p *Provider) Embed(ctx context.Context, req llm.EmbedRequest) (*llm.EmbedResponse, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	a := &vectors{want: len(req.Texts)}
	failure := p.server.Exchange(ctx, exchange.Call{
		Model:  req.Model,
		Answer: a,
		Send: func(ctx context.Context, once exchange.Middleware) (*http.Response, error) {
			return p.sendEmbed(ctx, req, once)
		},
		Fallback: func(int, exchange.Said) string { return "" },
	})
	if failure != nil {
		return nil, failure
	}
	res := &llm.EmbedResponse{Vectors: a.found, Model: a.model}
	if a.usage == nil {
		res.Usage, res.UsageMissing = task.Usage{InputTokens: llm.EmbedBound(req)}, true
		return res, nil
	}
	res.Usage = *a.usage
	return res, nil
}

func (p *Provider) sendEmbed(ctx context.Context, req llm.EmbedRequest, once exchange.Middleware) (*http.Response, error) {
	params := openaisdk.EmbeddingNewParams{
		Model:          req.Model,
		Input:          openaisdk.EmbeddingNewParamsInputUnion{OfArrayOfStrings: req.Texts},
		EncodingFormat: openaisdk.EmbeddingNewParamsEncodingFormatFloat,
	}
	if req.Dimensions > 0 {
		params.Dimensions = openaisdk.Int(int64(req.Dimensions))
	}
	var res *http.Response
	opts := slices.Concat(p.options, []option.RequestOption{option.WithResponseBodyInto(&res), option.WithMiddleware(once)})
	if req.Key != "" {
		opts = append(opts, option.WithHeader("Idempotency-Key", req.Key))
	}
	service := openaisdk.NewEmbeddingService(opts...)
	_, err := service.New(ctx, params)
	return res, err
}

// vectors gathers one answer.
type vectors struct {
	want  int
	found [][]float32
	usage *task.Usage
	model string
}

// Size is how many vectors have arrived.
func (v *vectors) Size() int { return len(v.found) }

// Finished says that all vectors have arrived.
func (v *vectors) Finished() bool { return len(v.found) == v.want }

// Usage is what the server said it used, nil before it said so.
func (v *vectors) Usage() *task.Usage { return v.usage }

// Add takes in the answer, which comes in one piece.
func (v *vectors) Add(b []byte) (done bool, err error) {
	var in struct {
		Model json.RawMessage `json:"model"`
		Data  []struct {
			Index     *int      `json:"index"`
			Embedding []float32 `json:"embedding"`
		} `json:"data"`
		Usage   json.RawMessage `json:"usage"`
		Error   json.RawMessage `json:"error"`
		Object  json.RawMessage `json:"object"`
		Message json.RawMessage `json:"message"`
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return false, fmt.Errorf("%w: %w", exchange.ErrNoAnswer, err)
	}
	if !exchange.Null(in.Error) {
		return false, told(in.Error)
	}
	if exchange.Text(in.Object) == "error" {
		return false, told(b)
	}
	if u, ok := usageOf(in.Usage); ok {
		v.usage = &task.Usage{InputTokens: u.Total(), CachedTokens: u.CachedTokens}
	}
	v.model = exchange.Name(in.Model)
	found := make([][]float32, v.want)
	for i, d := range in.Data {
		if d.Index != nil {
			i = *d.Index
		}
		if i < 0 || i >= v.want || found[i] != nil {
			return false, fmt.Errorf("%w: a vector for text %d of %d", exchange.ErrNoAnswer, i+1, v.want)
		}
		found[i] = d.Embedding
	}
	if err := v.check(found); err != nil {
		return false, err
	}
	v.found = found
	return true, nil
}

// check refuses vectors that no store could compare.
func (v *vectors) check(found [][]float32) error {
	for i, f := range found {
		switch {
		case len(f) == 0:
			return fmt.Errorf("%w: no vector for text %d of %d", exchange.ErrNoAnswer, i+1, v.want)
		case len(f) != len(found[0]):
			return fmt.Errorf("%w: vectors of %d and of %d dimensions", exchange.ErrNoAnswer, len(found[0]), len(f))
		case slices.ContainsFunc(f, func(x float32) bool { return math.IsInf(float64(x), 0) || math.IsNaN(float64(x)) }),
			!slices.ContainsFunc(f, func(x float32) bool { return x != 0 }):
			return fmt.Errorf("%w: the vector for text %d is none that can be compared", exchange.ErrNoAnswer, i+1)
		}
	}
	return nil
}
