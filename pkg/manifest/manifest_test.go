package manifest_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arkonis.dev/ark/pkg/manifest"
)

var update = flag.Bool("update", false, "write what is found into the scenarios")

// Each scenario is a folder of manifests and the file want: what loading the folder gives.
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
			dir := t.TempDir()
			var want *txtar.File
			for i, f := range archive.Files {
				if f.Name == "want" {
					want = &archive.Files[i]
					continue
				}
				require.NoError(t, os.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o600))
			}
			require.NotNil(t, want, "the scenario has no file want")
			set, err := manifest.Load(t.Context(), manifest.Sources{Paths: []string{dir}})
			got := strings.ReplaceAll(describe(set, err), dir+string(filepath.Separator), "")
			if *update {
				want.Data = []byte(got)
				require.NoError(t, os.WriteFile(path, txtar.Format(archive), 0o600))
				return
			}
			if diff := cmp.Diff(string(want.Data), got); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

// describe writes what was loaded, or the findings.
func describe(set *manifest.Set, err error) string {
	var b bytes.Buffer
	if err != nil {
		fmt.Fprintln(&b, err)
		return b.String()
	}
	v := reflect.ValueOf(*set)
	for i := range v.NumField() {
		if v.Field(i).Kind() != reflect.Slice || v.Type().Field(i).Name == "Notes" {
			continue
		}
		for j := range v.Field(i).Len() {
			object := v.Field(i).Index(j).Interface().(metav1.Object)
			name := object.GetName()
			if ns := object.GetNamespace(); ns != "" {
				name = ns + "/" + name
			}
			fmt.Fprintf(&b, "%s %s at %s\n", v.Type().Field(i).Name, name, set.Locate(object, ""))
		}
	}
	for _, n := range set.Notes {
		fmt.Fprintln(&b, n)
	}
	return b.String()
}

func load(t *testing.T, text string) *manifest.Set {
	t.Helper()
	set, err := manifest.Load(t.Context(), manifest.Sources{Paths: []string{"-"}, Stdin: strings.NewReader(text)})
	require.NoError(t, err)
	return set
}

// findings loads a text that must be refused.
func findings(t *testing.T, text string) []string {
	t.Helper()
	_, err := manifest.Load(t.Context(), manifest.Sources{Paths: []string{"-"}, Stdin: strings.NewReader(text)})
	var e *manifest.Error
	require.True(t, errors.As(err, &e), "%v", err)
	var out []string
	for _, f := range e.Findings {
		out = append(out, f.String())
	}
	return out
}
