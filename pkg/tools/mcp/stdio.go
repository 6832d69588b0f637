package mcp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// process is a child process that speaks the protocol over its stdin and stdout. It leads a group of its own, so that
// what it starts ends with it.
type process struct {
	cmd    *exec.Cmd
	stdin  *os.File
	stdout *os.File
	errors *tail
	ended  chan struct{} // closed when it was waited for
	err    error         // how it ended, after ended
	limit  int64
	life   *life

	mu    sync.Mutex
	meter meter
}

// How a process is ended: its stdin is closed, then it is asked, then it is killed.
const (
	exitGrace    = 2 * time.Second
	termGrace    = 2 * time.Second
	pipeGrace    = time.Second      // for grandchildren that hold its stderr
	writeTimeout = 10 * time.Second // of one message to a process that does not read
)

func startProcess(config Config, l *life) (*process, error) {
	p := &process{
		errors: &tail{}, ended: make(chan struct{}), limit: config.ResponseLimit, life: l,
		cmd: exec.Command(config.Command, config.Args...),
	}
	p.cmd.Env, p.cmd.Dir = config.Env, config.Dir
	if p.cmd.Env == nil {
		p.cmd.Env = []string{}
	}
	p.cmd.Stderr, p.cmd.WaitDelay = p.errors, pipeGrace
	ownGroup(p.cmd)
	if err := p.start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", config.Command, err)
	}
	go p.wait()
	return p, nil
}

func (p *process) start() (err error) {
	var childIn, childOut *os.File
	if childIn, p.stdin, err = os.Pipe(); err != nil {
		return err
	}
	if p.stdout, childOut, err = os.Pipe(); err != nil {
		return errors.Join(err, childIn.Close(), p.stdin.Close())
	}
	p.cmd.Stdin, p.cmd.Stdout = childIn, childOut
	err = p.cmd.Start()
	_ = childIn.Close()
	_ = childOut.Close()
	if err != nil {
		_ = p.stdin.Close()
		_ = p.stdout.Close()
	}
	return err
}

func (p *process) wait() {
	p.err = p.cmd.Wait()
	killGroup(p.cmd) // what it left behind
	p.life.end(p.ending())
	close(p.ended)
}

// ending says how the process ended, with the last thing that it complained of.
func (p *process) ending() error {
	how := "exit status 0"
	if p.err != nil {
		how = p.err.Error()
	}
	if last := p.errors.last(); last != "" {
		return fmt.Errorf("the process ended (%s): %s", how, last)
	}
	return fmt.Errorf("the process ended (%s)", how)
}

// Read reads what the process writes. A message that is too large ends the connection.
func (p *process) Read(b []byte) (int, error) {
	n, err := p.stdout.Read(b)
	p.mu.Lock()
	size := p.meter.addLines(b[:n])
	p.mu.Unlock()
	if size > p.limit {
		p.life.end(&sizeError{p.limit})
		_ = p.stdout.Close() // nobody will read the rest
		return 0, io.EOF     // other errors are logged by the library
	}
	if err != nil {
		select {
		case <-p.ended:
		case <-time.After(pipeGrace):
			p.life.end(errors.New("the process closed its stdout"))
		}
		err = io.EOF
	}
	return n, err
}

// Write writes to the process. One that does not read is given up, as half a message cannot be taken back.
func (p *process) Write(b []byte) (int, error) {
	if err := p.stdin.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return 0, err
	}
	n, err := p.stdin.Write(b)
	if err != nil {
		p.life.end(fmt.Errorf("the process does not read its stdin: %w", err))
	}
	return n, err
}

// Close closes the process's stdin, which asks it to end.
func (p *process) Close() error { return p.stdin.Close() }

// stop ends the process and waits for it.
func (p *process) stop() {
	_ = p.stdin.Close()
	if !p.within(exitGrace) {
		terminateGroup(p.cmd)
		if !p.within(termGrace) {
			killGroup(p.cmd)
			<-p.ended
		}
	}
	_ = p.stdout.Close()
}

func (p *process) within(grace time.Duration) bool {
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-p.ended:
		return true
	case <-timer.C:
		return false
	}
}

// addLines counts the bytes of a message that ends with a line.
func (m *meter) addLines(p []byte) (size int64) {
	var most int64
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 {
			m.size += int64(len(p))
			return max(most, m.size)
		}
		most = max(most, m.size+int64(i))
		m.size = 0
		p = p[i+1:]
	}
	return most
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailSize = 4 << 10

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b[max(0, len(b)-tailSize):]...)
	t.text = t.text[max(0, len(t.text)-tailSize):]
	return len(b), nil
}

// last is the last line that is not empty.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.text)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
