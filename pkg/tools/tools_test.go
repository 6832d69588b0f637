package tools_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/tools"
)

type fn struct {
	spec llm.Tool
	safe bool
	call func(tools.Call) (tools.Result, error)
}

func (f fn) Spec() llm.Tool { return f.spec }
func (f fn) Safe() bool     { return f.safe }
func (f fn) Call(_ context.Context, c tools.Call) (tools.Result, error) {
	return f.call(c)
}

func echo(name, schema string, safe bool) fn {
	return fn{
		spec: llm.Tool{Name: name, Schema: json.RawMessage(schema)}, safe: safe,
		call: func(c tools.Call) (tools.Result, error) {
			return tools.Result{Text: c.IdempotencyKey() + " " + string(c.Args)}, nil
		},
	}
}

func TestSetRefusesBadTools(t *testing.T) {
	t.Parallel()
	for want, all := range map[string][]tools.Tool{
		`tool "a" stands twice: give each tool a name of its own`:                             {echo("a", "", true), echo("a", "", true)},
		`tool name "a b": use 1 to 64 letters, digits, underscores and hyphens`:               {echo("a b", "", true)},
		`tool name "": use 1 to 64 letters, digits, underscores and hyphens`:                  {echo("", "", true)},
		`tool "a": its input schema must say "type": "object", as tools take named arguments`: {echo("a", `{"type":"string"}`, true)},
		`tool "a": its input schema is not a JSON object: unexpected end of JSON input`:       {echo("a", `{`, true)},
	} {
		_, err := tools.NewSet(all...)
		require.EqualError(t, err, want)
	}
	_, err := tools.NewSet(echo("a", `{"type":"object","properties":{"n":{"type":"nonsense"}}}`, true))
	require.ErrorContains(t, err, `tool "a": its input schema does not compile: `)
}

func TestSetChecksCalls(t *testing.T) {
	t.Parallel()
	set, err := tools.NewSet(
		echo("plain", "", false),
		echo("typed", `{"type":"object","properties":{"n":{"type":"integer"},"s":{"type":"string"}},"required":["n"],"additionalProperties":false}`, true),
	)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		call llm.ToolCall
		want tools.Result
		safe bool
	}{
		"fits":           {llm.ToolCall{Name: "typed", Arguments: ` {"n":1} `}, tools.Result{Text: `t1-3.0 {"n":1}`}, true},
		"no arguments":   {llm.ToolCall{Name: "plain"}, tools.Result{Text: "t1-3.0 {}"}, false},
		"null":           {llm.ToolCall{Name: "plain", Arguments: "null"}, tools.Result{Text: "t1-3.0 {}"}, false},
		"unknown":        {llm.ToolCall{Name: "nope"}, tools.Errorf(`there is no tool "nope"; available are: plain, typed`), true},
		"not JSON":       {llm.ToolCall{Name: "plain", Arguments: `{"n":`}, tools.Result{IsError: true, Text: "the arguments of plain are not valid JSON"}, true},
		"not an object":  {llm.ToolCall{Name: "plain", Arguments: `[1]`}, tools.Result{IsError: true, Text: "the arguments of plain do not fit its schema:\n- "}, true},
		"does not fit":   {llm.ToolCall{Name: "typed", Arguments: `{"n":"x","z":1}`}, tools.Result{IsError: true, Text: "the arguments of typed do not fit its schema:\n- "}, true},
		"missing fields": {llm.ToolCall{Name: "typed"}, tools.Result{IsError: true, Text: "the arguments of typed do not fit its schema:\n- "}, true},
	} {
		i := set.Prepare(c.call)
		require.Equal(t, c.safe, i.Safe(), name)
		got, err := i.Call(t.Context(), "t1", "3.0")
		require.NoError(t, err, name)
		require.Equal(t, c.want.IsError, got.IsError, name)
		require.True(t, strings.HasPrefix(got.Text, c.want.Text), "%s: %s", name, got.Text)
	}
}

func TestSetWithLeavesTheSetAlone(t *testing.T) {
	t.Parallel()
	set, err := tools.NewSet(echo("a", "", true))
	require.NoError(t, err)
	more, err := set.With(echo("b", "", true))
	require.NoError(t, err)
	require.Equal(t, []string{"a"}, names(set))
	require.Equal(t, []string{"a", "b"}, names(more))
	_, err = more.With(echo("a", "", true))
	require.Error(t, err)
	require.True(t, more.Has("b"))
	require.False(t, set.Has("b"))
	require.JSONEq(t, `{"type":"object","properties":{}}`, string(set.Specs()[0].Schema))
}

func names(s *tools.Set) []string {
	var all []string
	for _, spec := range s.Specs() {
		all = append(all, spec.Name)
	}
	return all
}
