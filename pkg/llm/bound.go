package llm

import "strings"

// InputBound is an upper bound of the input tokens of a request. A byte-level tokenizer makes no more tokens than
// there are bytes in what the server makes of the request, and a server's chat template adds to it: marks around each
// message and tool, the escapes of JSON in tool calls and their results, white space in the schemas of tools. A schema
// of the answer counts with the words of SchemaInstruction. Claude models are told about tools and schemas in a system
// prompt that nobody else sees.
func InputBound(req Request) int64 {
	const perMessage, perTool, perRequest, perSchema, claudeTools, claudeSchema = 32, 64, 64, 256, 1024, 1024
	n := int64(perRequest)
	claude := strings.Contains(strings.ToLower(req.Model), "claude")
	if claude && len(req.Tools) > 0 {
		n += claudeTools
	}
	if claude && len(req.Schema) > 0 {
		n += claudeSchema
	}
	for _, m := range req.Messages {
		n += perMessage
		if m.Role == RoleTool {
			n += escaped(m.Text) + int64(len(m.ToolID)+len(m.ToolName))
		} else {
			n += int64(len(m.Text))
		}
		if len(m.Signed) > 0 {
			n += int64(len(m.Signed) + len(m.Reasoning))
		}
		for _, c := range m.ToolCalls {
			n += perMessage + int64(len(c.ID)+len(c.Name)) + escaped(c.Arguments)
		}
	}
	for _, t := range req.Tools {
		n += perTool + int64(len(t.Name)) + escaped(t.Description) + 2*int64(len(t.Schema))
	}
	if len(req.Schema) > 0 {
		n += perSchema + escaped(string(req.Schema))
	}
	return n
}

// escaped is the size in bytes of a text inside a JSON string.
func escaped(s string) int64 {
	n := int64(0)
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"', c == '\\', c == '\n', c == '\r', c == '\t':
			n += 2
		case c < ' ':
			n += 6
		default:
			n++
		}
	}
	return n
}
