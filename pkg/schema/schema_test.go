package schema_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/schema"
)

func compile(t testing.TB, text string) *schema.Schema {
	t.Helper()
	s, err := schema.Compile([]byte(text))
	require.NoError(t, err, text)
	return s
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		schema, doc string
		want        []string
	}{
		{`{}`, `1`, nil},
		{`true`, `null`, nil},
		{`false`, `null`, []string{"(root) must not be there"}},
		{`{"type":"object"}`, `[]`, []string{"(root) must be an object, not an array"}},
		{`{"type":["string","null"]}`, `1`, []string{"(root) must be null or a string, not a number"}},
		{`{"type":"integer"}`, `1.0`, nil},
		{`{"type":"integer"}`, `1.5`, []string{"(root) must be an integer, not a number"}},
		{
			`{"type":"object","required":["a","b"],"properties":{"a":{"type":"string"},"z":{"enum":["x","y",3]}},"additionalProperties":false}`,
			`{"z":"q","odd key":1}`,
			[]string{`(root) must have "a"`, `(root) must have "b"`, `(root) must not have "odd key"`, `z must be "x", "y" or 3, not "q"`},
		},
		{
			`{"type":"array","items":{"type":"object","properties":{"name":{"minLength":2},"odd key":{"const":1}}}}`,
			`[{"name":"ab"},{"name":"a","odd key":2}]`,
			[]string{`[1].name must have at least 2 characters, but has 1`, `[1]["odd key"] must be 1, not 2`},
		},
		{
			`{"properties":{"n":{"minimum":1,"multipleOf":0.1},"m":{"exclusiveMaximum":10}}}`, `{"n":0.25,"m":10}`,
			[]string{"m must be less than 10, but is 10", "n must be a multiple of 0.1, but is 0.25", "n must be at least 1, but is 0.25"},
		},
		{`{"uniqueItems":true,"maxItems":1}`, `[1,1.0]`, []string{
			"(root) must have at most 1 item, but has 2", "(root) must have no equal items, but items 0 and 1 are",
		}},
		{`{"anyOf":[{"type":"string"},{"type":"null"}]}`, `1`, []string{"(root) must be a string or null, not a number"}},
		{
			`{"oneOf":[{"required":["a"]},{"properties":{"b":{"type":"string"}},"required":["b"]}]}`, `{"b":1}`,
			[]string{`(root) fits none of the alternatives: must have "a"; or b must be a string, not a number`},
		},
		{`{"oneOf":[{"type":"number"},{"type":"integer"}]}`, `1`, []string{"(root) must fit exactly one alternative, but fits number 1 and number 2"}},
		{`{"not":{"type":"string"}}`, `"x"`, []string{"(root) must not fit the schema under not"}},
		{`{"pattern":"^a+$"}`, `"b"`, []string{`(root) must match ^a+$, but is "b"`}},
		{`{"contains":{"const":1}}`, `[2]`, []string{"(root) must hold an item that fits the schema under contains"}},
		{`{"propertyNames":{"maxLength":1}}`, `{"ab":1}`, []string{`(root) must not have a key named "ab"`}},
		{`{"dependentRequired":{"a":["b"]}}`, `{"a":1}`, []string{`(root) must have "b" because it has "a"`}},
		{
			`{"$ref":"#/$defs/node","$defs":{"node":{"properties":{"next":{"$ref":"#/$defs/node"},"v":{"type":"integer"}}}}}`,
			`{"next":{"next":{"v":"x"}}}`,
			[]string{"next.next.v must be an integer, not a string"},
		},
		{
			`{"$ref":"#/$defs/a","$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}}}`, `1`,
			[]string{"(root) cannot be checked: the schema refers to itself without end"},
		},
		{
			`{"$id":"https://example.com/s","$ref":"https://example.com/s#n","$defs":{"n":{"$anchor":"n","type":"null"}}}`, `1`,
			[]string{"(root) must be null, not a number"},
		},
		{
			`{"$schema":"http://json-schema.org/draft-07/schema#","items":[{"type":"string"}],"additionalItems":false}`, `["a",1]`,
			[]string{"(root) has 1 item too many"},
		},
		{`{"unevaluatedProperties":false,"allOf":[{"properties":{"a":true}}]}`, `{"a":1,"b":2}`, []string{"b must not be there"}},
		{`{"const":123456789012345678901234567890}`, `123456789012345678901234567890.0`, nil},
		{`{"format":"date"}`, `"tomorrow"`, nil},
		{`{"minimum":1}`, `1e1000000000`, []string{"(root) is a number with more than 400 digits or too large an exponent"}},
		{`{"minimum":1}`, `{"a":[1e-99999]}`, []string{"a[0] is a number with more than 400 digits or too large an exponent"}},
	} {
		for range 5 { // the library walks maps in any order
			_, vs, err := compile(t, c.schema).ValidateJSON([]byte(c.doc))
			require.NoError(t, err)
			var got []string
			for _, v := range vs {
				got = append(got, v.String())
			}
			require.Equal(t, c.want, got, "%s over %s", c.schema, c.doc)
		}
	}
}

