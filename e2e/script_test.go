package e2e

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm/modelserver"
)

var update = flag.Bool("update", false, "write what the command prints into the scripts")

// hangs is how long one command may take in a script. Nothing in the scripts takes nearly as long.
const hangs = 3 * time.Minute

// The scripts run the real command and hold what it prints and how it exits. They know, besides testscript's own:
//
//	ark [CODE] ARGS        runs ark, which must exit with CODE, 0 when it is not given. What it prints is made
//	                       repeatable: run ids, durations, dates and ports are replaced, see steady
//	modelserver RULES.yaml [-refuse=FEATURE]
//	                       starts a model server with these rules, and points OPENAI_BASE_URL at it
//	calls N                the model server was called N times
//	webserver DIR          serves a folder; $URL is its address. /weather answers as a tool, /missing does not
//	interrupt ARGS         runs ark and sends it SIGINT as soon as it has called the model server
//	interrupt-twice ARGS   the same, while nobody reads what ark prints, so that it cannot end in good order; it gets
//	                       SIGINT until it ends
//	empty DIR              the folder holds nothing
func TestScripts(t *testing.T) {
	t.Parallel()
	ark := arkBinary(t)
	samples, err := filepath.Abs("../deploy/samples")
	require.NoError(t, err)
	testscript.Run(t, testscript.Params{
		Dir:                "testdata/script",
		UpdateScripts:      *update,
		RequireUniqueNames: true,
		Setup: func(e *testscript.Env) error {
			s := &script{ark: ark}
			e.Values[scriptKey{}] = s
			e.Defer(s.close)
			e.Setenv("SAMPLES", samples)
			e.Setenv("ARK", ark)
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"ark":             cmdArk,
			"modelserver":     cmdModelServer,
			"calls":           cmdCalls,
			"webserver":       cmdWebServer,
			"interrupt":       cmdInterrupt,
			"interrupt-twice": cmdInterruptTwice,
			"empty":           cmdEmpty,
		},
	})
}

// script is what the commands of one script share.
type script struct {
	ark   string
	model *modelserver.Server
	web   *httptest.Server
}

type scriptKey struct{}

func of(ts *testscript.TestScript) *script { return ts.Value(scriptKey{}).(*script) }

func (s *script) close() {
	if s.model != nil {
		_ = s.model.Close()
	}
	if s.web != nil {
		s.web.Close()
	}
}

func cmdArk(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("say with which code ark exits: ark 1 ...")
	}
	want := 0
	if len(args) > 0 {
		if n, err := strconv.Atoi(args[0]); err == nil {
			want, args = n, args[1:]
		}
	}
	start := time.Now()
	err := ts.Exec(of(ts).ark, args...)
	stdout, stderr := ts.ReadFile("stdout"), ts.ReadFile("stderr")
	_, _ = fmt.Fprint(ts.Stdout(), steady(stdout))
	_, _ = fmt.Fprint(ts.Stderr(), steady(stderr))
	if got := exitStatus(err); got != want {
		ts.Fatalf("ark exits with %d (%v), want %d", got, err, want)
	}
	if want != 0 && !strings.Contains(stderr, "error: ") {
		ts.Fatalf("ark fails in silence")
	}
	if strings.Contains(stderr, "panic:") || strings.Contains(stderr, "goroutine ") {
		ts.Fatalf("ark panics")
	}
	if d := time.Since(start); d > hangs {
		ts.Fatalf("ark took %s", d)
	}
}

// exitStatus is an exit code, or the negative number of the signal that a process died of.
func exitStatus(err error) int {
	exit, ok := errors.AsType[*exec.ExitError](err)
	switch {
	case err == nil:
		return 0
	case !ok:
		return -1000 // it did not run
	}
	if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() {
		return -int(s.Signal())
	}
	return exit.ExitCode()
}

// steady replaces what differs from run to run.
func steady(text string) string {
	for _, r := range []struct{ what, by string }{
		{`-run-[0-9a-f]{10}\b`, "-run-ID"},
		{`\b(in|took|after) (\d+m)?\d+(\.\d+)?(ms|s)\b`, "$1 TIME"},
		{`"durationMs": \d+`, `"durationMs": 0`},
		{`"traceID": "[0-9a-f]+"`, `"traceID": "ID"`},
		{`127\.0\.0\.1:\d{2,}`, "HOST"},
		{`\btime=\S+`, "time=T"},
		{`\b(task|run)=[0-9a-f]{32}\b`, "$1=ID"},
		{`\bwait=\S+`, "wait=TIME"},
		{`\bgo1\.\d+(\.\d+)?\b`, "goVERSION"},
	} {
		text = regexp.MustCompile(r.what).ReplaceAllString(text, r.by)
	}
	return text
}

