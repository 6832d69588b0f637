package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
)

// listenerFD is where init and control find the socket at which the API server is reached from outside.
const listenerFD = 3

// guard holds the cluster until it is told to end it: by SIGTERM, by SIGINT, or by the end of standard input, which is a
// pipe that the caller holds. It keeps a lock on the file "lock" in the cluster's folder, with its process id in it.
func guard(ctx context.Context, o options) error {
	unlock, err := takeLock(filepath.Join(o.dir, "lock"))
	if err != nil {
		return err
	}
	defer unlock()
	defer os.RemoveAll(filepath.Join(o.dir, "state"))
	listener, err := listen(ctx)
	if err != nil {
		return fmt.Errorf("listen for clients of the API server: %w", err)
	}
	defer listener.Close()
	if err := sweep(); err != nil {
		return err
	}
	group, err := enterGroup(fmt.Sprintf("%s%d", groupPrefix, os.Getpid()))
	defer group.remove(ctx)
	if err != nil {
		return errors.Join(err, group.leave())
	}

	runtime.LockOSThread() // Pdeathsig is of this thread
	next := o.stage("init")
	next.Stdout = os.Stdout
	next.ExtraFiles = []*os.File{listener}
	next.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWCGROUP,
		Pdeathsig:  syscall.SIGKILL,
	}
	proceed, err := next.StdinPipe()
	if err != nil {
		return err
	}
	err = next.Start()
	if err := errors.Join(err, group.leave()); err != nil {
		return fmt.Errorf("make the cluster's namespaces: %w", err)
	}
	if err := proceed.Close(); err != nil { // the group is the cluster's alone now
		return err
	}
	os.Stdout.Close() // only control says when the cluster is ready, and the caller sees when it cannot any more
	listener.Close()
	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM, syscall.SIGINT)
	ended := make(chan error, 1)
	go func() { ended <- next.Wait() }()
	select {
	case err := <-ended:
		return fmt.Errorf("the cluster ended by itself: %w", err)
	case <-told:
	case <-o.callerGone():
	}
	if err := next.Process.Kill(); err != nil {
		return fmt.Errorf("end the cluster: %w", err)
	}
	<-ended
	return nil
}

// callerGone is closed when standard input ends, unless the cluster is to outlive its caller.
func (o options) callerGone() <-chan struct{} {
	gone := make(chan struct{})
	if !o.detached {
		go func() {
			_, _ = io.Copy(io.Discard, os.Stdin)
			close(gone)
		}()
	}
	return gone
}

func takeLock(path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: a cluster runs there: %w", path, err)
	}
	if err := file.Truncate(0); err != nil {
		file.Close()
		return nil, err
	}
	if _, err := fmt.Fprintln(file, os.Getpid()); err != nil {
		file.Close()
		return nil, err
	}
	return func() {
		os.Remove(path)
		file.Close()
	}, nil
}

// listen makes a socket on the loopback address of the caller's network. It stays in that network wherever it is used.
func listen(ctx context.Context) (*os.File, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer listener.Close()
	return listener.(*net.TCPListener).File()
}
