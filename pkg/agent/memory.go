package agent

import (
	"cmp"
	"errors"
	"fmt"
	"strings"
	"time"

	"arkonis.dev/ark/pkg/environ"
	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/providers"
	"arkonis.dev/ark/pkg/memory"
)

// remember says where the agent remembers, and what makes its vectors.
func (o *outfit) remember(env *environ.Agent, pool *providers.Pool) (faults []string) {
	if env.Memory == nil {
		return nil
	}
	c := memoryConfig(env.Memory)
	if err := c.Validate(); err != nil {
		for line := range strings.Lines(err.Error()) {
			faults = append(faults, fmt.Sprintf("%s is %q: %s", environ.MemoryBackend, c.Backend, oneLine(line)))
		}
		return faults
	}
	o.memory = &c
	if o.config.Tools != nil {
		if err := memory.CheckTools(o.config.Tools); err != nil {
			faults = append(faults, fmt.Sprintf("%s: %s", environ.WebhookTools, err))
		}
	}
	if c.Backend != memory.VectorStore {
		return faults
	}
	server := modelServer(env, llm.Detect(c.Embedding.Provider, c.Embedding.Model))
	server.Key = cmp.Or(c.Embedding.APIKey, server.Key)
	e, err := pool.Embedder(server)
	key, url := providers.Variables(server.Provider)
	switch {
	case errors.Is(err, providers.ErrNoKey):
		faults = append(faults, fmt.Sprintf("%s is not set: model %q, which makes the memory's vectors, needs a key; or name one in %s, or set %s to a server that needs none",
			key, c.Embedding.Model, environ.MemoryEmbeddingSettings, url))
	case err != nil:
		faults = append(faults, fmt.Sprintf("%s: model %q: %s", environ.MemoryEmbeddingSettings, c.Embedding.Model, oneLine(err.Error())))
	}
	o.config.Embedder = e
	return faults
}

// memoryConfig is the memory of an environment.
func memoryConfig(m *environ.Memory) memory.Config {
	c := memory.Config{Backend: memory.Backend(m.Backend), PromptBytes: m.PromptBytes}
	switch c.Backend {
	case memory.NATS:
		c.NATS = memory.NATSConfig{TTL: seconds(m.NATS.TTLSeconds), MaxEntries: int(m.NATS.MaxEntries)}
	case memory.Redis:
		c.Redis = memory.RedisConfig{URL: m.Redis.URL, TTL: memory.DefaultRedisTTL, MaxEntries: int(m.Redis.MaxEntries)}
		if m.Redis.TTLSeconds != nil {
			c.Redis.TTL = seconds(*m.Redis.TTLSeconds)
		}
	case memory.VectorStore:
		v, e := &m.VectorStore, &m.Embedding
		c.Vector = memory.VectorConfig{
			Provider: memory.Provider(v.Provider), Endpoint: v.Endpoint, Collection: v.Collection, User: v.User, Secret: v.Secret, TTL: seconds(v.TTLSeconds),
		}
		c.Embedding = memory.EmbeddingConfig{Model: e.Model, Provider: e.Provider, Dimensions: int(e.Dimensions), APIKey: e.APIKey}
	case memory.InContext:
	}
	return c
}

func seconds(n int64) time.Duration { return time.Duration(n) * time.Second }
