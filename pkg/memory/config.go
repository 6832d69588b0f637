package memory

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Backend is where entries are kept.
type Backend string

// The backends, see the package's text.
const (
	InContext   Backend = "in-context"
	NATS        Backend = "nats"
	Redis       Backend = "redis"
	VectorStore Backend = "vector-store"
)

// Provider is a kind of vector store.
type Provider string

const (
	Qdrant   Provider = "qdrant"
	Pgvector Provider = "pgvector"
)

// Defaults of a Config.
const (
	DefaultBackend      = NATS
	DefaultCollection   = "agent-memories"
	DefaultRedisTTL     = time.Hour
	DefaultTimeout      = 2 * time.Second
	DefaultEmbedTimeout = 5 * time.Second
	DefaultPromptBytes  = 8 << 10
	DefaultRest         = 5 * time.Second
)

const (
	// EmbedBytes is how much of a text goes into its vector: no tokenizer makes more tokens of it than an embedding model
	// with a context of 8192 takes.
	EmbedBytes = 8000
	// maxPromptBytes bounds Config.PromptBytes.
	maxPromptBytes = 256 << 10
	// maxTTL is what every store can add to a date: a hundred years.
	maxTTL = 100 * 365 * 24 * time.Hour
)

// Config says where and how an agent remembers. The zero Config is NATS without limits.
type Config struct {
	Backend   Backend
	NATS      NATSConfig
	Redis     RedisConfig
	Vector    VectorConfig
	Embedding EmbeddingConfig

	// PromptBytes is how much of what is remembered goes before a task's prompt at most; 0: DefaultPromptBytes, below 0:
	// nothing.
	PromptBytes  int
	Timeout      time.Duration // of one operation on the store; 0: DefaultTimeout
	EmbedTimeout time.Duration // of making one vector; 0: DefaultEmbedTimeout
	// Rest is how long a store is left alone after a failure; 0: DefaultRest.
	Rest time.Duration
}

// NATSConfig bounds what a session remembers in ark's own queue; beside these limits it is at most 512 KiB, of which the
// oldest entries go first.
type NATSConfig struct {
	TTL        time.Duration // 0: for ever
	MaxEntries int           // 0: as many as fit
}

// RedisConfig is a Redis server.
type RedisConfig struct {
	URL        string        // redis://, rediss:// or unix://, with its secrets
	TTL        time.Duration // 0: for ever
	MaxEntries int           // of a session; 0: as many as the server keeps
}

// VectorConfig is a vector store.
type VectorConfig struct {
	Provider Provider
	// Endpoint is postgres://[user@]host[:5432]/database[?...] for pgvector, and [http[s]://]host[:6334] for Qdrant, whose
	// gRPC port it is.
	Endpoint   string
	Collection string // table or collection; "": DefaultCollection
	// User and Secret are who to be at PostgreSQL and its password; they win over those in the endpoint. For Qdrant, Secret
	// is the API key.
	User, Secret string
	TTL          time.Duration // 0: for ever
}

// EmbeddingConfig is the model that makes vectors. Vectors of another model or length are never compared with it. Provider
// and APIKey are for whoever makes the llm.Embedder: this package calls no model.
type EmbeddingConfig struct {
	Model      string
	Provider   string // "", "auto": by the model's name
	Dimensions int    // 0: as the model likes
	APIKey     string // "": that of the agent
}

// space names the vectors that can be compared with each other.
func (c EmbeddingConfig) space(v []float32) string { return fmt.Sprintf("%s/%d", c.Model, len(v)) }

func (c Config) withDefaults() Config {
	c.Backend = cmp.Or(c.Backend, DefaultBackend)
	c.PromptBytes = cmp.Or(c.PromptBytes, DefaultPromptBytes)
	c.Timeout = cmp.Or(c.Timeout, DefaultTimeout)
	c.EmbedTimeout = cmp.Or(c.EmbedTimeout, DefaultEmbedTimeout)
	c.Rest = cmp.Or(c.Rest, DefaultRest)
	if c.Backend == VectorStore {
		c.Vector.Collection = cmp.Or(c.Vector.Collection, DefaultCollection)
	}
	return c
}

// TTL is how long an entry is kept; 0: for ever.
func (c Config) TTL() time.Duration {
	switch c.Backend {
	case NATS:
		return c.NATS.TTL
	case Redis:
		return c.Redis.TTL
	case VectorStore:
		return c.Vector.TTL
	default:
		return 0
	}
}

// Validate says what is wrong with the configuration, all at once and without its secrets. It connects to nothing.
func (c Config) Validate() error {
	c = c.withDefaults()
	var faults []error
	must := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	must(slices.Contains([]Backend{InContext, NATS, Redis, VectorStore}, c.Backend),
		"backend %q is not one of in-context, nats, redis, vector-store", c.Backend)
	must(c.Backend == NATS || c.NATS == NATSConfig{}, "the settings of nats go with backend nats, not with %s", c.Backend)
	must(c.Backend == Redis || c.Redis == RedisConfig{}, "the settings of redis go with backend redis, not with %s", c.Backend)
	must(c.Backend == VectorStore || c.Vector == VectorConfig{} && c.Embedding == EmbeddingConfig{},
		"the settings of the vector store and of the embedding go with backend vector-store, not with %s", c.Backend)
	must(c.TTL() >= 0 && c.TTL() <= maxTTL, "the ttl %s is not one of 0 to %s", c.TTL(), maxTTL)
	must(c.NATS.MaxEntries >= 0 && c.Redis.MaxEntries >= 0, "maxEntries is negative")
	must(c.PromptBytes <= maxPromptBytes, "%d bytes before the prompt, at most %d are allowed", c.PromptBytes, maxPromptBytes)
	must(c.Timeout > 0 && c.EmbedTimeout > 0 && c.Rest > 0, "a time-out is negative")
	switch c.Backend {
	case Redis:
		_, err := c.redisOptions()
		must(err == nil, "%v", err)
	case VectorStore:
		faults = append(faults, c.Vector.validate()...)
		must(c.Embedding.Model != "", "a vector store needs the model that makes the vectors: give embedding.model")
		must(c.Embedding.Dimensions >= 0, "embedding.dimensions is negative")
	case InContext, NATS:
	}
	return errors.Join(faults...)
}

func (c VectorConfig) validate() []error {
	var faults []error
	if len(c.Collection) > 63 || strings.ContainsRune(c.Collection, 0) || !utf8.ValidString(c.Collection) {
		faults = append(faults, fmt.Errorf("collection: give a name of at most 63 bytes"))
	}
	var err error
	switch c.Provider {
	case Qdrant:
		_, err = c.qdrantConfig()
	case Pgvector:
		_, err = c.poolConfig()
	default:
		err = fmt.Errorf("the provider %q of the vector store is not one of qdrant, pgvector", c.Provider)
	}
	if err != nil {
		faults = append(faults, err)
	}
	return faults
}

// secrets are the texts of the configuration that nobody may see.
func (c Config) secrets() secrets {
	var s secrets
	s.add(c.Vector.Secret, c.Embedding.APIKey)
	for _, text := range []string{c.Redis.URL, c.Vector.Endpoint} {
		u, err := url.Parse(text)
		if err != nil {
			s.add(text)
			continue
		}
		s.addURL(u)
	}
	return s
}
