package tools

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.opentelemetry.io/otel/trace"
	"golang.org/x/sync/errgroup"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/task"
	"arkonis.dev/ark/pkg/telemetry"
	"arkonis.dev/ark/pkg/work"
)

// Delegation lets the model of one task hand work to other roles. A child task's id is derived from the parent's task
// and call, so that a repeated call finds the same child: all of these tools are safe to repeat. How deep, how often
// and to whom work may be handed is decided by the work service; its refusals go back to the model.
type Delegation struct {
	Session *work.Session
	Roles   []string // that the task may delegate to, at least one
	Prompt  string   // the task's own prompt: handed on where the model gives none
	// Wait runs a function that waits for other tasks, while the place of this task is free for them.
	Wait      func(ctx context.Context, fn func(context.Context) error) error
	Telemetry *telemetry.Telemetry
}

// maxCollect bounds how many results one call waits for.
const maxCollect = 32

// Tools are delegate and its aliases in use: submit_subtask (does not wait), collect_results, spawn_and_collect.
func (d *Delegation) Tools() []Tool {
	roles := slices.Sorted(slices.Values(d.Roles))
	role := map[string]any{"type": "string", "enum": roles, "description": "who does the work"}
	prompt := map[string]any{"type": "string", "description": "what to do, with everything that is needed to know"}
	work := object(map[string]any{"role": role, "prompt": prompt}, "role")
	return []Tool{
		delegated{"delegate", "Hand work to another role, wait for it and get its answer. Calls in one turn run at once. " +
			"Without a prompt the role gets the same task that you got.", work, d.delegate},
		delegated{
			"submit_subtask", "Hand work to another role without waiting. Returns the id of the subtask for collect_results.",
			object(map[string]any{"role": role, "prompt": prompt}, "role", "prompt"), d.submit,
		},
		delegated{
			"collect_results", "Wait for subtasks and get their answers as a JSON list.",
			object(map[string]any{"ids": map[string]any{
				"type": "array", "minItems": 1, "maxItems": maxCollect,
				"items": map[string]any{"type": "string"}, "description": "ids that submit_subtask returned",
			}}, "ids"), d.collect,
		},
		delegated{
			"spawn_and_collect", "Hand several pieces of work to other roles at once, wait for all of them and get their answers as a JSON list, in the same order.",
			object(map[string]any{"tasks": map[string]any{
				"type": "array", "minItems": 1, "maxItems": maxCollect, "items": work,
			}}, "tasks"), d.spawn,
		},
	}
}

func object(properties map[string]any, required ...string) map[string]any {
	return map[string]any{"type": "object", "properties": properties, "required": required, "additionalProperties": false}
}

// delegated is one of the tools.
type delegated struct {
	name, description string
	schema            map[string]any
	call              func(ctx context.Context, call Call) (Result, error)
}

func (d delegated) Spec() llm.Tool {
	schema, _ := json.Marshal(d.schema) //nolint:errchkjson // maps of strings always marshal
	return llm.Tool{Name: d.name, Description: d.description, Schema: schema}
}

func (d delegated) Safe() bool { return true }

func (d delegated) Call(ctx context.Context, call Call) (Result, error) { return d.call(ctx, call) }

// order is one piece of work that a model hands over.
type order struct {
	Role   string `json:"role"`
	Prompt string `json:"prompt"`
}

// answer is what came of it.
type answer struct {
	ID     string      `json:"id"`
	Role   string      `json:"role,omitempty"`
	Status task.Status `json:"status"`
	Output string      `json:"output,omitempty"`
	Error  string      `json:"error,omitempty"`
}

func (d *Delegation) delegate(ctx context.Context, call Call) (Result, error) {
	var o order
	if err := json.Unmarshal(call.Args, &o); err != nil {
		return Errorf("delegate: %v", err), nil
	}
	a, err := d.run(ctx, call.ID, o)
	if err != nil {
		return refused(err)
	}
	if a.Status == task.Succeeded {
		return Result{Text: a.Output}, nil
	}
	text := fmt.Sprintf("%s did not succeed (%s): %s", o.Role, a.Status, a.Error)
	if a.Output != "" {
		text += "\nIts partial answer:\n" + a.Output
	}
	return Result{Text: text, IsError: true}, nil
}

