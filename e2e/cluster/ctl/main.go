// Command ctl is the test cluster for people: `make cluster`, `make cluster-down` and `make cluster-build` call it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"

	"arkonis.dev/ark/e2e/cluster"
	"arkonis.dev/ark/e2e/cluster/build"
)

const usage = `usage:
  ctl build                          build what clusters consist of, if it is not in the cache
  ctl up [flags]                     start a cluster that stays, and print the path of its kubeconfig
  ctl down [-dir DIR]                end it
  ctl run [flags] -- COMMAND ARG...  run a command with KUBECONFIG and kubectl of a cluster that ends with it

flags:`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		var failed *exec.ExitError
		if errors.As(err, &failed) && failed.ExitCode() > 0 {
			os.Exit(failed.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "ctl:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	var config cluster.Config
	flags := flag.NewFlagSet("ctl", flag.ContinueOnError)
	dir := flags.String("dir", "bin/cluster", "folder for kubeconfig and logs of a cluster that stays")
	flags.IntVar(&config.Nodes, "nodes", 2, "how many nodes")
	flags.Func("image", "image archive that every node gets; repeatable", func(path string) error {
		config.Images = append(config.Images, path)
		return nil
	})
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), usage)
		flags.PrintDefaults()
	}
	if len(args) == 0 {
		flags.Usage()
		return errors.New("say what to do")
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	path, err := filepath.Abs(*dir)
	if err != nil {
		return err
	}
	switch args[0] {
	case "build":
		return buildAll(ctx)
	case "up":
		kubeconfig, err := cluster.Up(ctx, path, config, os.Stderr)
		if err == nil {
			fmt.Println(kubeconfig)
		}
		return err
	case "down":
		return cluster.Down(ctx, path, os.Stderr)
	case "run":
		return runIn(ctx, config, flags.Args())
	default:
		flags.Usage()
		return fmt.Errorf("unknown command %q", args[0])
	}
}

// buildAll builds what this machine can run: everywhere the control plane, and the nodes where they can.
func buildAll(ctx context.Context) error {
	if _, err := build.Kube(ctx, os.Stderr); err != nil {
		return err
	}
	if err := cluster.Usable(); err != nil {
		fmt.Fprintf(os.Stderr, "left out what only nodes need: %v\n", err)
		return nil
	}
	if _, err := build.Node(ctx, os.Stderr); err != nil {
		return err
	}
	_, err := build.Host(ctx, os.Stderr)
	return err
}

func runIn(ctx context.Context, config cluster.Config, command []string) error {
	if len(command) == 0 {
		return errors.New("run: no command given")
	}
	if err := cluster.Usable(); err != nil {
		return err
	}
	c, err := cluster.Launch(ctx, config, os.Stderr)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "KUBECONFIG="+c.Kubeconfig(), "PATH="+filepath.Dir(c.Kubectl())+":"+os.Getenv("PATH"))
	return errors.Join(cmd.Run(), c.Close())
}
