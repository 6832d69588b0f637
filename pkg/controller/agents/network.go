package agents

import (
	"cmp"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/environ"
)

const (
	anyIPv4 = "0.0.0.0/0"
	anyIPv6 = "::/0"
)

// metadata are the addresses where clouds give away credentials.
func metadata() (v4, v6 []string) {
	return []string{"100.100.100.200/32", "169.254.169.254/32", "169.254.170.2/32", "169.254.170.23/32"},
		[]string{"fd00:ec2::23/128", "fd00:ec2::254/128", "fd20:ce::254/128"}
}

// private are the addresses that no name in the internet has.
func private() (v4, v6 []string) {
	return []string{"10.0.0.0/8", "100.64.0.0/10", "169.254.0.0/16", "172.16.0.0/12", "192.168.0.0/16", "100.100.100.200/32"},
		[]string{"fc00::/7", "fe80::/10"}
}

// networkPolicy shuts an agent's pods off, nil for disabled.
func networkPolicy(in *input) *networkingv1.NetworkPolicy {
	a := in.agent
	if a.Spec.NetworkPolicy == v1alpha1.NetworkPolicyDisabled {
		return nil
	}
	egress := openEgress()
	if a.Spec.NetworkPolicy == v1alpha1.NetworkPolicyStrict {
		egress = strictEgress(in)
	}
	return &networkingv1.NetworkPolicy{
		TypeMeta:   metav1.TypeMeta{APIVersion: "networking.k8s.io/v1", Kind: "NetworkPolicy"},
		ObjectMeta: objectMeta(a, deploymentName(a.Name)),
		Spec: networkingv1.NetworkPolicySpec{
			PodSelector: metav1.LabelSelector{MatchLabels: selector(a.Name)},
			PolicyTypes: []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
			Ingress:     []networkingv1.NetworkPolicyIngressRule{{Ports: []networkingv1.NetworkPolicyPort{policyPort(corev1.ProtocolTCP, agentPort)}}},
			Egress:      egress,
		},
	}
}

func policyPort(p corev1.Protocol, n int32) networkingv1.NetworkPolicyPort {
	port := intstr.FromInt32(n)
	return networkingv1.NetworkPolicyPort{Protocol: &p, Port: &port}
}

func block(cidr string, but []string) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: cidr, Except: but}}
}

// openEgress is everything but metadata addresses. Pods are named apart: to some networks they are no addresses.
func openEgress() []networkingv1.NetworkPolicyEgressRule {
	v4, v6 := metadata()
	return []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{
		{NamespaceSelector: &metav1.LabelSelector{}}, block(anyIPv4, v4), block(anyIPv6, v6),
	}}}
}

// strictEgress is DNS, the queue, and the hosts of the agent's provider, tools and memory. A policy knows no names: a host
// in the cluster stands for the pods of its namespace, one outside for all addresses that are not private, on its port.
func strictEgress(in *input) []networkingv1.NetworkPolicyEgressRule {
	rules := []networkingv1.NetworkPolicyEgressRule{{Ports: []networkingv1.NetworkPolicyPort{
		policyPort(corev1.ProtocolTCP, 53), policyPort(corev1.ProtocolUDP, 53),
	}}}
	seen := map[string]bool{}
	for _, address := range addresses(in) {
		for _, r := range egressTo(address, in.agent.Namespace) {
			if id := r.String(); !seen[id] {
				seen[id] = true
				rules = append(rules, r)
			}
		}
	}
	return rules
}

// addresses are the URLs that the agent's pods must reach.
func addresses(in *input) []string {
	spec := &in.agent.Spec
	all := strings.Split(in.access.URL, ",")
	switch provider(spec) {
	case v1alpha1.ProviderOpenAI:
		all = append(all, cmp.Or(in.variable(environ.OpenAIBaseURL), "https://api.openai.com"))
	case v1alpha1.ProviderAnthropic:
		all = append(all, cmp.Or(in.variable(environ.AnthropicBaseURL), "https://api.anthropic.com"))
	case v1alpha1.ProviderAuto, v1alpha1.ProviderMock: // it calls nobody
	}
	for i := range spec.MCPServers {
		all = append(all, spec.MCPServers[i].URL)
	}
	for i := range spec.Tools {
		all = append(all, spec.Tools[i].URL)
	}
	if in.memory != nil {
		if v := in.memory.Spec.VectorStore; v != nil {
			all = append(all, vectorAddress(v))
		}
		if r := in.memory.Spec.Redis; r != nil {
			if c := in.found[objectKey{kindSecret, r.SecretRef.Name}]; c != nil {
				all = append(all, c.values[environ.RedisURL])
			}
		}
	}
	for _, name := range []string{"OTEL_EXPORTER_OTLP_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY"} {
		all = append(all, in.variable(name))
	}
	all = slices.DeleteFunc(all, func(s string) bool { return strings.TrimSpace(s) == "" })
	slices.Sort(all)
	return slices.Compact(all)
}

