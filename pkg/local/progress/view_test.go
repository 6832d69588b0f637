package progress

import (
	"bytes"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"
	"sigs.k8s.io/yaml"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/queue"
)

var update = flag.Bool("update", false, "write what the tests saw into their scenario files")

// TestViews runs testdata/*.txtar: each *.yaml file of an archive is a moment of a run; "lines" is what a pipe
// sees of all moments, and *.frame what a terminal of 100 by 12 shows at each.
func TestViews(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.txtar")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, name := range files {
		t.Run(strings.TrimSuffix(filepath.Base(name), ".txtar"), func(t *testing.T) {
			t.Parallel()
			got, err := txtar.ParseFile(name)
			require.NoError(t, err)
			want := string(txtar.Format(got))
			play(t, got)
			if *update {
				require.NoError(t, os.WriteFile(name, txtar.Format(got), 0o644))
				return
			}
			require.Empty(t, cmp.Diff(want, string(txtar.Format(got))), "run with -update to accept")
		})
	}
}

type moment struct {
	Now   time.Time              `json:"now"`
	Run   v1alpha1.ArkRunStatus  `json:"run"`
	Child *v1alpha1.ArkRunStatus `json:"child"`
	Task  string                 `json:"task"` // of the child
	Tools map[string]string      `json:"tools"`
	Chunk map[string]string      `json:"chunk"`
}

func play(t *testing.T, a *txtar.Archive) {
	var moments []txtar.File
	for _, f := range a.Files {
		if strings.HasSuffix(f.Name, ".yaml") {
			moments = append(moments, f)
		}
	}
	var lines bytes.Buffer
	view := NewLines(&lines)
	a.Files = nil
	begun := map[string]int{}
	tools := map[string]string{}
	for _, f := range moments {
		var m moment
		require.NoError(t, yaml.UnmarshalStrict(f.Data, &m), f.Name)
		for id, tool := range m.Tools {
			if tools[id] != tool {
				begun[id]++
			}
		}
		tools = m.Tools
		s := scene{runs: []sceneRun{{status: m.Run}}, tools: m.Tools, begun: maps.Clone(begun)}
		if m.Child != nil {
			s.runs = append(s.runs, sceneRun{task: m.Task, status: *m.Child})
		}
		view.show(s)
		for step, text := range m.Chunk {
			view.chunk(step, text)
		}
		frame := strings.Join(frame(s.rows(), m.Now, 100, 12, false), "\n") + "\n"
		a.Files = append(a.Files, f, txtar.File{Name: strings.TrimSuffix(f.Name, ".yaml") + ".frame", Data: []byte(frame)})
	}
	view.Finish("Run Succeeded in 6.3s - 2466 tokens")
	a.Files = append(a.Files, txtar.File{Name: "lines", Data: lines.Bytes()})
}

// A terminal view leaves exactly the last frame and the summary on the screen, whatever was drawn before.
func TestLiveViewRedrawsInPlace(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	v := NewScreen(&out, Terminal{Size: func() (int, int) { return 60, 10 }})
	v.show(scene{runs: []sceneRun{{status: v1alpha1.ArkRunStatus{Steps: []v1alpha1.StepStatus{
		{Name: "a", Phase: v1alpha1.StepRunning}, {Name: "b", Phase: v1alpha1.StepPending},
	}}}}})
	_, err := fmt.Fprintln(v, "a log line")
	require.NoError(t, err)
	v.show(scene{runs: []sceneRun{{status: v1alpha1.ArkRunStatus{Steps: []v1alpha1.StepStatus{
		{Name: "a", Phase: v1alpha1.StepSucceeded}, {Name: "b", Phase: v1alpha1.StepSkipped},
	}}}}})
	v.Finish("done")
	require.Equal(t, []string{"a log line", " ✓ a    Succeeded", " - b    Skipped", "done"}, screen(t, out.String()))
}

// screen plays what was written to a terminal and returns the lines that stand there at the end.
func screen(t *testing.T, written string) []string {
	var lines []string
	row := 0
	for len(written) > 0 {
		var up int
		switch {
		case strings.HasPrefix(written, "\x1b[?7l"), strings.HasPrefix(written, "\x1b[?7h"):
			written = written[5:]
		case strings.HasPrefix(written, "\r"):
			written = written[1:]
		case strings.HasPrefix(written, "\x1b[K"):
			lines = append(lines, "")[:max(row+1, len(lines))]
			lines[row], written = "", written[3:]
		case strings.HasPrefix(written, "\x1b[J"):
			lines, written = lines[:min(row, len(lines))], written[3:]
		case strings.HasPrefix(written, "\x1b["):
			_, err := fmt.Sscanf(written, "\x1b[%dA", &up)
			require.NoError(t, err)
			row -= up
			written = written[strings.Index(written, "A")+1:]
		default:
			text, rest, found := strings.Cut(written, "\n")
			require.True(t, found, "every line ends")
			if row == len(lines) {
				lines = append(lines, "")
			}
			lines[row] = strings.TrimRight(text, " ")
			row++
			written = rest
		}
	}
	return lines
}

// Whatever becomes of the hints, a streamed answer is shown whole, once, before its step is said to be done.
func TestStreamedAnswersAreWhole(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	view := NewLines(&out)
	o := NewObserver(view, true)
	step := func(name string, phase v1alpha1.StepPhase, output string) v1alpha1.StepStatus {
		return v1alpha1.StepStatus{Name: name, TaskID: "t-" + name, Phase: phase, Output: output}
	}
	key := queue.Key{RunUID: "u", TaskID: "t-a"}
	o.Run("u", "", v1alpha1.ArkRunStatus{Steps: []v1alpha1.StepStatus{step("a", v1alpha1.StepRunning, "")}})
	o.Chunk(key, queue.Chunk{Call: 1, Text: "let me look"})
	o.Chunk(key, queue.Chunk{Call: 2, Text: "It is "})
	o.Run("u", "", v1alpha1.ArkRunStatus{Steps: []v1alpha1.StepStatus{
		step("a", v1alpha1.StepSucceeded, "It is 42."), step("b", v1alpha1.StepSucceeded, "No hint came."),
	}})
	o.Chunk(key, queue.Chunk{Call: 2, Text: "42."})
	view.Finish("done")
	require.Equal(t, "a: Running\na> let me look\nIt is 42.\nb> No hint came.\n"+
		"a: Succeeded in 0.0s - 0 tokens\nb: Succeeded in 0.0s - 0 tokens\ndone\n", out.String())
}

// A hint of a task may come before the status that knows of it.
func TestAHintThatComesEarlyNamesItsStep(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	o := NewObserver(NewLines(&out), true)
	of := queue.Key{Namespace: "default", Agent: "newsroom-writer", RunUID: "u", TaskID: "t"}
	o.Progress(of, queue.Progress{Event: queue.EventWait, Step: "writer", Why: "RateLimited"})
	o.Chunk(of, queue.Chunk{Step: "writer", Call: 1, Text: "The"})
	of.TaskID = "of a judge"
	o.Progress(of, queue.Progress{Event: queue.EventWait, Why: "RateLimited"})
	require.Equal(t, "writer waits: RateLimited\nwriter> The\nnewsroom-writer waits: RateLimited\n", out.String())
}
