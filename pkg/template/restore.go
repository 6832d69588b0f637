package template

import "text/template/parse"

// restorer walks a tree that was parsed from the aliased text and gives it the names and offsets of the source.
type restorer struct{ s *scanner }

func (r *restorer) pos(p parse.Pos) parse.Pos { return parse.Pos(r.s.srcPos(int(p))) }

func (r *restorer) list(l *parse.ListNode) error {
	if l == nil {
		return nil
	}
	l.Pos = r.pos(l.Pos)
	for _, n := range l.Nodes {
		if err := r.statement(n); err != nil {
			return err
		}
	}
	return nil
}

func (r *restorer) statement(n parse.Node) error {
	switch n := n.(type) {
	case *parse.TextNode:
		n.Pos = r.pos(n.Pos)
	case *parse.ActionNode:
		n.Pos = r.pos(n.Pos)
		return r.pipe(n.Pipe)
	case *parse.IfNode:
		return r.branch(&n.BranchNode)
	case *parse.RangeNode:
		return r.branch(&n.BranchNode)
	case *parse.WithNode:
		return r.branch(&n.BranchNode)
	case *parse.BreakNode:
		n.Pos = r.pos(n.Pos)
	case *parse.ContinueNode:
		n.Pos = r.pos(n.Pos)
	default:
		r.s.errAt = r.s.srcPos(int(n.Position()))
		return errorf("%s is not supported here", shorten(n.String(), 40))
	}
	return nil
}

func (r *restorer) branch(b *parse.BranchNode) error {
	b.Pos = r.pos(b.Pos)
	if err := r.pipe(b.Pipe); err != nil {
		return err
	}
	if err := r.list(b.List); err != nil {
		return err
	}
	return r.list(b.ElseList)
}

func (r *restorer) pipe(p *parse.PipeNode) error {
	p.Pos = r.pos(p.Pos)
	for _, v := range p.Decl {
		v.Pos = r.pos(v.Pos)
	}
	for _, c := range p.Cmds {
		c.Pos = r.pos(c.Pos)
		for _, a := range c.Args {
			if err := r.operand(a); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *restorer) operand(n parse.Node) error {
	switch n := n.(type) {
	case *parse.IdentifierNode:
		n.Pos = r.pos(n.Pos)
	case *parse.VariableNode:
		if len(n.Ident) > 1 { // the parser gives the offset of the second segment
			n.Pos -= parse.Pos(len(n.Ident[0]))
		}
		n.Pos = r.pos(n.Pos)
		r.names(n.Ident)
	case *parse.DotNode:
		n.Pos = r.pos(n.Pos)
	case *parse.NilNode:
		n.Pos = r.pos(n.Pos)
	case *parse.FieldNode:
		if len(n.Ident) > 1 {
			n.Pos -= parse.Pos(1 + len(n.Ident[0]))
		}
		n.Pos = r.pos(n.Pos)
		r.names(n.Ident)
	case *parse.ChainNode:
		n.Pos = r.pos(n.Pos)
		r.names(n.Field)
		return r.operand(n.Node)
	case *parse.BoolNode:
		n.Pos = r.pos(n.Pos)
	case *parse.NumberNode:
		n.Pos = r.pos(n.Pos)
	case *parse.StringNode:
		n.Pos = r.pos(n.Pos)
	case *parse.PipeNode:
		return r.pipe(n)
	default:
		r.s.errAt = r.s.srcPos(int(n.Position()))
		return errorf("%s is not supported here", shorten(n.String(), 40))
	}
	return nil
}

func (r *restorer) names(idents []string) {
	for i, n := range idents {
		idents[i] = r.s.name(n)
	}
}
