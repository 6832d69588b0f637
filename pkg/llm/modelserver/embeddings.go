package modelserver

import (
	"encoding/json"
	"errors"
	"net/http"

	"arkonis.dev/ark/pkg/llm/mock"
)

// embeddings is OpenAI's protocol for vectors. Each text of the input is a user message of the request, and its vector
// is that of the mock model: texts that share words lie close together.
func embeddings() protocol {
	p := chatCompletions()
	p.api = APIEmbeddings
	p.decode = func(_ http.Header, body []byte) (Request, error) { return decodeEmbedding(body) }
	p.plain = embedded
	return p
}

func decodeEmbedding(body []byte) (Request, error) {
	var in struct {
		Model      string          `json:"model"`
		Input      json.RawMessage `json:"input"`
		Dimensions *int            `json:"dimensions"`
		Encoding   string          `json:"encoding_format"`
	}
	r := Request{}
	if err := unmarshal(body, &in); err != nil {
		return r, err
	}
	var texts []string
	if json.Unmarshal(in.Input, &texts) != nil {
		texts = []string{""}
		if json.Unmarshal(in.Input, &texts[0]) != nil {
			return r, errors.New("input is neither a text nor a list of texts")
		}
	}
	r.Model, r.dimensions = in.Model, in.Dimensions
	for _, t := range texts {
		r.Messages = append(r.Messages, Message{Role: "user", Content: t})
	}
	switch {
	case in.Encoding != "" && in.Encoding != "float":
		return r, errors.New("encoding_format must be float")
	case in.Dimensions != nil && *in.Dimensions < 1:
		return r, errors.New("dimensions must be at least 1")
	case len(texts) == 0:
		return r, errors.New("input must not be empty")
	}
	return r, nil
}

// embedded is an answer.
func embedded(req Request, r Reply) string {
	dimensions := 0
	if req.dimensions != nil {
		dimensions = *req.dimensions
	}
	data := []any{}
	for i, m := range req.Messages {
		data = append(data, map[string]any{"object": "embedding", "index": i, "embedding": mock.Vector(m.Content, dimensions)})
	}
	answer := map[string]any{"object": "list", "model": req.Model, "data": data}
	if !r.NoUsage {
		n := PromptTokens(req)
		if r.Usage != nil {
			n = r.Usage.Prompt
		}
		answer["usage"] = map[string]any{"prompt_tokens": n, "total_tokens": n}
	}
	return marshal(answer)
}
