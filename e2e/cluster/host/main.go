// Command host holds a cluster with nodes: network, mount, PID, UTS, IPC and cgroup namespaces with a control plane in
// them, and for each node further ones inside. Package cluster starts it; it is no command for people.
//
// It is a chain of stages, each a process that this executable starts of itself with the same flags:
//
//	guard      in the caller's namespaces; makes the cluster's, waits for the caller's end, removes what is left
//	init       PID 1 of the cluster: mounts, and reaping of orphans
//	control    the cluster's bridge, control plane, DNS, volumes, and a socket that takes commands
//	node-init  PID 1 of a node; to kill it is to pull the node's plug
//	node       the node's network, containerd, kubelet and kube-proxy
//
// Beside them, sweep removes the control groups of guards that were killed.
//
// Whatever ends the guard, the kernel ends init with it, and with init every process of the cluster, every mount and
// every network device: they exist only in the cluster's namespaces.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

func main() {
	slog.SetDefault(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	if err := run(context.Background(), os.Args[1:]); err != nil {
		slog.Error("stage ended", "stage", strings.Join(os.Args[1:min(2, len(os.Args))], ""), "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return errors.New("no stage named: this command is started by package cluster")
	}
	o, err := parse(args)
	if err != nil {
		return err
	}
	switch stage := args[0]; stage {
	case "guard":
		return guard(ctx, o)
	case "init":
		return initialize(o)
	case "control":
		return control(ctx, o)
	case "node-init":
		return initializeNode(o)
	case "node":
		return node(ctx, o)
	case "sweep":
		return sweep()
	default:
		return fmt.Errorf("unknown stage %q", stage)
	}
}

// options are the same for all stages; index is of nodes only.
type options struct {
	args     []string // without the stage
	dir      string
	kube     string
	node     string
	pause    string
	nodes    int
	detached bool
	images   []string
	index    int
}

func parse(args []string) (o options, err error) {
	o.args = args[1:]
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.StringVar(&o.dir, "dir", "", "the cluster's folder")
	flags.StringVar(&o.kube, "kube", "", "the folder with Kubernetes' programs")
	flags.StringVar(&o.node, "node", "", "the folder with the nodes' programs")
	flags.StringVar(&o.pause, "pause", "", "the name of the pause image")
	flags.IntVar(&o.nodes, "nodes", 2, "how many nodes")
	flags.BoolVar(&o.detached, "detached", false, "stay when standard input ends")
	flags.IntVar(&o.index, "index", 0, "which node")
	flags.Func("image", "an image archive that every node gets; repeatable", func(s string) error {
		o.images = append(o.images, s)
		return nil
	})
	return o, flags.Parse(args[1:])
}

// stage is the command that starts another stage.
func (o options) stage(name string, more ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append(append([]string{name}, o.args...), more...)...)
	cmd.Stderr = os.Stderr
	return cmd
}

// initialize is PID 1 of the cluster.
func initialize(o options) error {
	if _, err := io.Copy(io.Discard, os.Stdin); err != nil { // until the guard has left the control group
		return err
	}
	if err := mountAll(o); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte("ark-e2e")); err != nil {
		return fmt.Errorf("set the host name: %w", err)
	}
	next := o.stage("control")
	next.Stdout = os.Stdout
	next.ExtraFiles = []*os.File{os.NewFile(listenerFD, "listener")}
	return reapUntil(next)
}

// initializeNode is PID 1 of a node.
func initializeNode(o options) error {
	if err := syscall.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	next := o.stage("node")
	next.Stdin = os.Stdin
	return reapUntil(next)
}

// reapUntil starts the next stage and waits for whatever ends in this PID namespace until that stage has ended. Then
// this process ends, and with it all others.
func reapUntil(next *exec.Cmd) error {
	if err := next.Start(); err != nil {
		return err
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return fmt.Errorf("wait for processes: %w", err)
		case pid == next.Process.Pid:
			return fmt.Errorf("%s ended: exit code %d, signal %v", next.Args[1], status.ExitStatus(), status.Signal())
		}
	}
}

// tool runs a program of the system that must succeed, its arguments separated by spaces.
func tool(ctx context.Context, format string, a ...any) error {
	args := strings.Fields(fmt.Sprintf(format, a...))
	out, err := exec.CommandContext(ctx, args[0], args[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
