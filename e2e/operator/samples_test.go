package operator

import (
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/local"
	"arkonis.dev/ark/pkg/manifest"
)

// outcome is what a run came to, wherever it ran.
type outcome struct {
	Phase  v1alpha1.RunPhase
	Output string
	Tokens int64
	Steps  []string
}

// remembered is when something was remembered, to the minute: the laptop and the cluster have their turn one after the other.
var remembered = regexp.MustCompile(`\[\d{4}-\d\d-\d\d \d\d:\d\d, `)

// timeless is a text without the times at which something was remembered.
func timeless(text string) string { return remembered.ReplaceAllString(text, "[then, ") }

func (o *outcome) step(name, phase, agent, output string, tokens int64) {
	output = timeless(output)
	o.Steps = append(o.Steps, strings.Join([]string{name, phase, agent, strconv.FormatInt(tokens, 10), output}, "|"))
}

// samples of deploy/samples, with an input each. What the mock model answers depends on nothing but what it is asked, so
// that the same prompts give the same tokens, and other ones do not.
var samples = map[string]map[string]any{
	"linear.yaml":       {"topic": "tides"},
	"parallel.yaml":     {"plan": "Move the database."},
	"dynamic.yaml":      {"prompt": "Should we cache this page?"},
	"loop.yaml":         {"language": "French"},
	"routed.yaml":       {"prompt": "Why was I charged twice?"},
	"memory.yaml":       {"to": "Porto"},
	"webhook-tool.yaml": {"city": "Lisbon"},
}

// The same manifests give the same steps, outputs and token counts on a laptop and in a cluster.
func TestSamplesRunAsOnALaptop(t *testing.T) {
	t.Parallel()
	for name, input := range samples {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join("../../deploy/samples", name)
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			w := newWorld(t)
			w.start()
			w.apply(string(text))
			team := w.onlyTeam()
			w.podsOf(team)
			run := w.ended(w.fire(team, input, "once"))
			require.Equal(t, onLaptop(t, file, input), inCluster(run), run.Status.Message)
			require.Equal(t, v1alpha1.RunSucceeded, run.Status.Phase)
		})
	}
}

func onLaptop(t *testing.T, file string, input map[string]any) outcome {
	t.Helper()
	set, err := manifest.Load(t.Context(), manifest.Sources{Paths: []string{file}})
	require.NoError(t, err)
	report, err := local.Run(t.Context(), local.Options{Manifests: set, Input: input, Getenv: func(string) string { return "" }})
	require.NoError(t, err)
	out := outcome{Phase: report.Status, Output: timeless(report.Output), Tokens: report.Tokens.Total}
	for _, s := range report.Steps {
		out.step(s.Name, string(s.Status), s.Agent, s.Output, s.Tokens)
	}
	sort.Strings(out.Steps)
	return out
}

func inCluster(run *v1alpha1.ArkRun) outcome {
	out := outcome{Phase: run.Status.Phase, Output: timeless(run.Status.Output), Tokens: run.Status.TotalTokenUsage.TotalTokens}
	for _, s := range run.Status.Steps {
		tokens := int64(0)
		if s.TokenUsage != nil {
			tokens = s.TokenUsage.TotalTokens
		}
		out.step(s.Name, string(s.Phase), s.Agent, s.Output, tokens)
	}
	sort.Strings(out.Steps)
	return out
}

// onlyTeam waits for the one team of the world to be known, and returns its name.
func (w *world) onlyTeam() string {
	w.t.Helper()
	teams, err := w.clients.Teams(w.namespace).List(w.t.Context(), metav1.ListOptions{})
	require.NoError(w.t, err)
	require.Len(w.t, teams.Items, 1)
	return teams.Items[0].Name
}
