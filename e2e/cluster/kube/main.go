// Command kube is every Kubernetes program that a test cluster needs in one executable: etcd, the control plane, the
// kubelet, kube-proxy and kubectl, at the version that go.mod names. One executable means that the code which all of
// them share is compiled, linked and stored once. Which program it is, its first argument says, or the name that it is
// called by.
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/server/v3/etcdmain"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	kubectl "k8s.io/kubectl/pkg/cmd"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllermanager "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
)

// lifelineVariable names the file descriptor of a pipe whose other end the starter holds.
const lifelineVariable = "ARK_E2E_LIFELINE"

func main() {
	if err := holdLifeline(); err != nil {
		fmt.Fprintln(os.Stderr, "kube:", err)
		os.Exit(2)
	}
	args := os.Args
	if !slices.Contains(names(), filepath.Base(args[0])) && len(args) > 1 {
		args = args[1:]
	}
	name := filepath.Base(args[0])
	if name == "etcd" {
		etcdmain.Main(args)
		return
	}
	program, ok := programs()[name]
	if !ok {
		fmt.Fprintf(os.Stderr, "kube: %q is none of its programs: %v\n", name, names())
		os.Exit(2)
	}
	os.Args = args
	cmd := program()
	if name == "kubectl" { // prints no usage after an error, and no error twice
		if err := cli.RunNoErrOutput(cmd); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(cli.Run(cmd))
}

// programs has the programs made of cobra commands; those that run on nodes come with the platform.
func programs() map[string]func() *cobra.Command {
	all := map[string]func() *cobra.Command{
		"kube-apiserver":          apiserver.NewAPIServerCommand,
		"kube-controller-manager": controllermanager.NewControllerManagerCommand,
		"kube-scheduler":          func() *cobra.Command { return scheduler.NewSchedulerCommand() },
		"kubectl":                 kubectl.NewDefaultKubectlCommand,
	}
	for name, program := range nodePrograms() {
		all[name] = program
	}
	return all
}

func names() []string {
	all := []string{"etcd"}
	for name := range programs() {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// holdLifeline makes the process end when the one that started it does, however that ends: the kernel closes the
// other end of the pipe.
func holdLifeline() error {
	text, ok := os.LookupEnv(lifelineVariable)
	if !ok {
		return nil
	}
	fd, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return fmt.Errorf("%s: %w", lifelineVariable, err)
	}
	pipe := os.NewFile(uintptr(fd), "lifeline")
	go func() {
		_, _ = io.Copy(io.Discard, pipe)
		os.Exit(1)
	}()
	return nil
}
