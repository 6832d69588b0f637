package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// Annotations by which a runtime finds the image's name in an archive.
const (
	refAnnotation  = "org.opencontainers.image.ref.name"
	nameAnnotation = "io.containerd.image.name"
)

// labels describe the image; the Dockerfile has the same.
func labels(version string) map[string]string {
	return map[string]string{
		"org.opencontainers.image.title":       "ark",
		"org.opencontainers.image.description": "Runs AI agents as Kubernetes resources",
		"org.opencontainers.image.licenses":    "Apache-2.0",
		"org.opencontainers.image.version":     version,
	}
}

// build compiles ark for each platform and writes the archive, and beside it the bills of materials. It returns the
// digest of the image's index.
func build(ctx context.Context, src source, name string, platforms []v1.Platform, archive string) (v1.Hash, error) {
	tag := name[strings.LastIndex(name, "/")+1:]
	if _, after, ok := strings.Cut(tag, ":"); ok {
		tag = after
	} else {
		return v1.Hash{}, fmt.Errorf("-name: %q has no tag; write %s:TAG", name, name)
	}
	at, err := buildTime(os.Getenv("SOURCE_DATE_EPOCH"))
	if err != nil {
		return v1.Hash{}, err
	}
	if err := os.MkdirAll(filepath.Dir(archive), 0o755); err != nil {
		return v1.Hash{}, fmt.Errorf("write %s: %w", archive, err)
	}
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, p := range platforms {
		binary, err := src.compile(ctx, p)
		if err != nil {
			return v1.Hash{}, err
		}
		img, err := newImage(binary, p, src.version, at)
		if err != nil {
			return v1.Hash{}, fmt.Errorf("make the image for %s: %w", p.String(), err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &p}})
		if err := writeBOM(bomFile(archive, p), binary, src.version); err != nil {
			return v1.Hash{}, err
		}
	}
	names := map[string]string{refAnnotation: tag, nameAnnotation: name}
	if err := writeArchive(archive, index, names, at); err != nil {
		return v1.Hash{}, fmt.Errorf("write %s: %w", archive, err)
	}
	return index.Digest()
}

// buildTime is the time that files and the image carry: the epoch, unless SOURCE_DATE_EPOCH says otherwise.
func buildTime(epoch string) (time.Time, error) {
	if epoch == "" {
		return time.Unix(0, 0).UTC(), nil
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %q is not a number of seconds", epoch)
	}
	return time.Unix(seconds, 0).UTC(), nil
}

func newImage(binary []byte, p v1.Platform, version string, at time.Time) (v1.Image, error) {
	files, err := packed(contents(binary), at)
	if err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil },
		tarball.WithCompressionLevel(gzip.DefaultCompression), tarball.WithMediaType(types.OCILayer), tarball.WithCompressedCaching)
	if err != nil {
		return nil, err
	}
	img := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	img, err = mutate.ConfigFile(img, &v1.ConfigFile{
		OS: p.OS, Architecture: p.Architecture, Created: v1.Time{Time: at},
		RootFS: v1.RootFS{Type: "layers"},
		Config: v1.Config{User: user, Entrypoint: []string{"/ark"}, WorkingDir: "/", Labels: labels(version)},
	})
	if err != nil {
		return nil, err
	}
	img, err = mutate.Append(img, mutate.Addendum{Layer: layer, History: v1.History{Created: v1.Time{Time: at}, CreatedBy: "COPY /rootfs/ /"}})
	if err != nil {
		return nil, err
	}
	return mutate.Annotations(img, labels(version)).(v1.Image), nil
}
