package template

import (
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/template/parse"
)

// run is one evaluation.
type run struct {
	t     *Template
	root  any
	vars  []variable
	out   strings.Builder
	work  int
	errAt parse.Node // the node that the error came from
}

type variable struct {
	name  string
	value any
}

// flow says how to go on after a statement.
type flow int

const (
	flowNext flow = iota
	flowBreak
	flowContinue
)

func newRun(t *Template, data map[string]any) *run {
	if data == nil {
		data = map[string]any{}
	}
	return &run{t: t, root: data, vars: []variable{{"$", data}}}
}

// fault puts an error at the node that it came from.
func (r *run) fault(err error) error {
	if r.errAt == nil {
		return r.t.fault(0, err)
	}
	return r.t.fault(int(r.errAt.Position()), err)
}

// at remembers the node of an error, unless one further inside is known.
func (r *run) at(n parse.Node, err error) error {
	if err != nil && r.errAt == nil {
		r.errAt = n
	}
	return err
}

// charge counts work.
func (r *run) charge(nodes int) error {
	if nodes > MaxWork-r.work {
		r.work = MaxWork
		return &LimitError{What: "work", Limit: MaxWork, Unit: "nodes"}
	}
	r.work += nodes
	return nil
}

// chargeText counts the work on a text of n bytes that is about to be read or made.
func (r *run) chargeText(n int) error {
	if n > MaxOutput {
		return errTooLong()
	}
	return r.charge(n / 64)
}

func errTooLong() error { return &LimitError{What: "output", Limit: MaxOutput, Unit: "bytes"} }

func (r *run) print(text string) error {
	if len(text) > MaxOutput-r.out.Len() {
		return errTooLong()
	}
	r.out.WriteString(text)
	return nil
}

func (r *run) list(dot any, l *parse.ListNode) (flow, error) {
	if l == nil {
		return flowNext, nil
	}
	for _, n := range l.Nodes {
		if f, err := r.statement(dot, n); err != nil || f != flowNext {
			return f, r.at(n, err)
		}
	}
	return flowNext, nil
}

func (r *run) statement(dot any, n parse.Node) (flow, error) {
	if err := r.charge(1); err != nil {
		return flowNext, err
	}
	switch n := n.(type) {
	case *parse.TextNode:
		if len(n.Text) > MaxOutput-r.out.Len() {
			return flowNext, errTooLong()
		}
		r.out.Write(n.Text)
	case *parse.ActionNode:
		return flowNext, r.action(dot, n)
	case *parse.IfNode:
		return r.branch(dot, &n.BranchNode, false)
	case *parse.WithNode:
		return r.branch(dot, &n.BranchNode, true)
	case *parse.RangeNode:
		return r.rangeOver(dot, n)
	case *parse.BreakNode:
		return flowBreak, nil
	case *parse.ContinueNode:
		return flowContinue, nil
	}
	return flowNext, nil
}

func (r *run) action(dot any, n *parse.ActionNode) error {
	v, err := r.pipe(dot, n.Pipe)
	if err != nil || len(n.Pipe.Decl) > 0 {
		return err
	}
	text, err := r.text(v)
	if err != nil {
		return err
	}
	return r.print(text)
}

func (r *run) branch(dot any, b *parse.BranchNode, with bool) (flow, error) {
	defer r.scope()()
	v, err := r.pipe(dot, b.Pipe)
	if err != nil {
		return flowNext, err
	}
	if !truth(v) {
		return r.list(dot, b.ElseList)
	}
	if with {
		dot = v
	}
	return r.list(dot, b.List)
}

// scope returns what forgets the variables declared from here on.
func (r *run) scope() func() {
	mark := len(r.vars)
	return func() { r.vars = r.vars[:mark] }
}

