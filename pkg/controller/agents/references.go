package agents

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/environ"
	"arkonis.dev/ark/pkg/settings"
)

// Kinds that an agent refers to.
const (
	kindConfigMap = "ConfigMap"
	kindSecret    = "Secret"
	kindSettings  = "ArkSettings"
	kindMemory    = "ArkMemory"
)

// Keys of Secrets with a client certificate.
const (
	keyCertificate = "tls.crt"
	keyPrivate     = "tls.key"
	keyAuthority   = "ca.crt"
)

// reference is a key of a ConfigMap or a Secret that an agent needs, or all of its keys.
type reference struct {
	kind, name string
	key        string // empty: all
	optional   bool   // the agent works without it
	value      bool   // the operator itself needs the value
	use        string // the field that refers to it
}

func indexKey(kind, namespace, name string) string { return kind + "/" + namespace + "/" + name }

// referred lists what an agent refers to, for the index: changes of these have it looked at.
func referred(a *v1alpha1.ArkAgent, common []string) []string {
	names := map[string]bool{}
	add := func(kind, name string) { names[indexKey(kind, a.Namespace, name)] = true }
	for _, r := range references(a, nil, common) {
		add(r.kind, r.name)
	}
	for _, name := range settings.Names(&a.Spec.AgentTemplate) {
		add(kindSettings, name)
	}
	if a.Spec.MemoryRef != nil {
		add(kindMemory, a.Spec.MemoryRef.Name)
	}
	return slices.Sorted(maps.Keys(names))
}

// references lists the keys of ConfigMaps and Secrets that an agent needs, those of its memory included. common are the
// Secrets that every agent's environment gets.
func references(a *v1alpha1.ArkAgent, memory *v1alpha1.ArkMemory, common []string) []reference {
	var all []reference
	spec := &a.Spec
	if r := spec.SystemPromptRef; r != nil {
		if k := r.ConfigMapKeyRef; k != nil {
			all = append(all, reference{kind: kindConfigMap, name: k.Name, key: k.Key, value: true, use: usePrompt})
		}
		if k := r.SecretKeyRef; k != nil {
			all = append(all, reference{kind: kindSecret, name: k.Name, key: k.Key, value: true, use: usePrompt})
		}
	}
	for i := range spec.MCPServers {
		s := &spec.MCPServers[i]
		use := fmt.Sprintf("mcpServers[%s]", s.Name)
		all = append(all, headerReferences(use, s.Headers)...)
		all = append(all, authReferences(use+".auth", s.Auth)...)
	}
	for i := range spec.Tools {
		all = append(all, headerReferences(fmt.Sprintf("tools[%s]", spec.Tools[i].Name), spec.Tools[i].Headers)...)
	}
	for _, name := range common {
		all = append(all, reference{kind: kindSecret, name: name, optional: true, value: true, use: "the operator's agentEnvFrom"})
	}
	all = append(all, environmentReferences(&spec.AgentPod)...)
	if memory != nil {
		all = append(all, memoryReferences(memory)...)
	}
	return all
}

// usePrompt is the use of a reference to the prompt.
const usePrompt = "systemPromptRef"

func headerReferences(use string, headers []v1alpha1.Header) []reference {
	var all []reference
	for i := range headers {
		if k := headers[i].Secret(); k != nil {
			all = append(all, reference{kind: kindSecret, name: k.Name, key: k.Key, use: fmt.Sprintf("%s.headers[%s]", use, headers[i].Name)})
		}
	}
	return all
}

func authReferences(use string, auth *v1alpha1.MCPAuth) []reference {
	switch {
	case auth == nil:
		return nil
	case auth.MTLS != nil:
		name := auth.MTLS.SecretRef.Name
		return []reference{
			{kind: kindSecret, name: name, key: keyCertificate, use: use},
			{kind: kindSecret, name: name, key: keyPrivate, use: use},
			{kind: kindSecret, name: name, key: keyAuthority, optional: true, use: use},
		}
	case auth.Token() != nil:
		return []reference{{kind: kindSecret, name: auth.Token().Name, key: auth.Token().Key, use: use}}
	default:
		return nil
	}
}

