package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A cluster has one control group of its own in each hierarchy of the machine, named groupPrefix and its guard's
// process id. In the cluster's cgroup namespace that group is the root, so the nodes cannot touch what lies outside.
//
// With cgroup v1 it lies below the guard's own group. With v2 it lies below the topmost group that can be seen, since
// controllers cannot be handed down through a group that has processes. On a machine the topmost group may have some
// all the same; in a container it may not, and they are moved into a group below, "callers", where they stay.
const (
	groupPrefix = "ark-e2e-"
	groupRoot   = "/sys/fs/cgroup"
)

// A hierarchy is one mounted tree of control groups.
type hierarchy struct {
	dir     string // where it is mounted
	options string // of the mount: v1's controllers
	own     string // this process' group, from the mount's root
}

func unified() bool {
	_, err := os.Stat(groupRoot + "/cgroup.controllers")
	return err == nil
}

// hierarchies lists v2's one, or all of v1 that have controllers or a name.
func hierarchies() ([]hierarchy, error) {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return nil, err
	}
	var all []hierarchy
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3) // id, controllers, path
		if len(parts) < 3 {
			continue
		}
		switch v2 := parts[1] == ""; {
		case v2 && unified():
			all = append(all, hierarchy{dir: groupRoot, own: parts[2]})
		case !v2:
			all = append(all, hierarchy{dir: filepath.Join(groupRoot, strings.TrimPrefix(parts[1], "name=")), options: parts[1], own: parts[2]})
		}
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no control groups are mounted at %s", groupRoot)
	}
	return all, nil
}

// parent is the group that clusters' groups lie in.
func (h hierarchy) parent() string {
	if unified() {
		return h.dir
	}
	return filepath.Join(h.dir, h.own)
}

// groups is what enterGroup made.
type groups []struct{ made, before string }

// enterGroup moves this process into a new group in each hierarchy. What it made before it failed is returned too.
func enterGroup(name string) (made groups, err error) {
	if unified() {
		if err := handDown(groupRoot, "callers"); err != nil {
			return nil, err
		}
	}
	all, err := hierarchies()
	if err != nil {
		return nil, err
	}
	for _, h := range all {
		before, dir := filepath.Join(h.dir, h.own), filepath.Join(h.parent(), name)
		if err := makeGroup(h, dir); err != nil {
			return made, fmt.Errorf("make a control group: %w", err)
		}
		made = append(made, struct{ made, before string }{dir, before})
		if err := join(dir, os.Getpid()); err != nil {
			return made, fmt.Errorf("enter a control group: %w", err)
		}
	}
	return made, nil
}

func join(dir string, pid int) error {
	return os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
}

// makeGroup makes a group. With v1 a new group of the cpuset hierarchy has no processors and no memory, and takes no
// process, until it is given its parent's.
func makeGroup(h hierarchy, dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if !strings.Contains(h.options, "cpuset") {
		return nil
	}
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		value, err := os.ReadFile(filepath.Join(filepath.Dir(dir), name))
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), value, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// makeNodeGroup makes the group that a node's kubelet takes for its root: a kubelet ends the pods that it does not know
// of, so two of them share none.
func makeNodeGroup(name string) error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		if err := makeGroup(h, filepath.Join(h.dir, name)); err != nil && !errors.Is(err, os.ErrExist) {
			return err
		}
	}
	return nil
}

// leave moves this process back to where it was.
func (g groups) leave() error {
	for _, group := range g {
		if err := join(group.before, os.Getpid()); err != nil {
			return fmt.Errorf("leave a control group: %w", err)
		}
	}
	return nil
}

// remove removes the groups with all groups in them. The processes that were in them have ended; the kernel may need a
// moment to know.
func (g groups) remove(ctx context.Context) {
	for _, group := range g {
		for range 3000 {
			if removeGroup(group.made) == nil {
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
}

func removeGroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		if entry.IsDir() {
			_ = removeGroup(filepath.Join(dir, entry.Name()))
		}
	}
	return syscall.Rmdir(dir)
}

// sweep removes the groups of clusters whose guard was killed and could not. A group with a process cannot be removed.
func sweep() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range all {
		left, err := filepath.Glob(filepath.Join(h.parent(), groupPrefix+"*"))
		if err != nil {
			return err
		}
		for _, dir := range left {
			if !alive(strings.TrimPrefix(filepath.Base(dir), groupPrefix)) {
				_ = removeGroup(dir)
			}
		}
	}
	return nil
}

// alive reports whether a process runs. One that has ended and that nobody has asked about, does not.
func alive(pid string) bool {
	stat, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	_, state, _ := bytes.Cut(stat, []byte(") "))
	return err == nil && !bytes.HasPrefix(state, []byte("Z"))
}

// handDown lets the groups below a v2 group use all of its controllers. Where its processes are in the way, it moves
// them into a group below first.
func handDown(dir, below string) error {
	err := delegate(dir)
	if !errors.Is(err, syscall.EBUSY) {
		return err
	}
	if err := evacuate(dir, filepath.Join(dir, below)); err != nil {
		return fmt.Errorf("move processes out of the control group %s: %w", dir, err)
	}
	return delegate(dir)
}

func delegate(dir string) error {
	names, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return err
	}
	for name := range strings.FieldsSeq(string(names)) {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0o644); err != nil {
			return fmt.Errorf("hand the controller %s down from the control group %s: %w", name, dir, err)
		}
	}
	return nil
}

func evacuate(from, to string) error {
	if err := os.Mkdir(to, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	text, err := os.ReadFile(filepath.Join(from, "cgroup.procs"))
	if err != nil {
		return err
	}
	for word := range strings.FieldsSeq(string(text)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			return err
		}
		if err := join(to, pid); err != nil && !errors.Is(err, syscall.ESRCH) { // ended since
			return err
		}
	}
	return nil
}

// mountGroups mounts the hierarchies as the cluster's cgroup namespace has them.
func mountGroups() error {
	all, err := hierarchies()
	if err != nil {
		return err
	}
	if unified() {
		return mountUnified()
	}
	if err := syscall.Mount("tmpfs", groupRoot, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for _, h := range all {
		if err := os.MkdirAll(h.dir, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount("cgroup", h.dir, "cgroup", 0, h.options); err != nil {
			return fmt.Errorf("mount control groups %s: %w", h.options, err)
		}
	}
	return nil
}

func mountUnified() error {
	if err := syscall.Mount("cgroup2", groupRoot, "cgroup2", 0, ""); err != nil {
		return fmt.Errorf("mount control groups: %w", err)
	}
	return handDown(groupRoot, "cluster")
}
