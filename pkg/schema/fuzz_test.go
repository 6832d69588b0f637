package schema_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/schema"
)

// No schema and no document makes the checker panic or run long; a document made for a schema fits it.
func FuzzSchema(f *testing.F) {
	for _, s := range []string{
		`{"type":"object","required":["a"],"properties":{"a":{"type":"string","minLength":2,"pattern":"^[a-z]+$"}},"additionalProperties":false}`,
		`{"$ref":"#/$defs/n","$defs":{"n":{"anyOf":[{"type":"null"},{"properties":{"next":{"$ref":"#/$defs/n"}}}]}}}`,
		`{"type":"array","items":{"oneOf":[{"type":"integer","multipleOf":0.5},{"enum":["a",1,null]}]},"uniqueItems":true,"minItems":2}`,
		`{"if":{"const":1},"then":{"minimum":1e2},"else":{"not":{"type":"array"}},"dependentSchemas":{"a":{"minProperties":2}}}`,
		`{"$schema":"http://json-schema.org/draft-07/schema#","definitions":{"a":{"$id":"#x"}},"items":[{"$ref":"#x"}],"additionalItems":false}`,
		`{"prefixItems":[true,false],"contains":{"const":1},"unevaluatedItems":false,"patternProperties":{"^a":{}},"propertyNames":{"maxLength":3}}`,
		`{"$id":"https://example.com/a","$anchor":"b","$ref":"a#b"}`, `{"format":"date","contentMediaType":"application/json","contentSchema":{}}`,
		`{"$dynamicRef":"#a"}`, `true`, `{"minItems":99999999999999999999}`, `{"maximum":1e999999999}`, `{"$schema":"https://json-schema.org/draft/2020-12/schema"}`,
		`{"$ref":"https://json-schema.org/draft/2020-12/schema"}`, `{"$schema":"http://json-schema.org/draft-04/schema#","dependencies":{"a":["b"]}}`,
	} {
		f.Add(s, `{"a":"bc","next":{"next":null}}`)
		f.Add(s, `[1,"a",0.5,1.0]`)
	}
	f.Fuzz(func(t *testing.T, text, doc string) {
		start := time.Now()
		s, err := schema.Compile([]byte(text))
		if err == nil {
			_, first, err := s.ValidateJSON([]byte(doc))
			_, again, _ := s.ValidateJSON([]byte(doc))
			if err == nil {
				require.Equal(t, first, again)
			}
			if made, err := s.Minimal(); err == nil {
				_, vs, err := s.ValidateJSON(made)
				require.NoError(t, err)
				require.Empty(t, vs)
			}
		}
		if took := time.Since(start); took > 10*time.Second {
			t.Fatalf("took %s", took)
		}
	})
}

// What is taken out of an answer is JSON.
func FuzzExtract(f *testing.F) {
	for _, s := range []string{"{}", "```json\n1\n```", "x\n~~~\n[1]\n~~~ y", "````\n```\n1\n```\n````", "\"", "```json", "\ufeff1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, answer string) {
		if raw, err := schema.Extract(answer); err == nil {
			require.True(t, json.Valid(raw))
		}
	})
}
