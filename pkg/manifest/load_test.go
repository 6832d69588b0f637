package manifest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/manifest"
)

const agent = `apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: %s}
spec: {model: mock}
`

func TestSources(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	b := write("m/b.yaml", fmt.Sprintf(agent, "b-agent"))
	write("m/a.yml", fmt.Sprintf(agent, "a-agent"))
	write("m/sub/c.yaml", fmt.Sprintf(agent, "c-agent"))
	write("m/readme.md", "# not a manifest")
	other := write("manifest.txt", fmt.Sprintf(agent, "d-agent"))
	require.NoError(t, os.Symlink(b, filepath.Join(dir, "m", "link.yaml")))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, agent, "e-agent")
	}))
	defer server.Close()

	set, err := manifest.Load(t.Context(), manifest.Sources{
		Paths:      []string{filepath.Join(dir, "m"), b, other, server.URL + "/x.yaml", "-"},
		Stdin:      strings.NewReader("\ufeff" + strings.ReplaceAll(fmt.Sprintf(agent, "f-agent"), "\n", "\r\n")),
		HTTPClient: server.Client(),
	})
	require.NoError(t, err)
	var names []string
	for _, a := range set.Agents {
		names = append(names, a.Name)
	}
	require.Equal(t, []string{"a-agent", "b-agent", "d-agent", "e-agent", "f-agent"}, names)
	require.Equal(t, 5, set.Len())
	require.Equal(t, server.URL+"/x.yaml:1", set.Locate(set.Agents[3], ""))
	require.Equal(t, "(stdin):4", set.Locate(set.Agents[4], "spec.model"))
}

func TestSourceFaults(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	require.NoError(t, os.Mkdir(path("empty"), 0o700))
	require.NoError(t, os.WriteFile(path("none.yaml"), []byte("# nothing\n---\n"), 0o600))
	require.NoError(t, os.WriteFile(path("latin.yaml"), []byte("a: \xe9\n"), 0o600))
	require.NoError(t, os.WriteFile(path("large.yaml"), []byte("a: "+strings.Repeat("x", manifest.MaxFile)), 0o600))
	require.NoError(t, os.WriteFile(path("deep.yaml"), []byte(strings.Repeat("[", 200)+strings.Repeat("]", 200)), 0o600))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/page":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
		case "/endless":
			for range manifest.MaxFile>>16 + 1 {
				if _, err := w.Write(make([]byte, 1<<16)); err != nil {
					return
				}
			}
		default:
			http.NotFound(w, r)
		}
	}))
	defer server.Close()
	host := strings.TrimPrefix(server.URL, "http://")
	for source, want := range map[string]string{
		path("missing"):                   path("missing") + ": does not exist (name a file, a folder, an address, or - for standard input)",
		path("empty"):                     path("empty") + ": the folder holds no *.yaml, *.yml or *.json file (sub-folders are not searched)",
		path("none.yaml"):                 path("none.yaml") + ": holds no object of ark (objects have apiVersion: arkonis.dev/v1alpha1)",
		path("latin.yaml"):                path("latin.yaml") + ": is not UTF-8 text",
		path("large.yaml"):                path("large.yaml") + ": is larger than 8 MiB",
		path("deep.yaml"):                 path("deep.yaml") + ":1: the document is nested deeper than 100 levels",
		"-":                               "(stdin): there is nothing to read (- can stand once)",
		"":                                `"": the name of the file is empty`,
		"http://":                         "http://: is no valid address",
		server.URL + "/x":                 server.URL + "/x: cannot be fetched: the server answers 404 Not Found",
		server.URL + "/page":              server.URL + "/page: is a web page and no manifest (use the address of the raw file)",
		server.URL + "/endless":           server.URL + "/endless: is larger than 8 MiB",
		"http://me:secret@" + host + "/x": "http://me:xxxxx@" + host + "/x: cannot be fetched: the server answers 404 Not Found",
	} {
		_, err := manifest.Load(t.Context(), manifest.Sources{Paths: []string{source}, HTTPClient: server.Client()})
		require.EqualError(t, err, want)
	}
	_, err := manifest.Load(t.Context(), manifest.Sources{})
	require.EqualError(t, err, "(nothing): no manifest was given (name a file, a folder, an address, or - for standard input)")
	_, err = manifest.Load(t.Context(), manifest.Sources{Paths: []string{path("missing"), path("latin.yaml")}})
	var e *manifest.Error
	require.True(t, errors.As(err, &e))
	require.Len(t, e.Findings, 2, "every source is looked at")

	closed := httptest.NewServer(http.NotFoundHandler())
	closed.Close()
	_, err = manifest.Load(t.Context(), manifest.Sources{Paths: []string{closed.URL}})
	require.ErrorContains(t, err, "cannot be fetched: dial tcp")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err = manifest.Load(ctx, manifest.Sources{Paths: []string{server.URL}})
	require.ErrorIs(t, err, context.Canceled)
}

