package anthropic

import (
	"encoding/json"
	"fmt"
	"strings"

	sdk "github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
	"github.com/anthropics/anthropic-sdk-go/packages/param"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/exchange"
	"arkonis.dev/ark/pkg/llm/structured"
)

// dialect is Anthropic's structured output: every object is closed, and no number or length is held to.
var dialect = structured.Dialect{
	Keywords: []string{
		"$defs", "$ref", "additionalProperties", "anyOf", "const", "definitions", "description", "enum", "items",
		"properties", "required", "title", "type",
	},
	Dropped: []string{
		"exclusiveMaximum", "exclusiveMinimum", "format", "maxItems", "maxLength", "maximum", "minItems", "minLength",
		"minimum", "multipleOf", "pattern", "uniqueItems",
	},
	Silent:   []string{"$comment", "$schema", "default", "deprecated", "examples", "readOnly", "writeOnly"},
	Optional: true,
	Depth:    16,
}

// outgoing is a request as it goes to the server.
type outgoing struct {
	params  sdk.MessageNewParams
	opts    []option.RequestOption
	used    exchange.Features // what it asks for and the server may refuse
	lost    exchange.Features // what it would have asked for, had the server not refused it before
	without exchange.Features
}

// newOutgoing translates a request for a server that refuses without.
func newOutgoing(req llm.Request, without exchange.Features) (*outgoing, error) {
	o := &outgoing{without: without, opts: []option.RequestOption{option.WithJSONSet("stream", true)}}
	o.params.Model, o.params.MaxTokens = req.Model, req.MaxTokens
	msgs := req.Messages
	if without&tools != 0 {
		msgs = llm.Spoken(msgs)
	}
	if err := o.setTools(req); err != nil {
		return nil, err
	}
	o.setMessages(msgs)
	o.setMarks()
	if len(req.Schema) > 0 && o.setFormat(req) {
		// After the mark: steps with different schemas share what stands before it.
		o.params.System = append(o.params.System, sdk.TextBlockParam{Text: llm.SchemaInstruction(req.Schema)})
	}
	if req.Temperature != nil {
		o.params.Temperature = param.NewOpt(*req.Temperature)
	}
	if req.TopP != nil {
		o.params.TopP = param.NewOpt(*req.TopP)
	}
	if req.Key != "" {
		o.opts = append(o.opts, option.WithHeader("Idempotency-Key", req.Key))
	}
	return o, nil
}

// offers says whether a feature may be used, and notes that it is or would have been.
func (o *outgoing) offers(f exchange.Features) bool {
	if o.without&f != 0 {
		o.lost |= f
		return false
	}
	o.used |= f
	return true
}

func (o *outgoing) setTools(req llm.Request) error {
	if len(req.Tools) == 0 || !o.offers(tools) {
		return nil
	}
	for _, t := range req.Tools {
		// The API takes none of these at the root; the arguments are checked against all of the schema anyway.
		schema, err := structured.ObjectSchema(t.Schema, "oneOf", "anyOf", "allOf")
		if err != nil {
			return fmt.Errorf("schema of tool %s is no JSON object: %w", t.Name, err)
		}
		tool := &sdk.ToolParam{Name: t.Name, InputSchema: param.Override[sdk.ToolInputSchemaParam](schema)}
		if t.Description != "" {
			tool.Description = param.NewOpt(t.Description)
		}
		o.params.Tools = append(o.params.Tools, sdk.ToolUnionParam{OfTool: tool})
	}
	return nil
}

// setFormat asks for the schema in the server's own way and reports whether it must also be asked for in words.
func (o *outgoing) setFormat(req llm.Request) (words bool) {
	schema, fit := dialect.Express(req.Schema)
	if fit == structured.None || len(o.params.Tools) > 0 || !o.offers(format) {
		return true
	}
	o.params.OutputConfig.Format = param.Override[sdk.JSONOutputFormatParam](
		json.RawMessage(`{"type":"json_schema","schema":` + string(schema) + `}`))
	return fit != structured.Strict
}

