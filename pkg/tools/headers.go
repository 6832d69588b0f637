package tools

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
)

// maxHeader bounds a file that holds the value of a header, in bytes.
const maxHeader = 64 << 10

// FileHeaders are HTTP headers whose values stand in files, which are read for every request: a value that changed counts
// from the next one on. It is safe for concurrent use; a nil one holds nothing.
type FileHeaders struct {
	files map[string]string

	mu   sync.Mutex
	last map[string]string // the last good values
}

// NewFileHeaders makes them of the files by the headers' names.
func NewFileHeaders(files map[string]string) *FileHeaders {
	return &FileHeaders{files: files, last: map[string]string{}}
}

// With returns the headers as they are now, beside fixed ones. A file that cannot be read, or is empty, leaves the last
// good value; the error is of one that never had any.
func (h *FileHeaders) With(fixed map[string]string) (map[string]string, error) {
	if h == nil || len(h.files) == 0 {
		return fixed, nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(h.files)) {
		value, err := readHeader(h.files[name])
		if err == nil {
			h.last[name] = value
		} else if h.last[name] == "" {
			return nil, fmt.Errorf("read the header %s: %w", name, err)
		}
	}
	all := maps.Clone(h.last)
	maps.Copy(all, fixed)
	return all, nil
}

// Known are the last good values, for whoever must not show them.
func (h *FileHeaders) Known() []string {
	if h == nil {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Collect(maps.Values(h.last))
}

func readHeader(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, maxHeader))
	if err != nil {
		return "", err
	}
	if content = bytes.TrimSpace(content); len(content) == 0 {
		return "", fmt.Errorf("the file %s is empty", name)
	}
	return string(content), nil
}
