package schema

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// Extract takes the JSON out of a model's answer: the whole text if it is JSON, otherwise the fenced block that holds
// JSON; prose around the block does not count. Blocks marked as json go before others. The error is a sentence that
// can be told to the model: there is no JSON, it is broken (where), or there are several different ones.
func Extract(answer string) (json.RawMessage, error) {
	if len(answer) > MaxDocumentSize {
		return nil, fmt.Errorf("the answer has %d bytes; at most %d are allowed", len(answer), MaxDocumentSize)
	}
	text := strings.TrimSpace(strings.TrimPrefix(answer, "\ufeff"))
	if text == "" {
		return nil, errors.New("the answer is empty; it must be JSON")
	}
	if json.Valid([]byte(text)) {
		return json.RawMessage(text), nil
	}
	blocks := fencedBlocks(text)
	if len(blocks) == 0 {
		if c := text[0]; c == '{' || c == '[' || c == '"' {
			return nil, fmt.Errorf("the answer is not valid JSON: %w", jsonError(text))
		}
		return nil, errors.New("the answer holds no JSON; it must be JSON alone, or in one block fenced with ```json")
	}
	for _, marked := range []bool{true, false} {
		found, err := pick(blocks, marked)
		if found != nil || err != nil {
			return found, err
		}
	}
	return nil, errors.New("no fenced block of the answer is valid JSON; put the JSON alone into one block fenced with ```json")
}

// pick returns the JSON of the blocks that are marked as json, or of those that are not.
func pick(blocks []block, marked bool) (json.RawMessage, error) {
	var found json.RawMessage
	var broken error
	for _, b := range blocks {
		if b.json != marked {
			continue
		}
		if !json.Valid([]byte(b.text)) {
			if marked && broken == nil {
				broken = fmt.Errorf("the JSON block of the answer is not valid: %w", jsonError(b.text))
			}
			continue
		}
		if found != nil && !sameJSON(found, []byte(b.text)) {
			return nil, errors.New("the answer holds several different JSON blocks; answer with exactly one")
		}
		if found == nil {
			found = json.RawMessage(b.text)
		}
	}
	if found != nil {
		return found, nil
	}
	return nil, broken
}

func sameJSON(a, b []byte) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

func jsonError(text string) error {
	_, _, err := decode([]byte(text), MaxDepth)
	if err == nil {
		err = errors.New("it is not JSON")
	}
	return err
}

type block struct {
	json bool
	text string
}

// fencedBlocks returns the blocks between lines of three or more backticks or tildes. A block that is never closed ends
// with the text.
func fencedBlocks(text string) []block {
	var blocks []block
	var lines []string
	var open *block
	fence := ""
	for line := range strings.Lines(text) {
		trimmed := strings.TrimSpace(line)
		switch {
		case open == nil:
			if fence = fenceOf(trimmed); fence != "" {
				info, _, _ := strings.Cut(strings.TrimSpace(trimmed[len(fence):]), " ")
				open = &block{json: strings.HasPrefix(strings.ToLower(info), "json")}
				lines = nil
			}
		case strings.HasPrefix(trimmed, fence) && strings.Trim(trimmed, fence[:1]) == "":
			open.text = strings.TrimSpace(strings.Join(lines, ""))
			blocks = append(blocks, *open)
			open = nil
		default:
			lines = append(lines, line)
		}
	}
	if open != nil {
		open.text = strings.TrimSpace(strings.Join(lines, ""))
		blocks = append(blocks, *open)
	}
	return blocks
}

// fenceOf is the run of backticks or tildes that a line begins with, when it opens a block.
func fenceOf(line string) string {
	for _, c := range []string{"`", "~"} {
		n := len(line) - len(strings.TrimLeft(line, c))
		if n >= 3 && !strings.Contains(line[n:], c) {
			return line[:n]
		}
	}
	return ""
}
