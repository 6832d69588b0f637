package mcp_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCloseEndsProcessesAndWhatTheyStarted(t *testing.T) {
	t.Parallel()
	for name, variable := range map[string]string{"the process goes": "X=", "the process stays": "FAMILY_STAYS=1"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "family")
			config := stdioConfig(t, "family")
			config.Env = append(config.Env, "FAMILY_FILE="+file, "PATH="+os.Getenv("PATH"), variable)
			c := connect(t, config)
			require.Equal(t, ok("echo 1"), c.call("s__echo", "1"))
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			var parent, child int
			_, err = fmt.Sscan(string(content), &parent, &child)
			require.NoError(t, err)
			c.Close()
			require.ErrorIs(t, syscall.Kill(parent, 0), syscall.ESRCH)
			require.Eventually(t, func() bool { return dead(child) }, time.Minute, 10*time.Millisecond)
		})
	}
}

// dead says whether a process is gone, or was killed and waits for whoever inherits it.
func dead(pid int) bool {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return errors.Is(err, os.ErrNotExist) || strings.Contains(string(status), ") Z ")
}
