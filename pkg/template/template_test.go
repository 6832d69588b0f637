package template_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/template"
)

func data(t *testing.T, text string) map[string]any {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(text))
	dec.UseNumber()
	var m map[string]any
	require.NoError(t, dec.Decode(&m))
	return m
}

const sample = `{
  "input": {"topic": "tides", "count": 1000000, "big": 123456789012345678901234567890, "half": 0.5, "zero": 0.0,
            "tags": ["a", "b", "c"], "none": null, "yes": true, "no": false, "empty": "", "html": "<b> & \"x\""},
  "steps": {
    "data-analyst": {"output": "numbers", "status": "Succeeded", "data": {"rows": [{"n": 1}, {"n": 2.50}], "no-name": 1}},
    "2nd": {"output": "two\nlines", "status": "Succeeded"}
  },
  "item": {"b": 2, "a": 1, "c": [1, null, "x"]},
  "run": {"name": "r", "namespace": "default"}
}`

func TestExecute(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"plain":                                           "plain",
		"":                                                "",
		"{{ .input.topic }}":                              "tides",
		"a {{- .input.topic -}} b":                        "atidesb",
		"{{/* note */}}x{{- /* y */ -}} z":                "xz",
		"{{ .steps.data-analyst.output }}":                "numbers",
		"{{ $.steps.data-analyst.output }}":               "numbers",
		"{{ .steps.2nd.status }}":                         "Succeeded",
		"{{ (.steps.data-analyst).output }}":              "numbers",
		"{{ .steps.data-analyst.data.no-name }}":          "1",
		"{{ $s := .steps }}{{ $s.data-analyst.output }}":  "numbers",
		`{{ index .steps "data-analyst" "output" }}`:      "numbers",
		`{{ "a-b.c-d {{ }}" }} {{ ` + "`.x-y }}`" + ` }}`: "a-b.c-d {{ }} .x-y }}",
		"{{ .input.count }}":                              "1000000",
		"{{ .input.big }}":                                "123456789012345678901234567890",
		"{{ .input.half }} {{ .input.zero }}":             "0.5 0.0",
		"{{ 1000000 }} {{ 1e6 }} {{ 1.5 }} {{ 0x10 }}":    "1000000 1000000 1.5 16",
		"{{ .input.tags }}":                               `["a","b","c"]`,
		"{{ .item }}":                                     `{"a":1,"b":2,"c":[1,null,"x"]}`,
		"[{{ .input.none }}]":                             "[]",
		"{{ .input.html }} {{ toJson .input.html }}":      `<b> & "x" "<b> & \"x\""`,

		"{{ range .input.tags }}{{ . }};{{ end }}":                                        "a;b;c;",
		"{{ range $i, $t := .input.tags }}{{ $i }}{{ $t }}{{ end }}":                      "0a1b2c",
		"{{ range $k, $v := .item }}{{ $k }}={{ $v }} {{ end }}":                          `a=1 b=2 c=[1,null,"x"] `,
		"{{ range .input.none }}x{{ else }}none{{ end }}":                                 "none",
		"{{ range 3 }}{{ . }}{{ end }}":                                                   "012",
		"{{ range .input.tags }}{{ if eq . `b` }}{{ continue }}{{ end }}{{ . }}{{ end }}": "ac",
		"{{ range .input.tags }}{{ if eq . `b` }}{{ break }}{{ end }}{{ . }}{{ end }}":    "a",
		"{{ $n := 0 }}{{ range .input.tags }}{{ $n = . }}{{ end }}{{ $n }}":               "c",
		"{{ with .steps.2nd }}{{ .output }}{{ end }}":                                     "two\nlines",
		"{{ with .input.empty }}x{{ else with .input.topic }}{{ . }}{{ end }}":            "tides",
		"{{ if .input.zero }}a{{ else if .input.no }}b{{ else }}c{{ end }}":               "c",
		"{{ if and .input.yes (not .input.no) }}y{{ end }}":                               "y",
		"{{ or .input.empty .input.topic .input.nothing }}":                               "tides",
		"{{ and .input.empty .input.nothing }}":                                           "",

		"{{ eq .input.count 1000000 1 }} {{ eq .input.zero 0 }} {{ ne .input.half 0.5 }}":                              "true true false",
		"{{ lt 2 10 }} {{ gt `2` `10` }} {{ le .input.half 0.5 }} {{ ge .input.big 1 }}":                               "true true true true",
		"{{ eq .input.none nil }} {{ eq .input.topic nil }} {{ eq .input.yes true }}":                                  "true false true",
		"{{ lt 9007199254740992 9007199254740993 }} {{ eq .input.big 123456789012345678 }}":                            "true false",
		"{{ default `x` .input.empty }} {{ .input.nothing | default `y` }} {{ .input.topic | default `z` }}":           "x y tides",
		"{{ default `d` .steps.data-analyst.data.a.b }}":                                                               "d",
		"{{ trim `  a ` }}|{{ lower `ABC` }}|{{ upper `äb` }}":                                                         "a|abc|ÄB",
		"{{ join `, ` .input.tags }} {{ .input.tags | join `-` }} {{ join .input.tags `` }}":                           "a, b, c a-b-c abc",
		"{{ range split `,` `a,b` }}<{{ . }}>{{ end }}{{ len (split `,` ``) }}":                                        "<a><b>0",
		"{{ first .input.tags }}{{ last .input.tags }}":                                                                "ac",
		"{{ truncate 3 `äöüß` }} {{ .input.topic | truncate 2 }} {{ truncate `abc` 9 }}":                               "äöü ti abc",
		"{{ indent 2 .steps.2nd.output }}":                                                                             "  two\n  lines",
		"{{ index .input.tags 1 }} {{ (index .steps.data-analyst.data.rows 1).n }}":                                    "b 2.50",
		"{{ len .input.tags }} {{ len `äöü` }} {{ len .item }}":                                                        "3 3 3",
		"{{ int 3.9 }} {{ int `-42` }} {{ int .input.big }} {{ int 1e20 }}":                                            "3 -42 123456789012345678901234567890 100000000000000000000",
		"{{ float64 `2.5` }} {{ float64 .input.count }}":                                                               "2.5 1000000",
		"{{ (fromJson `{\"a\": [1, 2.0]}`).a }}":                                                                       "[1,2.0]",
		"{{ printf `%s has %d (%5.2f%%) %q %v %t %03d %-4s|` .input.topic 3 .input.half `x` .input.tags true 7 `l` }}": `tides has 3 ( 0.50%) "x" ["a","b","c"] true 007 l   |`,
		"{{ printf `%d %x` .input.big 255 }}":                                                                          "123456789012345678901234567890 ff",
		"{{ .input.topic | printf `%s-%s` `a` }}":                                                                      "a-tides",
	} {
		tmpl, err := template.Parse("t", source)
		require.NoError(t, err, source)
		for range 3 {
			got, err := tmpl.Execute(data(t, sample))
			require.NoError(t, err, source)
			require.Equal(t, want, got, source)
		}
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		"{{ .steps.reserch.output }}":       "t:1:4: .steps.reserch does not exist: .steps has 2nd, data-analyst",
		"a\nb {{ .steps.a-b.output }}":      "t:2:6: .steps.a-b does not exist: .steps has 2nd, data-analyst",
		"{{ .steps.2nd.data-x.y-z.w }}":     "t:1:4: .steps.2nd.data-x does not exist: .steps.2nd has output, status",
		"{{ .inputs.x }}":                   "t:1:4: .inputs does not exist: the context has input, item, run, steps",
		"{{ .inputs | default `x` }}":       "t:1:4: .inputs does not exist: the context has input, item, run, steps",
		"{{ .input.topic.x }}":              "t:1:4: .input.topic.x does not exist: .input.topic is text; fields of an answer are under .data when the step has an outputSchema, or fromJson reads them",
		"{{ .input.tags.x }}":               "t:1:4: .input.tags.x does not exist: .input.tags is a list; range or index give its elements",
		"{{ .input.none.x }}":               "t:1:4: .input.none.x does not exist: .input.none is null",
		"{{ index .steps `x` }}":            "t:1:4: .steps.x does not exist: .steps has 2nd, data-analyst",
		"{{ index .input.tags 7 }}":         "t:1:4: .input.tags.7 does not exist: the list has 3 elements",
		"{{ (index .input.tags 0).x }}":     "t:1:25: (index .input.tags 0).x does not exist: (index .input.tags 0) is text; fields of an answer are under .data when the step has an outputSchema, or fromJson reads them",
		"{{ with .item }}{{ .z }}{{ end }}": "t:1:20: .z does not exist: the value here has a, b, c",
		"é {{ eq 1 `1` }}":                  "t:1:6: eq: cannot compare a number with text",
		"{{ lt .input.tags 1 }}":            "t:1:4: lt: cannot order a list and a number; int and float64 make numbers of text",
		"{{ fromJson `{` }}":                `t:1:4: fromJson: not JSON: unexpected EOF: "{"`,
		"{{ fromJson `1 2` }}":              `t:1:4: fromJson: not JSON: something stands behind the value: "1 2"`,
		"{{ int `3 apples` }}":              `t:1:4: int: "3 apples" is not a number`,
		"{{ printf `%d` `x` }}":             "t:1:4: printf: %d needs a whole number, not text; int makes one",
		"{{ printf `%s` }}":                 "t:1:4: printf: %s has no argument",
		"{{ printf `a` 1 }}":                "t:1:4: printf: the format has no verb for 1 argument",
		"{{ printf `%z` 1 }}":               "t:1:4: printf: %z is not a verb that a template knows: s v q d b o x X c e E f F g G t",
		"{{ first (split `,` ``) }}":        "t:1:4: first: the list is empty",
		"{{ range .input.topic }}{{ end }}": "t:1:10: range needs a list or an object, not text",

		"{{":                               "t:1:1: the action is never closed: }} is missing",
		"x\n {{ .a":                        "t:2:2: the action is never closed: }} is missing",
		"{{ \"a }}":                        "t:1:4: the text is never closed: \" is missing",
		"{{ \"a\n\" }}":                    "t:1:4: the text is not closed on its line: \" is missing",
		"{{ (.a }}":                        "t:1:4: ( is never closed: ) is missing",
		"{{ .a) }}":                        "t:1:6: unexpected )",
		"{{/* x }}":                        "t:1:1: the comment is never closed: */}} is missing",
		"{{/* x */ .a }}":                  "t:1:1: a comment must be alone in its action: */ is not followed by }}",
		"{{ if .a }}":                      "t:1:1: {{if}} is never closed: {{end}} is missing",
		"a {{ end }}":                      "t:1:3: unexpected {{end}}: nothing is open here",
		"{{ else }}":                       "t:1:1: unexpected {{else}}: nothing is open here",
		"{{if .a}}{{else}}{{else}}{{end}}": "t:1:18: unexpected {{else}}: the {{if}} has one already",
		"{{ define `x` }}{{ end }}":        "t:1:1: {{define}} is not supported: a template stands alone",
		"{{ template `x` }}":               "t:1:1: {{template}} is not supported: a template stands alone",
		"{{ block `x` . }}{{ end }}":       "t:1:1: {{block}} is not supported: a template stands alone",
		"{{ foo .a }}":                     "t:1:4: there is no function \"foo\": a template knows " + strings.Join(template.Functions(), ", "),
		"{{ lower }}":                      "t:1:4: lower needs 1 argument, not 0",
		"{{ eq 1 }}":                       "t:1:4: eq needs at least 2 arguments, not 1",
		"{{ .a | lower .b }}":              "t:1:9: lower takes at most 1 argument, not 2",
		"{{ .a .b }}":                      "t:1:4: .a is not a function and takes no argument",
		"{{ 1i }}":                         "t:1:4: 1i is not a number that a template can hold",
		"{{ nil }}":                        "t:1:4: nil is not a value that can be printed or piped",
		"ok {{ .a }}\n  {{ $x.y-z }}":      "t:2:3: undefined variable \"$x\"",
		"{{ .a-b }} {{ .c-d! }}":           "t:1:12: bad character U+0021 '!'",
		"{{}}":                             "t:1:1: missing value for command",
	} {
		tmpl, err := template.Parse("t", source)
		if err == nil {
			_, err = tmpl.Execute(data(t, sample))
		}
		require.EqualError(t, err, want, source)
		var e *template.Error
		require.ErrorAs(t, err, &e)
	}
}

