package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"arkonis.dev/ark/e2e/cluster/build"
)

// Up starts a cluster that stays when this process ends, with its kubeconfig and logs in a folder. It returns when the
// cluster is ready. One that runs there already is left as it is.
func Up(ctx context.Context, dir string, config Config, log io.Writer) (kubeconfig string, err error) {
	kubeconfig = filepath.Join(dir, "kubeconfig")
	_, running, err := guardOf(dir)
	if err != nil {
		return "", err
	}
	if running {
		fmt.Fprintln(log, "a cluster runs there already")
		return kubeconfig, nil
	}
	if err := Usable(); err != nil {
		return "", fmt.Errorf("start a cluster: %w", err)
	}
	if err := remove(dir, "kubeconfig", "control", "lock", "logs", "state"); err != nil { // what an earlier one left
		return "", err
	}
	c, err := launch(ctx, dir, config, true, log)
	if err != nil {
		return "", err
	}
	return kubeconfig, c.guard.Process.Release()
}

// Down ends the cluster of a folder and returns when nothing of it runs. Its logs stay. That none runs is no error.
func Down(ctx context.Context, dir string, log io.Writer) error {
	pid, running, err := guardOf(dir)
	if err != nil {
		return err
	}
	if !running {
		fmt.Fprintln(log, "no cluster runs there")
		return errors.Join(sweep(ctx, dir, log), remove(dir, "kubeconfig", "control", "lock"))
	}
	lock, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("end the cluster: %w", err)
	}
	freed := make(chan error, 1)
	go func() { freed <- syscall.Flock(int(lock.Fd()), syscall.LOCK_EX) }() // the guard's until it ends
	select {
	case err := <-freed:
		return errors.Join(err, remove(dir, "kubeconfig", "control", "lock"))
	case <-ctx.Done():
		return ctx.Err()
	}
}

// sweep removes the control groups that a guard which was killed could not. Nothing else stays of its cluster.
func sweep(ctx context.Context, dir string, log io.Writer) error {
	if _, err := os.Stat(filepath.Join(dir, "lock")); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	host, err := build.Host(ctx, log)
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, host, "sweep").CombinedOutput(); err != nil {
		return fmt.Errorf("remove control groups that were left: %w: %s", err, out)
	}
	return nil
}

// guardOf returns the process id of the guard that holds a folder's lock, if one does.
func guardOf(dir string) (pid int, running bool, err error) {
	lock, err := os.Open(filepath.Join(dir, "lock"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer lock.Close()
	err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil { // its guard was killed
		return 0, false, nil
	}
	if !errors.Is(err, syscall.EWOULDBLOCK) {
		return 0, false, err
	}
	text, err := io.ReadAll(lock)
	if err != nil {
		return 0, false, err
	}
	pid, err = strconv.Atoi(strings.TrimSpace(string(text)))
	return pid, true, err
}

func remove(dir string, names ...string) error {
	for _, name := range names {
		if err := os.RemoveAll(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}