func TestLocate(t *testing.T) {
	t.Parallel()
	set := load(t, `apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: team}
spec:
  roles:
    - {name: a, model: mock}
    -
      name: b
      model: mock
  input:
    dotted.key:
      x: 1
    dotted: {}
  pipeline:
    - role: a
      inputs:
        prompt: |
          {{ .input.x }}
    - role: b
`)
	team := set.Teams[0]
	for path, line := range map[string]int{
		"":                               1,
		"metadata.name":                  3,
		"spec":                           4,
		"spec.roles[0].name":             6,
		"spec.roles[1]":                  8,
		"spec.roles[1].model":            9,
		"spec.roles[7].model":            5,
		"spec.input.dotted.key.x":        12,
		"spec.input[dotted.key].x":       12,
		"spec.input.dotted":              13,
		"spec.pipeline[0].inputs.prompt": 17,
		"spec.pipeline[0].inputs.none":   16,
		"spec.pipeline[1].role":          19,
		"spec.output":                    4,
		"spec[":                          4,
	} {
		require.Equal(t, fmt.Sprintf("(stdin):%d", line), set.Locate(team, path), path)
	}
	require.Empty(t, set.Locate(&v1alpha1.ArkTeam{}, "spec"))
	require.Equal(t, "(stdin):17: ArkTeam/team: spec.pipeline[0].inputs.prompt: is wrong (do this)",
		set.Finding(team, "spec.pipeline[0].inputs.prompt", "is wrong", "do this").String())
}

func TestValues(t *testing.T) {
	t.Parallel()
	set := load(t, `apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: team}
spec:
  roles: [{name: a, model: mock}]
  entry: a
  suspend: yes
  input:
    big: 123456789012345678901234567890
    exact: 1.50
    exp: 1E3
    plus: +5
    octal: 0777
    hex: 0x1F
    under: 1_000
    bool: Off
    none: ~
    text: "5"
    date: 2026-01-02
    version: 1.2.3
    tagged: !!str 5
    number: !!int "7"
    binary: !!binary aGk=
    dash: -x
    yes: 1
---
apiVersion: v1
kind: Secret
metadata: {name: s}
data: {a: aGk=}
stringData: {b: plain}
`)
	team := set.Teams[0]
	require.True(t, team.Spec.Suspend)
	got, err := team.Spec.Input.Decode()
	require.NoError(t, err)
	text := map[string]string{}
	for k := range got {
		text[k] = string(team.Spec.Input[k].Raw)
	}
	require.Equal(t, map[string]string{
		"big": "123456789012345678901234567890", "exact": "1.50", "exp": "1E3", "plus": "5", "octal": "511", "hex": "31",
		"under": "1000", "bool": "false", "none": "null", "text": `"5"`, "date": `"2026-01-02"`, "version": `"1.2.3"`,
		"tagged": `"5"`, "number": "7", "binary": `"hi"`, "dash": `"-x"`, "yes": "1",
	}, text)
	require.Equal(t, map[string][]byte{"a": []byte("hi"), "b": []byte("plain")}, set.Secrets[0].Data)
	require.EqualValues(t, 10, *team.Spec.SuccessfulRunsHistoryLimit, "defaults are applied")
}

