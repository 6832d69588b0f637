package pipeline_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/pipeline"
	"arkonis.dev/ark/pkg/task"
)

var update = flag.Bool("update", false, "write what the scenarios in testdata give")

// scenarios runs a function over each archive in a folder and compares what it gives with the file "want".
func scenarios(t *testing.T, folder string, run func(t *testing.T, a *txtar.Archive) string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join("testdata", folder, "*.txtar"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			t.Parallel()
			a, err := txtar.ParseFile(file)
			require.NoError(t, err)
			got := run(t, a)
			for i := range a.Files {
				if a.Files[i].Name != "want" {
					continue
				}
				if *update {
					a.Files[i].Data = []byte(got)
					require.NoError(t, os.WriteFile(file, txtar.Format(a), 0o600))
					return
				}
				require.Equal(t, string(a.Files[i].Data), got)
				return
			}
			require.True(t, *update, "the file want is missing")
			a.Files = append(a.Files, txtar.File{Name: "want", Data: []byte(got)})
			require.NoError(t, os.WriteFile(file, txtar.Format(a), 0o600))
		})
	}
}

// TestRun plays a script of events against a run. A script has one event a line:
//
//	ok TASK [IN+OUT] ANSWER         the task succeeded, with so many tokens; ANSWER may be quoted
//	fail TASK CODE [scope=S] MESSAGE
//	cancelled TASK
//	started TASK POD
//	delegate TASK CHILD ROLE AGENT  CHILD is the id of the new task
//	cancel MESSAGE                  of the run
//	agent NAME ready|unready PENDING MESSAGE
//	preset STEP ANSWER              (before everything else) a result of an earlier run
//	wait DURATION
//	hold                            from here on, withdrawn tasks get no result by themselves
//	restart                         a new process folds what is stored
//	status                          shows the status
//
// Every scenario is also restarted at its end.
func TestRun(t *testing.T) {
	t.Parallel()
	scenarios(t, "run", func(t *testing.T, a *txtar.Archive) string {
		o := readObjects(t, a)
		var lines []string
		for _, f := range a.Files {
			if f.Name == "script" {
				lines = strings.Split(strings.TrimSpace(string(f.Data)), "\n")
			}
		}
		d := newDriver(t, compile(t, o.spec(t)), presets(t, lines)...)
		d.act()
		for _, line := range lines {
			if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "preset ") {
				continue
			}
			fmt.Fprintf(&d.out, "> %s\n", line)
			d.play(line)
			d.act()
		}
		d.restart()
		d.out.WriteString("---\n")
		d.show()
		return d.out.String()
	})
}

func presets(t *testing.T, lines []string) []pipeline.StepResult {
	t.Helper()
	var out []pipeline.StepResult
	for _, line := range lines {
		if rest, ok := strings.CutPrefix(line, "preset "); ok {
			step, answer, _ := strings.Cut(rest, " ")
			out = append(out, pipeline.StepResult{Step: step, Output: unquote(t, answer)})
		}
	}
	return out
}

func unquote(t testing.TB, s string) string {
	t.Helper()
	if !strings.HasPrefix(s, `"`) {
		return s
	}
	text, err := strconv.Unquote(s)
	require.NoError(t, err, s)
	return text
}

