package pipeline

import (
	"slices"
	"strings"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
)

// graph is the order of the steps of a pipeline. Steps are named by their index.
type graph struct {
	names      []string
	index      map[string]int
	deps       [][]int // ascending, each once
	dependents [][]int // ascending
	before     []set   // all that stand before a step, directly or not
}

// set is a set of small numbers.
type set []uint64

func (s set) has(i int) bool { return s[i/64]&(1<<(i%64)) != 0 }

func (s set) add(i int) { s[i/64] |= 1 << (i % 64) }

func (s set) union(t set) {
	for i, w := range t {
		s[i] |= w
	}
}

// newGraph makes the graph of a pipeline. It is complete only when no finding is an error.
func newGraph(steps []v1alpha1.Step) (*graph, []Finding) {
	g := &graph{
		index: make(map[string]int, len(steps)), names: make([]string, len(steps)),
		deps: make([][]int, len(steps)), dependents: make([][]int, len(steps)),
	}
	findings := g.nameSteps(steps)
	for i := range steps {
		findings = append(findings, g.connect(i, &steps[i])...)
	}
	if cycle := findCycle(len(steps), func(i int) []int { return g.deps[i] }); cycle != nil {
		f := failure(stepPath(cycle[0])+".dependsOn", "the steps wait for each other: %s", chain(g.names, cycle))
		f.Hint = "remove one of these dependencies"
		return g, append(findings, f)
	}
	g.close()
	return g, findings
}

func (g *graph) nameSteps(steps []v1alpha1.Step) []Finding {
	var findings []Finding
	for i := range steps {
		name := steps[i].ID()
		g.names[i] = name
		first, twice := g.index[name]
		switch {
		case name == "":
			findings = append(findings, failure(stepPath(i), "the step has neither a name nor a role"))
		case twice:
			f := failure(stepPath(i)+".name", "the step %q is there already: it is spec.pipeline[%d]", name, first)
			f.Hint = "give each step a name of its own; a step without a name has that of its role"
			findings = append(findings, f)
		default:
			g.index[name] = i
		}
	}
	return findings
}

// connect adds the edges of one step.
func (g *graph) connect(i int, s *v1alpha1.Step) []Finding {
	var findings []Finding
	for k, name := range s.DependsOn {
		path := listPath(stepPath(i)+".dependsOn", k)
		dep, ok := g.index[name]
		switch {
		case !ok:
			f := failure(path, "there is no step %q", name)
			f.Hint = oneOf("steps", name, g.names)
			findings = append(findings, f)
		case dep == i:
			findings = append(findings, failure(path, "the step %q depends on itself", name))
		case !slices.Contains(g.deps[i], dep):
			g.deps[i] = append(g.deps[i], dep)
			g.dependents[dep] = append(g.dependents[dep], i)
		}
	}
	slices.Sort(g.deps[i])
	return findings
}

// close works out what stands before each step. The graph must have no cycle.
func (g *graph) close() {
	n := len(g.names)
	g.before = make([]set, n)
	words := make([]uint64, n*((n+63)/64))
	for i := range g.before {
		g.before[i], words = words[:(n+63)/64], words[(n+63)/64:]
	}
	for _, i := range g.order() {
		for _, d := range g.deps[i] {
			g.before[i].add(d)
			g.before[i].union(g.before[d])
		}
	}
}

// order gives the steps so that each stands after those that it depends on, and otherwise as they were written.
func (g *graph) order() []int {
	waits := make([]int, len(g.deps))
	var ready []int
	for i, deps := range g.deps {
		if waits[i] = len(deps); waits[i] == 0 {
			ready = append(ready, i)
		}
	}
	for at := 0; at < len(ready); at++ {
		for _, d := range g.dependents[ready[at]] {
			if waits[d]--; waits[d] == 0 {
				ready = append(ready, d)
			}
		}
	}
	return ready
}

// ancestors lists the names of all steps that stand before a step, in the order of the pipeline.
func (g *graph) ancestors(i int) []string {
	var names []string
	for j, name := range g.names {
		if g.before[i].has(j) {
			names = append(names, name)
		}
	}
	return names
}

// chain writes a cycle as a user reads it: a -> b -> a.
func chain(names []string, cycle []int) string {
	out := make([]string, 0, len(cycle)+1)
	for _, i := range cycle {
		out = append(out, names[i])
	}
	return strings.Join(append(out, out[0]), " -> ")
}

// findCycle returns the nodes of a cycle in the order of its edges, beginning at the smallest, or nil. It does not
// recurse, so that no input is too deep for it.
func findCycle(n int, edges func(int) []int) []int {
	const (
		fresh = iota
		onPath
		finished
	)
	mark := make([]uint8, n)
	var path, next []int // the current path, and for each node on it the edge to follow next
	for start := range n {
		if mark[start] != fresh {
			continue
		}
		path, next = append(path[:0], start), append(next[:0], 0)
		mark[start] = onPath
		for len(path) > 0 {
			top := len(path) - 1
			out := edges(path[top])
			if next[top] == len(out) {
				mark[path[top]] = finished
				path, next = path[:top], next[:top]
				continue
			}
			to := out[next[top]]
			next[top]++
			switch mark[to] {
			case onPath:
				return smallestFirst(path[slices.Index(path, to):])
			case fresh:
				mark[to] = onPath
				path, next = append(path, to), append(next, 0)
			}
		}
	}
	return nil
}

func smallestFirst(cycle []int) []int {
	at := slices.Index(cycle, slices.Min(cycle))
	return append(slices.Clone(cycle[at:]), cycle[:at]...)
}
