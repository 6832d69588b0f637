package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is one that was started here.
type process struct {
	cmd  *exec.Cmd
	log  string
	done chan struct{}
}

func (p *process) kill() {
	if p != nil {
		_ = p.cmd.Process.Kill()
		<-p.done
	}
}

// stop asks it to end.
func (p *process) stop() error {
	err := p.cmd.Process.Signal(syscall.SIGTERM)
	<-p.done
	return err
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// failed adds to an error what the process said last.
func (p *process) failed(err error) error {
	if err == nil {
		return nil
	}
	said, _ := os.ReadFile(p.log)
	const most = 2000
	return fmt.Errorf("%w; %s said: %s", err, filepath.Base(p.cmd.Path), said[max(0, len(said)-most):])
}

// memory is what a process holds, in bytes: now, the most since peakFrom, and of the former what is its own (the rest is pages of the
// executable).
type memory struct{ resident, peak, own int64 }

func (p *process) memory() (memory, error) {
	var m memory
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return m, fmt.Errorf("this measurement needs Linux: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		to := map[string]*int64{"VmRSS": &m.resident, "VmHWM": &m.peak, "RssAnon": &m.own}[name]
		if to == nil {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return m, err
		}
		*to = kib << 10
	}
	return m, nil
}

// peakFromNow forgets the most that a process has held.
func (p *process) peakFromNow() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", p.cmd.Process.Pid), []byte("5"), 0o200)
}

// cpu is the processor time that has been used by this process and by those that it has started, by what they are.
type cpu struct{ operator, agents, api, bench time.Duration }

func (c cpu) minus(o cpu) cpu {
	return cpu{c.operator - o.operator, c.agents - o.agents, c.api - o.api, c.bench - o.bench}
}

// cpu reads the processor times. All children that are not ark's are the API server's.
func (w *world) cpu() (cpu, error) {
	var c cpu
	self := os.Getpid()
	known := map[int]*time.Duration{self: &c.bench}
	if w.operator != nil {
		known[w.operator.cmd.Process.Pid] = &c.operator
	}
	for _, a := range w.agents {
		known[a.cmd.Process.Pid] = &c.agents
	}
	all, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil || len(all) == 0 {
		return c, errors.Join(err, errors.New("this measurement needs Linux"))
	}
	for _, path := range all {
		pid, parent, took, ok := readStat(path)
		if !ok {
			continue // it has ended
		}
		to := known[pid]
		if to == nil && parent == self {
			to = &c.api
		}
		if to != nil {
			*to += took
		}
	}
	return c, nil
}

// tick is the unit of processor times in /proc: 100 per second on every Linux.
const tick = time.Second / 100

func readStat(path string) (pid, parent int, took time.Duration, ok bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, 0, 0, false
	}
	end := bytes.LastIndexByte(text, ')') // the name before it may hold anything
	const parentAt, userAt, systemAt = 1, 11, 12
	fields := strings.Fields(string(text[end+1:]))
	if len(fields) <= systemAt {
		return 0, 0, 0, false
	}
	pid, err1 := strconv.Atoi(filepath.Base(filepath.Dir(path)))
	parent, err2 := strconv.Atoi(fields[parentAt])
	user, err3 := strconv.ParseInt(fields[userAt], 10, 64)
	system, err4 := strconv.ParseInt(fields[systemAt], 10, 64)
	return pid, parent, time.Duration(user+system) * tick, errors.Join(err1, err2, err3, err4) == nil
}