func TestReferenceError(t *testing.T) {
	t.Parallel()
	tmpl, err := template.Parse("prompt", "{{ .steps.x.output }}")
	require.NoError(t, err)
	_, err = tmpl.Execute(data(t, sample))
	var ref *template.ReferenceError
	require.ErrorAs(t, err, &ref)
	require.Equal(t, ".steps.x", ref.Path)
	require.Equal(t, "x", ref.Missing)
	require.Equal(t, []string{"2nd", "data-analyst"}, ref.Available)

	steps := map[string]any{}
	for _, c := range "abcdefghijklmnopqrstuvwxyz" {
		steps["s-"+string(c)] = map[string]any{}
	}
	_, err = tmpl.Execute(map[string]any{"steps": steps})
	require.True(t, errors.As(err, &ref))
	require.Len(t, ref.Available, 20)
	require.Equal(t, 6, ref.More)
	require.True(t, strings.HasSuffix(err.Error(), "s-t and 6 more"), err)
}

func TestValue(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]any{
		"{{ .input.tags }}":                     []any{"a", "b", "c"},
		"\n  {{ .input.count }}\n":              json.Number("1000000"),
		"{{/* the count */}}{{ .input.count }}": json.Number("1000000"),
		"{{ .input.none }}":                     nil,
		"{{ not .input.yes }}":                  false,
		"{{ len .input.tags }}":                 int64(3),
		"{{ fromJson `[1]` }}":                  []any{json.Number("1")},
		"{{ .input.topic }} x":                  "tides x",
		"{{ .input.yes }}{{ .input.no }}":       "truefalse",
		"a, b":                                  "a, b",
		"{{ default `x` .input.tpic }}":         "x",
	} {
		tmpl, err := template.Parse("t", source)
		require.NoError(t, err, source)
		got, err := tmpl.Value(data(t, sample))
		require.NoError(t, err, source)
		require.Equal(t, want, got, source)
	}
}

