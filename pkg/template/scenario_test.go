package template_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/template"
)

var update = flag.Bool("update", false, "write what the templates give into the scenarios")

// Each scenario has the data (data.json), templates (*.tmpl), and the file want: what each gives, and what it names.
func TestScenarios(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".txtar"), func(t *testing.T) {
			t.Parallel()
			archive, err := txtar.ParseFile(path)
			require.NoError(t, err)
			var values map[string]any
			var want *txtar.File
			var got strings.Builder
			for i, f := range archive.Files {
				switch f.Name {
				case "data.json":
					values = data(t, string(f.Data))
				case "want":
					want = &archive.Files[i]
				default:
					fmt.Fprintf(&got, "== %s\n%s\n", f.Name, render(f.Name, string(f.Data), values))
				}
			}
			require.NotNil(t, want, "the scenario has no file want")
			if *update {
				want.Data = []byte(got.String())
				require.NoError(t, os.WriteFile(path, txtar.Format(archive), 0o600))
				return
			}
			if diff := cmp.Diff(string(want.Data), got.String()); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

func render(name, source string, values map[string]any) string {
	tmpl, err := template.Parse(name, strings.TrimSuffix(source, "\n"))
	if err != nil {
		return "error: " + err.Error()
	}
	var b strings.Builder
	for _, r := range tmpl.References() {
		optional := ""
		if r.Optional {
			optional = " (optional)"
		}
		fmt.Fprintf(&b, "names %s at %d:%d%s\n", strings.Join(r.Path, "."), r.Line, r.Column, optional)
	}
	text, err := tmpl.Execute(values)
	if err != nil {
		return b.String() + "error: " + err.Error()
	}
	return b.String() + text
}
