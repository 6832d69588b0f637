package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
)

// parseJSON reads a source that is a sequence of JSON values. It says no when the source is anything else, or breaks a
// limit: the YAML reader then says what is wrong.
func parseJSON(f file) ([]document, bool) {
	if len(f.body) > MaxDocument {
		return nil, false
	}
	dec := json.NewDecoder(bytes.NewReader(f.body))
	dec.UseNumber()
	p := jsonParser{dec: dec, body: f.body, line: 1}
	var docs []document
	for {
		root, err := p.value(1)
		if errors.Is(err, io.EOF) && root == nil {
			return docs, true
		}
		if err != nil {
			return nil, false
		}
		docs = append(docs, document{root: root})
	}
}

type jsonParser struct {
	dec    *json.Decoder
	body   []byte
	offset int // up to which lines are counted
	line   int // at offset
	values int
}

var errJSON = errors.New("not a JSON document, or a duplicate key, or too large")

// token reads a token and the line that it begins in.
func (p *jsonParser) token() (json.Token, int, error) {
	t, err := p.dec.Token()
	if err != nil {
		return nil, 0, err
	}
	end := int(p.dec.InputOffset())
	start := min(max(end-1, p.offset), end)
	p.line += bytes.Count(p.body[p.offset:start], []byte("\n")) // JSON's texts hold no line breaks
	p.offset = start
	return t, p.line, nil
}

// value reads one value. At the end of the source it returns no node.
func (p *jsonParser) value(depth int) (*node, error) {
	t, line, err := p.token()
	if err != nil {
		return nil, err
	}
	if p.values++; p.values > MaxValues || depth > MaxDepth {
		return nil, errJSON
	}
	switch t {
	case json.Delim('{'):
		return p.object(line, depth)
	case json.Delim('['):
		n := &node{line: line, kind: listNode}
		for p.dec.More() {
			e, err := p.value(depth + 1)
			if err != nil {
				return nil, errJSON
			}
			n.items = append(n.items, e)
		}
		_, _, err := p.token()
		return n, err
	}
	return &node{line: line, value: t}, nil
}

func (p *jsonParser) object(line, depth int) (*node, error) {
	n := &node{line: line, kind: objectNode}
	seen := map[string]bool{}
	for p.dec.More() {
		k, keyLine, err := p.token()
		key, ok := k.(string)
		if err != nil || !ok || seen[key] {
			return nil, errJSON
		}
		seen[key] = true
		v, err := p.value(depth + 1)
		if err != nil {
			return nil, errJSON
		}
		n.fields = append(n.fields, member{key: key, line: keyLine, node: v})
	}
	_, _, err := p.token()
	return n, err
}
