package modelserver

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"unicode/utf8"
)

// The protocols of Call.API.
const (
	APIChat       = "chat"       // OpenAI's chat completions
	APIMessages   = "messages"   // Anthropic's messages
	APIEmbeddings = "embeddings" // OpenAI's embeddings
)

// protocol is how one of them reads a request and writes an answer.
type protocol struct {
	api      string
	decode   func(http.Header, []byte) (Request, error) // the error is what the client is told
	key      func(http.Header) string
	refusal  func(feature string) Reply
	plain    func(Request, Reply) string
	streamed func(Request, Reply) []string // events, one part each
	failure  func(Reply) string            // the body of an error
	opening  string                        // what a stream without an end begins with
	endless  func(text string) string      // an event of it
	line     string                        // how an event begins whose line has no end
}

// outcome is a Reply with what it leaves open filled in.
type outcome struct {
	calls  []ToolCall
	finish string // in the words of chat completions, "" for none
	usage  *Usage // nil for none
}

func fill(req Request, r Reply, idPrefix string) outcome {
	var a outcome
	uses := r.Tools
	if r.ToolLoop && len(req.Tools) > 0 {
		uses = []Use{{Name: req.Tools[0].Function.Name, Arguments: "{}"}}
	}
	completion := Tokens(r.Text) + Tokens(r.Reasoning)
	for i, u := range uses {
		c := ToolCall{ID: u.ID, Type: "function", Function: Function{Name: u.Name, Arguments: u.Arguments}}
		switch u.ID {
		case "":
			c.ID = idPrefix + "_" + strconv.Itoa(len(req.Messages)) + "_" + strconv.Itoa(i)
		case "none":
			c.ID = ""
		}
		completion += Tokens(u.Name + u.Arguments)
		a.calls = append(a.calls, c)
	}
	switch {
	case r.Finish == "none":
	case r.Finish != "":
		a.finish = r.Finish
	case len(a.calls) > 0:
		a.finish = "tool_calls"
	default:
		a.finish = "stop"
	}
	if !r.NoUsage {
		a.usage = r.Usage
		if a.usage == nil {
			a.usage = &Usage{Prompt: PromptTokens(req), Completion: max(completion, 1), Reasoning: Tokens(r.Reasoning)}
		}
	}
	return a
}

// split cuts a text into pieces of n bytes, never inside a character; n 0 makes up to eight pieces.
func split(s string, n int) []string {
	if n <= 0 {
		n = max(len(s)/8+1, 16)
	}
	var out []string
	for s != "" {
		cut := min(n, len(s))
		for cut < len(s) && !utf8.RuneStart(s[cut]) {
			cut++
		}
		out = append(out, s[:cut])
		s = s[cut:]
	}
	return out
}

// halves cuts a text in two, never inside a character; an empty half is left out.
func halves(s string) []string {
	half := len(s) / 2
	for half > 0 && !utf8.RuneStart(s[half]) {
		half--
	}
	var out []string
	for _, p := range []string{s[:half], s[half:]} {
		if p != "" {
			out = append(out, p)
		}
	}
	return out
}

func unmarshal(body []byte, to any) error {
	if err := json.Unmarshal(body, to); err != nil {
		return fmt.Errorf("the body is no request: %w", err)
	}
	return nil
}

// marshal is for values made here, which always marshal.
func marshal(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return "{}"
	}
	return string(b)
}

// nullable is a text, or null for the empty one.
func nullable(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}
