package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	natsserver "github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/work"
)

// idleTime is how long a process is left alone before its memory is looked at, readyLimit how long it may take to start.
const (
	idleTime   = 3 * time.Second
	readyLimit = time.Minute
)

// idle is a process that has nothing to do: how long it took to be ready, and what it holds, in KiB. Anonymous memory is
// its own; the pages of files are those of its executable, which the pods of a node share and the kernel may drop.
type idle struct {
	took                 time.Duration
	anon, file, resident int64
}

// measureIdle compares `ark runtime` with a bare process that has the same libraries and a connection.
func measureIdle(w io.Writer, ark string, runs int) error {
	dir, err := os.MkdirTemp("", "ark-bench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	bare := filepath.Join(dir, "bare")
	if out, err := exec.Command("go", "build", "-ldflags", "-s -w", "-o", bare, "./e2e/bench/bare").CombinedOutput(); err != nil {
		return fmt.Errorf("build the reference: %w: %s", err, out)
	}
	url, stop, err := serve(dir)
	if err != nil {
		return err
	}
	defer stop()
	cases := []struct {
		name  string
		start func() (idle, error)
		all   []idle
	}{
		{name: "bare process, same libraries, connected (reference)", start: func() (idle, error) { return startBare(bare, url) }},
		{name: "ark runtime, idle", start: func() (idle, error) { return startRuntime(ark, url) }},
	}
	for i := range runs + 1 { // in turns; the first round warms up
		for c := range cases {
			one, err := cases[c].start()
			if err != nil {
				return err
			}
			if i > 0 {
				cases[c].all = append(cases[c].all, one)
			}
		}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "idle process, %d runs each\tready p50\tmax\town memory\tpages of the executable\tresident\n", runs)
	for _, c := range cases {
		var took []sample
		var worst idle
		for _, one := range c.all {
			took = append(took, sample{took: one.took})
			worst.anon, worst.file, worst.resident = max(worst.anon, one.anon), max(worst.file, one.file), max(worst.resident, one.resident)
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%.1f MiB\t%.1f MiB\t%.1f MiB\n", c.name, median(took).Round(time.Millisecond/10),
			longest(took).Round(time.Millisecond/10), mib(worst.anon), mib(worst.file), mib(worst.resident))
	}
	return t.Flush()
}

func mib(kib int64) float64 { return float64(kib) / 1024 }

// serve runs a NATS server and the work service.
func serve(dir string) (url string, stop func(), err error) {
	quiet := slog.New(slog.DiscardHandler)
	s, err := natsserver.NewServer(&natsserver.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true})
	if err != nil {
		return "", nil, err
	}
	go s.Start()
	if !s.ReadyForConnections(readyLimit) {
		return "", nil, errors.New("the NATS server did not start")
	}
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		return "", nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	stop = func() { cancel(); nc.Close(); s.Shutdown() }
	q, err := queue.Open(ctx, nc, queue.Config{Storage: jetstream.MemoryStorage, Logger: quiet})
	if err == nil {
		var service *work.Service
		if service, err = work.NewService(q, nc, work.Config{Logger: quiet}); err == nil {
			go func() { _ = service.Run(ctx) }()
			err = service.Ready(ctx)
		}
	}
	if err != nil {
		stop()
		return "", nil, err
	}
	return s.ClientURL(), stop, nil
}

// startBare returns when the process says that it is connected.
func startBare(path, url string) (idle, error) {
	cmd := exec.Command(path, url)
	in, err := cmd.StdinPipe()
	if err != nil {
		return idle{}, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return idle{}, err
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return idle{}, err
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		return idle{}, errors.Join(fmt.Errorf("the reference: %w", err), cmd.Wait())
	}
	one, err := rest(cmd.Process.Pid, time.Since(began))
	return one, errors.Join(err, in.Close(), cmd.Wait())
}

// startRuntime returns when the process says that it is ready.
func startRuntime(path, url string) (idle, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return idle{}, err
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		return idle{}, err
	}
	cmd := exec.Command(path, "runtime", "--listen", address)
	cmd.Env = []string{"AGENT_NAME=idle", "AGENT_NAMESPACE=default", "POD_NAME=idle-0", "MODEL=mock", "NATS_URL=" + url}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		return idle{}, err
	}
	one, err := func() (idle, error) {
		for time.Since(began) < readyLimit {
			resp, err := http.Get("http://" + address + "/readyz")
			if err == nil {
				_ = resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					return rest(cmd.Process.Pid, time.Since(began))
				}
			}
			time.Sleep(time.Millisecond)
		}
		return idle{}, errors.New("ark runtime was not ready within " + readyLimit.String())
	}()
	return one, errors.Join(err, cmd.Process.Signal(syscall.SIGTERM), cmd.Wait())
}

// rest leaves a process alone and reads what it holds then.
func rest(pid int, took time.Duration) (idle, error) {
	time.Sleep(idleTime)
	one := idle{took: took}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return one, fmt.Errorf("this measurement needs Linux: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		to := map[string]*int64{"RssAnon:": &one.anon, "RssFile:": &one.file, "VmRSS:": &one.resident}[strings.Join(fields[:min(1, len(fields))], "")]
		if to == nil {
			continue
		}
		if *to, err = strconv.ParseInt(fields[1], 10, 64); err != nil {
			return one, err
		}
	}
	return one, nil
}
