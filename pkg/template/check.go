package template

import (
	"strings"
	"text/template/parse"
)

// checker finds what is wrong with a tree whatever the data: unknown functions, wrong numbers of arguments, operands
// that give nothing.
type checker struct{ errAt int }

func (c *checker) errorAt(n parse.Node, err error) error {
	c.errAt = int(n.Position())
	return err
}

func (c *checker) list(l *parse.ListNode) error {
	if l == nil {
		return nil
	}
	for _, n := range l.Nodes {
		var err error
		switch n := n.(type) {
		case *parse.ActionNode:
			err = c.pipe(n.Pipe)
		case *parse.IfNode:
			err = c.branch(&n.BranchNode)
		case *parse.RangeNode:
			err = c.branch(&n.BranchNode)
		case *parse.WithNode:
			err = c.branch(&n.BranchNode)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (c *checker) branch(b *parse.BranchNode) error {
	if err := c.pipe(b.Pipe); err != nil {
		return err
	}
	if err := c.list(b.List); err != nil {
		return err
	}
	return c.list(b.ElseList)
}

func (c *checker) pipe(p *parse.PipeNode) error {
	for i, cmd := range p.Cmds {
		for j, a := range cmd.Args {
			if f, ok := a.(*parse.IdentifierNode); ok && j > 0 {
				return c.errorAt(f, c.bare(f))
			}
			if err := c.operand(a); err != nil {
				return err
			}
		}
		piped := 0
		if i > 0 {
			piped = 1
		}
		if err := c.command(cmd, len(cmd.Args)-1+piped); err != nil {
			return err
		}
	}
	return nil
}

// command checks the first word of a command, which is given n arguments.
func (c *checker) command(cmd *parse.CommandNode, n int) error {
	first := cmd.Args[0]
	if f, ok := first.(*parse.IdentifierNode); ok {
		return c.call(f, n)
	}
	if _, ok := first.(*parse.NilNode); ok {
		return c.errorAt(first, errorf("nil is not a value that can be printed or piped"))
	}
	if n > 0 {
		return c.errorAt(first, errorf("%s is not a function and takes no argument", shorten(first.String(), 40)))
	}
	return nil
}

func (c *checker) call(f *parse.IdentifierNode, n int) error {
	fn, ok := lookup(f.Ident)
	switch {
	case !ok:
		return c.errorAt(f, errorf("there is no function %q: a template knows %s", f.Ident, strings.Join(Functions(), ", ")))
	case n < fn.min && fn.min == fn.max:
		return c.errorAt(f, errorf("%s needs %s, not %d", f.Ident, count(fn.min), n))
	case n < fn.min:
		return c.errorAt(f, errorf("%s needs at least %s, not %d", f.Ident, count(fn.min), n))
	case n > fn.max && fn.max >= 0:
		return c.errorAt(f, errorf("%s takes at most %s, not %d", f.Ident, count(fn.max), n))
	}
	return nil
}

// bare words a name that stands where a value is needed. No function gives a value without arguments.
func (c *checker) bare(f *parse.IdentifierNode) error {
	if err := c.call(f, 0); err != nil {
		return err
	}
	return errorf("%s needs arguments: put the call into parentheses", f.Ident)
}

func count(n int) string {
	if n == 1 {
		return "1 argument"
	}
	return string(rune('0'+n)) + " arguments"
}

// operand checks one argument.
func (c *checker) operand(n parse.Node) error {
	switch n := n.(type) {
	case *parse.PipeNode:
		if len(n.Decl) > 0 {
			return c.errorAt(n, errorf("a variable cannot be declared inside parentheses"))
		}
		return c.pipe(n)
	case *parse.ChainNode:
		if f, ok := n.Node.(*parse.IdentifierNode); ok {
			return c.errorAt(f, c.bare(f))
		}
		return c.operand(n.Node)
	case *parse.NumberNode:
		if !n.IsInt && !n.IsFloat {
			return c.errorAt(n, errorf("%s is not a number that a template can hold", shorten(n.Text, 40)))
		}
	}
	return nil
}