// setMessages writes the conversation. The results of the calls of one answer go into one message, as the API wants
// them; what has nothing to say is left out, because the API refuses it.
func (o *outgoing) setMessages(msgs []llm.Message) {
	for _, m := range msgs {
		switch m.Role {
		case llm.RoleSystem:
			if strings.TrimSpace(m.Text) != "" {
				o.params.System = append(o.params.System, sdk.TextBlockParam{Text: m.Text})
			}
		case llm.RoleAssistant:
			o.say(sdk.MessageParamRoleAssistant, o.assistant(m))
		case llm.RoleTool:
			o.say(sdk.MessageParamRoleUser, []sdk.ContentBlockParamUnion{toolResult(m)})
		default:
			// An empty prompt is for the server to refuse: nobody else can say what was meant.
			o.say(sdk.MessageParamRoleUser, []sdk.ContentBlockParamUnion{sdk.NewTextBlock(m.Text)})
		}
	}
}

// say adds blocks to the conversation, to the last message if that has the same role.
func (o *outgoing) say(role sdk.MessageParamRole, blocks []sdk.ContentBlockParamUnion) {
	if len(blocks) == 0 {
		return
	}
	if n := len(o.params.Messages); n > 0 && o.params.Messages[n-1].Role == role {
		last := &o.params.Messages[n-1]
		last.Content = append(last.Content, blocks...)
		return
	}
	o.params.Messages = append(o.params.Messages, sdk.MessageParam{Role: role, Content: blocks})
}

func (o *outgoing) assistant(m llm.Message) []sdk.ContentBlockParamUnion {
	if blocks := relaid(m, o.params.Model); blocks != nil && o.offers(thoughts) {
		return blocks
	}
	out := appendText(nil, m.Text)
	for _, c := range m.ToolCalls {
		out = append(out, toolUse(c))
	}
	return out
}

func appendText(out []sdk.ContentBlockParamUnion, text string) []sdk.ContentBlockParamUnion {
	if strings.TrimSpace(text) == "" {
		return out
	}
	return append(out, sdk.NewTextBlock(text))
}

func toolUse(c llm.ToolCall) sdk.ContentBlockParamUnion {
	return sdk.NewToolUseBlock(llm.SafeName(c.ID), json.RawMessage(llm.SafeArguments(c.Arguments)), llm.SafeName(c.Name))
}

func toolResult(m llm.Message) sdk.ContentBlockParamUnion {
	r := &sdk.ToolResultBlockParam{ToolUseID: llm.SafeName(m.ToolID)}
	if m.IsError {
		r.IsError = param.NewOpt(true)
	}
	if strings.TrimSpace(m.Text) != "" {
		r.Content = []sdk.ToolResultBlockParamContentUnion{{OfText: &sdk.TextBlockParam{Text: m.Text}}}
	}
	return sdk.ContentBlockParamUnion{OfToolResult: r}
}

// setMarks marks for the cache what the next request begins with as well: the tools, the system prompt, and while there
// are tools, which make a next turn likely, the conversation so far. The mark of the turn before is kept: the server
// looks back from a mark for only so many blocks.
func (o *outgoing) setMarks() {
	o.mark(func(mark sdk.CacheControlEphemeralParam) {
		p := &o.params
		if n := len(p.System); n > 0 {
			p.System[n-1].CacheControl = mark
		}
		if len(p.Tools) == 0 {
			return
		}
		p.Tools[len(p.Tools)-1].OfTool.CacheControl = mark
		left := 2
		for i := len(p.Messages) - 1; i >= 0 && left > 0; i-- {
			if p.Messages[i].Role == sdk.MessageParamRoleUser {
				markBlock(&p.Messages[i].Content[len(p.Messages[i].Content)-1], mark)
				left--
			}
		}
	})
}

func (o *outgoing) mark(set func(sdk.CacheControlEphemeralParam)) {
	if (len(o.params.System) > 0 || len(o.params.Tools) > 0) && o.offers(caching) {
		set(sdk.NewCacheControlEphemeralParam())
	}
}

func markBlock(b *sdk.ContentBlockParamUnion, mark sdk.CacheControlEphemeralParam) {
	switch {
	case b.OfToolResult != nil:
		b.OfToolResult.CacheControl = mark
	case b.OfText != nil:
		b.OfText.CacheControl = mark
	}
}
