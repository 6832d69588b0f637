package cluster

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"testing"
)

// Need skips a test where nodes cannot run, and says why. Where CI=true and the user is root, they have to: it fails.
func Need(t testing.TB) {
	t.Helper()
	err := Usable()
	if err != nil && os.Getenv("CI") == "true" && os.Geteuid() == 0 {
		t.Fatalf("no cluster with nodes: %v", err)
	}
	if err != nil {
		t.Skipf("no cluster with nodes: %v", err)
	}
}

// Start starts a cluster that ends with the test. When the test failed, its logs are kept and named. Where nodes cannot
// run, it does what Need does, unless KUBECONFIG names a cluster.
func Start(t testing.TB, config Config) *Cluster {
	t.Helper()
	if os.Getenv("KUBECONFIG") == "" {
		Need(t)
	}
	c, err := Launch(t.Context(), config, t.Output())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		finish := c.Close
		if t.Failed() && c.dir != "" {
			t.Log("logs of the cluster are kept in ", c.Logs())
			finish = c.end
		}
		if err := finish(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// The capabilities without which there are no namespaces, mounts and links, by their numbers in Linux.
const (
	netAdmin = 12
	sysAdmin = 21
)

// Usable says why nodes cannot run on this machine, or nil. What only a build needs, it does not look for.
func Usable() error {
	if runtime.GOOS != "linux" {
		return fmt.Errorf("nodes need Linux, and this is %s", runtime.GOOS)
	}
	if os.Geteuid() != 0 {
		return errors.New("nodes need root")
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return err
	}
	_, text, _ := strings.Cut(string(status), "CapEff:")
	text, _, _ = strings.Cut(text, "\n")
	effective, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
	if err != nil {
		return fmt.Errorf("read this process' capabilities: %w", err)
	}
	if wanted := uint64(1<<netAdmin | 1<<sysAdmin); effective&wanted != wanted {
		return errors.New("nodes need the capabilities SYS_ADMIN and NET_ADMIN; in a container, run it privileged")
	}
	for program, holder := range map[string]string{"ip": "iproute2", "nft": "nftables", "mount": "mount"} {
		if _, err := exec.LookPath(program); err != nil {
			return fmt.Errorf("nodes need %s: install %s", program, holder)
		}
	}
	return nil
}
