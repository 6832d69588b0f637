package manifest_test

import (
	"errors"
	"os"
	"path/filepath"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/manifest"
)

// No text makes the loader panic, hang or take much memory; what it loads it can locate, and what it refuses it refuses
// with a place.
func FuzzLoad(f *testing.F) {
	samples, err := filepath.Glob("../../deploy/samples/*.yaml")
	require.NoError(f, err)
	for _, path := range samples {
		text, err := os.ReadFile(path)
		require.NoError(f, err)
		f.Add(string(text))
	}
	scenarios, err := filepath.Glob("testdata/*.txtar")
	require.NoError(f, err)
	for _, path := range scenarios {
		archive, err := txtar.ParseFile(path)
		require.NoError(f, err)
		for _, file := range archive.Files {
			f.Add(string(file.Data))
		}
	}
	for _, text := range []string{
		"%YAML 1.2\n---\na: 1\n...\n---\n# c\n", "a: &a [*a]", "a: &a\n  <<: [*a, {}]\n", "? - a\n: b\n", "--- |\n  x\n--- >\n y",
		"apiVersion: arkonis.dev/v1alpha1\nkind: ArkTeamList\nitems: [null, {}, {metadata: {name: x}}]\n",
		"apiVersion: v1\nkind: Secret\nmetadata: {name: x, creationTimestamp: 5}\ndata: {a: [b]}\n",
		"apiVersion: v1\nkind: List\nitems: [{apiVersion: v1, kind: List, items: []}]\n",
		`{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "\u0000"}}{`,
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		before := allocated()
		start := time.Now()
		set, err := manifest.Load(t.Context(), manifest.Sources{Paths: []string{"-"}, Stdin: strings.NewReader(text)})
		took := time.Since(start)
		used := allocated() - before
		if took > 10*time.Second { // the bound is 50 ms on an idle machine
			t.Fatalf("took %s", took)
		}
		if used > 64<<20 && len(text) < 64<<10 {
			t.Fatalf("allocated %d bytes", used)
		}
		if err == nil {
			for _, team := range set.Teams {
				require.NotEmpty(t, set.Locate(team, "spec.pipeline[0].inputs.prompt"))
			}
			return
		}
		var e *manifest.Error
		require.True(t, errors.As(err, &e))
		require.NotEmpty(t, e.Findings)
		lines := 1 + strings.Count(text, "\n")
		for _, finding := range e.Findings {
			require.NotEmpty(t, finding.File)
			require.NotEmpty(t, finding.Message)
			require.LessOrEqual(t, finding.Line, lines+1)
		}
	})
}

// allocated is how many bytes were allocated so far.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