func TestCompileErrors(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		``:                                      "the schema is not valid JSON: it is empty",
		`{"type":`:                              "the schema is not valid JSON: line 1, column 9: it ends in the middle",
		"{\n  \"type\": x}":                     "the schema is not valid JSON: line 2, column 11: invalid character 'x' looking for beginning of value",
		`{} {}`:                                 "the schema is not valid JSON: line 1, column 5: something stands behind the end of the value",
		`[]`:                                    "a schema is a JSON object, or true or false, not an array",
		`{"type":"strin"}`:                      `not a JSON Schema: type fits none of the alternatives: must be "array", "boolean", "integer", "null", "number", "object" or "string", not "strin"; or must be an array, not a string`,
		`{"properties":{"a":{"minLength":-1}}}`: "not a JSON Schema: properties.a.minLength must be at least 0, but is -1",
		`{"$ref":"#/$defs/x"}`:                  "the reference #/$defs/x points at nothing in the schema",
		`{"$ref":"#x"}`:                         "the reference #x points at nothing in the schema",
		`{"$ref":"https://example.com/x.json"}`: "https://example.com/x.json is outside the schema: only references within it (#/$defs/name) are allowed",
		`{"$ref":"file:///etc/passwd"}`:         "file:///etc/passwd is outside the schema: only references within it (#/$defs/name) are allowed",
		`{"$ref":"https://json-schema.org/draft/2020-12/schema"}`:                                            "https://json-schema.org/draft/2020-12/schema is outside the schema: only references within it (#/$defs/name) are allowed",
		`{"$id":"https://json-schema.org/draft/2020-12/x","items":{"$ref":"meta/core#/$defs/anchorString"}}`: "https://json-schema.org/draft/2020-12/meta/core is outside the schema: only references within it (#/$defs/name) are allowed",
		`{"$schema":"https://example.com/s"}`:                                                                "https://example.com/s is outside the schema: only references within it (#/$defs/name) are allowed",
		`{"properties":{"a":{"$dynamicRef":"#n"}}}`:                                                          "at properties.a: $dynamicRef is not supported: use $ref and $anchor",
		`{"pattern":"(?=x)"}`:                                          "not a JSON Schema: pattern must be a valid regex",
		`{"pattern":"(a{900}){2}b{900}"}`:                              "not a JSON Schema: pattern must be a valid regex",
		`{"minimum":1e1000000000}`:                                     "at minimum: is a number with more than 400 digits or too large an exponent",
		strings.Repeat(`{"not":`, 70) + "{}" + strings.Repeat("}", 70): "the schema is not valid JSON: it is nested deeper than 64 levels",
		`"` + strings.Repeat("x", schema.MaxSchemaSize) + `"`:          "the schema has 262146 bytes; at most 262144 are allowed",
		`{"allOf":[` + strings.Repeat("{},", 1000) + `{}]}`:            "the schema has 1002 objects; at most 1000 are allowed",
	} {
		_, err := schema.Compile([]byte(text))
		require.EqualError(t, err, want, "%.80s", text)
	}
}

