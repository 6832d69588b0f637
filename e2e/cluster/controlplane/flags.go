package controlplane

import (
	"fmt"
	"strconv"
)

// auditPolicy records who did what to which object and what came of it, without bodies and once for each request: when
// it is answered, and a watch when it begins.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: None
  nonResourceURLs: ["/healthz*", "/livez*", "/readyz*", "/version", "/openapi/*"]
- level: Metadata
  verbs: [watch]
  omitStages: [ResponseComplete]
- level: Metadata
  omitStages: [ResponseStarted]
`

func (p *Plane) etcdFlags() []string {
	clients, peers := "unix://"+p.file("etcd.sock"), "unix://"+p.file("peer.sock")
	return []string{
		"--name=ark", "--data-dir=" + p.file("etcd"), "--unsafe-no-fsync", "--log-level=warn",
		"--listen-client-urls=" + clients, "--advertise-client-urls=" + clients,
		"--listen-peer-urls=" + peers, "--initial-advertise-peer-urls=" + peers, "--initial-cluster=ark=" + peers,
	}
}

func (p *Plane) serverFlags() []string {
	flags := []string{
		"--etcd-servers=unix://" + p.file("etcd.sock"),
		"--bind-address=" + p.config.Listen, "--secure-port=" + strconv.Itoa(p.config.Port),
		"--permit-port-sharing", // with the socket that keeps the port reserved across restarts
		"--tls-cert-file=" + p.file("apiserver.crt"), "--tls-private-key-file=" + p.file("apiserver.key"),
		"--client-ca-file=" + p.file("ca.crt"),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
		"--service-cluster-ip-range=" + Services,
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + p.file("tokens.pub"), "--service-account-signing-key-file=" + p.file("tokens.key"),
		"--requestheader-client-ca-file=" + p.file("front-proxy-ca.crt"), "--requestheader-allowed-names=" + frontProxy,
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-uid-headers=X-Remote-Uid", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + p.file("front-proxy.crt"), "--proxy-client-key-file=" + p.file("front-proxy.key"),
		"--audit-policy-file=" + p.file("audit-policy.yaml"), "--audit-log-path=" + p.AuditLog(),
		"--audit-log-maxsize=10000", // MiB: a test reads one file
		"--profiling=false",
	}
	if p.config.Nodes == nil {
		// Nobody follows the Service "kubernetes", and a loopback address may not be an endpoint.
		return append(flags, "--advertise-address="+p.config.Listen, "--endpoint-reconciler-type=none")
	}
	return append(flags,
		"--advertise-address="+p.config.Nodes.Advertise,
		"--enable-aggregator-routing", // there is no kube-proxy where the API server runs
		"--kubelet-client-certificate="+p.file("kubelet-client.crt"), "--kubelet-client-key="+p.file("kubelet-client.key"),
		"--kubelet-certificate-authority="+p.file("ca.crt"), "--kubelet-preferred-address-types=InternalIP")
}

func (p *Plane) controllerManagerFlags() []string {
	kubeconfig := p.Kubeconfig("kube-controller-manager")
	flags := []string{
		"--kubeconfig=" + kubeconfig, "--secure-port=0", "--leader-elect=false",
		"--use-service-account-credentials", "--service-account-private-key-file=" + p.file("tokens.key"),
		"--root-ca-file=" + p.file("ca.crt"),
		"--cluster-signing-cert-file=" + p.file("ca.crt"), "--cluster-signing-key-file=" + p.file("ca.key"),
		"--service-cluster-ip-range=" + Services, "--profiling=false",
	}
	if p.config.Nodes != nil {
		flags = append(flags, "--cluster-cidr="+p.config.Nodes.Pods, fmt.Sprintf("--node-monitor-grace-period=%s", p.config.Nodes.Grace))
	}
	return flags
}

func (p *Plane) schedulerFlags() []string {
	return []string{"--kubeconfig=" + p.Kubeconfig("kube-scheduler"), "--secure-port=0", "--leader-elect=false", "--profiling=false"}
}
