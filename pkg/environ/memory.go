package environ

import (
	"fmt"
	"slices"
)

// Where the secrets of a memory stand unless its JSON names another variable or a file.
const (
	RedisURL         = "REDIS_URL"
	QdrantAPIKey     = "QDRANT_API_KEY"
	PostgresUser     = "PGUSER"
	PostgresPassword = "PGPASSWORD"
)

// Memory is what the agent remembers between tasks, and where. The blocks that do not belong to Backend are empty.
type Memory struct {
	Backend     string // in-context, nats, redis or vector-store
	NATS        MemoryNATS
	Redis       MemoryRedis
	VectorStore MemoryVectorStore
	Embedding   MemoryEmbedding
	// PromptBytes is how much of it goes before a task's prompt: 0 as the runtime likes, below 0 nothing.
	PromptBytes int
}

// MemoryNATS is MEMORY_NATS.
type MemoryNATS struct {
	TTLSeconds int64 `json:"ttlSeconds,omitempty"` // 0: for ever
	MaxEntries int64 `json:"maxEntries,omitempty"` // of a session; 0: as many as fit
}

// MemoryRedis is MEMORY_REDIS. The server's address, which may hold secrets, is what URLEnv or URLFile names.
type MemoryRedis struct {
	TTLSeconds *int64 `json:"ttlSeconds,omitempty"` // 3600 if it is not there, 0: for ever
	MaxEntries int64  `json:"maxEntries,omitempty"`
	URLEnv     string `json:"urlEnv,omitempty"` // REDIS_URL
	URLFile    string `json:"urlFile,omitempty"`

	URL string `json:"-"` // Read sets it
}

// MemoryVectorStore is MEMORY_VECTOR_STORE. Its secret, a password or an API key, is what SecretEnv or SecretFile names.
type MemoryVectorStore struct {
	Provider   string `json:"provider"` // qdrant or pgvector
	Endpoint   string `json:"endpoint"`
	Collection string `json:"collection,omitempty"` // agent-memories
	TTLSeconds int64  `json:"ttlSeconds,omitempty"`
	User       string `json:"user,omitempty"`      // of PostgreSQL; PGUSER
	SecretEnv  string `json:"secretEnv,omitempty"` // QDRANT_API_KEY, PGPASSWORD
	SecretFile string `json:"secretFile,omitempty"`

	Secret string `json:"-"` // Read sets it
}

// MemoryEmbedding is MEMORY_EMBEDDING: the model that makes vectors. Its key is what APIKeyEnv or APIKeyFile names, else
// that of the agent's own server.
type MemoryEmbedding struct {
	Model      string `json:"model"`
	Provider   string `json:"provider,omitempty"`   // by the model's name
	Dimensions int64  `json:"dimensions,omitempty"` // as the model likes
	APIKeyEnv  string `json:"apiKeyEnv,omitempty"`
	APIKeyFile string `json:"apiKeyFile,omitempty"`

	APIKey string `json:"-"` // Read sets it
}

// The backends, and the variables of their settings.
const (
	backendNATS        = "nats"
	backendRedis       = "redis"
	backendVectorStore = "vector-store"
)

const (
	maxMemorySeconds = 100 * 365 * 24 * 3600
	maxEntries       = 1_000_000
	maxDimensions    = 65536
	maxPromptBytes   = 256 << 10
)

// What the variables may hold.
const (
	exampleNATS        = `{"ttlSeconds":86400,"maxEntries":100}`
	exampleRedis       = `{"ttlSeconds":3600,"urlEnv":"REDIS_URL"}`
	exampleVectorStore = `{"provider":"pgvector","endpoint":"postgres://host:5432/database"}`
	exampleEmbedding   = `{"model":"text-embedding-3-small"}`
)

