package build

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"
)

// fake is a set whose build writes one file and then does what it is told to.
func fake(name string, then func() error) set {
	return set{name: name, sources: []string{"LICENSE"}, build: func(b builder) error {
		if err := os.WriteFile(filepath.Join(b.out, "program"), []byte(name), 0o755); err != nil {
			return err
		}
		return then()
	}}
}

func TestManyAskAndOneBuilds(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	var builds atomic.Int32
	s := fake("once", func() error {
		builds.Add(1)
		return nil
	})
	var asking errgroup.Group
	for range 8 {
		asking.Go(func() error {
			dir, err := ensure(t.Context(), s, t.Output())
			if err != nil {
				return err
			}
			_, err = os.Stat(filepath.Join(dir, "program"))
			return err
		})
	}
	require.NoError(t, asking.Wait())
	require.EqualValues(t, 1, builds.Load())
}

func TestAFolderIsCompleteOrAbsent(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	broken := errors.New("no compiler")
	_, err := ensure(t.Context(), fake("broken", func() error { return broken }), t.Output())
	require.ErrorIs(t, err, broken)
	cache, err := Cache()
	require.NoError(t, err)
	left, err := filepath.Glob(filepath.Join(cache, "*", "program"))
	require.NoError(t, err)
	require.Empty(t, left)

	dir, err := ensure(t.Context(), fake("broken", func() error { return nil }), t.Output())
	require.NoError(t, err, "the next one builds it")
	require.FileExists(t, filepath.Join(dir, "program"))
}

func TestWaitingForALockEndsWithTheContext(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = lock(ctx, path)
	require.ErrorIs(t, err, context.Canceled)
	unlock()
	unlock, err = lock(t.Context(), path)
	require.NoError(t, err)
	unlock()
}

func TestTheHashIsOfContentsAndNames(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	hash := func() string {
		h, err := set{sources: []string{"src"}}.hash(t.Context(), root)
		require.NoError(t, err)
		require.Len(t, h, 16)
		return h
	}
	write := func(name, text string) {
		require.NoError(t, os.MkdirAll(filepath.Join(root, "src"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, "src", name), []byte(text), 0o644))
	}
	write("a.go", "one")
	first := hash()
	require.Equal(t, first, hash())
	write("a_test.go", "tests build nothing")
	require.Equal(t, first, hash())
	write("a.go", "two")
	second := hash()
	require.NotEqual(t, first, second)
	write("b.go", "")
	require.NotEqual(t, second, hash())
}
