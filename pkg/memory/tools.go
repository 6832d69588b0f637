package memory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/tools"
)

// Names of the tools.
const (
	RememberName = "remember"
	RecallName   = "recall"
)

// ToolNames are the names that an agent with a memory cannot give to other tools.
func ToolNames() []string { return []string{RememberName, RecallName} }

// CheckTools says which tool of an agent has the name of one of the memory's; nil for none.
func CheckTools(set *tools.Set) error {
	for _, name := range ToolNames() {
		if set.Has(name) {
			return fmt.Errorf("tool %q has the name of a tool of the agent's memory: give it another one", name)
		}
	}
	return nil
}

const (
	recallDefault = 5
	recallMost    = 20
	// recallBytes bounds what recall returns.
	recallBytes = 32 << 10
)

// remember stores a note.
type remember struct{ session *Session }

// Spec is what the model sees.
func (r *remember) Spec() llm.Tool {
	description := "Keep a note for later tasks of this conversation: a fact, a decision, a preference. Write it so that it can be understood on its own."
	if r.session.memory.config.Backend == InContext {
		description = "Keep a note for the rest of this task. It is gone when the task ends."
	}
	return llm.Tool{
		Name: RememberName, Description: description,
		Schema: json.RawMessage(fmt.Sprintf(`{"type":"object","properties":{`+
			`"text":{"type":"string","minLength":1,"maxLength":%d,"description":"the note"}},`+
			`"required":["text"],"additionalProperties":false}`, maxNote)),
	}
}

// Safe is true: the same call stores the same entry.
func (*remember) Safe() bool { return true }

// Call stores the note.
func (r *remember) Call(ctx context.Context, call tools.Call) (tools.Result, error) {
	var args struct {
		Text string `json:"text"`
	}
	if err := json.Unmarshal(call.Args, &args); err != nil {
		return tools.Errorf("%s: %v", RememberName, err), nil
	}
	text := strings.TrimSpace(args.Text)
	switch {
	case text == "":
		return tools.Errorf("%s: the note is empty", RememberName), nil
	case len(text) > maxNote:
		return tools.Errorf("%s: the note has %d bytes, at most %d are kept: shorten it, or make several of it", RememberName, len(text), maxNote), nil
	}
	if err := r.session.remember(ctx, call.ID, text); err != nil {
		return failed(ctx, "The note was not kept", err)
	}
	return tools.Result{Text: "Remembered."}, nil
}

// recall finds entries.
type recall struct{ session *Session }

// Spec is what the model sees.
func (r *recall) Spec() llm.Tool {
	description, query := "Find what you remember of earlier tasks of this conversation.", "words to look for; without it the newest are returned"
	switch r.session.memory.config.Backend {
	case InContext:
		description = "Find the notes that you made in this task."
	case VectorStore:
		query = "what to look for, found by meaning; without it the newest are returned"
	case NATS, Redis:
	}
	return llm.Tool{
		Name: RecallName, Description: description,
		Schema: json.RawMessage(fmt.Sprintf(`{"type":"object","properties":{`+
			`"query":{"type":"string","maxLength":2000,"description":%q},`+
			`"limit":{"type":"integer","minimum":1,"maximum":%d,"description":"how many at most, default %d"}},`+
			`"additionalProperties":false}`, query, recallMost, recallDefault)),
	}
}

// Safe is true: it only reads.
func (*recall) Safe() bool { return true }

// Call finds entries and lists them.
func (r *recall) Call(ctx context.Context, call tools.Call) (tools.Result, error) {
	args := struct {
		Query string `json:"query"`
		Limit int    `json:"limit"`
	}{Limit: recallDefault}
	if err := json.Unmarshal(call.Args, &args); err != nil {
		return tools.Errorf("%s: %v", RecallName, err), nil
	}
	query := strings.TrimSpace(args.Query)
	found, err := r.session.search(ctx, call.ID, query, max(1, min(args.Limit, recallMost)))
	switch {
	case err != nil:
		return failed(ctx, "What is remembered could not be read", err)
	case len(found) == 0 && query == "":
		return tools.Result{Text: "Nothing is remembered yet."}, nil
	case len(found) == 0:
		return tools.Result{Text: "Nothing that is remembered fits the query. Without a query the newest entries are returned."}, nil
	}
	return tools.Result{Text: list(found)}, nil
}

// list is what a model reads of entries, in their order.
func list(entries []Entry) string {
	var b strings.Builder
	for i, e := range entries {
		text := fmt.Sprintf("%d. %s\n", i+1, line(e))
		if b.Len()+len(text) > recallBytes {
			fmt.Fprintf(&b, "(%d more were found; ask for fewer, or with another query)\n", len(entries)-i)
			break
		}
		b.WriteString(text)
	}
	return strings.TrimSpace(b.String())
}

// failed tells the model what went wrong. Only the end of the task itself is an error.
func failed(ctx context.Context, what string, err error) (tools.Result, error) {
	if ctx.Err() != nil {
		return tools.Result{}, context.Cause(ctx)
	}
	if errors.Is(err, ErrUnavailable) {
		return tools.Errorf("%s, the memory is not available now: %v. Go on without it.", what, err), nil
	}
	return tools.Errorf("%s: %v", what, err), nil
}
