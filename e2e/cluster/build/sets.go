package build

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"arkonis.dev/ark/e2e/cluster/image"
)

const (
	kubeModule = "e2e/cluster/kube"
	nodeModule = "e2e/cluster/node"
)

func kubeSet() set {
	return set{
		name:    "kube",
		sources: []string{kubeModule, "e2e/cluster/build/sets.go"},
		notice:  "about 10 minutes on two cores when Go's build cache is empty",
		build: func(b builder) error {
			version, err := b.version(kubeModule, "k8s.io/kubernetes")
			if err != nil {
				return err
			}
			parts := strings.Split(strings.TrimPrefix(version, "v"), ".")
			const variable = "k8s.io/component-base/version."
			flags := fmt.Sprintf("-s -w -X %[1]sgitVersion=%[2]s -X %[1]sgitMajor=%[3]s -X %[1]sgitMinor=%[4]s", variable, version, parts[0], parts[1])
			if err := b.goBuild(kubeModule, nil, "-ldflags", flags, "-o", filepath.Join(b.out, "kube"), "."); err != nil {
				return err
			}
			for _, program := range []string{"etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy", "kubectl"} {
				if err := os.Symlink("kube", filepath.Join(b.out, program)); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// PauseImage is the image of the first container of every pod.
const PauseImage = "e2e.arkonis.dev/pause:1"

func nodeSet() set {
	return set{
		name:    "node",
		sources: []string{nodeModule, "e2e/cluster/build/sets.go", "e2e/cluster/image"},
		notice:  "about 4 minutes on two cores when Go's build cache is empty",
		build: func(b builder) error {
			const containerd, runc, plugins = "github.com/containerd/containerd/v2", "github.com/opencontainers/runc", "github.com/containernetworking/plugins"
			containerdVersion, err := b.version(nodeModule, containerd)
			if err != nil {
				return err
			}
			runcVersion, err := b.version(nodeModule, runc)
			if err != nil {
				return err
			}
			out := b.out + string(filepath.Separator)
			// runc needs C: it sets up namespaces before Go's runtime starts, and filters system calls with libseccomp,
			// without which no pod passes Pod Security's "restricted".
			if err := b.goBuild(nodeModule, []string{"CGO_ENABLED=1"}, "-tags", "seccomp",
				"-ldflags", "-s -w -X main.version="+strings.TrimPrefix(runcVersion, "v"), "-o", out, runc); err != nil {
				return fmt.Errorf("%w\nrunc needs gcc and libseccomp's headers (Debian: gcc, libc6-dev, libseccomp-dev)", err)
			}
			if err := b.goBuild(nodeModule, nil, "-tags", "no_btrfs no_devmapper no_zfs",
				"-ldflags", "-s -w -X "+containerd+"/version.Version="+strings.TrimPrefix(containerdVersion, "v"), "-o", out,
				containerd+"/cmd/containerd", containerd+"/cmd/containerd-shim-runc-v2", containerd+"/cmd/ctr"); err != nil {
				return err
			}
			if err := b.goBuild(nodeModule, nil, "-ldflags", "-s -w", "-o", out,
				plugins+"/plugins/main/ptp", plugins+"/plugins/main/loopback", plugins+"/plugins/ipam/host-local", plugins+"/plugins/meta/portmap",
				"./coredns", "./pause"); err != nil {
				return err
			}
			return image.Write(filepath.Join(b.out, "pause.tar"), PauseImage, filepath.Join(b.out, "pause"))
		},
	}
}

func hostSet() set {
	return set{
		name: "host",
		sources: []string{
			"e2e/cluster/host", "e2e/cluster/controlplane", "e2e/cluster/pki", "e2e/cluster/process", "go.mod", "go.sum",
		},
		notice: "seconds, when Go's build cache has client-go",
		build: func(b builder) error {
			return b.goBuild(".", nil, "-ldflags", "-s -w", "-o", filepath.Join(b.out, "host"), "./e2e/cluster/host")
		},
	}
}