func TestReferences(t *testing.T) {
	t.Parallel()
	for source, want := range map[string][]string{
		"{{ .steps.a-b.output }}{{ .input.x }}":                                   {"steps.a-b.output", "input.x"},
		"{{ with .steps.a }}{{ .output }}{{ $.input.z }}{{ end }}":                {"steps.a", "steps.a.output", "input.z"},
		"{{ range .steps.a.data.rows }}{{ .n }}{{ $.input.z }}{{ end }}":          {"steps.a.data.rows", "input.z"},
		"{{ range $i, $r := .input.l }}{{ $r.n }}{{ end }}":                       {"input.l"},
		"{{ $s := .steps.a }}{{ $s.output }}":                                     {"steps.a", "steps.a.output"},
		"{{ $s := .steps.a }}{{ $s = .steps.b }}{{ $s.output }}":                  {"steps.a", "steps.b"},
		"{{ index .steps `data-x` `output` }}":                                    {"steps.data-x.output"},
		"{{ (index .steps `data-x`).output }}":                                    {"steps.data-x.output"},
		"{{ index .steps .input.name }}":                                          {"steps", "input.name"},
		"{{ if eq .steps.a.status `x` }}{{ else }}{{ .steps.b.output }}{{ end }}": {"steps.a.status", "steps.b.output"},
		"{{ .input.x | default `y` }}{{ default 1 .input.z }}":                    {"input.x?", "input.z?"},
		"{{ .input.x | lower | default `y` }}":                                    {"input.x"},
		"{{ toJson . }}":                                                          {""},
		"no {{/* .x */}} {{ `.y` }}":                                              nil,
	} {
		tmpl, err := template.Parse("t", source)
		require.NoError(t, err, source)
		var got []string
		for _, r := range tmpl.References() {
			path := strings.Join(r.Path, ".")
			if r.Optional {
				path += "?"
			}
			got = append(got, path)
		}
		require.Equal(t, want, got, source)
	}
	tmpl, err := template.Parse("t", "é\n {{ .steps.a-b.c }}{{ .input.x }}")
	require.NoError(t, err)
	require.Equal(t, []template.Ref{
		{Path: []string{"steps", "a-b", "c"}, Line: 2, Column: 5},
		{Path: []string{"input", "x"}, Line: 2, Column: 23},
	}, tmpl.References())
}