// vectorAddress is the endpoint of a vector store as a URL: Qdrant's may be a host and a port alone.
func vectorAddress(v *v1alpha1.VectorStoreMemory) string {
	if strings.Contains(v.Endpoint, "://") {
		return v.Endpoint
	}
	return "qdrant://" + v.Endpoint
}

// provider is the agent's, by its model where it says nothing.
func provider(s *v1alpha1.ArkAgentSpec) v1alpha1.Provider {
	switch {
	case s.Provider != v1alpha1.ProviderAuto && s.Provider != "":
		return s.Provider
	case strings.HasPrefix(s.Model, "claude-"):
		return v1alpha1.ProviderAnthropic
	case strings.HasPrefix(s.Model, "mock"):
		return v1alpha1.ProviderMock
	default:
		return v1alpha1.ProviderOpenAI
	}
}

// variable is a variable of the pods as far as the operator knows it, with the prefix that wins.
func (in *input) variable(name string) string {
	for _, n := range []string{"AGENT_" + name, name} {
		value := ""
		for _, from := range environmentFrom(in) {
			k := objectKey{kind: kindSecret}
			switch {
			case from.SecretRef != nil:
				k.name = from.SecretRef.Name
			case from.ConfigMapRef != nil:
				k = objectKey{kindConfigMap, from.ConfigMapRef.Name}
			}
			if c := in.found[k]; c != nil {
				value = cmp.Or(c.values[strings.TrimPrefix(n, from.Prefix)], value)
			}
		}
		for _, v := range later(common(in), in.agent.Spec.Env) {
			if v.Name == n {
				value = cmp.Or(v.Value, value)
			}
		}
		if value != "" {
			return value
		}
	}
	return ""
}

// egressTo allows one address.
func egressTo(address, namespace string) []networkingv1.NetworkPolicyEgressRule {
	if !strings.Contains(address, "://") {
		address = "nats://" + address
	}
	u, err := url.Parse(strings.TrimSpace(address))
	if err != nil || u.Hostname() == "" {
		return nil
	}
	host := strings.TrimSuffix(u.Hostname(), ".")
	var port []networkingv1.NetworkPolicyPort // any where it is not known
	if n := portOf(u); n > 0 {
		port = append(port, policyPort(corev1.ProtocolTCP, n))
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		to := []networkingv1.NetworkPolicyPeer{block(netip.PrefixFrom(ip, ip.BitLen()).String(), nil)}
		return []networkingv1.NetworkPolicyEgressRule{{To: to, Ports: port}}
	}
	labels := strings.Split(host, ".")
	inside := len(labels) >= 3 && labels[2] == "svc"
	var rules []networkingv1.NetworkPolicyEgressRule
	if len(labels) <= 2 || inside {
		if len(labels) >= 2 {
			namespace = labels[1]
		}
		// The port is that of a Service: its pods may have another one.
		rules = append(rules, networkingv1.NetworkPolicyEgressRule{To: []networkingv1.NetworkPolicyPeer{{
			NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{corev1.LabelMetadataName: namespace}},
		}}})
	}
	if len(labels) >= 2 && !inside {
		v4, v6 := private()
		to := []networkingv1.NetworkPolicyPeer{block(anyIPv4, v4), block(anyIPv6, v6)}
		rules = append(rules, networkingv1.NetworkPolicyEgressRule{To: to, Ports: port})
	}
	return rules
}

// portOf is the port of a URL, else the one that its scheme has, else 0.
func portOf(u *url.URL) int32 {
	if n, err := strconv.ParseUint(u.Port(), 10, 16); err == nil && n > 0 {
		return int32(n)
	}
	return map[string]int32{"http": 80, "https": 443, "redis": 6379, "rediss": 6379, "postgres": 5432, "postgresql": 5432, "qdrant": 6334, "nats": 4222, "tls": 4222}[u.Scheme]
}
