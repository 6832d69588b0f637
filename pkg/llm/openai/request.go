package openai

import (
	"encoding/json"
	"fmt"

	openaisdk "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/shared"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/exchange"
	"arkonis.dev/ark/pkg/llm/structured"
)

// dialect is OpenAI's structured output, which the grammars of compatible servers know as well.
var dialect = structured.Dialect{
	Keywords: []string{
		"$defs", "$ref", "$schema", "additionalProperties", "anyOf", "const", "definitions", "description", "enum",
		"exclusiveMaximum", "exclusiveMinimum", "format", "items", "maxItems", "maximum", "minItems", "minimum", "multipleOf",
		"pattern", "properties", "required", "title", "type",
	},
	Open:  true,
	Depth: 10,
}

// outgoing is a request as it goes to the server.
type outgoing struct {
	params    openaisdk.ChatCompletionNewParams
	opts      []option.RequestOption
	used      exchange.Features // what it asks for and the server may refuse
	lost      exchange.Features // what it would have asked for, had the server not refused it before
	sentLimit string            // the name of the token limit
}

// newOutgoing translates a request for a server that refuses without. newName says that the limit's default name is
// max_completion_tokens.
func newOutgoing(req llm.Request, without exchange.Features, newName bool) (*outgoing, error) {
	o := &outgoing{}
	o.params.Model = req.Model
	msgs := req.Messages
	if without&tools != 0 {
		msgs = llm.Spoken(msgs)
	}
	if err := o.setTools(req, without); err != nil {
		return nil, err
	}
	if len(req.Schema) > 0 {
		if o.setFormat(req, without) {
			msgs = llm.Instructed(msgs, llm.SchemaInstruction(req.Schema))
		}
	}
	o.params.Messages = make([]openaisdk.ChatCompletionMessageParamUnion, 0, len(msgs))
	for _, m := range msgs {
		o.params.Messages = append(o.params.Messages, message(m))
	}
	o.setLimit(req.MaxTokens, newName != (without&limitName != 0))
	if req.Temperature != nil {
		o.params.Temperature = openaisdk.Float(*req.Temperature)
	}
	if req.TopP != nil {
		o.params.TopP = openaisdk.Float(*req.TopP)
	}
	o.setStream(without)
	if req.Key != "" {
		o.opts = append(o.opts, option.WithHeader("Idempotency-Key", req.Key))
	}
	return o, nil
}

func (o *outgoing) setTools(req llm.Request, without exchange.Features) error {
	if len(req.Tools) == 0 {
		return nil
	}
	if without&tools != 0 {
		o.lost |= tools
		return nil
	}
	o.used |= tools
	for _, t := range req.Tools {
		var schema map[string]json.RawMessage
		if err := json.Unmarshal(t.Schema, &schema); err != nil {
			return fmt.Errorf("schema of tool %s is no JSON object: %w", t.Name, err)
		}
		f := shared.FunctionDefinitionParam{Name: t.Name, Parameters: make(shared.FunctionParameters, len(schema))}
		for k, v := range schema {
			f.Parameters[k] = v
		}
		if t.Description != "" {
			f.Description = openaisdk.String(t.Description)
		}
		o.params.Tools = append(o.params.Tools, openaisdk.ChatCompletionFunctionTool(f))
	}
	return nil
}

// setFormat asks for the schema in the server's own way and reports whether it must also be asked for in words.
func (o *outgoing) setFormat(req llm.Request, without exchange.Features) (words bool) {
	schema, fit := dialect.Express(req.Schema)
	switch {
	case fit == structured.None, len(o.params.Tools) > 0:
		return true
	case without&format != 0:
		o.lost |= format
		return true
	}
	o.used |= format
	o.params.ResponseFormat.OfJSONSchema = &shared.ResponseFormatJSONSchemaParam{
		JSONSchema: shared.ResponseFormatJSONSchemaJSONSchemaParam{
			Name:   "answer",
			Strict: openaisdk.Bool(fit == structured.Strict),
			Schema: schema,
		},
	}
	return fit != structured.Strict
}

func (o *outgoing) setLimit(n int64, newName bool) {
	o.used |= limitName
	if newName {
		o.params.MaxCompletionTokens, o.sentLimit = openaisdk.Int(n), "max_completion_tokens"
		return
	}
	o.params.MaxTokens, o.sentLimit = openaisdk.Int(n), "max_tokens"
}

func (o *outgoing) setStream(without exchange.Features) {
	if without&streaming != 0 {
		o.lost |= streaming
		return
	}
	o.used |= streaming
	o.opts = append(o.opts, option.WithJSONSet("stream", true))
	if without&usageChunk != 0 {
		o.lost |= usageChunk
		return
	}
	o.used |= usageChunk
	o.params.StreamOptions.IncludeUsage = openaisdk.Bool(true)
}

func message(m llm.Message) openaisdk.ChatCompletionMessageParamUnion {
	switch m.Role {
	case llm.RoleSystem:
		return openaisdk.SystemMessage(m.Text)
	case llm.RoleTool:
		return openaisdk.ToolMessage(m.Text, m.ToolID)
	case llm.RoleAssistant:
		return assistant(m)
	default:
		return openaisdk.UserMessage(m.Text)
	}
}

func assistant(m llm.Message) openaisdk.ChatCompletionMessageParamUnion {
	var a openaisdk.ChatCompletionAssistantMessageParam
	if m.Text != "" || len(m.ToolCalls) == 0 {
		a.Content.OfString = openaisdk.String(m.Text)
	}
	for _, c := range m.ToolCalls {
		a.ToolCalls = append(a.ToolCalls, openaisdk.ChatCompletionMessageToolCallUnionParam{
			OfFunction: &openaisdk.ChatCompletionMessageFunctionToolCallParam{
				ID: c.ID,
				Function: openaisdk.ChatCompletionMessageFunctionToolCallFunctionParam{
					Name:      llm.SafeName(c.Name),
					Arguments: llm.SafeArguments(c.Arguments),
				},
			},
		})
	}
	return openaisdk.ChatCompletionMessageParamUnion{OfAssistant: &a}
}
