// Package tools holds what a model may call: the Tool interface, the Set that offers tools to a model and checks its
// calls, and the kinds of tools that ark brings along: webhooks, delegation to other roles, paging through large
// payloads.
//
// What goes wrong in a call goes back to the model as a result that it can act on. An error of Call is for what no
// model can repair: the task itself has to stop.
package tools

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/schema"
)

// Tool is something that a model can call. Its methods are safe for concurrent use: all calls of one turn run at
// once.
type Tool interface {
	// Spec is what the model sees. It never changes.
	Spec() llm.Tool
	// Safe says that repeating a call is harmless: it only reads, or the receiver recognises the repetition.
	Safe() bool
	// Call runs one call with checked arguments. Failures that the model should hear of are results with IsError
	// set; an error ends the task (the context's own error when that ended).
	Call(ctx context.Context, call Call) (Result, error)
}

// Call is one call of a tool.
type Call struct {
	ID     string          // unique within the task and the same after a replay, such as "3.0"
	TaskID string          // the task that the model works on
	Args   json.RawMessage // a JSON object that fits the tool's schema
}

// IdempotencyKey names the call for receivers that recognise a repetition.
func (c Call) IdempotencyKey() string { return c.TaskID + "-" + c.ID }

// Result is what the model gets to read.
type Result struct {
	Text    string `json:"text"`
	IsError bool   `json:"isError,omitempty"`
}

// Errorf makes a result that tells the model what went wrong.
func Errorf(format string, args ...any) Result {
	return Result{Text: fmt.Sprintf(format, args...), IsError: true}
}

// Set is the tools that a model is offered. It is immutable and safe for concurrent use.
type Set struct {
	order   []string
	tools   map[string]entry
	schemas *schemas // shared with the sets that With makes of this one
}

// schemas keeps compiled schemas, as the tools of each task have the same few.
type schemas struct {
	mu       sync.Mutex
	compiled map[string]*schema.Schema
}

// maxSchemas bounds how many are kept.
const maxSchemas = 256

func (s *schemas) compile(text json.RawMessage) (*schema.Schema, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.compiled[string(text)]; c != nil {
		return c, nil
	}
	c, err := schema.Compile(text)
	if err == nil && len(s.compiled) < maxSchemas {
		s.compiled[string(text)] = c
	}
	return c, err
}

type entry struct {
	tool   Tool
	spec   llm.Tool
	schema *schema.Schema
}

// validName is what every provider accepts as a tool's name.
var validName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

// NewSet makes a set. It refuses names that stand twice or that providers do not take, and schemas that do not
// compile or do not describe an object.
func NewSet(tools ...Tool) (*Set, error) {
	empty := &Set{schemas: &schemas{compiled: map[string]*schema.Schema{}}}
	return empty.With(tools...)
}

// With is the set with more tools, for one task.
func (s *Set) With(tools ...Tool) (*Set, error) {
	if len(tools) == 0 {
		return s, nil
	}
	more := &Set{order: slices.Clone(s.order), tools: make(map[string]entry, len(s.tools)+len(tools)), schemas: s.schemas}
	maps.Copy(more.tools, s.tools)
	for _, t := range tools {
		e, err := s.entry(t)
		if err != nil {
			return nil, err
		}
		if _, taken := more.tools[e.spec.Name]; taken {
			return nil, fmt.Errorf("tool %q stands twice: give each tool a name of its own", e.spec.Name)
		}
		more.order = append(more.order, e.spec.Name)
		more.tools[e.spec.Name] = e
	}
	return more, nil
}

func (s *Set) entry(t Tool) (entry, error) {
	spec := t.Spec()
	if !validName.MatchString(spec.Name) {
		return entry{}, fmt.Errorf("tool name %q: use 1 to 64 letters, digits, underscores and hyphens", spec.Name)
	}
	if len(spec.Schema) == 0 {
		spec.Schema = json.RawMessage(`{"type":"object","properties":{}}`)
	}
	var top struct {
		Type any `json:"type"`
	}
	if err := json.Unmarshal(spec.Schema, &top); err != nil {
		return entry{}, fmt.Errorf("tool %q: its input schema is not a JSON object: %w", spec.Name, err)
	}
	if top.Type != "object" {
		return entry{}, fmt.Errorf(`tool %q: its input schema must say "type": "object", as tools take named arguments`, spec.Name)
	}
	compiled, err := s.schemas.compile(spec.Schema)
	if err != nil {
		return entry{}, fmt.Errorf("tool %q: its input schema does not compile: %w", spec.Name, err)
	}
	return entry{tool: t, spec: spec, schema: compiled}, nil
}

// Specs is what the model is offered, in the order in which the tools were added.
func (s *Set) Specs() []llm.Tool {
	specs := make([]llm.Tool, 0, len(s.order))
	for _, name := range s.order {
		specs = append(specs, s.tools[name].spec)
	}
	return specs
}

// Has says whether the set holds a tool of that name.
func (s *Set) Has(name string) bool {
	_, ok := s.tools[name]
	return ok
}

// Prepare checks a model's call. A call to a tool that does not exist, or with arguments that do not fit, becomes an
// invocation that only tells the model so.
func (s *Set) Prepare(call llm.ToolCall) Invocation {
	e, ok := s.tools[call.Name]
	if !ok {
		return Invocation{refusal: s.unknown(call.Name)}
	}
	args, refusal := e.check(call)
	return Invocation{tool: e.tool, args: args, refusal: refusal}
}

func (s *Set) unknown(name string) *Result {
	if len(s.order) == 0 {
		r := Errorf("there is no tool %q: no tools are available", name)
		return &r
	}
	r := Errorf("there is no tool %q; available are: %s", name, strings.Join(s.order, ", "))
	return &r
}

// maxViolations bounds how many faults of its arguments a model is told at once.
const maxViolations = 10

func (e entry) check(call llm.ToolCall) (json.RawMessage, *Result) {
	args := bytes.TrimSpace([]byte(call.Arguments))
	if len(args) == 0 || string(args) == "null" {
		args = []byte("{}")
	}
	_, violations, err := e.schema.ValidateJSON(args)
	if err != nil {
		r := Errorf("the arguments of %s are not valid JSON: %v. Send one JSON object.", call.Name, err)
		return nil, &r
	}
	if len(violations) == 0 {
		return args, nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "the arguments of %s do not fit its schema:", call.Name)
	for i, v := range violations {
		if i == maxViolations {
			fmt.Fprintf(&b, "\n- and %d more", len(violations)-i)
			break
		}
		fmt.Fprintf(&b, "\n- %s: %s", v.Path, v.Message)
	}
	return nil, &Result{Text: b.String(), IsError: true}
}

// Invocation is a checked call.
type Invocation struct {
	tool    Tool
	args    json.RawMessage
	refusal *Result
}

// Safe says that the invocation may be run although an earlier attempt at it may have run already.
func (i Invocation) Safe() bool { return i.refusal != nil || i.tool.Safe() }

// Call runs the invocation. callID is unique within the task and the same after a replay.
func (i Invocation) Call(ctx context.Context, taskID, callID string) (Result, error) {
	if i.refusal != nil {
		return *i.refusal, nil
	}
	return i.tool.Call(ctx, Call{ID: callID, TaskID: taskID, Args: i.args})
}
