package mcp

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/schema"
)

// What is taken of a server's list.
const (
	MaxTools       = 128       // tools of one server; providers take no more in one request
	MaxSchema      = 64 << 10  // bytes of one input schema
	MaxDescription = 4 << 10   // bytes of one description; longer ones are cut
	MaxList        = 512 << 10 // bytes of all schemas and descriptions of one server
	maxToolName    = 256
	maxPages       = 100
	maxListed      = 5000 // tools that are looked at
	maxNotes       = 5    // faults that are told one by one
)

// listed is a tool of a server as it is offered, still under the server's own name for it.
type listed struct {
	name        string
	description string
	schema      json.RawMessage
	safe        bool
}

// catalog is the tools of a server. It is immutable.
type catalog struct {
	tools []listed // sorted by name
	notes []string // what was left out, and why
}

// names are the tools' names.
func (c *catalog) names() []string {
	names := make([]string, 0, len(c.tools))
	for _, t := range c.tools {
		names = append(names, t.name)
	}
	return names
}

// note is what a person should know of the list, "" when there is nothing.
func (c *catalog) note() string {
	if len(c.notes) <= maxNotes {
		return strings.Join(c.notes, "; ")
	}
	return strings.Join(c.notes[:maxNotes], "; ") + fmt.Sprintf("; and %d more like these", len(c.notes)-maxNotes)
}

// definition is a tool as servers write it.
type definition struct {
	Name        string          `json:"name"`
	Title       string          `json:"title"`
	Description string          `json:"description"`
	InputSchema json.RawMessage `json:"inputSchema"`
	Annotations struct {
		ReadOnly   bool `json:"readOnlyHint"`
		Idempotent bool `json:"idempotentHint"`
	} `json:"annotations"`
}

// lister gathers a catalog from pages.
type lister struct {
	config Config
	taken  map[string]bool
	size   int
	seen   int
	full   bool
	catalog
}

// list reads all pages. It fails only when a page cannot be had; tools that are not fit to offer are left out.
func list(ctx context.Context, c conn, config Config) (*catalog, error) {
	l := &lister{config: config, taken: map[string]bool{}}
	cursors := map[string]bool{}
	for cursor := ""; ; {
		p, err := c.list(ctx, cursor)
		if err != nil {
			return nil, err
		}
		for _, raw := range p.Tools {
			l.take(raw)
		}
		cursor = p.Next
		if cursor == "" || l.full {
			break
		}
		if cursors[cursor] || len(cursors) >= maxPages || l.seen > maxListed {
			l.leaveOut("the rest of the list", errors.New("its pages do not end"))
			break
		}
		cursors[cursor] = true
	}
	for _, name := range config.Allow {
		if !l.taken[name] && config.offers(name) {
			l.leaveOut(name, errors.New("it is allowed, but the server does not offer it"))
		}
	}
	slices.SortFunc(l.tools, func(a, b listed) int { return cmp.Compare(a.name, b.name) })
	return &l.catalog, nil
}

func (l *lister) leaveOut(what string, why error) {
	l.notes = append(l.notes, fmt.Sprintf("%s was left out: %v", excerpt(what, 64), why))
}

func (l *lister) take(raw json.RawMessage) {
	if l.seen++; l.full {
		return
	}
	var d definition
	if err := json.Unmarshal(raw, &d); err != nil {
		l.leaveOut(fmt.Sprintf("tool %d", l.seen), fmt.Errorf("its description cannot be read: %w", err))
		return
	}
	if !l.config.offers(d.Name) {
		return
	}
	t, err := l.offer(d)
	switch {
	case err != nil:
		l.leaveOut(cmp.Or(d.Name, fmt.Sprintf("tool %d", l.seen)), err)
	case len(l.tools) == MaxTools:
		l.full = true
		l.leaveOut("the rest of the list", fmt.Errorf("it has more than %d tools: choose with allow", MaxTools))
	default:
		l.size += len(t.schema) + len(t.description)
		l.taken[t.name] = true
		l.tools = append(l.tools, t)
	}
}

