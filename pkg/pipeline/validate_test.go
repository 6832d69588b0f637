package pipeline_test

import (
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
)

// listed writes findings one a line, hints below.
func listed(findings []pipeline.Finding) string {
	var b strings.Builder
	for _, f := range findings {
		b.WriteString(string(f.Severity) + " " + f.Path + ": " + f.Message + "\n")
		if f.Hint != "" {
			b.WriteString("  " + f.Hint + "\n")
		}
	}
	return b.String()
}

func TestValidateTeam(t *testing.T) {
	t.Parallel()
	scenarios(t, "validate", func(t *testing.T, a *txtar.Archive) string {
		return listed(pipeline.ValidateTeam(readObjects(t, a).team, options()))
	})
}

// TestSnapshot shows the findings, and the spec when there is no error.
func TestSnapshot(t *testing.T) {
	t.Parallel()
	scenarios(t, "snapshot", func(t *testing.T, a *txtar.Archive) string {
		o := readObjects(t, a)
		before := o.team.DeepCopy()
		spec, findings := pipeline.Snapshot(o.team, o.lookup, o.input, v1alpha1.Trigger{Kind: v1alpha1.TriggerManual, ID: "1"})
		require.Equal(t, before, o.team, "the team is not changed")
		out := listed(findings)
		if len(failures(findings)) > 0 {
			return out
		}
		compile(t, spec)
		text, err := yaml.Marshal(spec)
		require.NoError(t, err)
		return out + string(text)
	})
}

func TestResolveInput(t *testing.T) {
	t.Parallel()
	scenarios(t, "input", func(t *testing.T, a *txtar.Archive) string {
		o := readObjects(t, a)
		values, findings := pipeline.ResolveInput(o.team, o.input)
		out := listed(findings)
		if len(failures(findings)) > 0 {
			return out
		}
		resolved, err := v1alpha1.NewValues(values)
		require.NoError(t, err)
		for _, k := range sortedKeys(resolved) {
			out += k + " = " + string(resolved[k].Raw) + "\n"
		}
		return out
	})
}
