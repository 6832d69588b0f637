package manifest

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// document is the root of one document.
type document struct {
	root  *node
	notes []Note // without object
}

// parse takes a source apart into documents. A document that does not parse is a finding; the others still count.
func parse(f file) ([]document, []Finding) {
	trimmed := bytes.TrimLeft(f.body, " \t\r\n")
	if len(trimmed) > 0 && (trimmed[0] == '{' || trimmed[0] == '[') {
		if docs, ok := parseJSON(f); ok {
			return docs, nil
		}
	}
	var docs []document
	var findings []Finding
	pieces := split(string(f.body))
	if len(pieces) > MaxDocuments {
		return nil, []Finding{{File: f.name, Line: pieces[MaxDocuments].line, Message: fmt.Sprintf("there are more than %d documents", MaxDocuments)}}
	}
	for _, p := range pieces {
		d, problems := parseYAML(f.name, p)
		findings = append(findings, problems...)
		if d.root != nil {
			docs = append(docs, d)
		}
	}
	return docs, findings
}

// piece is the text of one YAML document.
type piece struct {
	line int // of its first line, from 1
	text string
}

// split cuts a YAML stream at its document markers. A piece of comments and directives alone belongs to the next one.
func split(text string) []piece {
	var pieces []piece
	start, startLine := 0, 1
	content, marked := false, false
	cut := func(end, line int) {
		if content {
			pieces = append(pieces, piece{startLine, text[start:end]})
		}
		if content || marked {
			start, startLine, content, marked = end, line, false, false
		}
	}
	offset, line := 0, 1
	for l := range strings.Lines(text) {
		switch body := strings.TrimRight(l, " \t\r\n"); {
		case body == "---" || strings.HasPrefix(l, "--- ") || strings.HasPrefix(l, "---\t"):
			cut(offset, line)
			marked = true
			rest := strings.TrimSpace(body[3:])
			content = rest != "" && rest[0] != '#'
		case body == "...":
			cut(offset, line)
		case body != "" && body[0] != '#' && body[0] != '%':
			content = true
		}
		offset += len(l)
		line++
	}
	cut(len(text), line)
	return pieces
}

// parseYAML reads one document.
func parseYAML(name string, p piece) (document, []Finding) {
	if len(p.text) > MaxDocument || crowded(p.text) {
		return document{}, []Finding{{File: name, Line: p.line, Message: fmt.Sprintf(
			"the document is too large: at most %d MiB and %d values are allowed", MaxDocument>>20, MaxValues)}}
	}
	var root yaml.Node
	if err := yaml.Unmarshal([]byte(p.text), &root); err != nil {
		line, message := syntaxError(err)
		return document{}, []Finding{{File: name, Line: newLines(p).line(max(line, 1)), Message: "not valid YAML: " + message}}
	}
	if len(root.Content) == 0 {
		return document{}, nil
	}
	c := converter{file: name, lines: newLines(p), anchors: map[*yaml.Node]int{}}
	n := c.convert(root.Content[0], 1)
	if len(c.findings) > 0 || n.kind == scalarNode && n.value == nil {
		return document{}, c.findings
	}
	return document{root: n, notes: c.notes}, nil
}

// lines turns the line numbers of the YAML library within a document into those of the file. The library also ends
// lines at characters where no editor does: carriage returns, and three of Unicode.
type lines struct {
	before int   // lines of the file before the document
	real   []int // by the library's lines, from 0: the line of the document; nil when both are the same
}

func newLines(p piece) lines {
	l := lines{before: p.line - 1}
	text := strings.ReplaceAll(p.text, "\r\n", "\n")
	if !strings.ContainsAny(text, "\r\u0085\u2028\u2029") {
		return l
	}
	line := 1
	l.real = append(l.real, line)
	for _, c := range text {
		if c == '\n' {
			line++
		}
		if strings.ContainsRune("\n\r\u0085\u2028\u2029", c) {
			l.real = append(l.real, line)
		}
	}
	return l
}

// line is the line of the file, from 1, for one of the library's, from 1.
func (l lines) line(n int) int {
	if l.real != nil {
		n = l.real[min(n, len(l.real))-1]
	}
	return l.before + n
}

// crowded says whether a document may hold more values than are allowed, before any is made.
func crowded(text string) bool {
	n := 0
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '[', '{', ',', '\n', '-', '?', ':':
			n++
		}
	}
	return n > 4*MaxValues
}

