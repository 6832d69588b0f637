package cmd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"

	"sigs.k8s.io/yaml"
)

// maxInputFile bounds what --input reads from one file, in bytes.
const maxInputFile = 64 << 20

// parseInputs joins the values of --input, later ones over earlier ones. Each is one of
//
//	key=value      one text; the team's declaration decides what becomes of "3" or "true"
//	{"key": ...}   a JSON object
//	@file          a file that holds a JSON or YAML object; @- is standard input
func parseInputs(values []string, stdin io.Reader) (map[string]any, error) {
	out := map[string]any{}
	for _, v := range values {
		one, err := parseInput(v, stdin)
		if err != nil {
			return nil, err
		}
		maps.Copy(out, one)
	}
	return out, nil
}

func parseInput(v string, stdin io.Reader) (map[string]any, error) {
	switch {
	case strings.HasPrefix(v, "@"):
		return inputFile(v[1:], stdin)
	case strings.HasPrefix(strings.TrimSpace(v), "{"):
		m, err := decodeObject([]byte(v))
		if err != nil {
			return nil, fmt.Errorf("--input %q: %w; write --input '{\"key\": \"value\"}' or --input key=value", clip(v), err)
		}
		return m, nil
	}
	key, value, ok := strings.Cut(v, "=")
	if !ok || key == "" {
		return nil, fmt.Errorf("--input %q: neither key=value, nor a JSON object, nor @file", clip(v))
	}
	return map[string]any{key: value}, nil
}

func inputFile(name string, stdin io.Reader) (map[string]any, error) {
	body, err := readInput(name, stdin)
	if err != nil {
		return nil, fmt.Errorf("--input @%s: %w", name, err)
	}
	if len(body) > maxInputFile {
		return nil, fmt.Errorf("--input @%s: larger than %d MiB", name, maxInputFile>>20)
	}
	asJSON, err := yaml.YAMLToJSONStrict(body)
	if err != nil {
		return nil, fmt.Errorf("--input @%s: neither JSON nor YAML: %w", name, err)
	}
	m, err := decodeObject(asJSON)
	if err != nil {
		return nil, fmt.Errorf("--input @%s: %w; the file must hold an object of input names and values", name, err)
	}
	return m, nil
}

func readInput(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(stdin, maxInputFile+1))
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, maxInputFile+1))
}

// decodeObject decodes one JSON object and keeps its numbers exact.
func decodeObject(body []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if m == nil {
		return nil, errors.New("not a JSON object: null")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("not a JSON object: text follows it")
	}
	return m, nil
}

// clip bounds what an error repeats of the user's text.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
