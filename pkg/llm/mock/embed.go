package mock

import (
	"context"
	"hash/fnv"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"

	"arkonis.dev/ark/pkg/llm"
)

// DefaultDimensions is how many dimensions a vector has where a request names none.
const DefaultDimensions = 64

// Embed makes vectors; see llm.Embedder and Vector. It fails only when ctx has ended or the request is none.
func (p *Provider) Embed(ctx context.Context, req llm.EmbedRequest) (*llm.EmbedResponse, error) {
	if err := req.Validate(); err != nil {
		return nil, err
	}
	if err := pause(ctx, 0); err != nil {
		return nil, err
	}
	res := &llm.EmbedResponse{Model: req.Model}
	for _, text := range req.Texts {
		res.Vectors = append(res.Vectors, Vector(text, req.Dimensions))
		res.Usage.InputTokens += tokens(text)
	}
	return res, nil
}

// Vector is a vector of length 1 for a text, the same for the same text. Texts that share words, or their beginnings,
// lie closer together; case, punctuation and the order of words do not count. dimensions 0 is DefaultDimensions.
func Vector(text string, dimensions int) []float32 {
	if dimensions <= 0 {
		dimensions = DefaultDimensions
	}
	sums := make([]float64, dimensions)
	for _, word := range strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
		addWord(sums, word, 1)
		addWord(sums, "stem "+stem(word), 1)
	}
	length := 0.0
	for _, x := range sums {
		length += x * x
	}
	if length == 0 {
		sums[0], length = 1, 1
	}
	v := make([]float32, dimensions)
	for i, x := range sums {
		v[i] = float32(x / math.Sqrt(length))
	}
	return v
}

func addWord(sums []float64, word string, weight float64) {
	h := fnv.New64a()
	_, _ = h.Write([]byte(word)) // never fails
	n := h.Sum64()
	if n>>63 == 1 {
		weight = -weight
	}
	sums[n%uint64(len(sums))] += weight
}

// stem is the beginning of a word: what its forms mostly share.
func stem(word string) string {
	const letters = 4
	n := 0
	for i := range word {
		if n == letters {
			return word[:i]
		}
		n++
	}
	return word[:min(len(word), letters*utf8.UTFMax)]
}