// syntaxError takes the line out of an error of the YAML library. It is 0 when there is none.
func syntaxError(err error) (int, string) {
	message := strings.TrimPrefix(err.Error(), "yaml: ")
	rest, ok := strings.CutPrefix(message, "line ")
	if !ok {
		return 0, message
	}
	number, cause, ok := strings.Cut(rest, ": ")
	line, err := strconv.Atoi(number)
	if !ok || err != nil {
		return 0, message
	}
	return line, cause
}

// converter makes nodes of the YAML library's nodes.
type converter struct {
	file     string
	lines    lines
	values   int
	anchors  map[*yaml.Node]int // aliases that are being resolved
	findings []Finding
	notes    []Note
	stopped  bool
}

func (c *converter) fail(line int, format string, args ...any) {
	c.findings = append(c.findings, Finding{File: c.file, Line: line, Message: fmt.Sprintf(format, args...)})
}

// stop ends the conversion with one finding.
func (c *converter) stop(line int, format string, args ...any) *node {
	if !c.stopped {
		c.stopped = true
		c.fail(line, format, args...)
	}
	return &node{line: line}
}

func (c *converter) convert(y *yaml.Node, depth int) *node {
	line := c.lines.line(y.Line)
	c.values++
	switch {
	case c.stopped:
		return &node{line: line}
	case c.values > MaxValues:
		return c.stop(line, "the document holds more than %d values, aliases resolved", MaxValues)
	case depth > MaxDepth:
		return c.stop(line, "the document is nested deeper than %d levels", MaxDepth)
	}
	switch y.Kind {
	case yaml.AliasNode:
		if c.anchors[y.Alias] > 0 {
			return c.stop(line, "the alias *%s holds itself", y.Value)
		}
		c.anchors[y.Alias]++
		n := c.convert(y.Alias, depth)
		c.anchors[y.Alias]--
		return n
	case yaml.MappingNode:
		return c.object(y, depth)
	case yaml.SequenceNode:
		n := &node{line: line, kind: listNode, items: make([]*node, 0, len(y.Content))}
		c.anchors[y]++
		defer func() { c.anchors[y]-- }()
		for _, e := range y.Content {
			n.items = append(n.items, c.convert(e, depth+1))
		}
		return n
	default: // a scalar
	}
	value, err := scalar(y)
	if err != nil {
		c.fail(line, "%v", err)
	}
	n := &node{line: line, value: value}
	if y.Style == 0 {
		n.source = y.Value
	}
	return n
}

func (c *converter) object(y *yaml.Node, depth int) *node {
	n := &node{line: c.lines.line(y.Line), kind: objectNode, fields: make([]member, 0, len(y.Content)/2)}
	c.anchors[y]++
	defer func() { c.anchors[y]-- }()
	lines := map[string]int{}
	var merged []*node
	for i := 0; i+1 < len(y.Content); i += 2 {
		k, v := y.Content[i], y.Content[i+1]
		line := c.lines.line(k.Line)
		if k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		if k.Kind != yaml.ScalarNode {
			c.fail(line, "a key must be text, not a list or an object")
			continue
		}
		if k.Tag == "!!merge" {
			merged = append(merged, c.merge(v, depth)...)
			continue
		}
		if first, ok := lines[k.Value]; ok {
			c.fail(line, "the key %q stands twice, first in line %d", clip(k.Value), first)
			continue
		}
		if k.Style == 0 && isBool(k.Value) {
			c.notes = append(c.notes, Note{
				File: c.file, Line: line,
				Message: fmt.Sprintf("kubectl reads the key %s as a boolean: write it as %q", k.Value, k.Value),
			})
		}
		lines[k.Value] = line
		n.fields = append(n.fields, member{key: k.Value, line: line, node: c.convert(v, depth+1)})
	}
	for _, m := range merged { // a key of the object itself wins, then the first merged one
		for _, f := range m.fields {
			if _, ok := lines[f.key]; !ok {
				lines[f.key] = f.line
				n.fields = append(n.fields, f)
			}
		}
	}
	return n
}

// merge gives the objects under a merge key.
func (c *converter) merge(y *yaml.Node, depth int) []*node {
	n := c.convert(y, depth+1)
	objects := []*node{n}
	if n.kind == listNode {
		objects = n.items
	}
	for _, o := range objects {
		if o.kind != objectNode && !c.stopped {
			c.fail(o.line, "<< must be followed by an object or a list of objects, not %s", o.describe())
			return nil
		}
	}
	return objects
}
