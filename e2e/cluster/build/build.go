// Package build makes the executables that a test cluster consists of, from the modules in e2e/cluster, and keeps them
// in the user's cache:
//
//	${XDG_CACHE_HOME:-~/.cache}/ark/e2e/kube-<hash>/   kube, and a link to it for each of its programs (etcd, kubectl, ...)
//	${XDG_CACHE_HOME:-~/.cache}/ark/e2e/node-<hash>/   containerd, runc, CNI plugins, coredns, the pause image
//	${XDG_CACHE_HOME:-~/.cache}/ark/e2e/host-<hash>/   host, which holds a cluster with nodes
//
// The hash is of the sources, the Go version and the platform, so that a folder is complete and right, or absent. Several
// processes may ask for the same folder at once: one builds, the others wait.
package build

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A set is a folder of executables that are built together.
type set struct {
	name    string
	sources []string // files and folders below the checkout that decide what comes out
	notice  string   // what a person who waits for it is told
	build   func(b builder) error
}

// builder builds one set into a folder.
type builder struct {
	ctx  context.Context
	root string // the checkout
	out  string
	log  io.Writer
}

// Kube returns the folder with Kubernetes' own programs, which it builds first when needed: about 10 minutes on two
// cores with an empty Go build cache. Progress goes to log.
func Kube(ctx context.Context, log io.Writer) (string, error) {
	return ensure(ctx, kubeSet(), log)
}

// Node returns the folder with what nodes need besides: about 4 minutes.
func Node(ctx context.Context, log io.Writer) (string, error) {
	return ensure(ctx, nodeSet(), log)
}

// Host returns the path of e2e/cluster/host.
func Host(ctx context.Context, log io.Writer) (string, error) {
	dir, err := ensure(ctx, hostSet(), log)
	return filepath.Join(dir, "host"), err
}

func ensure(ctx context.Context, s set, log io.Writer) (string, error) {
	root, err := Checkout()
	if err != nil {
		return "", err
	}
	hash, err := s.hash(ctx, root)
	if err != nil {
		return "", fmt.Errorf("build %s: %w", s.name, err)
	}
	cache, err := Cache()
	if err != nil {
		return "", err
	}
	out := filepath.Join(cache, s.name+"-"+hash)
	if _, err := os.Stat(out); err == nil {
		return out, nil
	}
	unlock, err := lock(ctx, out+".lock")
	if err != nil {
		return "", fmt.Errorf("build %s: wait for another process that builds it: %w", s.name, err)
	}
	defer unlock()
	if _, err := os.Stat(out); err == nil { // built while this process waited
		return out, nil
	}
	if err := s.buildInto(ctx, root, out, log); err != nil {
		return "", fmt.Errorf("build %s: %w", s.name, err)
	}
	return out, nil
}

// buildInto fills a folder beside out and renames it when it is complete.
func (s set) buildInto(ctx context.Context, root, out string, log io.Writer) error {
	unfinished := out + ".unfinished" // of this process, or left behind by one that was killed: the lock is held
	if err := os.RemoveAll(unfinished); err != nil {
		return err
	}
	if err := os.MkdirAll(unfinished, 0o755); err != nil {
		return err
	}
	defer os.RemoveAll(unfinished)
	start := time.Now()
	fmt.Fprintf(log, "building %s into %s: %s\n", s.name, out, s.notice)
	if err := s.build(builder{ctx: ctx, root: root, out: unfinished, log: log}); err != nil {
		return err
	}
	fmt.Fprintf(log, "built %s in %s\n", s.name, time.Since(start).Round(time.Second))
	return os.Rename(unfinished, out)
}

// hash is of every source's name and content and of the Go toolchain, in the first 16 digits.
func (s set) hash(ctx context.Context, root string) (string, error) {
	h := sha256.New()
	toolchain, err := output(ctx, root, "go", "env", "GOVERSION", "GOOS", "GOARCH")
	if err != nil {
		return "", err
	}
	fmt.Fprintf(h, "%s\n", toolchain)
	for _, source := range s.sources {
		err := filepath.WalkDir(filepath.Join(root, source), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() || strings.HasSuffix(path, "_test.go") {
				return err
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			name, err := filepath.Rel(root, path)
			fmt.Fprintf(h, "%s %d\n", name, len(content))
			_, _ = h.Write(content)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("%x", h.Sum(nil))[:16], nil
}

// goBuild runs go build in a module of the checkout with the same flags for everybody, so that Go's build cache serves
// every set.
func (b builder) goBuild(module string, env []string, args ...string) error {
	cmd := exec.CommandContext(b.ctx, "go", append([]string{"build", "-trimpath", "-buildvcs=false"}, args...)...)
	cmd.Dir = filepath.Join(b.root, module)
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	cmd.Env = append(cmd.Env, env...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = b.log, io.MultiWriter(b.log, &said)
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		return fmt.Errorf("%s: %w: %s", cmd, err, strings.Join(lines[max(0, len(lines)-5):], "\n"))
	}
	return nil
}

// version returns the version of a module that a module of the checkout requires.
func (b builder) version(module, dependency string) (string, error) {
	text, err := os.ReadFile(filepath.Join(b.root, module, "go.mod"))
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) > 1 && fields[0] == dependency {
			return fields[1], nil
		}
	}
	return "", fmt.Errorf("%s/go.mod does not require %s", module, dependency)
}

// Cache returns the folder that everything is built into.
func Cache() (string, error) {
	base := os.Getenv("XDG_CACHE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the cache folder: %w; set XDG_CACHE_HOME", err)
		}
		base = filepath.Join(home, ".cache")
	}
	dir := filepath.Join(base, "ark", "e2e")
	return dir, os.MkdirAll(dir, 0o755)
}

// Checkout returns ark's root folder: the nearest one above the working directory whose go.mod is ark's.
func Checkout() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		text, err := os.ReadFile(filepath.Join(dir, "go.mod"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		if slices.Contains(strings.Split(string(text), "\n"), "module arkonis.dev/ark") {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is not inside a checkout of ark, whose sources the test cluster is built from", start)
		}
	}
}

func output(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w", cmd, err)
	}
	return strings.TrimSpace(string(out)), nil
}
