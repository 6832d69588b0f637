package local

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	v1alpha1 "arkonis.dev/ark/pkg/apis/v1alpha1"
	"arkonis.dev/ark/pkg/environ"
	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/memory"
)

// memorySpec is what an agent remembers with: its own memory, else the backend of its settings, the later ones winning;
// nil for none.
func (c *catalog) memorySpec(a *agent) (spec *v1alpha1.ArkMemorySpec, where, problem string) {
	if ref := a.spec.MemoryRef; ref != nil {
		m := c.memories[ref.Name]
		if m == nil {
			return nil, "", fmt.Sprintf("ArkMemory %q is not among the manifests; there are: %s", ref.Name, names(c.memories))
		}
		return &m.Spec, "ArkMemory " + m.Name, ""
	}
	if a.resolved.MemoryBackend != "" {
		spec, where = &v1alpha1.ArkMemorySpec{Backend: a.resolved.MemoryBackend}, "ArkSettings "+a.resolved.MemoryFrom
	}
	if spec != nil && spec.Backend != v1alpha1.MemoryNATS && spec.Backend != v1alpha1.MemoryInContext {
		return nil, "", fmt.Sprintf("%s: memoryBackend %s needs an address: name an ArkMemory with memoryRef instead", where, spec.Backend)
	}
	return spec, where, ""
}

// remember gives an agent its memory, which is connected to when the agent starts, and what makes its vectors.
func (e *equipment) remember(a *agent, o *outfit) (problems []string) {
	if a.memory == nil {
		return nil
	}
	fault := func(text string) {
		problems = append(problems, fmt.Sprintf("ArkAgent %s: %s: %s", a.name, a.memoryFrom, text))
	}
	c := e.memoryConfig(a, a.memory, fault)
	if len(problems) == 0 {
		if err := c.Validate(); err != nil {
			for line := range strings.Lines(err.Error()) {
				fault(strings.TrimSpace(line))
			}
		}
	}
	if o.Tools != nil {
		if err := memory.CheckTools(o.Tools); err != nil {
			fault(err.Error())
		}
	}
	o.memory = &c
	if c.Backend == memory.VectorStore && len(problems) == 0 {
		server := a.server(c.Embedding.Provider)
		server.Key = cmp.Or(c.Embedding.APIKey, server.Key)
		embedder, err := e.models.Embedder(server)
		if err != nil {
			fault(noProvider(err, server, "the model "+c.Embedding.Model+", which makes vectors,", "name a key with embedding.apiKeyRef"))
		}
		o.Embedder = embedder
	}
	return problems
}

// memoryConfig is the memory of a spec. Secrets that are not among the manifests are taken from the agent's environment.
func (e *equipment) memoryConfig(a *agent, spec *v1alpha1.ArkMemorySpec, fault func(string)) memory.Config {
	c := memory.Config{Backend: memory.Backend(spec.Backend)}
	if n := spec.NATS; n != nil {
		c.NATS = memory.NATSConfig{TTL: seconds(n.TTLSeconds), MaxEntries: int(n.MaxEntries)}
	}
	if r := spec.Redis; r != nil {
		c.Redis = memory.RedisConfig{TTL: memory.DefaultRedisTTL, MaxEntries: int(r.MaxEntries)}
		if r.TTLSeconds != nil {
			c.Redis.TTL = seconds(*r.TTLSeconds)
		}
		c.Redis.URL = e.secretOr(a, r.SecretRef.Name, environ.RedisURL, fault)
	}
	if v := spec.VectorStore; v != nil {
		c.Vector = memory.VectorConfig{
			Provider: memory.Provider(v.Provider), Endpoint: v.Endpoint, Collection: v.Collection, TTL: seconds(v.TTLSeconds),
		}
		key := environ.QdrantAPIKey
		if v.Provider == v1alpha1.VectorStorePgvector {
			key = environ.PostgresPassword
			c.Vector.User = a.env.get(environ.PostgresUser)
		}
		if v.SecretRef == nil {
			c.Vector.Secret = a.env.get(key)
		} else {
			c.Vector.Secret = e.secretOr(a, v.SecretRef.Name, key, fault)
			if user, missing := e.catalog.secretKey(v.SecretRef.Name, environ.PostgresUser); missing == "" {
				c.Vector.User = user
			}
		}
	}
	if m := spec.Embedding; m != nil {
		c.Embedding = memory.EmbeddingConfig{Model: m.Model, Provider: llm.Detect(string(m.Provider), m.Model), Dimensions: int(m.Dimensions)}
		if a.provider == llm.Mock { // no network, no key: nor for vectors
			c.Embedding.Provider = llm.Mock
		}
		if m.APIKeyRef != nil && c.Embedding.Provider != llm.Mock {
			c.Embedding.APIKey = e.secretKeyOr(a, m.APIKeyRef, "", fault)
		}
	}
	return c
}

// secretOr is a key of a Secret, or the variable of that name where the manifests have no such Secret.
func (e *equipment) secretOr(a *agent, secret, key string, fault func(string)) string {
	return e.secretKeyOr(a, &v1alpha1.KeyReference{Name: secret, Key: key}, key, fault)
}

// secretKeyOr is a key of a Secret, or a variable where the manifests have no such Secret.
func (e *equipment) secretKeyOr(a *agent, ref *v1alpha1.KeyReference, variable string, fault func(string)) string {
	value, missing := e.catalog.secretKey(ref.Name, ref.Key)
	if missing == "" {
		return value
	}
	if variable != "" && e.catalog.secrets[ref.Name] == nil {
		if value = a.env.get(variable); value != "" {
			return value
		}
		missing += fmt.Sprintf("; add it to the files, or set %s in the environment", variable)
	} else {
		missing += notInFiles
	}
	fault(missing)
	return ""
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }
