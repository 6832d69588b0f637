package mcp

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"

	"arkonis.dev/ark/pkg/tools"
)

// callResult is the result of a call, with contents as the server wrote them.
type callResult struct {
	Type       string            `json:"resultType"`
	Content    []json.RawMessage `json:"content"`
	Structured json.RawMessage   `json:"structuredContent"`
	IsError    bool              `json:"isError"`
}

// block is one content of any type.
type block struct {
	Type        string    `json:"type"`
	Text        string    `json:"text"`
	Data        string    `json:"data"`
	MIMEType    string    `json:"mimeType"`
	URI         string    `json:"uri"`
	Name        string    `json:"name"`
	Title       string    `json:"title"`
	Description string    `json:"description"`
	Size        *int64    `json:"size"`
	Resource    *resource `json:"resource"`
}

type resource struct {
	URI      string  `json:"uri"`
	MIMEType string  `json:"mimeType"`
	Text     *string `json:"text"`
	Blob     *string `json:"blob"`
}

// needsInput is the type of a result that asks a person for something.
const needsInput = "input_required"

// render makes text of a result: what is not text becomes a note that names its type and size.
func render(raw json.RawMessage, server string) tools.Result {
	var r callResult
	if err := json.Unmarshal(raw, &r); err != nil {
		return tools.Errorf("the tool server %s gave an answer that cannot be read: %s", server, excerpt(err.Error(), maxMessage))
	}
	if r.Type == needsInput {
		return tools.Errorf("the tool server %s wants to ask a person before it goes on, and no person is there. The call was not finished.", server)
	}
	parts := make([]string, 0, len(r.Content)+1)
	var texts []string
	for _, content := range r.Content {
		text, isText := renderBlock(content)
		if isText {
			texts = append(texts, text)
		}
		parts = append(parts, text)
	}
	if s := bytes.TrimSpace(r.Structured); len(s) > 0 && string(s) != "null" && !told(s, texts) {
		parts = append(parts, string(s))
	}
	if len(parts) == 0 {
		parts = append(parts, "(the tool returned nothing)")
	}
	return tools.Result{Text: strings.Join(parts, "\n"), IsError: r.IsError}
}

func renderBlock(raw json.RawMessage) (text string, isText bool) {
	var b block
	if err := json.Unmarshal(raw, &b); err != nil {
		return fmt.Sprintf("(a content of %d bytes that cannot be read)", len(raw)), false
	}
	switch b.Type {
	case "text":
		return b.Text, true
	case "image", "audio":
		return fmt.Sprintf("(%s: %s, %d bytes, not shown)", b.Type, orUnknown(b.MIMEType), decodedSize(b.Data)), false
	case "resource":
		return renderResource(b.Resource), false
	case "resource_link":
		return renderLink(b), false
	default:
		return fmt.Sprintf("(a content of the unknown type %q, %d bytes)", excerpt(b.Type, 64), len(raw)), false
	}
}

func renderResource(r *resource) string {
	switch {
	case r == nil:
		return "(an empty resource)"
	case r.Text != nil:
		return fmt.Sprintf("resource %s (%s):\n%s", excerpt(r.URI, maxMessage), orUnknown(r.MIMEType), *r.Text)
	case r.Blob != nil:
		return fmt.Sprintf("(resource %s: %s, %d bytes, not shown)", excerpt(r.URI, maxMessage), orUnknown(r.MIMEType), decodedSize(*r.Blob))
	default:
		return fmt.Sprintf("(resource %s: empty)", excerpt(r.URI, maxMessage))
	}
}

func renderLink(b block) string {
	var s strings.Builder
	fmt.Fprintf(&s, "(resource link: %s", excerpt(b.URI, maxMessage))
	for _, part := range []string{b.Name, b.Title, b.MIMEType, b.Description} {
		if part != "" {
			s.WriteString(", " + excerpt(part, maxMessage))
		}
	}
	if b.Size != nil {
		fmt.Fprintf(&s, ", %d bytes", *b.Size)
	}
	return s.String() + ")"
}

func orUnknown(mimeType string) string {
	if mimeType == "" {
		return "unknown type"
	}
	return excerpt(mimeType, 128)
}

func decodedSize(text string) int {
	return base64.RawStdEncoding.DecodedLen(len(strings.TrimRight(text, "=")))
}

// told says whether the texts of a result say what its structured content says: servers are asked to send both. Some
// wrap a plain value as {"result": value}.
func told(structured json.RawMessage, texts []string) bool {
	text := strings.Join(texts, "\n")
	value, ok := decoded(structured)
	if !ok {
		return false
	}
	if same(value, text) {
		return true
	}
	wrapped, ok := value.(map[string]any)
	inner, has := wrapped["result"]
	return ok && has && len(wrapped) == 1 && same(inner, text)
}

func same(value any, text string) bool {
	if value == text {
		return true
	}
	other, ok := decoded([]byte(text))
	return ok && reflect.DeepEqual(value, other)
}

// decoded keeps numbers as they are written.
func decoded(text []byte) (any, bool) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil || d.More() {
		return nil, false
	}
	return v, true
}