func environmentReferences(pod *v1alpha1.AgentPod) []reference {
	var all []reference
	isTrue := func(b *bool) bool { return b != nil && *b }
	for i, from := range pod.EnvFrom {
		use := fmt.Sprintf("envFrom[%d]", i)
		if r := from.ConfigMapRef; r != nil {
			all = append(all, reference{kind: kindConfigMap, name: r.Name, optional: isTrue(r.Optional), value: true, use: use})
		}
		if r := from.SecretRef; r != nil {
			all = append(all, reference{kind: kindSecret, name: r.Name, optional: isTrue(r.Optional), value: true, use: use})
		}
	}
	for _, v := range pod.Env {
		if v.ValueFrom == nil {
			continue
		}
		use := fmt.Sprintf("env[%s]", v.Name)
		if r := v.ValueFrom.ConfigMapKeyRef; r != nil {
			all = append(all, reference{kind: kindConfigMap, name: r.Name, key: r.Key, optional: isTrue(r.Optional), use: use})
		}
		if r := v.ValueFrom.SecretKeyRef; r != nil {
			all = append(all, reference{kind: kindSecret, name: r.Name, key: r.Key, optional: isTrue(r.Optional), use: use})
		}
	}
	return all
}

func memoryReferences(m *v1alpha1.ArkMemory) []reference {
	use := "ArkMemory " + m.Name
	var all []reference
	if r := m.Spec.Redis; r != nil {
		all = append(all, reference{kind: kindSecret, name: r.SecretRef.Name, key: environ.RedisURL, value: true, use: use})
	}
	if v := m.Spec.VectorStore; v != nil && v.SecretRef != nil {
		all = append(all, reference{kind: kindSecret, name: v.SecretRef.Name, key: vectorKey(v.Provider), use: use})
		if v.Provider == v1alpha1.VectorStorePgvector {
			all = append(all, reference{kind: kindSecret, name: v.SecretRef.Name, key: environ.PostgresUser, optional: true, value: true, use: use})
		}
	}
	if e := m.Spec.Embedding; e != nil && e.APIKeyRef != nil {
		all = append(all, reference{kind: kindSecret, name: e.APIKeyRef.Name, key: e.APIKeyRef.Key, use: use})
	}
	return all
}

// vectorKey is the key of the Secret of a vector store.
func vectorKey(p v1alpha1.VectorStoreProvider) string {
	if p == v1alpha1.VectorStorePgvector {
		return environ.PostgresPassword
	}
	return environ.QdrantAPIKey
}

// addressKeys are the variables with the addresses that an agent's pods must reach: the operator reads their values where
// it has to, in the ConfigMaps and Secrets that make up the environment.
func addressKeys() []string {
	names := []string{
		environ.OpenAIBaseURL, environ.AnthropicBaseURL, environ.RedisURL, "OTEL_EXPORTER_OTLP_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY",
	}
	for _, n := range names {
		names = append(names, "AGENT_"+n)
	}
	return names
}

// objectKey names a ConfigMap or a Secret of the agent's namespace.
type objectKey struct{ kind, name string }

// fault is why an agent cannot be as it shall be.
type fault struct{ reason, message string }

// missing says what an agent refers to that is not there.
func missing(refs []reference, found map[objectKey]*content) *fault {
	var texts []string
	reason := ""
	for _, r := range refs {
		c := found[objectKey{r.kind, r.name}]
		text := ""
		switch {
		case r.optional:
			continue
		case c == nil:
			text = fmt.Sprintf("%s: there is no %s %s: create it", r.use, r.kind, r.name)
		case r.key != "" && c.hashes[r.key] == "":
			text = fmt.Sprintf("%s: the %s %s has no key %s: add it", r.use, r.kind, r.name, r.key)
		default:
			continue
		}
		texts = append(texts, text)
		switch {
		case reason != "":
		case r.use == usePrompt:
			reason = v1alpha1.ReasonPromptResolutionError
		case r.kind == kindSecret:
			reason = v1alpha1.ReasonSecretNotFound
		default:
			reason = v1alpha1.ReasonReferenceNotFound
		}
	}
	if len(texts) == 0 {
		return nil
	}
	return &fault{reason, strings.Join(texts, "; ")}
}

// contentHash tells one state of everything that the pods read at their start from another one. It holds no secret.
func contentHash(refs []reference, found map[objectKey]*content) string {
	lines := map[string]bool{}
	for _, r := range refs {
		c := found[objectKey{r.kind, r.name}]
		if c == nil || r.use == usePrompt { // the composed prompt has a hash of its own
			continue
		}
		keys := []string{r.key}
		if r.key == "" {
			keys = slices.Collect(maps.Keys(c.hashes))
		}
		for _, k := range keys {
			if c.hashes[k] != "" {
				lines[strings.Join([]string{r.kind, r.name, k, c.hashes[k]}, "\n")] = true
			}
		}
	}
	h := sha256.New()
	for _, line := range slices.Sorted(maps.Keys(lines)) {
		fmt.Fprintf(h, "%d %s\n", len(line), line)
	}
	return hex.EncodeToString(h.Sum(nil))
}
