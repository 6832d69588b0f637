package queue_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/task"
)

// diskDir tells a copy of the test binary to fill a small disk of its own, mounted at this folder.
const diskDir = "ARK_QUEUE_TEST_DISK_DIR"

const smallDisk = 24 << 20

func systemRoles() map[string]func(ctx context.Context, dir string) error {
	return map[string]func(ctx context.Context, dir string) error{diskDir: fillDisk}
}

func TestFullDiskIsAnErrorAndTheQueueComesBack(t *testing.T) {
	t.Parallel()
	exe, err := os.Executable()
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, exe)
	cmd.Env = append(os.Environ(), diskDir+"="+t.TempDir())
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Skipf("this system gives no mount namespace to a test, so that it has no small disk to fill: %v", err)
	}
	var said []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		said = append(said, lines.Text())
	}
	err = cmd.Wait()
	if len(said) > 0 && said[0] == "no mount" {
		t.Skip("this system lets a test mount nothing, so that it has no small disk to fill")
	}
	require.NoError(t, err)
	require.Equal(t, []string{"stored", "refused", "stored again", "nothing lost"}, said)
}

// fillDisk is the process of TestFullDiskIsAnErrorAndTheQueueComesBack.
func fillDisk(ctx context.Context, dir string) error {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprint("size=", smallDisk)); err != nil {
		say("no mount")
		return nil
	}
	s, err := queue.StartServer(ctx, queue.ServerConfig{StoreDir: filepath.Join(dir, "store"), SyncAlways: true, Logger: quiet()})
	if err != nil {
		return err
	}
	defer s.Shutdown()
	nc, err := s.Connect("child")
	if err != nil {
		return err
	}
	q, err := queue.Open(ctx, nc, queue.Config{Logger: quiet()})
	if err != nil {
		return err
	}
	publish := func(n int) error {
		x := newTask(n)
		r := newResult(x, string(make([]byte, 30<<10)))
		_, err := q.PublishResult(ctx, queue.KeyOf(x), r)
		return err
	}
	if err := publish(0); err != nil {
		return err
	}
	say("stored")
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, smallDisk*3/4), 0o600); err != nil {
		return err
	}
	n, err := 0, error(nil)
	for err == nil && n < smallDisk/(30<<10) {
		n++
		err = publish(n)
	}
	if err == nil {
		return errors.New("the disk never was full")
	}
	say("refused")
	if err := os.Remove(filler); err != nil {
		return err
	}
	return comeBack(ctx, q, n, publish)
}

// comeBack publishes the result n until it is stored, and reads all before it.
func comeBack(ctx context.Context, q *queue.Queue, n int, publish func(int) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for err := publish(n); err != nil; err = publish(n) {
		if ctx.Err() != nil {
			return err
		}
	}
	say("stored again")
	for i := range n + 1 {
		r, err := q.Result(ctx, queue.KeyOf(newTask(i)))
		if err != nil {
			return err
		}
		if r.Status != task.Succeeded || len(r.Output.Inline) != 30<<10 {
			return fmt.Errorf("result %d is damaged: %s, %d bytes", i, r.Status, len(r.Output.Inline))
		}
	}
	say("nothing lost")
	return nil
}
