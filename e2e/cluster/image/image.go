// Package image packs a static executable as a container image, in the archive format (an OCI image layout in a tar)
// that container runtimes import. The same executable always gives the same bytes.
package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

const mediaTypes = "application/vnd.oci.image."

type object = map[string]any

// Write writes an image archive with one executable, which is its entry point, runs as user 65532 and finds a writable
// /tmp. name is the image's reference with its tag, as in "example.test/web:1".
func Write(archive, name, executable string, args ...string) error {
	content, err := os.ReadFile(executable)
	if err != nil {
		return fmt.Errorf("pack image %s: %w", name, err)
	}
	base := filepath.Base(executable)
	layer, err := pack([]file{{name: "tmp/", mode: 0o1777}, {name: base, mode: 0o755, content: content}})
	if err != nil {
		return fmt.Errorf("pack image %s: %w", name, err)
	}
	whole, err := layout(name, layer, append([]string{"/" + base}, args...))
	if err != nil {
		return fmt.Errorf("pack image %s: %w", name, err)
	}
	return os.WriteFile(archive, whole, 0o644)
}

// file is one entry of a tar; a name that ends with a slash is a folder's.
type file struct {
	name    string
	mode    int64
	content []byte
}

func pack(files []file) ([]byte, error) {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), ModTime: time.Unix(0, 0), Typeflag: tar.TypeReg}
		if f.name[len(f.name)-1] == '/' {
			header.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := io.Copy(w, bytes.NewReader(f.content)); err != nil {
			return nil, err
		}
	}
	err := w.Close()
	return out.Bytes(), err
}

// layout is the tar of the layout's index and blobs: config, layer and manifest.
func layout(name string, layer []byte, entrypoint []string) ([]byte, error) {
	var blobs []file
	add := func(kind string, content []byte) object {
		blobs = append(blobs, file{name: "blobs/sha256/" + digest(content), mode: 0o644, content: content})
		return object{"mediaType": mediaTypes + kind, "digest": "sha256:" + digest(content), "size": len(content)}
	}
	config, err := json.Marshal(object{
		"architecture": runtime.GOARCH, "os": "linux",
		"config": object{"Entrypoint": entrypoint, "User": "65532:65532"},
		"rootfs": object{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer)}},
	})
	if err != nil {
		return nil, err
	}
	manifest, err := json.Marshal(object{
		"schemaVersion": 2, "mediaType": mediaTypes + "manifest.v1+json",
		"config": add("config.v1+json", config), "layers": []object{add("layer.v1.tar", layer)},
	})
	if err != nil {
		return nil, err
	}
	entry := add("manifest.v1+json", manifest)
	entry["platform"] = object{"architecture": runtime.GOARCH, "os": "linux"}
	entry["annotations"] = object{"io.containerd.image.name": name}
	index, err := json.Marshal(object{"schemaVersion": 2, "manifests": []object{entry}})
	if err != nil {
		return nil, err
	}
	return pack(append(blobs,
		file{name: "oci-layout", mode: 0o644, content: []byte(`{"imageLayoutVersion":"1.0.0"}`)},
		file{name: "index.json", mode: 0o644, content: index}))
}

func digest(content []byte) string { return fmt.Sprintf("%x", sha256.Sum256(content)) }

// Build compiles a command of the module in the working directory, statically, and writes an image archive with it as
// Write does. pkg is what `go build` takes.
func Build(ctx context.Context, archive, name, pkg string, args ...string) error {
	dir, err := os.MkdirTemp("", "ark-image-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	base, _, _ := strings.Cut(path.Base(name), ":")
	executable := filepath.Join(dir, base)
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", executable, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build image %s: %w: %s", name, err, out)
	}
	return Write(archive, name, executable, args...)
}
