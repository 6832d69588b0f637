package structured_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/structured"
)

func TestExpress(t *testing.T) {
	t.Parallel()
	strict := structured.Dialect{Keywords: []string{"type", "properties", "required", "additionalProperties", "items", "anyOf", "$defs", "$ref"}, Depth: 3}
	open, loose := strict, strict
	open.Open = true
	loose.Optional, loose.Dropped, loose.Silent = true, []string{"minLength"}, []string{"default"}
	const (
		optional = `{"type":"object","properties":{"a":{"type":"string"}}}`
		limited  = `{"type":"object","properties":{"a":{"type":"string","minLength":1}},"required":["a"]}`
	)
	for name, c := range map[string]struct {
		dialect structured.Dialect
		in, out string
		fit     structured.Fit
	}{
		"closed":                          {strict, `{"required":["a"],"properties":{"a":{"type":"null"}},"type":"object"}`, `{"required":["a"],"properties":{"a":{"type":"null"}},"type":"object","additionalProperties":false}`, structured.Strict},
		"closed below":                    {strict, `{"type":"object","properties":{"a":{"items":{"anyOf":[{"properties":{}}]}}},"required":["a"]}`, `{"type":"object","properties":{"a":{"items":{"anyOf":[{"properties":{},"additionalProperties":false}]}}},"required":["a"],"additionalProperties":false}`, structured.Strict},
		"optional, all wanted":            {strict, optional, "", structured.None},
		"optional, sent open":             {open, optional, optional, structured.Loose},
		"optional, allowed":               {loose, optional, `{"type":"object","properties":{"a":{"type":"string"}},"additionalProperties":false}`, structured.Strict},
		"limit, unknown":                  {open, limited, "", structured.None},
		"limit, dropped":                  {loose, limited, `{"type":"object","properties":{"a":{"type":"string"}},"required":["a"],"additionalProperties":false}`, structured.Loose},
		"default, silent":                 {loose, `{"type":"object","properties":{"a":{"default":1}}}`, `{"type":"object","properties":{"a":{}},"additionalProperties":false}`, structured.Strict},
		"a property's name is no keyword": {loose, `{"type":"object","properties":{"default":{"type":"string"},"minLength":{}}}`, `{"type":"object","properties":{"default":{"type":"string"},"minLength":{}},"additionalProperties":false}`, structured.Strict},
		"open object below":               {loose, `{"type":"object","properties":{"a":{"type":["object","null"]}}}`, "", structured.None},
		"map":                             {loose, `{"type":"object","properties":{},"additionalProperties":{"type":"string"}}`, "", structured.None},
		"deepest":                         {loose, `{"type":"object","properties":{"a":{"items":{"items":{}}}}}`, `{"type":"object","properties":{"a":{"items":{"items":{}}}},"additionalProperties":false}`, structured.Strict},
		"too deep":                        {loose, `{"type":"object","properties":{"a":{"items":{"items":{"items":{}}}}}}`, "", structured.None},
		"no object":                       {loose, `{"type":"array","items":{}}`, "", structured.None},
		"anyOf at the root":               {loose, `{"type":"object","properties":{},"anyOf":[{}]}`, "", structured.None},
		"true":                            {loose, `true`, "", structured.None},
		"no JSON":                         {loose, `{"type":`, "", structured.None},
		"required is nonsense":            {strict, `{"type":"object","properties":{},"required":5}`, "", structured.None},
		"properties is a list":            {loose, `{"type":"object","properties":[]}`, "", structured.None},
		"anyOf is no list":                {loose, `{"type":"object","properties":{"a":{"anyOf":{}}}}`, "", structured.None},
	} {
		out, fit := c.dialect.Express(json.RawMessage(c.in))
		require.Equal(t, c.fit, fit, name)
		require.Equal(t, c.out, string(out), name)
	}
}

func TestObjectSchema(t *testing.T) {
	t.Parallel()
	out, err := structured.ObjectSchema(json.RawMessage(`{"b":{"oneOf":[1.0]},"type":"x","oneOf":[],"a":9007199254740993}`), "oneOf")
	require.NoError(t, err)
	require.Equal(t, `{"type":"object","b":{"oneOf":[1.0]},"a":9007199254740993}`, string(out))
	for _, in := range []string{`[]`, `null`, `{"a":1} x`, ``, `true`} {
		_, err := structured.ObjectSchema(json.RawMessage(in))
		require.Error(t, err, in)
	}
}
