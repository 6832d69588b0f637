package queue

import (
	"fmt"
	"os"
	"strconv"
	"strings"
)

// writePID leaves a word for whoever finds the folder locked.
func writePID(f *os.File) error {
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("write lock file: %w", err)
	}
	if _, err := f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0); err != nil {
		return fmt.Errorf("write lock file: %w", err)
	}
	return nil
}

// holder reads the pid that the holder wrote, 0 if it has not yet.
func holder(f *os.File) int {
	var b [32]byte
	n, _ := f.ReadAt(b[:], 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return 0
	}
	return pid
}

// release is fine on a nil lock. The file stays: removing it would let two processes lock two files of one name.
func (l *dirLock) release() {
	if l != nil {
		l.file.Close()
	}
}
