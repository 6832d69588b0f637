package runs

import (
	"testing"

	"github.com/stretchr/testify/require"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// What shows in two runs of why one cannot go on from the other.
func TestNotRetryable(t *testing.T) {
	t.Parallel()
	of := func(team string) func(*v1alpha1.ArkRun) {
		return func(r *v1alpha1.ArkRun) { r.Spec.TeamRef = &v1alpha1.Reference{Name: team} }
	}
	retrying := func(retry v1alpha1.RetryOf, change ...func(*v1alpha1.ArkRun)) *v1alpha1.ArkRun {
		r := run("new", append(change, of("a"))...)
		r.Spec.RetryOf = &retry
		return r
	}
	succeeded := func(r *v1alpha1.ArkRun) { r.Status.Phase = v1alpha1.RunSucceeded }
	child := func(r *v1alpha1.ArkRun) { r.Spec.Parent = &v1alpha1.ParentTask{} }
	refused := func(r *v1alpha1.ArkRun) { r.Spec.RetryOf = &v1alpha1.RetryOf{Name: "first"} }
	began := func(r *v1alpha1.ArkRun) { r.Status.Reused = &v1alpha1.ReusedResults{} }
	for name, c := range map[string]struct {
		run, old *v1alpha1.ArkRun
		want     string
	}{
		"it failed":             {retrying(v1alpha1.RetryOf{Name: "r", UID: "x"}), run("x", of("a"), ended), ""},
		"it is gone":            {retrying(v1alpha1.RetryOf{Name: "r"}), nil, "there is no run r (any more)"},
		"another has its name":  {retrying(v1alpha1.RetryOf{Name: "r", UID: "y"}), run("x", of("a"), ended), "its uid is x, and not y"},
		"of another team":       {retrying(v1alpha1.RetryOf{Name: "r"}), run("x", of("b"), ended), "one of the team b, and this one is of the team a"},
		"it goes on":            {retrying(v1alpha1.RetryOf{Name: "r"}), run("x", of("a")), "has not ended"},
		"it succeeded":          {retrying(v1alpha1.RetryOf{Name: "r"}), run("x", of("a"), succeeded), "name the step"},
		"from a step on":        {retrying(v1alpha1.RetryOf{Name: "r", Step: "s"}), run("x", of("a"), succeeded), ""},
		"a child run succeeded": {retrying(v1alpha1.RetryOf{Name: "r"}, child), run("x", of("a"), succeeded), ""},
		"it never began itself": {retrying(v1alpha1.RetryOf{Name: "r"}), run("x", of("a"), ended, refused), "never began to go on from the run first"},
		"a chain":               {retrying(v1alpha1.RetryOf{Name: "r"}), run("x", of("a"), ended, refused, began), ""},
	} {
		wrong := notRetryable(c.run, c.old)
		if c.want == "" {
			require.Nil(t, wrong, name)
			continue
		}
		require.Equal(t, v1alpha1.ReasonNotRetryable, wrong.reason, name)
		require.Contains(t, wrong.message, c.want, name)
	}
}
