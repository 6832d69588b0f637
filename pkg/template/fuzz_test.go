package template_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/template"
)

// hostile are templates that keep text/template busy for ever, exhaust it or kill it.
func hostile() map[string]string {
	long := func(s string, n int) string { return strings.Repeat(s, n) }
	return map[string]string{
		"endless range":      "{{range 1000000000000}}{{end}}",
		"nested ranges":      "{{range 9999}}{{range 9999}}{{range 9999}}x{{end}}{{end}}{{end}}",
		"wide printf":        `{{printf "%999999999d" 1}}`,
		"precise printf":     `{{printf "%.999999999f" 1.5}}`,
		"many printfs":       `{{range 9999999}}{{printf "%1000d%1000d%1000d" 1 2 3}}{{end}}`,
		"doubling":           `{{$x := "xxxxxxxx"}}{{range 99}}{{$x = printf "%s%s" $x $x}}{{end}}{{$x}}`,
		"doubling lists":     `{{$x := "a,"}}{{range 99}}{{$x = join "" (split "a" (printf "%s%s" $x $x))}}{{end}}`,
		"indent":             `{{indent 999999999 "x"}}`,
		"indent lines":       `{{indent 100000 .lines}}`,
		"indent again":       `{{$x := .lines}}{{range 9999}}{{$x = indent 1 $x}}{{end}}`,
		"join":               `{{join .large .list}}`,
		"upper for ever":     `{{range 99999999}}{{upper $.large}}{{end}}`,
		"compare for ever":   `{{range 99999999}}{{eq $.large $.large2}}{{end}}`,
		"toJson for ever":    `{{range 99999999}}{{toJson $.list}}{{end}}`,
		"fromJson nested":    `{{fromJson "` + long("[", 30000) + `"}}`,
		"fromJson for ever":  `{{range 9999999}}{{fromJson $.json}}{{end}}`,
		"numbers for ever":   `{{range 9999999}}{{lt $.number $.number}}{{end}}`,
		"huge exponent":      `{{int 1e300}}{{range 9999999}}{{int $.exponent}}{{end}}`,
		"index for ever":     `{{range 9999999}}{{index $.list 1}}{{end}}`,
		"split":              `{{range 9999}}{{split "x" $.large}}{{end}}`,
		"output":             `{{range 9999999}}` + long("x", 60000) + `{{end}}`,
		"output of data":     `{{range 9999999}}{{$.large}}{{end}}`,
		"deep parentheses":   "{{" + long("(", 32000) + "1" + long(")", 32000) + "}}",
		"open parentheses":   "{{" + long("(", 65000),
		"deep blocks":        long("{{if 1}}", 4000) + long("{{end}}", 4000),
		"else chain":         "{{if 0}}" + long("{{else if 0}}", 4900) + "{{end}}",
		"variables":          long("{{$a:=1}}", 7000),
		"many uses":          "{{$a:=1}}" + long("{{$a}}", 10000),
		"many references":    long("{{.a}}", 10900),
		"long path":          "{{" + long(".a", 32000) + "}}",
		"long pipe":          "{{1" + long("|and 1", 9000) + "}}",
		"long call":          "{{and" + long(" 1", 32000) + "}}",
		"hyphens":            "{{.a" + long("-", 65000) + "b}}",
		"aliases":            "{{" + long(".a-b", 16000) + "}}",
		"aliases and errors": long("{{.a-b}}", 8000) + "{{.x!}}",
		"break":              "{{range 99999999}}{{continue}}{{end}}",
		"deep value":         "{{.deep}}",
		"wide value":         "{{.wide}}{{.wide.nothing}}",
		"long number":        "{{" + long("1", 60000) + "}}",
		"long float":         "{{1." + long("1", 60000) + "e5}}",
		"unclosed":           long("{{", 30000),
		"comments":           long("{{/**/}}", 8000),
	}
}

func hostileData() map[string]any {
	large := strings.Repeat("xy", 500_000)
	list := make([]any, 50_000)
	for i := range list {
		list[i] = json.Number(fmt.Sprint(i))
	}
	wide := map[string]any{}
	for i := range 200_000 {
		wide[fmt.Sprint("key", i)] = nil
	}
	var deep any = "x"
	for range 100_000 {
		deep = []any{deep}
	}
	return map[string]any{
		"large": large, "large2": strings.Clone(large), "list": list, "lines": strings.Repeat("\n", 10_000),
		"json": "[" + strings.Repeat("1,", 10_000) + "1]", "number": json.Number(strings.Repeat("7", 100_000)),
		"exponent": json.Number("1e399"), "deep": deep, "wide": wide,
	}
}

