package queue

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// The lock is held through a bare descriptor: an os.File would close itself, and let go of the lock, as soon as
// nothing refers to the Server any more, while the server runs on.

func lockFile(dir string) string { return filepath.Join(dir, "ark.lock") }

// lockWord is what the holder leaves for whoever finds the folder locked.
func lockWord() []byte { return []byte(strconv.Itoa(os.Getpid()) + "\n") }

// holder reads the pid that the holder wrote, 0 if it has not yet.
func holder(dir string) int {
	b, err := os.ReadFile(lockFile(dir))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0
	}
	return pid
}