// memory is nil when no variable speaks of one.
func (r *reader) memory() *Memory {
	m := &Memory{PromptBytes: int(r.number(MemoryPromptBytes, -1, maxPromptBytes))}
	blocks := []struct {
		name, backend, example string
		to                     any
	}{
		{MemoryRedisSettings, backendRedis, exampleRedis, &m.Redis},
		{MemoryVectorStoreSettings, backendVectorStore, exampleVectorStore, &m.VectorStore},
		{MemoryNATSSettings, backendNATS, exampleNATS, &m.NATS},
		{MemoryEmbeddingSettings, backendVectorStore, exampleEmbedding, &m.Embedding},
	}
	backend, under := r.get(MemoryBackend)
	m.Backend = backend
	for _, b := range blocks {
		if v, _ := r.get(b.name); v != "" && m.Backend == "" {
			m.Backend = b.backend
		}
	}
	if m.Backend == "" {
		return nil
	}
	if backend != "" && !slices.Contains([]string{"in-context", backendNATS, backendRedis, backendVectorStore}, backend) {
		r.fault(under, backend, "it must be one of in-context, nats, redis, vector-store")
		return nil
	}
	for _, b := range blocks {
		v, under := r.get(b.name)
		if v != "" && m.Backend != b.backend {
			r.faults = append(r.faults, fmt.Sprintf("%s is set, but %s is %q: it goes with %q", under, MemoryBackend, m.Backend, b.backend))
		} else {
			r.json(b.name, "it must be a JSON object such as "+b.example, b.to)
		}
	}
	switch m.Backend {
	case backendNATS:
		r.bounded(MemoryNATSSettings, "ttlSeconds", m.NATS.TTLSeconds, maxMemorySeconds)
		r.bounded(MemoryNATSSettings, "maxEntries", m.NATS.MaxEntries, maxEntries)
	case backendRedis:
		r.redis(&m.Redis)
	case backendVectorStore:
		r.vectorStore(&m.VectorStore)
		r.embedding(&m.Embedding)
	}
	return m
}

// bounded is a number in the JSON of a variable.
func (r *reader) bounded(name, field string, n, most int64) {
	if n < 0 || n > most {
		r.faults = append(r.faults, fmt.Sprintf("%s: %s is %d: it must be from 0 to %d", name, field, n, most))
	}
}

// named is the secret that the JSON of a variable names, or that of the usual variable; "" when there is none.
func (r *reader) named(name, env, file, usual string) string {
	if env == "" && file == "" {
		return r.text(usual)
	}
	value, fault := r.secret(env, file)
	if fault != "" {
		r.faults = append(r.faults, name+": "+oneLine(fault))
	}
	return value
}

func (r *reader) redis(m *MemoryRedis) {
	if m.TTLSeconds != nil {
		r.bounded(MemoryRedisSettings, "ttlSeconds", *m.TTLSeconds, maxMemorySeconds)
	}
	r.bounded(MemoryRedisSettings, "maxEntries", m.MaxEntries, maxEntries)
	m.URL = r.named(MemoryRedisSettings, m.URLEnv, m.URLFile, RedisURL)
}

func (r *reader) vectorStore(m *MemoryVectorStore) {
	r.bounded(MemoryVectorStoreSettings, "ttlSeconds", m.TTLSeconds, maxMemorySeconds)
	usual := QdrantAPIKey
	switch m.Provider {
	case "qdrant":
	case "pgvector":
		usual = PostgresPassword
		if m.User == "" {
			m.User = r.text(PostgresUser)
		}
	default:
		r.faults = append(r.faults, fmt.Sprintf("%s: provider is %q: it must be one of qdrant, pgvector, such as %s",
			MemoryVectorStoreSettings, m.Provider, exampleVectorStore))
	}
	m.Secret = r.named(MemoryVectorStoreSettings, m.SecretEnv, m.SecretFile, usual)
}

func (r *reader) embedding(m *MemoryEmbedding) {
	r.bounded(MemoryEmbeddingSettings, "dimensions", m.Dimensions, maxDimensions)
	if m.Model == "" {
		r.faults = append(r.faults, fmt.Sprintf("%s names no model: a vector store needs one that makes the vectors, such as %s",
			MemoryEmbeddingSettings, exampleEmbedding))
	}
	if m.APIKeyEnv != "" || m.APIKeyFile != "" {
		m.APIKey = r.named(MemoryEmbeddingSettings, m.APIKeyEnv, m.APIKeyFile, "")
	}
}

// secretNames are the variables that hold secrets of the memory.
func (m *Memory) secretNames() []string {
	if m == nil {
		return nil
	}
	var names []string
	add := func(named, usual string) {
		if named == "" {
			names = append(names, aliases(usual)...)
		} else {
			names = append(names, named)
		}
	}
	switch m.Backend {
	case backendRedis:
		add(m.Redis.URLEnv, RedisURL)
	case backendVectorStore:
		usual := PostgresPassword
		if m.VectorStore.Provider == "qdrant" {
			usual = QdrantAPIKey
		}
		add(m.VectorStore.SecretEnv, usual)
		if m.Embedding.APIKeyEnv != "" {
			names = append(names, m.Embedding.APIKeyEnv)
		}
	}
	return names
}