// A document of aliases to aliases is refused before it takes the memory.
func TestAliasBombs(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x]\n")
	for i := range 12 {
		fmt.Fprintf(&b, "a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d,", i), 9), ","))
	}
	start := time.Now()
	require.Equal(t, []string{"(stdin):1: the document holds more than 100000 values, aliases resolved"}, findings(t, b.String()))
	require.Less(t, time.Since(start), 10*time.Second)
	require.Equal(t, []string{"(stdin):1: the alias *a holds itself"}, findings(t, "a: &a [*a]\n"))
	require.Equal(t, []string{"(stdin):2: the alias *a holds itself"}, findings(t, "a: &a\n  b: *a\n"))
	require.Equal(t, []string{"(stdin):2: the alias *a holds itself"}, findings(t, "a: &a\n  <<: *a\n"))
	require.Equal(t, []string{"(stdin):1: << must be followed by an object or a list of objects, not the number 5"}, findings(t, "<<: 5\n"))
	require.Equal(t, []string{"(stdin):1: the document is too large: at most 3 MiB and 100000 values are allowed"},
		findings(t, "a: ["+strings.Repeat("1,", 500_000)+"1]\n"))
}

func TestManyFindings(t *testing.T) {
	t.Parallel()
	_, err := manifest.Load(t.Context(), manifest.Sources{
		Paths: []string{"-"}, Stdin: strings.NewReader(strings.Repeat("kind: ArkAgent\n---\n", 500)),
	})
	var e *manifest.Error
	require.True(t, errors.As(err, &e))
	require.Len(t, e.Findings, 200)
	require.Equal(t, 300, e.More)
	require.True(t, strings.HasSuffix(err.Error(), "\nand 300 more"))
}

// The library ends a line at characters that editors show inside one.
func TestOddLineBreaks(t *testing.T) {
	t.Parallel()
	set := load(t, "# \u2028 \u0085\n---\n"+strings.ReplaceAll(`apiVersion: arkonis.dev/v1alpha1
kind: ArkAgent
metadata: {name: odd}
spec:
  systemPrompt: |
    oneXtwo
    three
  model: mock
`, "X", "\u2028    \r    "))
	require.Equal(t, "(stdin):10", set.Locate(set.Agents[0], "spec.model"))
	require.Equal(t, []string{"(stdin):3: not valid YAML: found character that cannot start any token"}, findings(t, "a: \u2028 b\nb: 1\nc: @\n"))
}

// Scalars mean what they mean to kubectl.
func TestScalarsAsKubectl(t *testing.T) {
	t.Parallel()
	scalars := []string{
		"1", "-1", "+1", "0", "-0", "01", "08", "0777", "0o17", "0x1F", "-0x1f", "0b101", "-0b1", "1_000", "_1", "1__0", "1.5", "1.", ".5", "-.5", "+.5",
		"1e3", "1E-3", "1.e3", ".e3", ".", "..", "+", "-x", "1x", "0x", "0xg", "1.2.3", "2026-01-02", "12:30", "1:30:00", "18446744073709551615", "0x1p3",
		"y", "Y", "yes", "Yes", "YES", "yEs", "n", "no", "on", "On", "off", "OFF", "true", "True", "TRUE", "tRue", "false", "null", "Null", "NULL", "nUll", "~",
		"1e", "e1", "1e+", "--1", "+-1", "1-1", "1_", "0_1", "inf", "nan", "Infinity", ".inf2", "10KiB", "5m", "0.1.0", "1 2",
	}
	for _, s := range scalars {
		set := load(t, "apiVersion: arkonis.dev/v1alpha1\nkind: ArkTeam\nmetadata: {name: team}\nspec:\n  roles: [{name: a, model: mock}]\n  entry: a\n  input:\n    v: "+s+"\n")
		got := string(set.Teams[0].Spec.Input["v"].Raw)
		var want map[string]json.RawMessage
		text, err := yaml.YAMLToJSON([]byte("v: " + s))
		require.NoError(t, err, s)
		require.NoError(t, json.Unmarshal(text, &want))
		if f, err := strconv.ParseFloat(got, 64); err == nil { // the same number in more digits
			g, err := strconv.ParseFloat(string(want["v"]), 64)
			require.NoError(t, err, s)
			require.Equal(t, g, f, s)
			continue
		}
		require.Equal(t, string(want["v"]), got, s)
	}
}

// What ark brings along loads without a note.
func TestSamplesLoad(t *testing.T) {
	t.Parallel()
	set, err := manifest.Load(t.Context(), manifest.Sources{Paths: []string{"../../deploy/samples"}})
	require.NoError(t, err)
	require.NotEmpty(t, set.Teams)
	require.Empty(t, set.Notes)
}
