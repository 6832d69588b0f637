package cmd

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
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
func parseInputs(values []string, in *stdin) (map[string]any, error) {
	out := map[string]any{}
	for _, v := range values {
		one, err := parseInput(v, in)
		if err != nil {
			return nil, err
		}
		maps.Copy(out, one)
	}
	return out, nil
}

func parseInput(v string, in *stdin) (map[string]any, error) {
	switch {
	case strings.HasPrefix(v, "@"):
		return inputFile(v[1:], in)
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

func inputFile(name string, in *stdin) (map[string]any, error) {
	body, err := readInput(name, in)
	if err != nil {
		return nil, err
	}
	m, err := decodeObject(body)
	if err != nil && !json.Valid(body) {
		asJSON, yamlErr := yaml.YAMLToJSONStrict(body)
		if yamlErr != nil {
			return nil, fmt.Errorf("--input @%s: cannot be read as JSON or YAML: %s", name, yamlCause(yamlErr))
		}
		m, err = decodeObject(asJSON)
	}
	if err != nil {
		return nil, fmt.Errorf("--input @%s: %w; the file must hold an object of input names and values", name, err)
	}
	return m, nil
}

// readInput reads what --input @name stands for.
func readInput(name string, in *stdin) ([]byte, error) {
	switch name {
	case "":
		return nil, errors.New("--input @: the name of the file is missing; write --input @FILE, or @- for standard input")
	case "-":
		r, err := in.take("--input @-")
		if err != nil {
			return nil, err
		}
		return readLimited(r, "--input @-", maxInputFile)
	}
	return readFile(name, "--input @"+name, maxInputFile)
}

// readFile reads a whole file of at most limit bytes; what names it in errors.
func readFile(name, what string, limit int64) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %s", what, fileCause(err))
	}
	defer f.Close() //nolint:errcheck // it was only read
	return readLimited(f, what, limit)
}

func readLimited(r io.Reader, what string, limit int64) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %s", what, fileCause(err))
	}
	if int64(len(body)) > limit {
		return nil, fmt.Errorf("%s: larger than %d MiB", what, limit>>20)
	}
	return body, nil
}

// fileCause is an error of the file system without the name of the file, which its reader has said.
func fileCause(err error) string {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		return p.Err.Error()
	}
	return err.Error()
}

// yamlCause is an error of the YAML library on one line and without the library's name.
func yamlCause(err error) string {
	text := strings.TrimPrefix(strings.TrimPrefix(err.Error(), "yaml: "), "unmarshal errors:")
	return strings.Join(strings.Fields(text), " ")
}

// decodeObject decodes one JSON object and keeps its numbers exact.
func decodeObject(body []byte) (map[string]any, error) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("not a JSON object: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("not a JSON object: text follows it")
	}
	switch v := v.(type) {
	case map[string]any:
		return v, nil
	case nil:
		return nil, errors.New("not an object: empty")
	case []any:
		return nil, errors.New("not an object: a list")
	default:
		return nil, fmt.Errorf("not an object: the value %s", clip(fmt.Sprint(v)))
	}
}

// clip bounds what an error repeats of the user's text.
func clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	return strings.ToValidUTF8(s[:most], "") + "…"
}
