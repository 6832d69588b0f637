package openai

import (
	"net/http"
	"strings"
	"sync"
)

// features is a set of what a server may refuse.
type features uint8

const (
	tools      features = 1 << iota
	format              // response_format
	usageChunk          // stream_options
	limitName           // the default name of the token limit
	streaming
)

// note says what going without a feature means; the same words in the error and in later answers.
func (f features) note(model, server string) string {
	at := "model " + model + " at " + server
	switch f {
	case tools:
		return at + " does not accept tools: the agent goes on without them"
	case format:
		return at + " does not accept response_format: the schema is asked for in words"
	case usageChunk:
		return at + " does not accept stream_options: calls whose usage it does not tell count in full"
	case limitName:
		return at + " wants the other name of the token limit (max_tokens, max_completion_tokens)"
	case streaming:
		return at + " does not stream: answers arrive in one piece"
	default:
		return ""
	}
}

// each calls fn for every feature of the set, in a fixed order.
func (f features) each(fn func(features)) {
	for b := tools; b <= streaming; b <<= 1 {
		if f&b != 0 {
			fn(b)
		}
	}
}

// memory holds what each model refused. The zero memory is empty and ready.
type memory struct {
	mu     sync.Mutex
	models map[string]features
}

const memoryLimit = 1024 // models; a model's name can come from outside

func (m *memory) get(model string) features {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.models[model]
}

func (m *memory) add(model string, f features) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.models == nil || len(m.models) >= memoryLimit {
		m.models = map[string]features{}
	}
	m.models[model] |= f
}

// refusedFeature finds out which of the features that a request used its server refuses, 0 if none.
func refusedFeature(status int, se serverError, used features, sentLimit string) features {
	switch status {
	case 0, http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusUnprocessableEntity,
		http.StatusInternalServerError, http.StatusNotImplemented:
	default:
		return 0
	}
	text := strings.ToLower(se.Message + " " + se.Param)
	unsupported := containsAny(text, refusalWords...) || containsAny(strings.ToLower(se.Code+" "+se.Type), "unsupported", "not_supported", "unknown_parameter")
	found := func(f features, names ...string) bool { return used&f != 0 && containsAny(text, names...) }
	switch {
	case found(limitName, sentLimit) && namesLimit(text, sentLimit) && unsupported:
		return limitName
	case unsupported && found(usageChunk, "stream_options", "include_usage"):
		return usageChunk
	case found(format, "response_format", "json_schema", "structured output", "guided decoding", "grammar"):
		// A schema that the server cannot take is as good a reason as no support at all.
		return format
	case se.Param == "stream" && used&streaming != 0:
		return streaming
	case se.Param != "" && se.Param != "tools" && se.Param != "tool_choice":
		return 0 // about something else, or about one of the tools
	case unsupported && found(tools, "tool", "function call"):
		return tools
	case unsupported && found(streaming, "stream"):
		return streaming
	default:
		return 0
	}
}

var refusalWords = []string{
	"not support", "n't support", "unsupported", "unknown", "unrecognized", "unrecognised", "unexpected", "not permitted",
	"not allowed", "extra inputs", "extra fields", "extra_forbidden", "not available", "not implemented", "not enabled",
	"disabled", "requires --", "must be verified", "no endpoints found that support",
}

// namesLimit keeps "max_tokens is too large" apart from "max_tokens is not known here".
func namesLimit(text, sent string) bool {
	if containsAny(text, "too large", "too high", "at most", "exceed") {
		return false
	}
	// The longer name contains no "max_tokens", so that the two cannot be mistaken for each other.
	return strings.Contains(text, sent)
}

func containsAny(text string, words ...string) bool {
	for _, w := range words {
		if strings.Contains(text, w) {
			return true
		}
	}
	return false
}