func (d *Delegation) submit(ctx context.Context, call Call) (Result, error) {
	var o order
	if err := json.Unmarshal(call.Args, &o); err != nil {
		return Errorf("submit_subtask: %v", err), nil
	}
	child, err := d.hand(ctx, call.ID, o)
	if err != nil {
		return refused(err)
	}
	return Result{Text: child.ID}, nil
}

func (d *Delegation) collect(ctx context.Context, call Call) (Result, error) {
	var args struct {
		IDs []string `json:"ids"`
	}
	if err := json.Unmarshal(call.Args, &args); err != nil {
		return Errorf("collect_results: %v", err), nil
	}
	return d.all(ctx, len(args.IDs), func(ctx context.Context, i int) (answer, error) {
		return d.await(ctx, args.IDs[i], "")
	})
}

func (d *Delegation) spawn(ctx context.Context, call Call) (Result, error) {
	var args struct {
		Tasks []order `json:"tasks"`
	}
	if err := json.Unmarshal(call.Args, &args); err != nil {
		return Errorf("spawn_and_collect: %v", err), nil
	}
	return d.all(ctx, len(args.Tasks), func(ctx context.Context, i int) (answer, error) {
		return d.run(ctx, call.ID+"."+strconv.Itoa(i), args.Tasks[i])
	})
}

// all runs fn n times at once and lists the answers. A refusal is an answer of its own; it does not stop the others.
func (d *Delegation) all(ctx context.Context, n int, fn func(ctx context.Context, i int) (answer, error)) (Result, error) {
	answers := make([]answer, n)
	g, ctx := errgroup.WithContext(ctx)
	for i := range n {
		g.Go(func() error {
			a, err := fn(ctx, i)
			if err == nil {
				answers[i] = a
				return nil
			}
			r, err := refused(err)
			answers[i] = answer{Status: task.Failed, Error: r.Text}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return Result{}, err
	}
	failed := !slices.ContainsFunc(answers, func(a answer) bool { return a.Status == task.Succeeded })
	text, err := json.Marshal(answers)
	if err != nil {
		return Result{}, fmt.Errorf("list the answers of subtasks: %w", err)
	}
	return Result{Text: string(text), IsError: failed}, nil
}

// run hands work over and waits for its answer.
func (d *Delegation) run(ctx context.Context, callID string, o order) (answer, error) {
	ctx, span := d.Telemetry.Start(ctx, "delegate", trace.SpanKindClient, telemetry.KeyRole.String(o.Role))
	child, err := d.hand(ctx, callID, o)
	if err != nil {
		span.End("Refused", err.Error())
		return answer{}, err
	}
	span.Set(telemetry.KeyTask.String(child.ID), telemetry.KeyAgent.String(child.Agent))
	a, err := d.await(ctx, child.ID, o.Role)
	switch {
	case err != nil:
		span.End("Interrupted", err.Error())
	case a.Status != task.Succeeded:
		span.End(string(a.Status), a.Error)
	default:
		span.End("", "")
	}
	return a, err
}

func (d *Delegation) hand(ctx context.Context, callID string, o order) (*task.Task, error) {
	prompt := o.Prompt
	if strings.TrimSpace(prompt) == "" {
		prompt = d.Prompt
	}
	return d.Session.Delegate(ctx, callID, o.Role, prompt)
}

// await waits for a child task, without holding a place.
func (d *Delegation) await(ctx context.Context, id, role string) (answer, error) {
	var result *task.Result
	err := d.Wait(ctx, func(ctx context.Context) (err error) {
		result, err = d.Session.Await(ctx, id)
		return err
	})
	if err != nil {
		return answer{}, err
	}
	output, err := shown(ctx, d.Session, result.Output)
	if err != nil {
		return answer{}, err
	}
	a := answer{ID: id, Role: role, Status: result.Status, Output: output}
	if result.Error != nil {
		a.Error = result.Error.Error()
	}
	return a, nil
}
