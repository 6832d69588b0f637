// Package cluster gives tests, and people, a Kubernetes cluster with nodes that run containers: etcd, the control plane,
// and for each node containerd, kubelet and kube-proxy, with a DNS server, volumes and images from archives. It is built
// from Go modules (package build), runs in namespaces of its own (command host) and is up in some ten seconds.
//
//	c := cluster.Start(t, cluster.Config{Images: []string{archive}})
//	client, err := kubernetes.NewForConfig(c.REST())
//
// It needs Linux, root and the programs ip and nft. Several clusters run beside each other: what the caller's network
// sees of one is a loopback port of the API server. However the caller ends, nothing of its cluster stays.
//
// What differs from a cluster that people run: NetworkPolicies are accepted and not enforced; a volume is a folder that
// all nodes share; a silent node counts as lost after 40 seconds; nothing is pulled, so a container's image is one that
// was loaded, with a tag other than "latest" or with imagePullPolicy IfNotPresent.
package cluster

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"arkonis.dev/ark/e2e/cluster/build"
	"arkonis.dev/ark/e2e/cluster/controlplane"
	"arkonis.dev/ark/e2e/cluster/process"
)

// Config says what a cluster is to have.
type Config struct {
	Nodes  int      // 0 is 2
	Images []string // archives of images (package image makes them) that every node gets
}

// ErrGiven is why some things cannot be done with a cluster that KUBECONFIG names.
var ErrGiven = errors.New("the cluster is the one that KUBECONFIG names: unset it to get one of the test's own")

// A Cluster is a running cluster. Its methods may be called from several goroutines.
type Cluster struct {
	dir        string // "" for one that KUBECONFIG names
	kubeconfig string
	kubectl    string
	rest       *rest.Config
	nodes      []string

	guard    *exec.Cmd
	lifeline *os.File // the cluster ends when it is closed
	ending   sync.Once
	ended    error // what came of it
}

// Launch starts a cluster that ends with Close, or with this process, however that ends. Progress of a build goes to
// log. Where KUBECONFIG is set, it starts none and returns the cluster that is named there; its images are taken to be
// there.
func Launch(ctx context.Context, config Config, log io.Writer) (_ *Cluster, err error) {
	if path := os.Getenv("KUBECONFIG"); path != "" {
		return given(ctx, path, log)
	}
	dir, err := os.MkdirTemp("", "ark-e2e-")
	if err != nil {
		return nil, err
	}
	return launch(ctx, dir, config, false, log)
}

func launch(ctx context.Context, dir string, config Config, detached bool, log io.Writer) (_ *Cluster, err error) {
	if config.Nodes == 0 {
		config.Nodes = 2
	}
	if len(dir) > controlplane.LongestDir {
		return nil, fmt.Errorf("start a cluster: the path %s is too long for the Unix sockets in it; choose a folder, or with TMPDIR one for tests, of at most %d bytes", dir, controlplane.LongestDir)
	}
	c := &Cluster{dir: dir, kubeconfig: filepath.Join(dir, "kubeconfig")}
	for i := range config.Nodes {
		c.nodes = append(c.nodes, fmt.Sprintf("node%d", i+1))
	}
	if err := os.MkdirAll(c.Logs(), 0o755); err != nil {
		return nil, err
	}
	if err := c.start(ctx, config, detached, log); err != nil {
		return nil, fmt.Errorf("start a cluster: %w", err)
	}
	if c.rest, err = clientcmd.BuildConfigFromFlags("", c.kubeconfig); err != nil {
		return nil, errors.Join(err, c.end())
	}
	c.rest.QPS = -1
	return c, nil
}

