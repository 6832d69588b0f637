package llm

import (
	"context"
	"slices"

	"arkonis.dev/ark/pkg/task"
)

// Embedder turns texts into vectors that lie close together when the texts mean the like. The providers whose servers
// offer it implement it beside Provider.
type Embedder interface {
	// Embed makes one call, under the same rules as Provider.Chat: exactly one HTTP request, and the whole answer or an
	// *Error.
	Embed(ctx context.Context, req EmbedRequest) (*EmbedResponse, error)
	// Name is the provider's name in telemetry, as that of Provider.
	Name() string
}

// EmbedRequest is one call.
type EmbedRequest struct {
	Model      string
	Texts      []string // one or more, none of them empty
	Dimensions int      // of a vector; 0 leaves it to the model
	// Key is the idempotency key of the call, sent where the provider supports it.
	Key string
}

// EmbedResponse is a whole answer.
type EmbedResponse struct {
	Vectors [][]float32 `json:"vectors"` // one for each text, in their order, all of one length
	Usage   task.Usage  `json:"usage"`   // input tokens only
	Model   string      `json:"model,omitempty"`
	// UsageMissing says that the server reported no usage: Usage is then the upper bound, EmbedBound.
	UsageMissing bool `json:"usageMissing,omitempty"`
}

// Validate says whether a request has what every call needs; nil if it does.
func (r EmbedRequest) Validate() *Error {
	if r.Model == "" || len(r.Texts) == 0 || r.Dimensions < 0 {
		return &Error{Code: task.CodeInternal, Message: "an embedding needs a model and texts"}
	}
	if slices.Contains(r.Texts, "") {
		return &Error{Code: task.CodeInternal, Message: "an embedding of an empty text was asked for"}
	}
	return nil
}

// EmbedBound is an upper bound of the tokens that a request can use: a byte-level tokenizer makes no more of them than
// there are bytes, and a server adds a few marks to each text.
func EmbedBound(req EmbedRequest) int64 {
	const perText = 16
	n := int64(0)
	for _, t := range req.Texts {
		n += perText + int64(len(t))
	}
	return n
}
