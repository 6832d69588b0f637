package openai

import "arkonis.dev/ark/pkg/llm/exchange"

// What a server may refuse.
const (
	tools      exchange.Features = 1 << iota
	format                       // response_format
	usageChunk                   // stream_options
	limitName                    // the default name of the token limit
	streaming
)

// note says what going without a feature means; the same words in the error and in later answers.
func note(f exchange.Features, model, server string) string {
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

// refusedFeature finds out which of the features that a request used its server refuses, 0 if none.
func refusedFeature(status int, said exchange.Said, used exchange.Features, sentLimit string) exchange.Features {
	if !exchange.Refusable(status) {
		return 0
	}
	unsupported := said.Unsupported()
	found := func(f exchange.Features, names ...string) bool { return used&f != 0 && said.Names(names...) }
	switch {
	case found(limitName, sentLimit) && unsupported && !said.Names("too large", "too high", "at most", "exceed"):
		// Not "max_tokens is too large". max_completion_tokens contains no max_tokens, so that the two cannot be
		// mistaken for each other.
		return limitName
	case unsupported && found(usageChunk, "stream_options", "include_usage"):
		return usageChunk
	case found(format, "response_format", "json_schema", "structured output", "guided decoding", "grammar"):
		// A schema that the server cannot take is as good a reason as no support at all.
		return format
	case said.Param == "stream" && used&streaming != 0:
		return streaming
	case said.Param != "" && said.Param != "tools" && said.Param != "tool_choice":
		return 0 // about something else, or about one of the tools
	case unsupported && found(tools, "tool", "function call"):
		return tools
	case unsupported && found(streaming, "stream"):
		return streaming
	default:
		return 0
	}
}