// start builds what is missing, starts the guard and waits until it says that the cluster is ready.
func (c *Cluster) start(ctx context.Context, config Config, detached bool, log io.Writer) error {
	kube, err := build.Kube(ctx, log)
	if err != nil {
		return err
	}
	c.kubectl = filepath.Join(kube, "kubectl")
	node, err := build.Node(ctx, log)
	if err != nil {
		return err
	}
	host, err := build.Host(ctx, log)
	if err != nil {
		return err
	}
	args := []string{
		"guard", "-dir=" + c.dir, "-kube=" + kube, "-node=" + node, "-pause=" + build.PauseImage,
		fmt.Sprintf("-nodes=%d", config.Nodes), fmt.Sprintf("-detached=%t", detached),
	}
	for _, archive := range config.Images {
		path, err := filepath.Abs(archive)
		if err != nil {
			return err
		}
		args = append(args, "-image="+path)
	}
	said, err := os.OpenFile(c.hostLog(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer said.Close()
	c.guard = exec.Command(host, args...)
	c.guard.Stderr = said
	c.guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a terminal's ^C is the caller's to handle
	ready, err := c.guard.StdoutPipe()
	if err != nil {
		return err
	}
	if err := c.holdGuard(detached); err != nil {
		return err
	}
	return c.awaitReady(ctx, ready)
}

// holdGuard starts the guard with a pipe as its standard input, whose other end is in this process alone.
func (c *Cluster) holdGuard(detached bool) error {
	if detached {
		return c.guard.Start()
	}
	theirs, ours, err := os.Pipe()
	if err != nil {
		return err
	}
	defer theirs.Close()
	c.guard.Stdin = theirs
	if err := c.guard.Start(); err != nil {
		return errors.Join(err, ours.Close())
	}
	c.lifeline = ours
	return nil
}

func (c *Cluster) awaitReady(ctx context.Context, guard io.Reader) error {
	said := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(guard).ReadString('\n')
		said <- line
	}()
	var cause error
	select {
	case line := <-said:
		if line == "ready\n" {
			return nil
		}
		cause = errors.New("it ended before it was ready")
	case <-ctx.Done():
		cause = ctx.Err()
	}
	return errors.Join(fmt.Errorf("%w; logs are in %s; the last of %s:\n%s", cause, c.Logs(), filepath.Base(c.hostLog()), process.Tail(c.hostLog(), 8)), c.end())
}

// end ends the cluster and returns when nothing of it runs.
func (c *Cluster) end() error {
	if c.guard == nil {
		return nil
	}
	c.ending.Do(func() {
		if c.lifeline != nil {
			_ = c.lifeline.Close()
		} else {
			_ = c.guard.Process.Signal(syscall.SIGTERM)
		}
		if err := c.guard.Wait(); err != nil {
			c.ended = fmt.Errorf("end the cluster: %w: %s", err, process.Tail(c.hostLog(), 3))
		}
	})
	return c.ended
}

// Close ends the cluster and removes what it wrote, logs included; a second Close does nothing. A cluster that
// KUBECONFIG names it leaves alone.
func (c *Cluster) Close() error {
	if c.dir == "" {
		return nil
	}
	return errors.Join(c.end(), os.RemoveAll(c.dir))
}

// REST returns a client configuration that may do everything and is not throttled.
func (c *Cluster) REST() *rest.Config { return rest.CopyConfig(c.rest) }

// Kubeconfig returns the path of a kubeconfig that may do everything.
func (c *Cluster) Kubeconfig() string { return c.kubeconfig }

// Kubectl returns the path of kubectl, or its name where KUBECONFIG is set.
func (c *Cluster) Kubectl() string { return c.kubectl }

// Nodes returns the nodes' names.
func (c *Cluster) Nodes() []string { return c.nodes }

// Logs returns the folder with a log file for each process, and the containers' logs by node; "" for a cluster that
// KUBECONFIG names.
func (c *Cluster) Logs() string {
	if c.dir == "" {
		return ""
	}
	return filepath.Join(c.dir, "logs")
}

// AuditLog returns the path of the API server's audit log, which apiserver.ReadAudit reads; "" for a cluster that
// KUBECONFIG names.
func (c *Cluster) AuditLog() string {
	if c.dir == "" {
		return ""
	}
	return filepath.Join(c.Logs(), "audit.log")
}

func (c *Cluster) hostLog() string { return filepath.Join(c.Logs(), "host.log") }

// index returns the number by which the host knows a node.
func (c *Cluster) index(node string) (int, error) {
	for i, name := range c.nodes {
		if name == node {
			return i + 1, nil
		}
	}
	return 0, fmt.Errorf("the cluster has no node %q, only %s", node, strings.Join(c.nodes, ", "))
}
