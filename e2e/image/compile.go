package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// source is what an image is made of.
type source struct {
	dir     string // the root of ark's sources
	version string
}

// compile builds the static executable for one platform and returns it. What the machine's Go settings say has no
// part in it: no cgo, no paths, no VCS stamp, the baseline of each architecture. The time zones are linked in, since
// the image has none and cron triggers name them.
func (s source) compile(ctx context.Context, p v1.Platform) ([]byte, error) {
	tmp, err := os.MkdirTemp("", "ark-image-")
	if err != nil {
		return nil, fmt.Errorf("compile ark: %w", err)
	}
	defer os.RemoveAll(tmp)
	file := filepath.Join(tmp, "ark")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", "timetzdata",
		"-ldflags", "-s -w -buildid= -X arkonis.dev/ark/cmd.version="+s.version, "-o", file, ".")
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS="+p.OS, "GOARCH="+p.Architecture,
		"GOFLAGS=", "GOEXPERIMENT=", "GOWORK=off", "GOAMD64=v1", "GOARM64=v8.0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile ark for %s: %w\n%s", p.String(), err, text)
	}
	return os.ReadFile(file)
}

func parsePlatforms(list string) ([]v1.Platform, error) {
	var all []v1.Platform
	seen := map[string]bool{}
	for text := range strings.SplitSeq(list, ",") {
		p, err := parsePlatform(strings.TrimSpace(text))
		switch {
		case err != nil:
			return nil, err
		case seen[p.String()]:
			return nil, fmt.Errorf("platform %s is named twice", p.String())
		}
		seen[p.String()] = true
		all = append(all, p)
	}
	return all, nil
}

// parsePlatform takes an OS and an architecture. The image has a passwd file and POSIX paths, so the OS is Linux.
func parsePlatform(text string) (v1.Platform, error) {
	system, arch, ok := strings.Cut(text, "/")
	if !ok || system != "linux" || arch == "" || strings.Contains(arch, "/") {
		return v1.Platform{}, fmt.Errorf("platform %q: want linux/ARCH, such as linux/amd64", text)
	}
	return v1.Platform{OS: system, Architecture: arch}, nil
}
