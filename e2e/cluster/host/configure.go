package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

type object = map[string]any

// configureNode writes what the node's programs read.
func (o options) configureNode(m member) error {
	if err := makeNodeGroup(m.name); err != nil {
		return err
	}
	network := filepath.Join(o.folder(m), "cni")
	for _, dir := range []string{network, "/run/netns"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	resolver := filepath.Join(o.folder(m), "resolv.conf")
	for path, text := range map[string]string{
		resolver: "nameserver " + hub + "\n",
		filepath.Join(o.folder(m), "containerd.toml"): fmt.Sprintf(containerdConfig, o.node, network, o.pause, o.socket(m)),
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	for path, config := range map[string]object{
		filepath.Join(network, "10-ark.conflist"):     networkConfig(m),
		filepath.Join(o.folder(m), "kubelet.json"):    o.kubeletConfig(m, resolver),
		filepath.Join(o.folder(m), "kube-proxy.json"): o.proxyConfig(m),
	} {
		text, err := json.MarshalIndent(config, "", "  ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// networkConfig joins each pod to its node by a link of its own, without a bridge, so that all traffic passes the
// node's forwarding rules, kube-proxy's among them, with no kernel setting.
func networkConfig(m member) object {
	return object{
		"cniVersion": "1.0.0", "name": "ark",
		"plugins": []object{
			{"type": "ptp", "mtu": 1500, "ipam": object{
				"type": "host-local", "ranges": [][]object{{{"subnet": m.pods}}}, "routes": []object{{"dst": "0.0.0.0/0"}},
			}},
			{"type": "portmap", "capabilities": object{"portMappings": true}, "backend": "nftables"},
		},
	}
}

func (o options) kubeletConfig(m member, resolver string) object {
	return object{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix://" + o.socket(m),
		"failCgroupV1":             false, // where the machine has v1, that must do
		"cgroupDriver":             "cgroupfs",
		"cgroupRoot":               "/" + m.name,
		"enforceNodeAllocatable":   []string{"pods"},
		"oomScoreAdj":              0, // lowering it takes a capability that a container may lack
		"failSwapOn":               false,
		"authentication": object{
			"anonymous": object{"enabled": false}, "webhook": object{"enabled": true},
			"x509": object{"clientCAFile": o.state("ca.crt")},
		},
		"authorization":     object{"mode": "Webhook"},
		"tlsCertFile":       o.state(m.name + ".crt"),
		"tlsPrivateKeyFile": o.state(m.name + ".key"),
		"resolvConf":        resolver,
		"clusterDNS":        []string{hub},
		"clusterDomain":     "cluster.local",
		"volumePluginDir":   "/var/lib/kubelet/plugins-exec",
		"podLogsDir":        filepath.Join(o.dir, "logs", m.name+"-pods"), // they outlive the cluster
		// The disk is the machine's: how full it is says nothing about the cluster.
		"evictionHard":                object{"memory.available": "50Mi", "nodefs.available": "0%", "nodefs.inodesFree": "0%", "imagefs.available": "0%"},
		"imageGCHighThresholdPercent": 100,
		"nodeStatusUpdateFrequency":   "5s",
		"nodeLeaseDurationSeconds":    20, // renewed in a quarter of that
		"shutdownGracePeriod":         "0s",
		"serializeImagePulls":         false,
	}
}

func (o options) proxyConfig(m member) object {
	return object{
		"apiVersion": "kubeproxy.config.k8s.io/v1alpha1", "kind": "KubeProxyConfiguration",
		"clientConnection":   object{"kubeconfig": o.state("kube-proxy.kubeconfig")},
		"hostnameOverride":   m.name,
		"mode":               "nftables",
		"clusterCIDR":        podNetwork,
		"conntrack":          object{"maxPerCore": 0, "min": 0}, // the limits are the machine's
		"healthzBindAddress": "",
		"metricsBindAddress": "127.0.0.1:10249",
	}
}

// containerdConfig takes the folder of programs, the folder of network configuration, the pause image and the socket.
const containerdConfig = `version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.nri.v1.nri", "io.containerd.internal.v1.opt"]
[grpc]
  address = %[4]q
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = %[3]q
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  enable_selinux = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = [%[1]q]
  conf_dir = %[2]q
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = "%[1]s/runc"
  SystemdCgroup = false
`
