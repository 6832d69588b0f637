package operator

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"arkonis.dev/ark/pkg/apis/data"
	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/llm/modelserver"
)

// command is a process of ark whose words can be waited for.
type command struct {
	t    *testing.T
	cmd  *exec.Cmd
	done chan error

	mu    sync.Mutex
	lines []string // of both streams
	more  chan struct{}
}

// begin starts a command.
func (w *world) begin(args ...string) *command {
	w.t.Helper()
	c := &command{t: w.t, cmd: w.arkCommand(args...), done: make(chan error, 1), more: make(chan struct{})}
	stdout, err := c.cmd.StdoutPipe()
	require.NoError(w.t, err)
	stderr, err := c.cmd.StderrPipe()
	require.NoError(w.t, err)
	require.NoError(w.t, c.cmd.Start())
	var reading sync.WaitGroup
	for _, stream := range []*bufio.Scanner{bufio.NewScanner(stdout), bufio.NewScanner(stderr)} {
		reading.Go(func() {
			for stream.Scan() {
				c.heard(stream.Text())
			}
		})
	}
	go func() {
		reading.Wait()
		c.done <- c.cmd.Wait()
		c.heard("") // whoever waits looks again
	}()
	w.t.Cleanup(func() { _ = c.cmd.Process.Kill() })
	return c
}

func (c *command) heard(line string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, line)
	close(c.more)
	c.more = make(chan struct{})
}

// says waits until a line holds a text.
func (c *command) says(text string) {
	c.t.Helper()
	late := time.After(patience)
	for {
		c.mu.Lock()
		said, more := slices.Clone(c.lines), c.more
		c.mu.Unlock()
		if slices.ContainsFunc(said, func(line string) bool { return strings.Contains(line, text) }) {
			return
		}
		select {
		case <-more:
		case <-late:
			c.t.Fatalf("%s does not say %q but:\n%s", c.cmd, text, strings.Join(said, "\n"))
		}
	}
}

