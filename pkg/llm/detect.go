package llm

import (
	"fmt"
	"strings"
)

// The names of the providers that Detect knows.
const (
	OpenAI    = "openai"
	Anthropic = "anthropic"
	Mock      = "mock"
)

// Detect names the provider that serves a model. A provider that is set wins; "" and "auto" decide by the model's
// name: claude-* is Anthropic's, mock* is the mock's, everything else speaks OpenAI's chat completions.
func Detect(provider, model string) string {
	if p := strings.ToLower(strings.TrimSpace(provider)); p != "" && p != "auto" {
		return p
	}
	m := strings.ToLower(model)
	switch {
	case strings.HasPrefix(m, "claude-"):
		return Anthropic
	case strings.HasPrefix(m, "mock"):
		return Mock
	default:
		return OpenAI
	}
}

// SchemaInstruction tells a model in words to answer with JSON that fits a schema. A provider adds it to the system
// message where the server's own structured output cannot be used; a caller never needs to.
func SchemaInstruction(schema []byte) string {
	return fmt.Sprintf("When you give your final answer, answer with one JSON value that fits this JSON Schema and with "+
		"nothing else: no other words, no code fence.\n%s", schema)
}
