package why_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/remote/why"
)

var update = flag.Bool("update", false, "write what the scenarios in testdata give")

// Each scenario is the facts of a run (the file facts) and the answer (the file want).
func TestExplain(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			a, err := txtar.ParseFile(file)
			require.NoError(t, err)
			parts := map[string]*txtar.File{}
			for i := range a.Files {
				parts[a.Files[i].Name] = &a.Files[i]
			}
			got := text(why.Explain(facts(t, parts["facts"].Data)))
			want := parts["want"]
			if *update {
				if want == nil {
					a.Files = append(a.Files, txtar.File{Name: "want"})
					want = &a.Files[len(a.Files)-1]
				}
				want.Data = []byte(got)
				require.NoError(t, os.WriteFile(file, txtar.Format(a), 0o600))
			}
			require.NotNil(t, want, "the file want is missing")
			require.Equal(t, string(want.Data), got)
		})
	}
}

// facts reads the facts of a scenario. The run is demo-run-1 in namespace lab, made at noon; it is five past.
func facts(t *testing.T, text []byte) *why.Facts {
	t.Helper()
	var f why.Facts
	base := "now: 2026-01-01T12:05:00Z\nrun: {metadata: {name: demo-run-1, namespace: lab, creationTimestamp: 2026-01-01T12:00:00Z}}\n"
	require.NoError(t, yaml.Unmarshal([]byte(base), &f))
	require.NoError(t, yaml.UnmarshalStrict(text, &f))
	for name, a := range f.Agents {
		if a.Agent != nil {
			a.Agent.Name = name
		}
	}
	if f.Run.Spec.TeamRef == nil && f.Run.Spec.AgentRef == nil {
		f.Run.Spec.TeamRef = &v1alpha1.Reference{Name: "demo"}
	}
	if f.Team != nil {
		f.Team.Name = "demo"
	}
	return &f
}

func text(a *why.Answer) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s\n", a.Cause, a.Message)
	for _, e := range a.Evidence {
		fmt.Fprintln(&b, "- "+e)
	}
	for _, n := range a.Next {
		fmt.Fprintln(&b, "> "+n)
	}
	return b.String()
}
