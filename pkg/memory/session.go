package memory

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/tools"
)

const (
	// maxNote is how long a note may be that the model remembers, in bytes.
	maxNote = 4 << 10
	// maxTask and maxAnswer are how much a finished task leaves behind of its prompt and of its answer, in bytes.
	maxTask   = 1 << 10
	maxAnswer = 2 << 10
	// openNewest and openSimilar are how many entries are looked at for what goes before the prompt.
	openNewest  = 64
	openSimilar = 12
	// searched is how many entries a search by words looks through.
	searched = 512
)

// The keys of the vectors that a task needs beside those of its tool calls, whose ids begin with a digit.
const (
	keyOpening = "memory-opening"
	keyEnding  = "memory-ending"
)

// Session is the memory of one task: what its agent knows from earlier tasks of the same conversation.
type Session struct {
	memory *Memory
	task   *task.Task
	key    string
	store  Store
	embed  Embed
}

// Opening is what a task begins with.
type Opening struct {
	// Text goes before the task's prompt; empty when nothing is remembered.
	Text string
	// Note is for the task's result: that its memory could not be read. Empty when it could.
	Note string
}

// Open recalls what goes before the prompt: the entries that mean the like of it, or the newest, as many as fit in
// Config.PromptBytes. It never fails, and takes no longer than the operations' times allow.
func (s *Session) Open(ctx context.Context, prompt string) Opening {
	c := s.memory.config
	if c.Backend == InContext || c.PromptBytes < 0 {
		return Opening{}
	}
	count, header := openNewest, headNewest
	if c.Backend == VectorStore {
		count, header = openSimilar, headSimilar
	}
	entries, err := s.find(ctx, keyOpening, prompt, count)
	if err != nil {
		if ctx.Err() != nil || !isOutage(err) {
			return Opening{}
		}
		return Opening{Note: unavailable(c.Backend, err)}
	}
	return Opening{Text: block(header, entries, c.PromptBytes)}
}

func isOutage(err error) bool { return errors.Is(err, ErrUnavailable) }

// Close prepares what a finished task leaves behind: the beginnings of its prompt and of its answer. For a vector store it
// makes the vector, so it is called while the task may still reserve tokens. The returned function stores the entry; it is
// called right before the task's result is stored, and is never nil. Neither fails.
func (s *Session) Close(ctx context.Context, prompt, answer string) (keep func(context.Context)) {
	none := func(context.Context) {}
	if s.memory.config.Backend == InContext || strings.TrimSpace(answer) == "" {
		return none
	}
	e := Entry{
		ID: entryID(s.task.ID, keyEnding), Kind: KindTask,
		Text: "Task: " + brief(prompt, maxTask) + "\nAnswer: " + brief(answer, maxAnswer),
	}
	if err := s.vectorise(ctx, keyEnding, &e); err != nil {
		return none
	}
	return func(ctx context.Context) {
		_ = s.put(ctx, e) // an outage is logged where it is found
	}
}

// Tools are what the model uses its memory with; see ToolNames.
func (s *Session) Tools() []tools.Tool { return []tools.Tool{&remember{s}, &recall{s}} }

// remember stores a note of the model. key is the same when the call is repeated.
func (s *Session) remember(ctx context.Context, key, text string) error {
	e := Entry{ID: entryID(s.task.ID, key), Kind: KindNote, Text: text}
	if err := s.vectorise(ctx, key, &e); err != nil {
		return err
	}
	return s.put(ctx, e)
}

// search returns up to n entries that fit a query, or the newest without one.
func (s *Session) search(ctx context.Context, key, query string, n int) ([]Entry, error) {
	switch {
	case s.memory.config.Backend == VectorStore:
		return s.find(ctx, key, query, n)
	case query == "":
		return s.find(ctx, key, "", n)
	}
	entries, err := s.find(ctx, key, "", searched)
	if err != nil {
		return nil, err
	}
	return matching(entries, query, n), nil
}

// find asks the store for what is like a text, or for the newest.
func (s *Session) find(ctx context.Context, key, text string, n int) ([]Entry, error) {
	var like []float32
	if strings.TrimSpace(text) != "" {
		e := Entry{Text: text}
		if err := s.vectorise(ctx, key, &e); err != nil {
			return nil, err
		}
		like = e.Vector
	}
	var found []Entry
	err := s.memory.ask(ctx, func(ctx context.Context) (err error) {
		found, err = s.store.Find(ctx, s.key, like, n)
		return err
	})
	return found, err
}

func (s *Session) put(ctx context.Context, e Entry) error {
	e.Text = plain(e.Text)
	return s.memory.ask(ctx, func(ctx context.Context) error { return s.store.Put(ctx, s.key, e) })
}

var errNoEmbed = errors.New("no model makes vectors for this task")

// vectorise makes the vector of an entry, if the store wants one.
func (s *Session) vectorise(ctx context.Context, key string, e *Entry) error {
	if s.memory.config.Backend != VectorStore {
		return nil
	}
	// A vector that no store takes is not worth its tokens.
	if err := s.memory.health.resting(); err != nil {
		return err
	}
	return s.memory.attempt(ctx, s.memory.vectors, s.memory.config.EmbedTimeout, func(ctx context.Context) (err error) {
		if s.embed == nil {
			return errNoEmbed
		}
		if e.Vector, err = s.embed(ctx, key, chars.Head(plain(e.Text), EmbedBytes)); err != nil {
			return fmt.Errorf("make a vector with model %s: %w", s.memory.config.Embedding.Model, err)
		}
		if len(e.Vector) == 0 {
			return fmt.Errorf("make a vector with model %s: it has no dimensions", s.memory.config.Embedding.Model)
		}
		return nil
	})
}
