//go:build unix

package queue

import (
	"errors"
	"fmt"
	"syscall"
)

// dirLock holds a folder for this process. The system lets go of it when the process dies, however it dies.
type dirLock struct{ fd int }

func lockDir(dir string) (*dirLock, error) {
	fd, err := syscall.Open(lockFile(dir), syscall.O_RDWR|syscall.O_CREAT|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file %s: %w", lockFile(dir), err)
	}
	l := &dirLock{fd: fd}
	if err := l.take(dir); err != nil {
		l.release()
		return nil, err
	}
	return l, nil
}

func (l *dirLock) take(dir string) error {
	err := syscall.Flock(l.fd, syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return &LockedError{Dir: dir, PID: holder(dir)}
	}
	if err == nil {
		err = syscall.Ftruncate(l.fd, 0)
	}
	if err == nil {
		_, err = syscall.Write(l.fd, lockWord())
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", lockFile(dir), err)
	}
	return nil
}

// release is fine on a nil lock. The file stays: removing it would let two processes lock two files of one name.
func (l *dirLock) release() {
	if l != nil {
		_ = syscall.Close(l.fd)
	}
}
