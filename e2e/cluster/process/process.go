// Package process runs the long-lived programs of a test cluster: each writes to a log file of its own, and none
// outlives the process that started it.
package process

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// lifelineVariable is what e2e/cluster/kube looks for.
const lifelineVariable = "ARK_E2E_LIFELINE"

// A Process is a started program. Its methods may be called from several goroutines.
type Process struct {
	name     string
	log      string
	cmd      *exec.Cmd
	lifeline *os.File
	done     chan struct{}
	err      error // why it ended; set before done is closed
}

// Start starts cmd with its output appended to the file log. The program inherits one end of a pipe, its lifeline,
// which a program of e2e/cluster/kube ends with; others need another tie to their starter.
func Start(name string, cmd *exec.Cmd, log string) (*Process, error) {
	output, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer output.Close()
	theirs, ours, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	defer theirs.Close()
	cmd.Stdout, cmd.Stderr = output, output
	cmd.ExtraFiles = append(cmd.ExtraFiles, theirs)
	if cmd.Env == nil {
		cmd.Env = os.Environ()
	}
	cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", lifelineVariable, 2+len(cmd.ExtraFiles)))
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &Process{name: name, log: log, cmd: cmd, lifeline: ours, done: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		ours.Close()
		close(p.done)
	}()
	return p, nil
}

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// PID returns the process' id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Kill ends the process with SIGKILL and returns when it is gone. A process that has ended is no error.
func (p *Process) Kill() error { return p.signal(syscall.SIGKILL) }

// Stop ends the process with SIGTERM and returns when it is gone, however long that takes.
func (p *Process) Stop() error { return p.signal(syscall.SIGTERM) }

func (p *Process) signal(signal os.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s: %w", p.name, err)
	}
	<-p.done
	return nil
}

// Err says why a process ended, with the last lines that it logged; nil while it runs.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s ended: %w; the last of %s:\n%s", p.name, p.err, p.log, Tail(p.log, 10))
	default:
		return nil
	}
}

// Tail returns the last lines of a file, or why it cannot be read.
func Tail(file string, lines int) string {
	text, err := os.ReadFile(file)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
