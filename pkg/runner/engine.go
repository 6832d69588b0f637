package runner

import (
	"context"
	"errors"

	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/schema"
	"arkonis.dev/ark/pkg/work"
)

// Engine gives the engine its JSON schemas.
func Engine() pipeline.Options {
	return pipeline.Options{
		Schema: func(text string) (func(any) []pipeline.Violation, error) {
			s, err := schema.Compile([]byte(text))
			if err != nil {
				return nil, err
			}
			return func(doc any) []pipeline.Violation {
				found := s.Validate(doc)
				out := make([]pipeline.Violation, len(found))
				for i, v := range found {
					out[i] = pipeline.Violation{Path: v.Path, Message: v.Message}
				}
				return out
			}, nil
		},
		Extract: schema.Extract,
	}
}

// Transient says that an error of the queue is worth trying again.
func Transient(err error) bool {
	return errors.Is(err, queue.ErrUnavailable) || errors.Is(err, work.ErrUnavailable) || errors.Is(err, queue.ErrUnknownOutcome) || errors.Is(err, queue.ErrFull) ||
		errors.Is(err, context.DeadlineExceeded)
}
