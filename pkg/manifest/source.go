package manifest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// downloadTimeout bounds one download, its body included.
const downloadTimeout = 30 * time.Second

// file is one source that was read.
type file struct {
	name string
	body []byte
}

// read reads all sources. What cannot be read becomes a finding.
func (l *loader) read(ctx context.Context, src Sources) ([]file, error) {
	if len(src.Paths) == 0 {
		l.report(Finding{File: "(nothing)", Message: "no manifest was given", Hint: "name a file, a folder, an address, or - for standard input"})
		return nil, l.fault()
	}
	r := reader{src: src, left: MaxTotal, seen: map[string]bool{}}
	var files []file
	for _, path := range src.Paths {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		found, err := r.path(ctx, path)
		files = append(files, found...)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			var s *sourceError
			if !errors.As(err, &s) {
				s = &sourceError{path, err.Error(), ""}
			}
			l.report(Finding{File: s.file, Message: s.message, Hint: s.hint})
		}
		if len(files) > MaxFiles {
			l.report(Finding{File: path, Message: fmt.Sprintf("there are more than %d files", MaxFiles)})
			break
		}
	}
	return files, nil
}

// sourceError is a source that cannot be read.
type sourceError struct{ file, message, hint string }

func (e *sourceError) Error() string { return e.file + ": " + e.message }

// stdinName stands for standard input in findings.
const stdinName = "(stdin)"

// sourceNames names all sources at once.
func sourceNames(paths []string) string {
	names := make([]string, 0, len(paths))
	for _, p := range paths {
		if u, err := url.Parse(p); err == nil && u.Host != "" {
			p = u.Redacted()
		}
		if p == "-" {
			p = stdinName
		}
		names = append(names, p)
	}
	return strings.Join(names, ", ")
}

type reader struct {
	src  Sources
	left int             // bytes
	seen map[string]bool // files that were read
}

func (r *reader) path(ctx context.Context, path string) ([]file, error) {
	switch {
	case path == "-":
		return r.stdin()
	case strings.HasPrefix(path, "http://"), strings.HasPrefix(path, "https://"):
		return r.download(ctx, path)
	case path == "":
		return nil, &sourceError{`""`, "the name of the file is empty", ""}
	}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, &sourceError{path, "does not exist", "name a file, a folder, an address, or - for standard input"}
	case err != nil:
		return nil, &sourceError{path, cause(err), ""}
	case info.IsDir():
		return r.folder(path)
	}
	return r.one(path)
}

func (r *reader) stdin() ([]file, error) {
	const name = stdinName
	if r.src.Stdin == nil || r.seen["-"] {
		return nil, &sourceError{name, "there is nothing to read", "- can stand once"}
	}
	r.seen["-"] = true
	body, err := r.body(name, r.src.Stdin)
	if err != nil {
		return nil, err
	}
	return []file{{name, body}}, nil
}

// folder reads the manifests directly in a folder, in the order of their names.
func (r *reader) folder(path string) ([]file, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, &sourceError{path, cause(err), ""}
	}
	var files []file
	found := false
	for _, e := range entries {
		if !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(e.Name())) {
			continue
		}
		name := filepath.Join(path, e.Name())
		if info, err := os.Stat(name); err != nil || info.IsDir() {
			continue
		}
		found = true
		one, err := r.one(name)
		if err != nil {
			return files, err
		}
		files = append(files, one...)
	}
	if !found {
		return nil, &sourceError{path, "the folder holds no *.yaml, *.yml or *.json file", "sub-folders are not searched"}
	}
	return files, nil
}

// one reads a file, unless it was read before under whatever name.
func (r *reader) one(path string) ([]file, error) {
	target, err := filepath.EvalSymlinks(path)
	if err == nil {
		target, err = filepath.Abs(target)
	}
	if err == nil && r.seen[target] {
		return nil, nil
	}
	r.seen[target] = true
	f, err := os.Open(path)
	if err != nil {
		return nil, &sourceError{path, cause(err), ""}
	}
	defer f.Close() //nolint:errcheck // it was only read
	body, err := r.body(path, f)
	if err != nil {
		return nil, err
	}
	return []file{{path, body}}, nil
}

func (r *reader) download(ctx context.Context, address string) ([]file, error) {
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		return nil, &sourceError{clip(address), "is no valid address", ""}
	}
	name := u.Redacted()
	ctx, cancel := context.WithTimeout(ctx, downloadTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, &sourceError{name, "is no valid address", ""}
	}
	client := r.src.HTTPClient
	if client == nil {
		client = &http.Client{}
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, &sourceError{name, "cannot be fetched: " + downloadCause(err), ""}
	}
	defer resp.Body.Close() //nolint:errcheck // it was only read
	if resp.StatusCode != http.StatusOK {
		return nil, &sourceError{name, "cannot be fetched: the server answers " + resp.Status, ""}
	}
	if strings.HasPrefix(resp.Header.Get("Content-Type"), "text/html") {
		return nil, &sourceError{name, "is a web page and no manifest", "use the address of the raw file"}
	}
	body, err := r.body(name, resp.Body)
	if err != nil {
		return nil, err
	}
	return []file{{name, body}}, nil
}

func downloadCause(err error) string {
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("it takes longer than %s", downloadTimeout)
	}
	if u, ok := errors.AsType[*url.Error](err); ok { // its text has the address, with the password
		return u.Err.Error()
	}
	return err.Error()
}

// body reads a source whole, as far as the limits allow.
func (r *reader) body(name string, from io.Reader) ([]byte, error) {
	body, err := io.ReadAll(io.LimitReader(from, MaxFile+1))
	switch {
	case err != nil:
		return nil, &sourceError{name, "cannot be read: " + downloadCause(err), ""}
	case len(body) > MaxFile:
		return nil, &sourceError{name, fmt.Sprintf("is larger than %d MiB", MaxFile>>20), ""}
	case len(body) > r.left:
		return nil, &sourceError{name, fmt.Sprintf("all manifests together are larger than %d MiB", MaxTotal>>20), ""}
	case !utf8.Valid(body):
		return nil, &sourceError{name, "is not UTF-8 text", ""}
	}
	r.left -= len(body)
	return bytes.TrimPrefix(body, []byte("\ufeff")), nil
}

// cause is an error of the file system without the name of the file.
func cause(err error) string {
	if p, ok := errors.AsType[*fs.PathError](err); ok {
		err = p.Err
	}
	return "cannot be read: " + err.Error()
}
