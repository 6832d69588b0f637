package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// mountAll gives the cluster its own view of /proc and of the control groups, and a folder "state" in memory, which the
// nodes share.
func mountAll(o options) error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep mounts apart: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := mountGroups(); err != nil {
		return err
	}
	state := filepath.Join(o.dir, "state")
	if err := os.MkdirAll(state, 0o755); err != nil {
		return err
	}
	if err := syscall.Mount("tmpfs", state, "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount %s: %w", state, err)
	}
	return nil
}

// cover mounts an empty file system in memory over each folder. Files and folders to keep stay where they are, even
// below those.
func cover(folders, keep []string) error {
	for _, folder := range folders {
		if err := coverOne(folder, keep); err != nil {
			return fmt.Errorf("mount an empty %s: %w", folder, err)
		}
	}
	return nil
}

func coverOne(folder string, keep []string) error {
	kept := map[string]int{}
	for _, path := range keep {
		if !strings.HasPrefix(path, folder+"/") {
			continue
		}
		fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		defer unix.Close(fd)
		kept[path] = fd
	}
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	for path, fd := range kept {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		if err := syscall.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), path, "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}