func (r *run) rangeOver(dot any, n *parse.RangeNode) (flow, error) {
	defer r.scope()()
	decl := n.Pipe.Decl
	v, err := r.pipe(dot, &parse.PipeNode{NodeType: parse.NodePipe, Pos: n.Pipe.Pos, Cmds: n.Pipe.Cmds})
	if err != nil {
		return flowNext, err
	}
	empty := true
	each := func(key, elem any) (bool, error) {
		empty = false
		defer r.scope()()
		if err := r.charge(1); err != nil {
			return false, err
		}
		for i, d := range decl {
			value := elem
			if i == 0 && len(decl) == 2 {
				value = key
			}
			r.declare(d.Ident[0], value, n.Pipe.IsAssign)
		}
		f, err := r.list(elem, n.List)
		return err == nil && f != flowBreak, err
	}
	if err := r.elements(v, len(decl), each); err != nil {
		return flowNext, r.at(n.Pipe, err)
	}
	if empty {
		return r.list(dot, n.ElseList)
	}
	return flowNext, nil
}

// elements calls each for every element of a list, of an object in the order of its keys, or up to a number.
func (r *run) elements(v any, decls int, each func(key, elem any) (bool, error)) error {
	switch v := v.(type) {
	case nil:
		return nil
	case []any:
		for i, e := range v {
			if more, err := each(int64(i), e); !more {
				return err
			}
		}
		return nil
	case map[string]any:
		if err := r.charge(len(v)); err != nil {
			return err
		}
		for _, k := range slices.Sorted(maps.Keys(v)) {
			if more, err := each(k, v[k]); !more {
				return err
			}
		}
		return nil
	}
	n, ok := asInt(v)
	if !ok {
		return errorf("range needs a list or an object, not %s", describe(v))
	}
	if decls > 1 {
		return errorf("range over a number takes one variable")
	}
	for i := range n {
		if more, err := each(nil, i); !more {
			return err
		}
	}
	return nil
}

func (r *run) declare(name string, value any, assign bool) {
	if assign {
		for i := len(r.vars) - 1; i >= 0; i-- {
			if r.vars[i].name == name {
				r.vars[i].value = value
				return
			}
		}
	}
	r.vars = append(r.vars, variable{name, value})
}

// absent is the value of a reference to nothing that is about to reach the function default.
type absent struct{}

func (r *run) pipe(dot any, p *parse.PipeNode) (any, error) {
	var value any
	for i, cmd := range p.Cmds {
		if err := r.charge(1); err != nil {
			return nil, r.at(cmd, err)
		}
		v, err := r.command(dot, cmd, value, i > 0)
		if err != nil && i+1 < len(p.Cmds) && isDefault(p.Cmds[i+1]) {
			v, err = r.forgive(err)
		}
		if err != nil {
			return nil, r.at(cmd, err)
		}
		value = v
	}
	for _, d := range p.Decl {
		r.declare(d.Ident[0], value, p.IsAssign)
	}
	return value, nil
}

func isDefault(cmd *parse.CommandNode) bool {
	f, ok := cmd.Args[0].(*parse.IdentifierNode)
	return ok && f.Ident == "default"
}

// forgive turns a reference to nothing into absent, unless its first segment is what is missing.
func (r *run) forgive(err error) (any, error) {
	var ref *ReferenceError
	if !errors.As(err, &ref) || ref.root {
		return nil, err
	}
	r.errAt = nil
	return absent{}, nil
}

// command evaluates one command of a pipeline; final is the value that was piped into it.
func (r *run) command(dot any, cmd *parse.CommandNode, final any, piped bool) (any, error) {
	f, ok := cmd.Args[0].(*parse.IdentifierNode)
	if !ok {
		return r.operand(dot, cmd.Args[0])
	}
	if f.Ident == "and" || f.Ident == "or" {
		return r.logic(dot, f.Ident == "or", cmd.Args[1:], final, piped)
	}
	args := make([]any, 0, len(cmd.Args))
	for _, a := range cmd.Args[1:] {
		v, err := r.operand(dot, a)
		if err != nil && f.Ident == "default" {
			v, err = r.forgive(err)
		}
		if err != nil {
			return nil, r.at(a, err)
		}
		args = append(args, v)
	}
	if piped {
		args = append(args, final)
	}
	v, err := r.call(f, args)
	if len(cmd.Args) > 1 {
		err = named(err, cmd.Args[1])
	}
	return v, err
}

// unnamed begins the path of a reference below a value that is not written as a path.
const unnamed = "(...)"