func (d *driver) play(line string) {
	verb, rest, _ := strings.Cut(line, " ")
	word, rest2, _ := strings.Cut(rest, " ")
	switch verb {
	case "ok":
		e := pipeline.TaskEnded{TaskID: d.id(word), Status: task.Succeeded, Pod: "pod-1", ToolCalls: 1}
		if m := regexp.MustCompile(`^(\d+)\+(\d+)( |$)`).FindStringSubmatch(rest2); m != nil {
			e.Usage.InputTokens, _ = strconv.ParseInt(m[1], 10, 64)
			e.Usage.OutputTokens, _ = strconv.ParseInt(m[2], 10, 64)
			rest2 = rest2[len(m[0]):]
		}
		e.Output = unquote(d.t, rest2)
		d.result(e)
	case "fail":
		code, message, _ := strings.Cut(rest2, " ")
		e := pipeline.TaskEnded{TaskID: d.id(word), Status: task.Failed, Code: task.Code(code), Usage: task.Usage{InputTokens: 1}}
		if scope, after, ok := strings.Cut(message, " "); ok && strings.HasPrefix(scope, "scope=") {
			e.Scope, message = strings.TrimPrefix(scope, "scope="), after
		}
		e.Message = message
		d.result(e)
	case "cancelled":
		d.result(pipeline.TaskEnded{TaskID: d.id(word), Status: task.Cancelled, Code: task.CodeCancelled, Message: "was cancelled"})
	case "started":
		d.plan.Apply(d.state, pipeline.TaskStarted{TaskID: d.id(word), Pod: rest2, At: d.now})
	case "delegate":
		f := strings.Fields(rest2)
		d.know(f[0], "delegate:"+f[0])
		d.names[f[0]] = f[0]
		parent := word // an unknown id stays as it is
		if id, ok := d.names[word]; ok {
			parent = id
		}
		d.store(pipeline.Delegated{Parent: parent, Child: f[0], Role: f[1], Agent: f[2], At: d.now})
	case "cancel":
		d.store(pipeline.Cancelled{Reason: rest, At: d.now})
	case "agent":
		f := strings.SplitN(rest2, " ", 3)
		pending, err := strconv.Atoi(f[1])
		require.NoError(d.t, err)
		e := pipeline.AgentReadiness{Agent: word, Ready: f[0] == "ready", Pending: pending}
		if len(f) > 2 {
			e.Message = f[2]
		}
		d.plan.Apply(d.state, e)
	case "wait":
		by, err := time.ParseDuration(word)
		require.NoError(d.t, err)
		d.now = d.now.Add(by)
	case "hold":
		d.hold = true
	case "restart":
		d.restart()
	case "status":
		d.show()
	default:
		require.Fail(d.t, "unknown event", line)
	}
}

func (d *driver) id(name string) string {
	id, ok := d.names[name]
	require.True(d.t, ok, "the task %s was never submitted", name)
	return id
}

// show writes the status as a person would.
func (d *driver) show() {
	s := d.plan.Status(d.state, d.now)
	fmt.Fprintf(&d.out, "run %s %s tokens=%d%s\n", s.Phase, s.StepSummary, s.TotalTokenUsage.TotalTokens, prefixed(" failed=", s.FailedStep))
	if s.Message != "" {
		d.out.WriteString(indent(s.Message))
	}
	for i := range s.Steps {
		d.showStep(&s.Steps[i])
	}
	if wake := d.plan.Decide(d.state, d.now).Wake; !wake.IsZero() {
		fmt.Fprintf(&d.out, "wake in %s\n", wake.Sub(d.now))
	}
}

func (d *driver) showStep(st *v1alpha1.StepStatus) {
	line := fmt.Sprintf("%s %s", st.Name, st.Phase)
	if st.Attempts > 1 {
		line += fmt.Sprintf(" attempts=%d", st.Attempts)
	}
	if st.Iterations > 0 {
		line += fmt.Sprintf(" iterations=%d", st.Iterations)
	}
	if st.TokenUsage != nil && st.TokenUsage.TotalTokens > 0 {
		line += fmt.Sprintf(" tokens=%d", st.TokenUsage.TotalTokens)
	}
	line += prefixed(" reason=", st.Reason) + prefixed(" capability=", st.SelectedCapability)
	line += prefixed(" routing=", quoted(st.RoutingReason)) + prefixed(" parent=", st.Parent)
	line += prefixed(" message=", quoted(st.Message)) + prefixed(" output=", quoted(st.Output))
	if st.Data != nil {
		line += " data"
	}
	d.out.WriteString(line + "\n")
}

func quoted(s string) string {
	if s == "" {
		return ""
	}
	return strconv.Quote(s)
}
