package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"arkonis.dev/ark/e2e/cluster/process"
)

// A member is a node as the network has it. Node i has one address of the bridge, and a /24 for its pods.
type member struct {
	name string
	ip   string
	pods string
}

func memberOf(index int) member {
	return member{name: fmt.Sprintf("node%d", index), ip: fmt.Sprintf("172.30.0.%d", 10+index), pods: fmt.Sprintf("10.244.%d.0/24", index)}
}

// folder is where a node keeps its configuration, and its containerd its socket. The control stage sees it too.
func (o options) folder(m member) string { return filepath.Join(o.dir, "state", m.name) }

func (o options) socket(m member) string { return filepath.Join(o.folder(m), "containerd.sock") }

func (o options) log(name string) string { return filepath.Join(o.dir, "logs", name+".log") }

// node is the last stage of a node. It ends when one of its programs does.
func node(ctx context.Context, o options) error {
	m := memberOf(o.index)
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil { // until the control stage has made the link
		return err
	}
	if err := o.prepareNode(ctx, m); err != nil {
		return fmt.Errorf("prepare %s: %w", m.name, err)
	}
	if err := o.configureNode(m); err != nil {
		return fmt.Errorf("configure %s: %w", m.name, err)
	}
	ended := make(chan error, 3)
	run := func(name, dir string, args ...string) error {
		cmd := exec.Command(filepath.Join(dir, name), args...)
		cmd.Env = append(os.Environ(), "PATH="+o.node+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
		started, err := process.Start(name, cmd, o.log(m.name+"-"+name))
		if err != nil {
			return err
		}
		go func() {
			<-started.Done()
			ended <- started.Err()
		}()
		return nil
	}
	if err := run("containerd", o.node, "--config="+filepath.Join(o.folder(m), "containerd.toml")); err != nil {
		return err
	}
	if err := awaitSocket(ctx, o.socket(m)); err != nil { // a kubelet that finds none gives up at once
		return fmt.Errorf("wait for containerd: %w", err)
	}
	err := run("kubelet", o.kube, "--config="+filepath.Join(o.folder(m), "kubelet.json"),
		"--kubeconfig="+o.state(m.name+".kubeconfig"), "--hostname-override="+m.name, "--node-ip="+m.ip)
	if err != nil {
		return err
	}
	if err := run("kube-proxy", o.kube, "--config="+filepath.Join(o.folder(m), "kube-proxy.json")); err != nil {
		return err
	}
	return <-ended
}

func (o options) state(name string) string { return filepath.Join(o.dir, "state", name) }

// prepareNode sets up the node's network and file systems.
func (o options) prepareNode(ctx context.Context, m member) error {
	// Containers' mounts are to reach the pods that share them, and nothing outside the node.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := cover([]string{"/run", "/var/lib", "/var/log"}, []string{o.dir, o.kube, o.node}); err != nil {
		return err
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, ""); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(m.name)); err != nil {
		return err
	}
	commands := []string{"lo up", "eth0 up"}
	for _, command := range commands {
		if err := tool(ctx, "ip link set %s", command); err != nil {
			return err
		}
	}
	if err := tool(ctx, "ip addr add %s/24 dev eth0", m.ip); err != nil {
		return err
	}
	if err := tool(ctx, "ip route add default via %s", hub); err != nil {
		return err
	}
	for i := range o.nodes {
		if other := memberOf(i + 1); other != m {
			if err := tool(ctx, "ip route add %s via %s", other.pods, other.ip); err != nil {
				return err
			}
		}
	}
	return forwardPackets()
}

func forwardPackets() error { return os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0o644) }
