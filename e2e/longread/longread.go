// Package longread has texts that are too long for a prompt, and a model that reads on in them and notices when a byte is
// missing, twice there or another one.
package longread

import (
	"encoding/json"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/task"
)

// Text is a text of n bytes in which every 16 bytes say where they are.
func Text(n int) string {
	var b strings.Builder
	b.Grow(n + 16)
	for b.Len() < n {
		fmt.Fprintf(&b, "%015d.", b.Len())
	}
	return b.String()[:n]
}

const (
	page   = 32 << 10 // bytes that the model asks for at once
	atOnce = 16       // parts that it asks for in one turn
	// readAll is up to which size it reads everything; of a longer text it reads parts, the last bytes among them.
	readAll = 2 << 20
)

// Model answers "size N" with Text(N). What begins with "read" shows it a text, whole or its beginning: it reads on, and
// answers with Read, or with what is wrong. It keeps nothing between two calls.
type Model struct {
	// Lists are the texts that it knows beside Text.
	Lists []string
}

// Read is the answer of a model that found all that it read of a text of n bytes as it must be.
func Read(n int) string { return fmt.Sprintf("read %d bytes", n) }

var (
	begins = regexp.MustCompile(`(?s)<step-output step="[^"]*">\n(.*)\n\n\(These are the first (\d+) of (\d+) bytes\. Read on with ` + task.ReadPayloadName + `, id "([^"]+)"\.\)\n</step-output>`)
	whole  = regexp.MustCompile(`(?s)<step-output step="[^"]*">\n(.*)\n</step-output>`)
	note   = regexp.MustCompile(`\n\n\((?:Bytes \d+ to \d+ of \d+\. The next part begins at offset \d+|This is the end)\.\)$`)
)

// Answer is for modelserver.Config.
func (m *Model) Answer(c modelserver.Call) *modelserver.Reply {
	prompt := c.Request.Prompt()
	reply := &modelserver.Reply{Usage: &modelserver.Usage{Prompt: 1, Completion: 1}}
	if size, ok := strings.CutPrefix(prompt, "size "); ok {
		n, err := strconv.Atoi(strings.Fields(size)[0])
		if err != nil {
			return &modelserver.Reply{Status: 400, Error: err.Error()}
		}
		reply.Text = Text(n)
		return reply
	}
	shown := begins.FindStringSubmatch(prompt)
	if shown == nil {
		reply.Text = m.all(prompt)
		return reply
	}
	var err error
	if reply.Tools, err = m.readOn(c, shown); err != nil {
		reply.Text = "wrong: " + err.Error()
	} else if len(reply.Tools) == 0 {
		reply.Text = "read " + shown[3] + " bytes"
	}
	return reply
}

// all looks at a text that the prompt shows the whole of.
func (m *Model) all(prompt string) string {
	shown := whole.FindStringSubmatch(prompt)
	if shown == nil {
		return "wrong: there is no text"
	}
	n := len(shown[1])
	if shown[1] != m.text(n, shown[1]) {
		return fmt.Sprintf("wrong: another text of %d bytes", n)
	}
	return Read(n)
}

// text is the known text of a size that may begin like this.
func (m *Model) text(size int, beginning string) string {
	for _, list := range m.Lists {
		if len(list) == size && strings.HasPrefix(list, beginning) {
			return list
		}
	}
	return Text(size)
}

// readOn looks at what was read of a text and asks for what comes next; nothing when all is read.
func (m *Model) readOn(c modelserver.Call, shown []string) ([]modelserver.Use, error) {
	first, size := number(shown[2]), number(shown[3])
	text := m.text(size, shown[1])
	if first != len(shown[1]) || first > size || text[:first] != shown[1] {
		return nil, fmt.Errorf("another beginning of a text of %d bytes", size)
	}
	offsets := parts(first, size)
	read := 0
	for _, message := range c.Request.Messages {
		if message.Role != "tool" {
			continue
		}
		if read == len(offsets) {
			return nil, fmt.Errorf("more than %d parts", read)
		}
		from := offsets[read]
		want := text[from:min(from+page, size)]
		if got := note.ReplaceAllString(message.Content, ""); got != want {
			return nil, fmt.Errorf("another part of %d bytes at %d: %.100q", len(got), from, got)
		}
		read++
	}
	var uses []modelserver.Use
	for _, from := range offsets[read:min(read+atOnce, len(offsets))] {
		arguments, err := json.Marshal(map[string]any{"id": shown[4], "offset": from})
		if err != nil {
			return nil, err
		}
		uses = append(uses, modelserver.Use{ID: fmt.Sprintf("part-%d", from), Name: task.ReadPayloadName, Arguments: string(arguments)})
	}
	return uses, nil
}

// parts are the offsets that are read: one after the other, or some with the end among them.
func parts(first, size int) []int {
	step := page
	if size > readAll {
		step = (size - first) / 20
	}
	var offsets []int
	for from := first; from < size; from += step {
		offsets = append(offsets, from)
	}
	return append(offsets, max(size-100, 0))
}

// number reads digits that a pattern has found.
func number(digits string) int {
	n, err := strconv.Atoi(digits)
	if err != nil {
		panic(err)
	}
	return n
}
