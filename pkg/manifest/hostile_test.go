package manifest_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/manifest"
)

// Whatever a manifest is made of, reading it ends soon and with a place.
func TestHostileManifests(t *testing.T) {
	long := func(s string, n int) string { return strings.Repeat(s, n) }
	keys := func(n int) string {
		var b strings.Builder
		for i := range n {
			fmt.Fprintf(&b, "k%d: 1\n", i)
		}
		return b.String()
	}
	team := "apiVersion: arkonis.dev/v1alpha1\nkind: ArkTeam\nmetadata: {name: t}\nspec:\n"
	for name, text := range map[string]string{
		"flow lists":     long("[", 20_000),
		"flow objects":   long("{a: ", 20_000),
		"block lists":    long("- ", 9_000) + "x",
		"question marks": long("? ", 9_000) + "x",
		"values":         "a: [" + long("1,", 90_000) + "]",
		"keys":           keys(40_000),
		"same keys":      long("a: 1\n", 50_000),
		"anchors":        "a: [" + long("&a 1,", 30_000) + "]",
		"aliases":        "a: &a [1]\nb: [" + long("*a,", 60_000) + "]",
		"merges":         "a: &a {x: 1}\nb: {" + long("<<: *a, ", 30_000) + "}",
		"comments":       long("# x\n", 100_000) + "a: 1",
		"documents":      long("---\na: 1\n", 30_000),
		"long line":      "a: " + long("x ", 1_000_000),
		"long quoted":    `a: "` + long(`\n`, 500_000) + `"`,
		"quoted breaks":  `a: "` + long("\n", 200_000) + `"`,
		"folded":         "a: >\n" + long("  x\n\n", 100_000),
		"tags":           "a: [" + long("!x 1,", 30_000) + "]",
		"unclosed":       "a: '" + long("x", 2_000_000),
		"tabs":           long("\t", 100_000) + "a: 1",
		"numbers":        "a: [" + long("0x1F,", 40_000) + "]",
		"json":           `{"a": [` + long("[],", 90_000) + `[]]}`,
		"deep json":      long(`{"a":`, 5_000) + "1" + long("}", 5_000),
		"many unknown":   team + "  " + strings.ReplaceAll(keys(20_000), "\n", "\n  "),
		"many steps":     team + "  pipeline: [" + long("{rle: x},", 20_000) + "]",
		"many roles":     team + "  roles: [" + long("{name: X},", 20_000) + "]",
		"long name":      "apiVersion: arkonis.dev/v1alpha1\nkind: ArkAgent\nmetadata: {name: " + long("x", 1_000_000) + "}\nspec: {model: mock}\n",
		"long kind":      "apiVersion: arkonis.dev/v1alpha1\nkind: " + long("x", 1_000_000) + "\n",
		"long foreign":   "apiVersion: " + long("x", 500_000) + "\nkind: " + long("y", 500_000) + "\n",
		"long key":       team + "  " + long("x", 1_000_000) + ": 1\n",
		"map of bytes":   "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {" + long("a", 100_000) + ": '%'}\n",
	} {
		before, start := allocated(), time.Now()
		_, err := manifest.Load(t.Context(), manifest.Sources{Paths: []string{"-"}, Stdin: strings.NewReader(text)})
		took, used := time.Since(start), allocated()-before
		t.Logf("%-15s %6s %7d KiB %.100s", name, took.Round(time.Millisecond), used>>10, strings.ReplaceAll(fmt.Sprint(err), "\n", "; "))
		var e *manifest.Error
		require.True(t, err == nil || errors.As(err, &e), name)
		require.Less(t, len(fmt.Sprint(err)), 256<<10, name)
		require.Less(t, took, time.Minute, name)
		require.Less(t, used, uint64(256<<20), name)
	}
}