// Whatever a template asks for, it gets no more than its limits.
func TestHostileTemplates(t *testing.T) {
	data := hostileData()
	for name, source := range hostile() {
		before, start := allocated(), time.Now()
		tmpl, err := template.Parse("t", source)
		if err == nil {
			_, err = tmpl.Execute(data)
			tmpl.References()
		}
		took, used := time.Since(start), allocated()-before
		t.Logf("%-20s %8s %7d KiB  %.120v", name, took.Round(time.Millisecond), used>>10, err)
		var e *template.Error
		require.True(t, err == nil || errors.As(err, &e), name)
		require.Less(t, took, 10*time.Second, name) // 50 ms on an idle machine
		require.Less(t, used, uint64(16<<20), name)
	}
}

// No template makes the evaluator panic or run long, and the same one always gives the same.
func FuzzTemplate(f *testing.F) {
	for _, source := range hostile() {
		if len(source) < 1000 {
			f.Add(source)
		}
	}
	for _, source := range []string{
		"{{ .steps.data-analyst.output | default `x` | upper }}", "{{- range $i, $t := .input.tags -}}{{ $i }}:{{ $t }}{{ else }}none{{ end }}",
		"{{ with .item }}{{ .a }}{{ else with .input }}{{ .topic }}{{ end }}", "{{ if and (gt .input.count 3) .input.yes }}a{{ else if 1 }}b{{ end }}",
		"{{ printf `%-5s|%+.2e|%#x|%q|%t|%c` `a` 1.5 255 `b` true 65 }}", "{{ toJson .input }}{{ (fromJson `{\"a\":[1]}`).a }}",
		"{{ index .input.tags 1 }}{{ len .item }}{{ int 3.7 }}{{ float64 `1e3` }}", "{{ $x := .input }}{{ $x.topic }}{{ $x = 1 }}{{ $x }}",
		"{{/* c */}}{{ \"\\\"}}\" }}{{ 'x' }}{{ `}}` }}", "{{ join `,` .input.tags }}{{ first .input.tags }}{{ truncate 2 `äöü` }}{{ indent 2 `a\nb` }}",
		"{{ range 3 }}{{ if eq . 1 }}{{ continue }}{{ end }}{{ break }}{{ end }}", "{{ 0x1p-2 }}{{ 1_000 }}{{ .5 }}{{ -0 }}{{ 18446744073709551615 }}",
		"{{ .a.5-x.ü }}{{ $.2nd }}{{ (.a).b-c }}", "{{define `x`}}{{end}}", "{{1i}}", "{{nil}}", "{{.}}", "{{$}}",
	} {
		f.Add(source)
	}
	f.Fuzz(func(t *testing.T, source string) {
		before, start := allocated(), time.Now()
		tmpl, err := template.Parse("t", source)
		if err != nil {
			var e *template.Error
			require.True(t, errors.As(err, &e), "%v", err)
			require.GreaterOrEqual(t, e.Line, 1)
			require.LessOrEqual(t, e.Line, 1+strings.Count(source, "\n"))
			require.GreaterOrEqual(t, e.Column, 1)
			return
		}
		for _, ref := range tmpl.References() {
			require.GreaterOrEqual(t, ref.Line, 1)
		}
		values := data(t, sample)
		out, err1 := tmpl.Execute(values)
		require.LessOrEqual(t, len(out), template.MaxOutput)
		if took := time.Since(start); took > 10*time.Second {
			t.Fatalf("took %s", took)
		}
		if used := allocated() - before; used > 64<<20 {
			t.Fatalf("allocated %d bytes", used)
		}
		again, err2 := tmpl.Execute(values)
		require.Equal(t, out, again)
		require.Equal(t, fmt.Sprint(err1), fmt.Sprint(err2))
		value, err3 := tmpl.Value(values)
		if text, ok := value.(string); ok && err3 == nil && err1 == nil {
			require.True(t, text == out || strings.Contains(out, strings.ToValidUTF8(text, "\uFFFD")), "%q %q", text, out)
		}
	})
}

// allocated is how many bytes were allocated so far.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}
