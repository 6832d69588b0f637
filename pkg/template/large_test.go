package template_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/template"
)

// What can be said of a text of which the beginning is at hand is said; whatever needs the rest of it is an error.
func TestLarge(t *testing.T) {
	t.Parallel()
	large := &template.Large{Head: "äbc" + strings.Repeat("x", 97), Size: 3 << 20}
	data := map[string]any{"big": large, "other": &template.Large{Head: "äbc", Size: 2 << 20}, "list": []any{large}}
	for source, want := range map[string]string{
		`{{ if .big }}yes{{ end }}`:                 "yes",
		`{{ if not .big }}no{{ else }}yes{{ end }}`: "yes",
		`{{ if and .big true }}yes{{ end }}`:        "yes",
		`{{ with .big }}yes{{ end }}`:               "yes",
		`{{ truncate 2 .big }}`:                     "äb",
		`{{ .big | truncate 100 }}`:                 large.Head,
		`{{ eq .big "done" }}`:                      "false",
		`{{ ne .big "" }}`:                          "true",
		`{{ eq .big .other }}`:                      "false",
		`{{ eq .big nil }}`:                         "false",
		`{{ truncate 3 (default "d" .big) }}`:       "äbc",
		`{{ .big }}`:                                "",
		`{{ truncate 101 .big }}`:                   "",
		`{{ eq .big .big }}`:                        "",
		`{{ len .big }}`:                            "",
		`{{ upper .big }}`:                          "",
		`{{ toJson .list }}`:                        "",
		`{{ .list }}`:                               "",
		`{{ printf "%s" .big }}`:                    "",
		`{{ fromJson .big }}`:                       "",
		`{{ join "," .list }}`:                      "",
	} {
		tmpl, err := template.Parse("t", source)
		require.NoError(t, err, source)
		got, err := tmpl.Execute(data)
		if want == "" {
			var needs *template.LargeError
			require.ErrorAs(t, err, &needs, source)
			require.Equal(t, template.LargeError{Size: 3 << 20, Head: len(large.Head)}, *needs, source)
			continue
		}
		require.NoError(t, err, source)
		require.Equal(t, want, got, source)
	}
	tmpl, err := template.Parse("t", " {{ .big }} ")
	require.NoError(t, err)
	v, err := tmpl.Value(data)
	require.NoError(t, err)
	require.Same(t, large, v, "a template that is nothing else passes it on")
	_, err = tmpl.Execute(data)
	require.ErrorContains(t, err, "the text has 3145728 bytes, and templates work on texts of at most 1048576")
}