// named puts what is written in the source at the beginning of an unnamed path.
func named(err error, n parse.Node) error {
	var ref *ReferenceError
	if !errors.As(err, &ref) || !strings.HasPrefix(ref.Path, unnamed) {
		return err
	}
	text := shorten(n.String(), 60)
	if _, ok := n.(*parse.PipeNode); ok {
		text = "(" + text + ")"
	}
	ref.Path = text + strings.TrimPrefix(ref.Path, unnamed)
	ref.Reason = strings.Replace(ref.Reason, unnamed, text, 1)
	return err
}

func (r *run) call(f *parse.IdentifierNode, args []any) (any, error) {
	for i, a := range args {
		v, err := plain(a)
		if _, missing := a.(absent); missing && f.Ident == "default" {
			v, err = nil, nil
		}
		if err != nil {
			return nil, r.at(f, err)
		}
		args[i] = v
	}
	if err := refuseLarge(f.Ident, args); err != nil {
		return nil, r.at(f, err)
	}
	fn, _ := lookup(f.Ident)
	v, err := fn.call(r, args)
	if err == nil {
		return v, nil
	}
	var ref *ReferenceError
	var limit *LimitError
	var large *LargeError
	if !errors.As(err, &ref) && !errors.As(err, &limit) && !errors.As(err, &large) {
		err = errorf("%s: %w", f.Ident, err)
	}
	return nil, r.at(f, err)
}

// logic gives the first operand that decides an and or an or; those after it are not evaluated.
func (r *run) logic(dot any, or bool, args []parse.Node, final any, piped bool) (any, error) {
	var v any
	for _, a := range args {
		var err error
		if v, err = r.operand(dot, a); err != nil {
			return nil, r.at(a, err)
		}
		if truth(v) == or {
			return v, nil
		}
	}
	if piped {
		return final, nil
	}
	return v, nil
}

func (r *run) operand(dot any, n parse.Node) (any, error) {
	if err := r.charge(1); err != nil {
		return nil, r.at(n, err)
	}
	v, err := r.operandValue(dot, n)
	if err != nil {
		return nil, r.at(n, err)
	}
	return v, nil
}

func (r *run) operandValue(dot any, n parse.Node) (any, error) {
	switch n := n.(type) {
	case *parse.DotNode:
		return dot, nil
	case *parse.FieldNode:
		return r.fields(dot, "", n.Ident)
	case *parse.VariableNode:
		v, err := r.variable(n.Ident[0])
		if err != nil {
			return nil, err
		}
		prefix := n.Ident[0]
		if prefix == "$" {
			prefix = ""
		}
		return r.fields(v, prefix, n.Ident[1:])
	case *parse.ChainNode:
		v, err := r.operand(dot, n.Node)
		if err != nil {
			return nil, err
		}
		v, err = r.fields(v, unnamed, n.Field)
		return v, named(err, n.Node)
	case *parse.PipeNode:
		defer r.scope()()
		return r.pipe(dot, n)
	case *parse.StringNode:
		return n.Text, nil
	case *parse.BoolNode:
		return n.True, nil
	case *parse.NilNode:
		return nil, nil
	case *parse.NumberNode:
		return number(n), nil
	}
	return nil, errorf("%s cannot be evaluated", shorten(n.String(), 40))
}

// number gives the value of a constant: int64 when it is written as an integer or a character, else float64.
func number(n *parse.NumberNode) any {
	hex := len(n.Text) > 1 && (n.Text[1] == 'x' || n.Text[1] == 'X')
	if n.IsInt && (hex || n.Text[0] == '\'' || !strings.ContainsAny(n.Text, ".eEpP")) {
		return n.Int64
	}
	if n.IsUint && !strings.ContainsAny(n.Text, ".eEpP") {
		return json.Number(strconv.FormatUint(n.Uint64, 10))
	}
	return n.Float64
}

func (r *run) variable(name string) (any, error) {
	for _, v := range slices.Backward(r.vars) {
		if v.name == name {
			return v.value, nil
		}
	}
	return nil, errorf("the variable %s is not declared here", name)
}