func (l *lister) offer(d definition) (listed, error) {
	switch {
	case d.Name == "" || len(d.Name) > maxToolName:
		return listed{}, fmt.Errorf("its name has %d bytes, not 1 to %d", len(d.Name), maxToolName)
	case l.taken[d.Name]:
		l.taken[d.Name] = true
		return listed{}, errors.New("its name stands twice in the list")
	}
	checked, err := inputSchema(d.InputSchema)
	if err != nil {
		l.taken[d.Name] = true // told once is enough for an allowed tool
		return listed{}, err
	}
	t := listed{
		name: d.Name, description: cut(cmp.Or(d.Description, d.Title), MaxDescription), schema: checked,
		safe: l.config.Idempotent || d.Annotations.ReadOnly || d.Annotations.Idempotent,
	}
	if l.size+len(t.schema)+len(t.description) > MaxList {
		return listed{}, fmt.Errorf("all schemas and descriptions together are larger than %d bytes", MaxList)
	}
	return t, nil
}

// inputSchema checks a tool's schema, and adds the words for an object that servers leave out and providers demand.
func inputSchema(raw json.RawMessage) (json.RawMessage, error) {
	if raw = bytes.TrimSpace(raw); len(raw) == 0 || string(raw) == "null" {
		raw = json.RawMessage("{}")
	}
	if len(raw) > MaxSchema {
		return nil, fmt.Errorf("its input schema has %d bytes; at most %d are taken", len(raw), MaxSchema)
	}
	var top map[string]json.RawMessage
	if err := json.Unmarshal(raw, &top); err != nil {
		return nil, fmt.Errorf("its input schema is not a JSON object: %w", err)
	}
	missing := false
	for word, value := range map[string]string{"type": `"object"`, "properties": "{}"} {
		if _, ok := top[word]; !ok {
			top[word], missing = json.RawMessage(value), true
		}
	}
	if kind := string(top["type"]); kind != `"object"` {
		return nil, fmt.Errorf("its input schema describes %s, not an object", excerpt(kind, 64))
	}
	if missing {
		filled, err := json.Marshal(top)
		if err != nil {
			return nil, fmt.Errorf("its input schema cannot be written: %w", err)
		}
		raw = filled
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, raw); err != nil {
		return nil, fmt.Errorf("its input schema is not JSON: %w", err)
	}
	if _, err := schema.Compile(compact.Bytes()); err != nil {
		return nil, fmt.Errorf("its input schema does not compile: %w", err)
	}
	return compact.Bytes(), nil
}

// cut shortens a text to n bytes, ending with a whole character and a mark.
func cut(text string, n int) string {
	text = strings.ToValidUTF8(text, "?")
	if len(text) <= n {
		return text
	}
	const mark = "..."
	return chars.Head(text, n-len(mark)) + mark
}

// What providers take as a tool's name.
const (
	maxName   = 64
	separator = "__"
	hashSize  = 8
)

// candidate is the name that a tool should have: <server>__<tool> with other characters replaced, and cut to what
// providers take. exact says that nothing had to be changed.
func candidate(server, tool string) (name string, exact bool) {
	whole := server + separator + tool
	name = strings.Map(func(r rune) rune {
		if r < utf8.RuneSelf && (r == '_' || r == '-' || r >= '0' && r <= '9' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z') {
			return r
		}
		return '_'
	}, whole)
	if len(name) > maxName {
		return marked(name, server, tool), false
	}
	return name, name == whole
}

// marked is a name that ends with a hash of what it stands for.
func marked(name, server, tool string) string {
	sum := sha256.Sum256([]byte(server + "\x00" + tool))
	hash := "_" + hex.EncodeToString(sum[:])[:hashSize]
	return name[:min(len(name), maxName-len(hash))] + hash
}

// pair is a tool of a server.
type pair struct{ server, tool string }

// modelNames gives each tool a name of its own that depends on nothing but the tools. A tool keeps the plain name if
// no other has a claim to it that is as good; the others end with a hash.
func modelNames(all []pair) map[pair]string {
	claims := map[string][]pair{}
	exact := map[string]int{}
	for _, p := range all {
		name, unchanged := candidate(p.server, p.tool)
		claims[name] = append(claims[name], p)
		if unchanged {
			exact[name]++
		}
	}
	names := make(map[pair]string, len(all))
	for name, claimants := range claims {
		for _, p := range claimants {
			_, unchanged := candidate(p.server, p.tool)
			if len(claimants) == 1 || unchanged && exact[name] == 1 {
				names[p] = name
			} else {
				names[p] = marked(name, p.server, p.tool)
			}
		}
	}
	return names
}
