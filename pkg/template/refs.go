package template

import (
	"cmp"
	"slices"
	"text/template/parse"
)

// Ref is a path from the root of the data that a template names.
type Ref struct {
	Path     []string // .steps.a.output is [steps a output]; empty when the whole data is used
	Optional bool     // it stands under the function default and may be missing below its first segment
	Line     int
	Column   int
}

// References lists the paths that a template names, in the order of its source. Where the dot is moved to a path
// (with) or a variable holds one, the path is followed; where the dot is an element (range), what is named below it is
// left out, and the list itself is named. Branches that are never taken count.
func (t *Template) References() []Ref {
	w := &refWalker{vars: []refVar{{"$", place{known: true}}}}
	w.list(place{known: true}, t.root)
	w.locate(t.source)
	return w.refs
}

// place is what is known of a value without data: the path where it stands, if it stands at one.
type place struct {
	known bool
	path  []string
}

func (p place) below(names ...string) place {
	if !p.known {
		return place{}
	}
	return place{true, append(slices.Clone(p.path), names...)}
}

type refVar struct {
	name string
	at   place
}

type refWalker struct {
	vars    []refVar
	refs    []Ref
	offsets []int // of the refs
}

// name records a path.
func (w *refWalker) name(p place, n parse.Node, optional bool) {
	if !p.known {
		return
	}
	w.refs = append(w.refs, Ref{Path: p.path, Optional: optional})
	w.offsets = append(w.offsets, int(n.Position()))
}

// locate gives the refs their lines and columns, in one pass over the source.
func (w *refWalker) locate(source string) {
	order := make([]int, len(w.refs))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(i, j int) int { return cmp.Compare(w.offsets[i], w.offsets[j]) })
	offset, line, column := 0, 1, 1
	for _, i := range order {
		for _, c := range source[offset:w.offsets[i]] {
			if column++; c == '\n' {
				line, column = line+1, 1
			}
		}
		offset = w.offsets[i]
		w.refs[i].Line, w.refs[i].Column = line, column
	}
}

func (w *refWalker) list(dot place, l *parse.ListNode) {
	if l == nil {
		return
	}
	for _, n := range l.Nodes {
		switch n := n.(type) {
		case *parse.ActionNode:
			w.used(dot, n.Pipe)
		case *parse.IfNode:
			w.branch(dot, &n.BranchNode, func(place) place { return dot })
		case *parse.WithNode:
			w.branch(dot, &n.BranchNode, func(p place) place { return p })
		case *parse.RangeNode:
			w.branch(dot, &n.BranchNode, func(place) place { return place{} })
		}
	}
}

func (w *refWalker) branch(dot place, b *parse.BranchNode, inside func(place) place) {
	mark := len(w.vars)
	at := w.pipe(dot, b.Pipe, false)
	w.name(at, b.Pipe, false)
	if b.NodeType == parse.NodeRange {
		for _, d := range b.Pipe.Decl {
			w.declare(d.Ident[0], place{}, b.Pipe.IsAssign)
		}
	}
	w.list(inside(at), b.List)
	w.list(dot, b.ElseList)
	w.vars = w.vars[:mark]
}

// used walks a pipeline whose value is used as it is.
func (w *refWalker) used(dot place, p *parse.PipeNode) { w.name(w.pipe(dot, p, false), p, false) }

// pipe walks a pipeline. When its value stands at a path, that path is returned and not yet recorded.
func (w *refWalker) pipe(dot place, p *parse.PipeNode, optional bool) place {
	var at place
	for i, cmd := range p.Cmds {
		next := i+1 < len(p.Cmds)
		at = w.command(dot, cmd, optional)
		if next {
			w.name(at, cmd, optional || isDefault(p.Cmds[i+1]))
			at = place{}
		}
	}
	for _, d := range p.Decl {
		w.declare(d.Ident[0], at, p.IsAssign)
	}
	return at
}

// declare gives a variable its place. One that is assigned again may stand at either, and is not followed any more.
func (w *refWalker) declare(name string, at place, assign bool) {
	if !assign {
		w.vars = append(w.vars, refVar{name, at})
		return
	}
	for i := len(w.vars) - 1; i >= 0; i-- {
		if w.vars[i].name == name {
			w.vars[i].at = place{}
			return
		}
	}
}

func (w *refWalker) command(dot place, cmd *parse.CommandNode, optional bool) place {
	f, ok := cmd.Args[0].(*parse.IdentifierNode)
	if !ok {
		return w.operand(dot, cmd.Args[0], optional)
	}
	if f.Ident == "index" && len(cmd.Args) > 1 {
		return w.index(dot, cmd.Args[1:], optional)
	}
	for _, a := range cmd.Args[1:] {
		w.name(w.operand(dot, a, optional), a, optional || f.Ident == "default")
	}
	return place{}
}

// index follows constant keys.
func (w *refWalker) index(dot place, args []parse.Node, optional bool) place {
	at := w.operand(dot, args[0], optional)
	for i, a := range args[1:] {
		key, ok := a.(*parse.StringNode)
		if !ok {
			w.name(at, args[0], optional)
			for _, rest := range args[1+i:] {
				w.name(w.operand(dot, rest, optional), rest, optional)
			}
			return place{}
		}
		at = at.below(key.Text)
	}
	return at
}

func (w *refWalker) operand(dot place, n parse.Node, optional bool) place {
	switch n := n.(type) {
	case *parse.DotNode:
		return dot
	case *parse.FieldNode:
		return dot.below(n.Ident...)
	case *parse.VariableNode:
		for _, v := range slices.Backward(w.vars) {
			if v.name == n.Ident[0] {
				return v.at.below(n.Ident[1:]...)
			}
		}
	case *parse.ChainNode:
		return w.operand(dot, n.Node, optional).below(n.Field...)
	case *parse.PipeNode:
		return w.pipe(dot, n, optional)
	}
	return place{}
}