func TestMinimal(t *testing.T) {
	t.Parallel()
	for _, c := range [][2]string{
		{`{}`, `""`},
		{`{"type":"object"}`, `{}`},
		{`{"type":"null"}`, `null`},
		{`{"type":"boolean"}`, `false`},
		{`{"type":["null","integer"]}`, `0`},
		{`{"const":{"a":1}}`, `{"a":1}`},
		{`{"enum":["b","a"]}`, `"b"`},
		{`{"type":"string","default":"d","enum":["a","d"]}`, `"d"`},
		{`{"type":"string","examples":["e"]}`, `"e"`},
		{`{"type":"string","default":5}`, `""`},
		{`{"type":"object","required":["a"],"properties":{"a":{"type":"integer"},"b":{"type":"string"}}}`, `{"a":0}`},
		{`{"type":"object","properties":{"a":{"type":"integer"},"b":{"type":"array","items":{"type":"string"}}}}`, `{"a":0,"b":[]}`},
		{`{"properties":{"v":{"type":"integer"},"next":{"$ref":"#"}}}`, `{"v":0}`},
		{`{"type":"string","minLength":3}`, `"xxx"`},
		{`{"type":"string","pattern":"^[A-Z]{2}-[0-9]+$"}`, `"AA-0"`},
		{`{"type":"string","pattern":"^(foo|bar)\\.v[0-9]+$","minLength":8}`, `"foo.v000"`},
		{`{"type":"string","pattern":"b","minLength":3}`, `"bxx"`},
		{`{"type":"integer","minimum":3}`, `3`},
		{`{"type":"integer","exclusiveMinimum":3.5,"multipleOf":5}`, `5`},
		{`{"type":"number","exclusiveMinimum":0,"maximum":0.7}`, `0.5`},
		{`{"type":"integer","maximum":-7}`, `-7`},
		{`{"type":"number","multipleOf":0.3,"minimum":1}`, `1.2`},
		{`{"type":"array","minItems":2,"items":{"type":"boolean"}}`, `[false,false]`},
		{`{"type":"array","minItems":3,"uniqueItems":true,"items":{"enum":["a","b","c"]}}`, `["a","b","c"]`},
		{`{"type":"array","minItems":3,"uniqueItems":true,"items":{"type":"integer"}}`, `[0,1,2]`},
		{`{"type":"array","prefixItems":[{"const":1},{"type":"string"}],"minItems":2}`, `[1,""]`},
		{`{"type":"array","contains":{"const":7},"minContains":2,"items":{"type":"integer"}}`, `[7,7]`},
		{`{"allOf":[{"required":["a"]},{"properties":{"a":{"minimum":2,"type":"integer"}},"type":"object"}]}`, `{"a":2}`},
		{`{"anyOf":[{"type":"string","const":5},{"type":"integer","minimum":4}]}`, `4`},
		{`{"oneOf":[{"type":"number"},{"type":"integer"},{"type":"string"}]}`, `""`},
		{`{"$ref":"#/$defs/t","$defs":{"t":{"type":"object","required":["kids"],"properties":{"kids":{"type":"array","items":{"$ref":"#/$defs/t"}}}}}}`, `{"kids":[]}`},
		{`{"$ref":"#/$defs/t","$defs":{"t":{"type":"object","required":["n"],"properties":{"n":{"anyOf":[{"$ref":"#/$defs/t"},{"type":"null"}]}}}}}`, ""},
		{`{"type":"object","required":["kind"],"properties":{"kind":{"enum":["a"]}},"if":{"properties":{"kind":{"const":"a"}}},"then":{"required":["x"],"properties":{"x":{"type":"integer"}}}}`, `{"kind":"a","x":0}`},
		{`{"type":"object","dependentRequired":{"a":["b"]},"required":["a"]}`, `{"a":"","b":""}`},
		{`{"type":"object","minProperties":2,"additionalProperties":{"type":"integer"}}`, `{"key1":0,"key2":0}`},
		{`{"not":{"type":"string"}}`, `{}`},
		{`{"type":"string","minLength":1000000000}`, "error"},
		{`{"type":"array","minItems":1000000000,"items":true}`, "error"},
		{`{"type":"object","minProperties":1000000000}`, "error"},
		{`false`, "error"},
		{`{"type":"object","required":["a"],"properties":{"a":{"$ref":"#"}}}`, "error"},
		{`{"type":"string","pattern":"^a$","minLength":2}`, "error"},
	} {
		text, want := c[0], c[1]
		s := compile(t, text)
		for range 3 {
			got, err := s.Minimal()
			if want == "error" {
				require.Error(t, err, text)
				continue
			}
			require.NoError(t, err, text)
			if want != "" {
				require.Equal(t, want, string(got), text)
			}
			_, vs, err := s.ValidateJSON(got)
			require.NoError(t, err)
			require.Empty(t, vs, text)
		}
	}
}

