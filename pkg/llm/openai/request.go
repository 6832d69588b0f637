package openai

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	openaisdk "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/shared"

	"arkonis.dev/ark/pkg/llm"
)

// outgoing is a request as it goes to the server.
type outgoing struct {
	params    openaisdk.ChatCompletionNewParams
	opts      []option.RequestOption
	used      features // what it asks for and the server may refuse
	lost      features // what it would have asked for, had the server not refused it before
	sentLimit string   // the name of the token limit
}

// newOutgoing translates a request for a server that refuses without. newName says that the limit's default name is
// max_completion_tokens.
func newOutgoing(req llm.Request, without features, newName bool) (*outgoing, error) {
	o := &outgoing{}
	o.params.Model = req.Model
	msgs := req.Messages
	if without&tools != 0 {
		msgs = spoken(msgs)
	}
	if err := o.setTools(req, without); err != nil {
		return nil, err
	}
	if len(req.Schema) > 0 {
		if o.setFormat(req, without) {
			msgs = instructed(msgs, llm.SchemaInstruction(req.Schema))
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

func (o *outgoing) setTools(req llm.Request, without features) error {
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
func (o *outgoing) setFormat(req llm.Request, without features) (words bool) {
	schema, fit := expressible(req.Schema)
	switch {
	case fit == fitNone, len(o.params.Tools) > 0:
		return true
	case without&format != 0:
		o.lost |= format
		return true
	}
	o.used |= format
	o.params.ResponseFormat.OfJSONSchema = &shared.ResponseFormatJSONSchemaParam{
		JSONSchema: shared.ResponseFormatJSONSchemaJSONSchemaParam{
			Name:   "answer",
			Strict: openaisdk.Bool(fit == fitStrict),
			Schema: schema,
		},
	}
	return fit != fitStrict
}

func (o *outgoing) setLimit(n int64, newName bool) {
	o.used |= limitName
	if newName {
		o.params.MaxCompletionTokens, o.sentLimit = openaisdk.Int(n), "max_completion_tokens"
		return
	}
	o.params.MaxTokens, o.sentLimit = openaisdk.Int(n), "max_tokens"
}

func (o *outgoing) setStream(without features) {
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
					Name:      sentName(c.Name),
					Arguments: sentArguments(c.Arguments),
				},
			},
		})
	}
	return openaisdk.ChatCompletionMessageParamUnion{OfAssistant: &a}
}

// sentName makes a name that servers take out of the one that a model invented: they would refuse the conversation.
func sentName(name string) string {
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

// sentArguments are a JSON object even where the model wrote something else: servers parse them.
func sentArguments(args string) string {
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

// spoken tells a conversation with tools in words, for a server that knows no tools.
func spoken(msgs []llm.Message) []llm.Message {
	out := make([]llm.Message, 0, len(msgs))
	for _, m := range msgs {
		switch {
		case m.Role == llm.RoleTool:
			m = llm.Message{Role: llm.RoleUser, Text: "Result of tool " + m.ToolName + ":\n" + m.Text}
		case len(m.ToolCalls) > 0:
			var b strings.Builder
			b.WriteString(m.Text)
			for _, c := range m.ToolCalls {
				if b.Len() > 0 {
					b.WriteByte('\n')
				}
				b.WriteString("Called tool " + c.Name + " with " + c.Arguments)
			}
			m = llm.Message{Role: llm.RoleAssistant, Text: b.String()}
		}
		out = append(out, m)
	}
	return out
}

// instructed adds an instruction to the first system message, or puts one in front.
func instructed(msgs []llm.Message, text string) []llm.Message {
	out := make([]llm.Message, 0, len(msgs)+1)
	if len(msgs) == 0 || msgs[0].Role != llm.RoleSystem {
		out = append(out, llm.Message{Role: llm.RoleSystem, Text: text})
		return append(out, msgs...)
	}
	out = append(out, msgs...)
	if out[0].Text != "" {
		text = out[0].Text + "\n\n" + text
	}
	out[0].Text = text
	return out
}

// callID makes up the id of a tool call: the same for the same call, nine letters and digits as the strictest servers
// demand.
func callID(req llm.Request, n int) string {
	h := sha256.Sum256([]byte(req.Key + "\x00" + strconv.Itoa(len(req.Messages)) + "\x00" + strconv.Itoa(n)))
	return "c" + hex.EncodeToString(h[:4])
}
