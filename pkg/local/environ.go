package local

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
)

// variables is the environment of one agent: the variables that its manifest sets, over those of this process.
type variables struct {
	set    map[string]string
	getenv func(string) string
}

// get returns a variable; its name with the prefix AGENT_ wins, and what the manifest sets wins over the process.
func (e variables) get(name string) string {
	for _, n := range []string{"AGENT_" + name, name} {
		if v, ok := e.set[n]; ok {
			return v
		}
	}
	for _, n := range []string{"AGENT_" + name, name} {
		if v := e.getenv(n); v != "" {
			return v
		}
	}
	return ""
}

// environment resolves env and envFrom of an agent. What is missing is a warning: on a laptop the process's own
// environment stands in for the Secrets of a cluster, and what is needed in the end is checked where it is used.
func (c *catalog) environment(agent string, pod *v1alpha1.AgentPod, getenv func(string) string) (variables, []string) {
	e := variables{set: map[string]string{}, getenv: getenv}
	var warnings []string
	for i, from := range pod.EnvFrom {
		values, missing := c.envFrom(from)
		if missing != "" {
			warnings = append(warnings, fmt.Sprintf("ArkAgent %s: envFrom[%d]: %s is not among the manifests; its variables are taken from the environment of ark instead", agent, i, missing))
		}
		for k, v := range values {
			e.set[from.Prefix+k] = v
		}
	}
	for _, v := range pod.Env {
		value, missing := c.envVar(agent, v, e.set)
		switch {
		case missing == "":
			e.set[v.Name] = value
		case getenv(v.Name) == "":
			warnings = append(warnings, fmt.Sprintf("ArkAgent %s: env %s: %s; set %s in the environment or add what is missing", agent, v.Name, missing, v.Name))
		}
	}
	return e, warnings
}

// envFrom returns all keys of a Secret or ConfigMap, and what is missing if it is not there and not optional.
func (c *catalog) envFrom(from corev1.EnvFromSource) (values map[string]string, missing string) {
	switch {
	case from.SecretRef != nil:
		if s := c.secrets[from.SecretRef.Name]; s != nil {
			return secretValues(s), ""
		}
		if optional(from.SecretRef.Optional) {
			return nil, ""
		}
		return nil, fmt.Sprintf("Secret %q", from.SecretRef.Name)
	case from.ConfigMapRef != nil:
		if m := c.configMaps[from.ConfigMapRef.Name]; m != nil {
			return m.Data, ""
		}
		if optional(from.ConfigMapRef.Optional) {
			return nil, ""
		}
		return nil, fmt.Sprintf("ConfigMap %q", from.ConfigMapRef.Name)
	}
	return nil, ""
}

// envVar resolves one variable; missing says why it has no value. The variables before it are in known.
func (c *catalog) envVar(agent string, v corev1.EnvVar, known map[string]string) (value, missing string) {
	from := v.ValueFrom
	switch {
	case from == nil:
		return expand(v.Value, known), ""
	case from.SecretKeyRef != nil:
		value, missing = c.secretKey(from.SecretKeyRef.Name, from.SecretKeyRef.Key)
		if optional(from.SecretKeyRef.Optional) {
			missing = ""
		}
	case from.ConfigMapKeyRef != nil:
		value, missing = c.configMapKey(from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Key)
		if optional(from.ConfigMapKeyRef.Optional) {
			missing = ""
		}
	case from.FieldRef != nil && from.FieldRef.FieldPath == "metadata.name":
		value = podName(agent)
	case from.FieldRef != nil && from.FieldRef.FieldPath == "metadata.namespace":
		value = c.namespace
	default:
		missing = "only a pod of a cluster has the field that it refers to"
	}
	return value, missing
}

// notInFiles ends the problem of a missing Secret or ConfigMap.
const notInFiles = "; add it to the files"

func (c *catalog) secretKey(name, key string) (value, missing string) {
	s := c.secrets[name]
	if s == nil {
		return "", fmt.Sprintf("Secret %q is not among the manifests", name)
	}
	value, ok := secretValues(s)[key]
	if !ok {
		return "", fmt.Sprintf("Secret %q has no key %q, only %s", name, key, names(secretValues(s)))
	}
	return value, ""
}

func (c *catalog) configMapKey(name, key string) (value, missing string) {
	m := c.configMaps[name]
	if m == nil {
		return "", fmt.Sprintf("ConfigMap %q is not among the manifests", name)
	}
	value, ok := m.Data[key]
	if !ok {
		return "", fmt.Sprintf("ConfigMap %q has no key %q, only %s", name, key, names(m.Data))
	}
	return value, ""
}

// secretValues joins data and stringData as the API server does.
func secretValues(s *corev1.Secret) map[string]string {
	out := make(map[string]string, len(s.Data)+len(s.StringData))
	for k, v := range s.Data {
		out[k] = string(v)
	}
	maps.Copy(out, s.StringData)
	return out
}

func optional(b *bool) bool { return b != nil && *b }

// names lists the keys of a map for an error.
func names[V any](m map[string]V) string {
	if len(m) == 0 {
		return "none"
	}
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return strings.Join(keys, ", ")
}

// expand replaces $(NAME) by what is known, as a kubelet does: $$ is one $, and an unknown name stays as it is.
func expand(s string, known map[string]string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i:], ')')
			value, ok := "", false
			if end > 0 {
				value, ok = known[s[i+2:i+end]]
			}
			if !ok {
				b.WriteByte('$')
				continue
			}
			b.WriteString(value)
			i += end
		default:
			b.WriteByte('$')
		}
	}
	return b.String()
}
