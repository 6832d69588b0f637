package llm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"arkonis.dev/ark/pkg/task"
)

// What providers share when they write a conversation for a server, and read its answer.

// Validate says whether a request has what every call needs; nil if it does.
func (r Request) Validate() *Error {
	if r.Model == "" || r.MaxTokens <= 0 || len(r.Messages) == 0 {
		return &Error{Code: task.CodeInternal, Message: "a model call needs a model, messages and a token limit above 0"}
	}
	return nil
}

// Instructed adds an instruction to the first system message, or puts one in front.
func Instructed(msgs []Message, text string) []Message {
	if len(msgs) == 0 || msgs[0].Role != RoleSystem {
		return slices.Concat([]Message{{Role: RoleSystem, Text: text}}, msgs)
	}
	out := slices.Clone(msgs)
	if out[0].Text != "" {
		text = out[0].Text + "\n\n" + text
	}
	out[0].Text = text
	return out
}

// Spoken tells a conversation with tools in words, for a server that knows no tools.
func Spoken(msgs []Message) []Message {
	out := make([]Message, 0, len(msgs))
	for _, m := range msgs {
		switch {
		case m.Role == RoleTool:
			m = Message{Role: RoleUser, Text: "Result of tool " + m.ToolName + ":\n" + m.Text}
		case len(m.ToolCalls) > 0:
			var b strings.Builder
			b.WriteString(m.Text)
			for _, c := range m.ToolCalls {
				if b.Len() > 0 {
					b.WriteByte('\n')
				}
				b.WriteString("Called tool " + c.Name + " with " + c.Arguments)
			}
			m = Message{Role: RoleAssistant, Text: b.String()}
		}
		out = append(out, m)
	}
	return out
}

// SafeName makes a name that servers take out of the one that a model, or another server, invented: they would refuse
// the conversation.
func SafeName(name string) string {
	const limit = 64
	name = strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' {
			return r
		}
		return '_'
	}, name)
	if name == "" {
		return "unknown"
	}
	return name[:min(len(name), limit)]
}

// SafeArguments are a JSON object even where the model wrote something else: servers parse them.
func SafeArguments(args string) string {
	var object map[string]json.RawMessage
	if json.Unmarshal([]byte(args), &object) == nil && object != nil {
		return args
	}
	if strings.TrimSpace(args) == "" {
		return "{}"
	}
	b, err := json.Marshal(map[string]string{"invalid_arguments": args})
	if err != nil {
		return "{}"
	}
	return string(b)
}

// CompleteCalls fills in what a server left out of the calls of an answer: ids that are missing or not unique, and
// arguments that are empty.
func CompleteCalls(req Request, calls []ToolCall) {
	seen := make(map[string]bool, len(calls))
	for i := range calls {
		c := &calls[i]
		for n := i; c.ID == "" || seen[c.ID]; n += len(calls) {
			c.ID = callID(req, n)
		}
		seen[c.ID] = true
		if strings.TrimSpace(c.Arguments) == "" {
			c.Arguments = "{}"
		}
	}
}

// callID makes up the id of a tool call: the same for the same call, nine letters and digits as the strictest servers
// demand.
func callID(req Request, n int) string {
	h := sha256.Sum256([]byte(req.Key + "\x00" + strconv.Itoa(len(req.Messages)) + "\x00" + strconv.Itoa(n)))
	return "c" + hex.EncodeToString(h[:4])
}