func TestExtract(t *testing.T) {
	t.Parallel()
	for answer, want := range map[string]string{
		` {"a": 1} `:                            `{"a": 1}`,
		`"text"`:                                `"text"`,
		`3`:                                     `3`,
		"\ufeff[1]":                             `[1]`,
		"```json\n{\"a\":1}\n```":               `{"a":1}`,
		"Here:\n```JSON\n{\"a\":1}\n```\nDone.": `{"a":1}`,
		"Here:\n```\n[1,2]\n```":                `[1,2]`,
		"  ~~~ json x\n  [1]\n  ~~~":            `[1]`,
		"````json\n{\"a\":\"```\"}\n````":       "{\"a\":\"```\"}",
		"```json\n{\"a\":1}":                    `{"a":1}`,
		"```python\nprint()\n```\n```json\n1\n```": `1`,
		"```\n1\n```\n```json\n2\n```":             `2`,
		"```json\n[1]\n```\n```json\n[ 1 ]\n```":   `[1]`,
	} {
		got, err := schema.Extract(answer)
		require.NoError(t, err, answer)
		require.Equal(t, want, string(got), answer)
	}
	for answer, want := range map[string]string{
		"":                                       "the answer is empty; it must be JSON",
		"I cannot.":                              "the answer holds no JSON; it must be JSON alone, or in one block fenced with ```json",
		"{\"a\": 1,}":                            "the answer is not valid JSON: line 1, column 9: invalid character '}' looking for beginning of object key string",
		"{\"a\": ":                               "the answer is not valid JSON: line 1, column 6: it ends in the middle",
		"x\n```json\n{a}\n```":                   "the JSON block of the answer is not valid: line 1, column 2: invalid character 'a' looking for beginning of object key string",
		"```\nx\n```":                            "no fenced block of the answer is valid JSON; put the JSON alone into one block fenced with ```json",
		"```json\n1\n```\n or \n```json\n2\n```": "the answer holds several different JSON blocks; answer with exactly one",
	} {
		_, err := schema.Extract(answer)
		require.EqualError(t, err, want, answer)
	}
}

// Schemas whose references multiply would keep a checker busy for ages; here each ends soon.
func TestHostileSchemas(t *testing.T) {
	t.Parallel()
	doubling := func(keyword, leaf string) string {
		var b strings.Builder
		b.WriteString(`{"$ref":"#/$defs/a0","$defs":{`)
		for i := range 60 {
			fmt.Fprintf(&b, `"a%d":{%q:[{"$ref":"#/$defs/a%d"},{"$ref":"#/$defs/a%d"}]},`, i, keyword, i+1, i+1)
		}
		b.WriteString(`"a60":` + leaf + `}}`)
		return b.String()
	}
	deep := strings.Repeat(`{"x":`, 150) + "1" + strings.Repeat("}", 150)
	for name, c := range map[string]struct{ schema, doc string }{
		"allOf":     {doubling("allOf", `{"type":"integer"}`), `1`},
		"anyOf":     {doubling("anyOf", `{"type":"string"}`), `1`},
		"oneOf":     {doubling("oneOf", `{"enum":["x"]}`), `1`},
		"not":       {strings.Replace(doubling("allOf", `{"type":"integer"}`), `{"$ref":"#/$defs/a0",`, `{"not":{"$ref":"#/$defs/a0"},`, 1), `1`},
		"recursive": {`{"anyOf":[{"properties":{"x":{"$ref":"#"}}},{"properties":{"x":{"$ref":"#"}}}],"required":["y"]}`, deep},
		"not inside": {
			`{"not":{"$ref":"#/$defs/n"},"$defs":{"n":{"type":"object","anyOf":[{"properties":{"x":{"$ref":"#/$defs/n"}}},` +
				`{"properties":{"x":{"$ref":"#/$defs/n"}}}]}}}`, deep,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			s := compile(t, c.schema)
			_, vs, err := s.ValidateJSON([]byte(c.doc))
			require.NoError(t, err)
			require.Equal(t, []schema.Violation{{
				Path: "(root)", Message: "cannot be checked: the references of the schema multiply beyond all bounds",
			}}, vs)
			_, _ = s.Minimal()
			require.Less(t, time.Since(start), 20*time.Second)
		})
	}
}

func TestConcurrentUse(t *testing.T) {
	t.Parallel()
	s := compile(t, `{"type":"array","items":{"type":"integer"}}`)
	for i := range 8 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			for range 50 {
				require.Empty(t, s.Validate([]any{json.Number("1")}))
				require.Len(t, s.Validate([]any{"x"}), 1)
			}
		})
	}
}
