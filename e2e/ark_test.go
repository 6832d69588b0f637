package e2e

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/e2e/services"
)

var build = struct {
	sync.Once
	dir, path string
	err       error
}{}

func TestMain(m *testing.M) {
	code := m.Run()
	services.Stop()
	_ = os.RemoveAll(build.dir)
	os.Exit(code)
}

// arkBinary builds the command once for all tests.
func arkBinary(t *testing.T) string {
	t.Helper()
	build.Do(func() {
		if build.dir, build.err = os.MkdirTemp("", "ark-e2e-"); build.err != nil {
			return
		}
		build.path = filepath.Join(build.dir, "ark")
		cmd := exec.Command("go", "build", "-o", build.path, ".")
		cmd.Dir = ".."
		if out, err := cmd.CombinedOutput(); err != nil {
			build.err = errors.New(string(out))
		}
	})
	require.NoError(t, build.err)
	return build.path
}

// process is one run of the command.
type process struct {
	*exec.Cmd
	out, err bytes.Buffer
	spoke    chan struct{} // closed when it first wrote to stderr
}

// firstWrite closes a channel at the first write.
type firstWrite struct {
	io.Writer
	once sync.Once
	done chan struct{}
}

func (f *firstWrite) Write(b []byte) (int, error) {
	f.once.Do(func() { close(f.done) })
	return f.Writer.Write(b)
}

// command prepares ark with an environment that holds nothing of the machine's own settings.
func command(ctx context.Context, binary string, env []string, args ...string) *process {
	p := &process{Cmd: exec.CommandContext(ctx, binary, args...), spoke: make(chan struct{})}
	p.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.TempDir(), "TMPDIR=" + os.TempDir()}, env...)
	p.Stdout, p.Stderr = &p.out, &firstWrite{Writer: &p.err, done: p.spoke}
	return p
}

// exitCode runs the command to its end and returns its exit code.
func (p *process) exitCode() int { return exitStatus(p.Run()) }
