package queue

import (
	"errors"
	"fmt"

	"golang.org/x/sys/windows"
)

// dirLock holds a folder for this process. The system lets go of it when the process dies, however it dies.
type dirLock struct{ handle windows.Handle }

// The lock covers one byte far behind the pid, so that others can read that.
const lockOffset = 1 << 20

func lockDir(dir string) (*dirLock, error) {
	h, err := windows.Open(lockFile(dir), windows.O_RDWR|windows.O_CREAT|windows.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock file %s: %w", lockFile(dir), err)
	}
	l := &dirLock{handle: h}
	if err := l.take(dir); err != nil {
		l.release()
		return nil, err
	}
	return l, nil
}

func (l *dirLock) take(dir string) error {
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	err := windows.LockFileEx(l.handle, flags, 0, 1, 0, &windows.Overlapped{Offset: lockOffset})
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
		return &LockedError{Dir: dir, PID: holder(dir)}
	}
	if err == nil {
		err = windows.Ftruncate(l.handle, 0)
	}
	if err == nil {
		_, err = windows.Write(l.handle, lockWord())
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", lockFile(dir), err)
	}
	return nil
}

// release is fine on a nil lock. The file stays: removing it would let two processes lock two files of one name.
func (l *dirLock) release() {
	if l != nil {
		_ = windows.CloseHandle(l.handle)
	}
}
