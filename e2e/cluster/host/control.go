package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"arkonis.dev/ark/e2e/cluster/controlplane"
	"arkonis.dev/ark/e2e/cluster/pki"
	"arkonis.dev/ark/e2e/cluster/process"
)

// The cluster's network: a bridge with the control plane and the DNS server at hub, and a node at each further address.
const (
	hub        = "172.30.0.1"
	bridge     = "ark0"
	podNetwork = "10.244.0.0/16"
	apiPort    = 6443
)

// lost is how long a node may be silent. Nodes say every 5 s that they live: one of a busy machine is not taken for lost.
const lost = 40 * time.Second

// A cluster is the control stage's state.
type cluster struct {
	options
	plane  *controlplane.Plane
	client kubernetes.Interface

	mu    sync.Mutex
	alive map[int]running // by index
}

// running is a node's PID 1.
type running struct {
	process *os.Process
	ended   chan struct{} // closed when nothing of the node is left
}

// control runs the cluster until a part of it fails that nobody asked to fail. It says "ready" on standard output.
func control(ctx context.Context, o options) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := &cluster{options: o, alive: map[int]running{}}
	if err := o.makeBridge(ctx); err != nil {
		return err
	}
	if err := c.startPlane(ctx); err != nil {
		return err
	}
	slog.Info("the API server is ready")
	if err := c.startDNS(cancel); err != nil {
		return err
	}
	if err := c.writeKubeconfig(ctx); err != nil {
		return err
	}
	go func() { cancel(c.provision(ctx)) }()
	var nodes errgroup.Group
	for i := range o.nodes {
		nodes.Go(func() error { return c.startNode(ctx, i+1) })
	}
	if err := nodes.Wait(); err != nil {
		return err
	}
	go func() { cancel(c.serve(ctx)) }()
	if err := c.awaitUsable(ctx); err != nil {
		return errors.Join(err, context.Cause(ctx))
	}
	slog.Info("the cluster is ready")
	if _, err := fmt.Fprintln(os.Stdout, "ready"); err != nil {
		return err
	}
	os.Stdout.Close()
	<-ctx.Done()
	return context.Cause(ctx)
}

// makeBridge makes the bridge with a fixed address: else it takes one from its ports, and what the nodes know of their
// gateway turns wrong when a node goes.
func (o options) makeBridge(ctx context.Context) error {
	for _, command := range []string{
		"ip link set lo up",
		"ip link add " + bridge + " address 02:00:ac:1e:00:01 type bridge",
		"ip addr add " + hub + "/24 dev " + bridge,
		"ip link set " + bridge + " up",
	} {
		if err := tool(ctx, "%s", command); err != nil {
			return err
		}
	}
	return forwardPackets()
}

func (c *cluster) startPlane(ctx context.Context) (err error) {
	c.plane, err = controlplane.Start(ctx, controlplane.Config{
		Kube: c.kube, Dir: filepath.Join(c.dir, "state"), Logs: filepath.Join(c.dir, "logs"), Listen: hub, Port: apiPort,
		Nodes: &controlplane.Nodes{Advertise: hub, Pods: podNetwork, Grace: lost},
	})
	if err != nil {
		return err
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.plane.Kubeconfig(controlplane.Admin))
	if err != nil {
		return err
	}
	config.QPS = -1
	c.client, err = kubernetes.NewForConfig(config)
	return err
}

// startDNS starts the cluster's DNS server. It stands outside of the nodes, so that the loss of one does not take it
// along.
func (c *cluster) startDNS(fail context.CancelCauseFunc) error {
	corefile := c.state("Corefile")
	text := fmt.Sprintf(".:53 {\n  errors\n  kubernetes cluster.local {\n    kubeconfig %q\n  }\n  cache 2\n}\n", c.plane.Kubeconfig(controlplane.Admin))
	if err := os.WriteFile(corefile, []byte(text), 0o644); err != nil {
		return err
	}
	dns, err := process.Start("coredns", exec.Command(filepath.Join(c.node, "coredns"), "-conf="+corefile), c.log("coredns"))
	if err != nil {
		return err
	}
	go func() {
		<-dns.Done()
		fail(dns.Err())
	}()
	return nil
}

// writeKubeconfig makes the API server reachable from the caller's network, through the guard's socket.
func (c *cluster) writeKubeconfig(ctx context.Context) error {
	inherited := os.NewFile(listenerFD, "listener")
	defer inherited.Close()
	listener, err := net.FileListener(inherited)
	if err != nil {
		return err
	}
	go forward(ctx, listener, net.JoinHostPort(hub, fmt.Sprint(apiPort)))
	admin, err := c.plane.Issue(pki.Subject{Name: "ark-e2e-admin", Groups: []string{"system:masters"}})
	if err != nil {
		return err
	}
	text, err := pki.Kubeconfig("https://"+listener.Addr().String(), c.plane.Authority(), admin)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.dir, "kubeconfig"), text, 0o600)
}

