package build

import (
	"context"
	"os"
	"syscall"
)

// lock waits for an exclusive lock on a file, which it makes. The lock ends with the process, if not before.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	file, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	locked := make(chan error, 1)
	go func() { locked <- syscall.Flock(int(file.Fd()), syscall.LOCK_EX) }()
	select {
	case err := <-locked:
		if err != nil {
			file.Close()
			return nil, err
		}
		return func() { file.Close() }, nil
	case <-ctx.Done(): // the goroutine gets the lock one day, and gives it back
		go func() {
			<-locked
			file.Close()
		}()
		return nil, ctx.Err()
	}
}