// ends waits for the end and returns the exit code and what was said.
func (c *command) ends() (code int, said string) {
	c.t.Helper()
	select {
	case <-c.done:
	case <-time.After(patience):
		c.t.Fatalf("%s does not end", c.cmd)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cmd.ProcessState.ExitCode(), strings.Join(c.lines, "\n")
}

const outer = `
apiVersion: arkonis.dev/v1alpha1
kind: ArkTeam
metadata: {name: outer}
spec:
  roles:
  - name: scout
    model: gpt-test
    systemPrompt: You look.
    limits: {timeoutSeconds: 3600}
    tools: [{name: lens, url: %q, description: Looks closely., timeoutSeconds: 600}]
  - {name: crew, arkTeam: floor}
  pipeline:
  - {name: look, role: scout, inputs: {prompt: "look"}}
  - {name: deep, role: crew, dependsOn: [look], inputs: {level: "0"}}
`

// What people see of a run while it goes on and after it: the tool that is called, the runs below it, everything in the
// order of time. Whoever stops to look on leaves the run as it is.
func TestWhatCommandsShow(t *testing.T) {
	d := &dataWorld{world: newWorld(t), api: freeAddress(t)}
	d.args = append(d.args, "--api-listen", d.api)
	d.register()
	d.start()
	release := make(chan struct{})
	let := sync.OnceFunc(func() { close(release) })
	lens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
			_, _ = w.Write([]byte("far away"))
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(lens.Close)
	t.Cleanup(let)
	d.apply(towers)
	d.apply(fmt.Sprintf(outer, lens.URL))
	models, err := modelserver.Start(t.Context(), modelserver.Config{Answer: func(c modelserver.Call) *modelserver.Reply {
		last := c.Request.Messages[len(c.Request.Messages)-1]
		if c.Request.Prompt() == "look" && last.Role == "user" {
			return &modelserver.Reply{Tools: []modelserver.Use{{Name: "lens", Arguments: `{"at": "the sea"}`}}}
		}
		return &modelserver.Reply{Text: "did " + c.Request.Prompt()}
	}})
	require.NoError(t, err)
	t.Cleanup(func() { _ = models.Close() })
	env := []string{"OPENAI_BASE_URL=" + models.URL(), "OPENAI_API_KEY=k"}
	for _, team := range []string{"floor", "outer"} {
		until(d.world, d.clients.Teams(d.namespace), team, "a status", func(t *v1alpha1.ArkTeam) bool { return t.Status.ObservedGeneration > 0 })
	}
	d.pod("floor-w", "floor-w-0", env...)
	d.pod("outer-scout", "outer-scout-0", env...)
	d.served()

	watch := d.begin("trigger", "outer", "--watch", "--id", "1")
	watch.says("calls lens")
	run := d.must("trigger", "outer", "--id", "1")
	require.Contains(t, d.must("get", run), "look\touter-scout\tRunning\t1\t")
	require.Contains(t, d.must("get", run), "\tcalls lens")
	d.interrupted(run)
	let()
	code, said := watch.ends()
	require.Zero(t, code, said)
	for _, text := range []string{"look: Succeeded", "deep/dig: Succeeded", "deep/build: Succeeded", "deep: Succeeded", "did build 0"} {
		require.Contains(t, said, text)
	}
	for _, row := range []string{"look\touter-scout\tSucceeded", "deep\t", "deep/dig\tfloor-w\tSucceeded", "deep/build\tfloor-w\tSucceeded"} {
		require.Contains(t, "\n"+d.must("get", run), "\n"+row)
	}
	d.logged(run)
	tree := d.must("trace", run)
	for _, text := range []string{"step look", "chat gpt-test", "execute_tool lens", "step deep", "run floor-run-", "step dig", "step build"} {
		require.Contains(t, tree, text)
	}
}

// interrupted: Ctrl-C ends whoever looks on with 130, and the run goes on.
func (d *dataWorld) interrupted(run string) {
	t := d.t
	t.Helper()
	for _, c := range []struct{ command, says, ends string }{
		{"trigger outer --watch --id 1", "calls lens", "interrupted: the run " + run + " goes on; see it with 'ark get " + run + " -n " + d.namespace + " --watch'"},
		{"get " + run + " --watch", "calls lens", "goes on"},
		{"logs " + run + " -f", "calls lens", ""},
		{"retry " + run, "", ""},
	} {
		p := d.begin(strings.Fields(c.command)...)
		if c.says == "" { // it ends by itself: the run goes on
			code, said := p.ends()
			require.Equal(t, 1, code, said)
			continue
		}
		p.says(c.says)
		require.NoError(t, p.cmd.Process.Signal(os.Interrupt))
		code, said := p.ends()
		require.Equal(t, 130, code, "%s: %s", c.command, said)
		require.Contains(t, said, c.ends)
	}
	// A prompt that was submitted is a run like any other: it is not taken back.
	p := d.begin("submit", "--team", "outer", "again", "--watch")
	p.says("calls lens")
	require.NoError(t, p.cmd.Process.Signal(os.Interrupt))
	code, said := p.ends()
	require.Equal(t, 130, code, said)
	require.Contains(t, said, "interrupted: the run ")
	now, err := d.clients.Runs(d.namespace).Get(t.Context(), run, metav1.GetOptions{})
	require.NoError(t, err)
	require.Equal(t, v1alpha1.RunRunning, now.Status.Phase)
}

// logged: a log is in the order of time, also over the runs below.
func (d *dataWorld) logged(run string) {
	t := d.t
	t.Helper()
	var entries []data.Entry
	for line := range strings.Lines(d.must("logs", run, "-o", "json")) {
		var e data.Entry
		require.NoError(t, json.Unmarshal([]byte(line), &e), line)
		entries = append(entries, e)
	}
	require.True(t, slices.IsSortedFunc(entries, func(a, b data.Entry) int { return a.At.Compare(b.At) }), "%+v", entries)
	at := func(what func(e *data.Entry) bool) int {
		return slices.IndexFunc(entries, func(e data.Entry) bool { return what(&e) })
	}
	called := at(func(e *data.Entry) bool { return e.Kind == data.EntryTool && e.Step == "look" && e.Tool == "lens" })
	answered := at(func(e *data.Entry) bool { return e.Kind == data.EntryToolDone && e.Text == "far away" })
	dug := at(func(e *data.Entry) bool {
		return e.Kind == data.EntryAnswer && e.Step == "deep/dig" && strings.HasPrefix(e.Run, "floor-run-")
	})
	built := at(func(e *data.Entry) bool { return e.Kind == data.EntryAnswer && e.Step == "deep/build" })
	order := []int{0, called, answered, dug, built, len(entries) - 1}
	require.True(t, slices.IsSorted(order) && called > 0, "%v: %+v", order, entries)
	require.Equal(t, data.EntryRunEnded, entries[len(entries)-1].Kind)
	deep := d.must("logs", run, "--step", "deep")
	require.Contains(t, deep, "deep/dig> did dig 0")
	require.NotContains(t, deep, "look:")
	build := d.must("logs", run, "--step", "deep/build")
	require.Contains(t, build, "deep/build> did build 0")
	require.NotContains(t, build, "deep/dig")
}