// startNode starts a node in namespaces of its own inside the cluster's, links it to the bridge and gives it images.
func (c *cluster) startNode(ctx context.Context, index int) error {
	m := memberOf(index)
	started, err := c.plugIn(ctx, index, m)
	if err != nil {
		return fmt.Errorf("start %s: %w", m.name, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-started.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	c.mu.Lock()
	archives := append([]string{filepath.Join(c.node, "pause.tar")}, c.images...)
	c.mu.Unlock()
	for _, archive := range archives {
		if err := c.importImage(ctx, m, archive); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) plugIn(ctx context.Context, index int, m member) (started running, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.alive[index]; ok {
		return started, errors.New("it runs already")
	}
	if err := c.credentials(m); err != nil {
		return started, err
	}
	next := c.stage("node-init", fmt.Sprintf("-index=%d", index))
	next.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWPID,
	}
	proceed, err := next.StdinPipe()
	if err != nil {
		return started, err
	}
	if err := next.Start(); err != nil {
		return started, err
	}
	started = running{process: next.Process, ended: make(chan struct{})}
	c.alive[index] = started
	go func() {
		err := next.Wait()
		slog.Info("node ended", "node", m.name, "error", err)
		close(started.ended)
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.alive[index] == started {
			delete(c.alive, index)
		}
	}()
	for _, command := range []string{
		fmt.Sprintf("ip link add %s type veth peer name eth0 netns %d", m.name, next.Process.Pid),
		fmt.Sprintf("ip link set %s master %s up", m.name, bridge),
		fmt.Sprintf("ip route replace %s via %s", m.pods, m.ip),
	} {
		if err := tool(ctx, "%s", command); err != nil {
			return started, err
		}
	}
	if err := c.routeServices(ctx); err != nil {
		return started, err
	}
	return started, proceed.Close()
}

// credentials makes what a node's kubelet is known by.
func (c *cluster) credentials(m member) error {
	subject := pki.Subject{Name: "system:node:" + m.name, Groups: []string{"system:nodes"}}
	if _, err := c.plane.WriteKubeconfig(m.name, subject); err != nil {
		return err
	}
	subject.Hosts = []string{m.name, m.ip}
	serving, err := c.plane.Issue(subject)
	if err != nil {
		return err
	}
	if err := serving.Write(c.state(""), m.name); err != nil {
		return err
	}
	return os.MkdirAll(c.folder(m), 0o755)
}

// routeServices leads what goes to Services' addresses from here, where no kube-proxy is, over a living node.
func (c *cluster) routeServices(ctx context.Context) error {
	for i := range c.nodes {
		if _, ok := c.alive[i+1]; ok {
			return tool(ctx, "ip route replace %s via %s", controlplane.Services, memberOf(i+1).ip)
		}
	}
	return nil
}

// killNode pulls a node's plug and returns when nothing of it runs.
func (c *cluster) killNode(ctx context.Context, index int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	node, ok := c.alive[index]
	if !ok {
		return errors.New("it does not run")
	}
	delete(c.alive, index)
	if err := node.process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	<-node.ended
	return c.routeServices(ctx)
}

// importImage gives a node an image, once its containerd answers.
func (c *cluster) importImage(ctx context.Context, m member, archive string) error {
	if err := awaitSocket(ctx, c.socket(m)); err != nil {
		return fmt.Errorf("%s: containerd does not answer: %w; see this log and %s", m.name, err, c.log(m.name+"-containerd"))
	}
	cmd := exec.CommandContext(ctx, filepath.Join(c.node, "ctr"), "--address="+c.socket(m), "--namespace=k8s.io", "images", "import", "--local", archive)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: import %s: %w: %s", m.name, archive, err, out)
	}
	return nil
}

func awaitSocket(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	var dialer net.Dialer
	for {
		conn, err := dialer.DialContext(ctx, "unix", path)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// awaitUsable returns when all nodes are ready and pods can be made in the namespace "default".
func (c *cluster) awaitUsable(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Minute)
	defer cancel()
	for i := range c.nodes {
		name := memberOf(i + 1).name
		err := await(ctx, c.client.CoreV1().Nodes(), name, func(n *corev1.Node) bool {
			for _, condition := range n.Status.Conditions {
				if condition.Type == corev1.NodeReady {
					return condition.Status == corev1.ConditionTrue
				}
			}
			return false
		})
		if err != nil {
			return fmt.Errorf("wait for %s to be ready: %w; see %s", name, err, c.log(name+"-kubelet"))
		}
	}
	err := await(ctx, c.client.CoreV1().ServiceAccounts("default"), "default", func(*corev1.ServiceAccount) bool { return true })
	if err != nil {
		return fmt.Errorf("wait for the ServiceAccount default: %w", err)
	}
	return nil
}
