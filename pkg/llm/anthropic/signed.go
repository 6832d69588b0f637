package anthropic

import (
	"encoding/json"

	sdk "github.com/anthropics/anthropic-sdk-go"

	"arkonis.dev/ark/pkg/llm"
)

// layout is where the blocks of an answer with reasoning stand: the API takes reasoning back only as it was. The texts
// themselves are those of the message.
type layout struct {
	Model  string  `json:"model"` // whose reasoning it is: no other model takes it
	Blocks []place `json:"blocks"`
}

type place struct {
	Kind   string `json:"kind"`
	Bytes  int    `json:"bytes,omitempty"`  // of the message's text or reasoning
	Signed string `json:"signed,omitempty"` // signature or redacted data
}

// signed is the layout of an answer that calls tools after signed reasoning; nil for all others, which need none: what
// a model thought before an answer that nothing follows is not asked for again.
func (a *answer) signed(model string) json.RawMessage {
	l := layout{Model: model}
	reasons := false
	for _, b := range a.blocks {
		p := place{Kind: b.kind, Bytes: b.n, Signed: b.signed.String()}
		reasons = reasons || p.Signed != ""
		l.Blocks = append(l.Blocks, p)
	}
	if !reasons || a.calls == 0 {
		return nil
	}
	raw, err := json.Marshal(l)
	if err != nil {
		return nil
	}
	return raw
}

// relaid puts a message back into the blocks that it came in; nil if it cannot be.
func relaid(m llm.Message, model string) []sdk.ContentBlockParamUnion {
	var l layout
	if len(m.Signed) == 0 || json.Unmarshal(m.Signed, &l) != nil || l.Model != model {
		return nil
	}
	text, reasoning, calls := m.Text, m.Reasoning, m.ToolCalls
	take := func(from *string, n int) (s string, ok bool) {
		if n < 0 || n > len(*from) {
			return "", false
		}
		s, *from = (*from)[:n], (*from)[n:]
		return s, true
	}
	var out []sdk.ContentBlockParamUnion
	for _, p := range l.Blocks {
		switch p.Kind {
		case kindText:
			s, ok := take(&text, p.Bytes)
			if !ok {
				return nil
			}
			out = appendText(out, s)
		case kindThinking:
			s, ok := take(&reasoning, p.Bytes)
			if !ok {
				return nil
			}
			if p.Signed != "" {
				out = append(out, sdk.NewThinkingBlock(p.Signed, s))
			}
		case kindRedacted:
			out = append(out, sdk.NewRedactedThinkingBlock(p.Signed))
		case kindTool:
			if len(calls) == 0 {
				return nil
			}
			out, calls = append(out, toolUse(calls[0])), calls[1:]
		}
	}
	if text != "" || len(calls) > 0 {
		return nil
	}
	return out
}
