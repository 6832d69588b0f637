package pipeline

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
)

// drawSteps makes a pipeline with any edges: loops, missing steps and names that stand twice among them.
func drawSteps(t *rapid.T, valid bool) []v1alpha1.Step {
	n := rapid.IntRange(0, 12).Draw(t, "steps")
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"}
	steps := make([]v1alpha1.Step, n)
	for i := range steps {
		steps[i].Name = names[i]
		most := i - 1
		if !valid {
			most = n // one more than there is
			if rapid.IntRange(0, 9).Draw(t, "twice") == 0 {
				steps[i].Name = names[0]
			}
		}
		for range rapid.IntRange(0, 3).Draw(t, "edges") {
			if most >= 0 {
				steps[i].DependsOn = append(steps[i].DependsOn, names[rapid.IntRange(0, most).Draw(t, "to")])
			}
		}
	}
	if valid { // the order of the list means nothing
		steps = rapid.Permutation(steps).Draw(t, "order")
	}
	return steps
}

// reaches follows dependsOn from a step, in the plainest way.
func reaches(steps []v1alpha1.Step, from string, seen map[string]bool) {
	for i := range steps {
		if steps[i].Name != from {
			continue
		}
		for _, d := range steps[i].DependsOn {
			if !seen[d] {
				seen[d] = true
				reaches(steps, d, seen)
			}
		}
	}
}

func TestGraphKnowsWhatStandsBefore(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		steps := drawSteps(t, true)
		g, findings := newGraph(steps)
		require.Empty(t, findings)
		for i := range steps {
			want := map[string]bool{}
			reaches(steps, steps[i].Name, want)
			got := map[string]bool{}
			for _, name := range g.ancestors(i) {
				got[name] = true
			}
			require.Equal(t, want, got, steps[i].Name)
			for _, d := range g.deps[i] {
				require.Contains(t, g.dependents[d], i)
			}
		}
		order := g.order()
		require.Len(t, order, len(steps))
		for at, i := range order {
			for _, d := range g.deps[i] {
				require.Less(t, slices.Index(order, d), at)
			}
		}
	})
}

func TestGraphFindsEveryFault(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		steps := drawSteps(t, false)
		_, findings := newGraph(steps)
		faulty := false
		seen := map[string]bool{}
		for i := range steps {
			faulty = faulty || seen[steps[i].Name]
			seen[steps[i].Name] = true
		}
		for i := range steps {
			for _, d := range steps[i].DependsOn {
				faulty = faulty || !seen[d]
			}
			before := map[string]bool{}
			reaches(steps, steps[i].Name, before)
			faulty = faulty || before[steps[i].Name]
		}
		require.Equal(t, faulty, hasErrors(findings), "%v", findings)
		_, again := newGraph(steps)
		require.Equal(t, findings, again)
	})
}

func TestFindCycle(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		edges [][]int
		want  []int
	}{
		"none":                {[][]int{{1, 2}, {2}, {}}, nil},
		"itself":              {[][]int{{1}, {1}}, []int{1}},
		"begins at the least": {[][]int{{3}, {2}, {4}, {2}, {3}}, []int{2, 4, 3}},
		"diamond":             {[][]int{{1, 2}, {3}, {3}, {}}, nil},
		"behind a diamond":    {[][]int{{1, 2}, {3}, {3}, {4}, {3}}, []int{3, 4}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.want, findCycle(len(c.edges), func(i int) []int { return c.edges[i] }))
		})
	}
}

// A chain that is far deeper than any pipeline does not exhaust the stack.
func TestFindCycleIsNotRecursive(t *testing.T) {
	t.Parallel()
	const n = 1_000_000
	require.Len(t, findCycle(n, func(i int) []int { return []int{(i + 1) % n} }), n)
}