func cmdModelServer(ts *testscript.TestScript, neg bool, args []string) {
	s := of(ts)
	if neg || len(args) == 0 {
		ts.Fatalf("usage: modelserver RULES.yaml [-refuse=FEATURE]")
	}
	if s.model != nil {
		ts.Check(s.model.Close())
	}
	rules, err := modelserver.ParseScript([]byte(ts.ReadFile(args[0])))
	ts.Check(err)
	c := modelserver.Config{Rules: rules}
	for _, a := range args[1:] {
		feature, ok := strings.CutPrefix(a, "-refuse=")
		if !ok {
			ts.Fatalf("unknown option %s", a)
		}
		c.Refuse = append(c.Refuse, feature)
	}
	s.model, err = modelserver.Start(context.Background(), c)
	ts.Check(err)
	ts.Setenv("OPENAI_BASE_URL", s.model.URL())
}

func cmdCalls(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: calls N")
	}
	if got := strconv.Itoa(len(of(ts).model.Calls())); got != args[0] {
		ts.Fatalf("the model server was called %s times, want %s", got, args[0])
	}
}

func cmdWebServer(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: webserver DIR")
	}
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir(ts.MkAbs(args[0]))))
	mux.HandleFunc("/weather", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, `{"city": %q, "weather": "sunny"}`, r.URL.Query().Get("city"))
	})
	mux.HandleFunc("/page", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, "<!doctype html><html><body>A page.</body></html>")
	})
	s := of(ts)
	s.web = httptest.NewServer(mux)
	ts.Setenv("URL", s.web.URL)
}

func cmdEmpty(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: empty DIR")
	}
	found, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(found) > 0 {
		ts.Fatalf("%s holds %v", args[0], found)
	}
}

// interruptible prepares ark for a test that signals it.
func interruptible(ctx context.Context, ts *testscript.TestScript, args []string) *process {
	p := command(ctx, of(ts).ark, []string{"OPENAI_BASE_URL=" + of(ts).model.URL()}, args...)
	p.Dir = ts.MkAbs(".")
	return p
}

func cmdInterrupt(ts *testscript.TestScript, neg bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), hangs)
	defer cancel()
	p := interruptible(ctx, ts, args)
	ts.Check(p.Start())
	if _, err := of(ts).model.WaitIn(ctx, 1); err != nil {
		_ = p.Process.Kill()
		ts.Fatalf("ark never called the model: %v", err)
	}
	ts.Check(p.Process.Signal(os.Interrupt))
	err := p.Wait()
	_, _ = fmt.Fprint(ts.Stdout(), steady(p.out.String()))
	_, _ = fmt.Fprint(ts.Stderr(), steady(p.err.String()))
	if code := exitStatus(err); code != 130 || neg {
		ts.Fatalf("ark exits with %d, want 130", code)
	}
}

func cmdInterruptTwice(ts *testscript.TestScript, neg bool, args []string) {
	ctx, cancel := context.WithTimeout(context.Background(), hangs)
	defer cancel()
	p := interruptible(ctx, ts, args)
	unread, err := p.stall()
	ts.Check(err)
	defer func() { _ = unread.Close() }()
	if _, err := of(ts).model.WaitIn(ctx, 1); err != nil {
		_ = p.Process.Kill()
		ts.Fatalf("ark never called the model: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Wait() }()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	signals := 0
	for {
		select {
		case <-again.C:
			if p.Process.Signal(os.Interrupt) == nil {
				signals++
			}
		case err := <-done:
			// The shell says 130 of a process that died of SIGINT.
			if code := exitStatus(err); code != -int(syscall.SIGINT) || signals < 2 || neg {
				ts.Fatalf("ark exits with %d after %d signals, want to see it die of the second", code, signals)
			}
			return
		}
	}
}

// stall starts a process whose stderr nobody reads: it can write until the pipe is full, and no more.
func (p *process) stall() (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer func() { _ = w.Close() }()
	if err := w.SetWriteDeadline(time.Time{}); err == nil {
		_ = w.SetWriteDeadline(time.Now().Add(time.Second))
	}
	fill := bytes.Repeat([]byte{'.'}, 1<<20)
	_, _ = w.Write(fill) // fills the pipe, then runs into the deadline
	p.Stderr = w
	return r, p.Start()
}
