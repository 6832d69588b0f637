package anthropic

import (
	"regexp"

	"arkonis.dev/ark/pkg/llm/exchange"
)

// What a server may refuse.
const (
	tools    exchange.Features = 1 << iota
	format                     // output_config.format
	caching                    // cache_control
	thoughts                   // reasoning that goes back
)

// note says what going without a feature means; the same words in the error and in later answers.
func note(f exchange.Features, model, server string) string {
	at := "model " + model + " at " + server
	switch f {
	case tools:
		return at + " does not accept tools: the agent goes on without them"
	case format:
		return at + " does not accept output_config: the schema is asked for in words"
	case caching:
		return at + " does not accept cache_control: nothing is read from a prompt cache"
	case thoughts:
		return at + " does not accept its own reasoning back: it goes on without it"
	default:
		return ""
	}
}

// aboutOne finds messages about one tool or one message, which are no refusal of tools.
var aboutOne = regexp.MustCompile(`tools\.\d|messages\.\d|input_schema|tool_use|tool_result`)

// refusedFeature finds out which of the features that a request used its server refuses, 0 if none.
func refusedFeature(status int, said exchange.Said, used exchange.Features) exchange.Features {
	found := func(f exchange.Features, names ...string) bool { return used&f != 0 && said.Names(names...) }
	switch {
	case !exchange.Refusable(status):
		return 0
	case found(thoughts, "thinking", "signature"):
		// They were signed for another place, or the server has lost the key: the model can do without.
		return thoughts
	case found(caching, "cache_control"):
		return caching
	case found(format, "output_config", "output_format", "output format", "json_schema", "structured output", "grammar", "schema"):
		// A schema that the server cannot take is as good a reason as no support at all.
		return format
	case said.Unsupported() && found(tools, "tool", "function call") && !aboutOne.MatchString(said.Message+" "+said.Param):
		return tools
	default:
		return 0
	}
}
