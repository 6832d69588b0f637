package memory

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNewSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	store := func(v VectorConfig) Config {
		return Config{Backend: VectorStore, Vector: v, Embedding: EmbeddingConfig{Model: "m"}}
	}
	for name, c := range map[string]struct {
		config Config
		want   string
	}{
		"backend": {Config{Backend: "etcd"}, `backend "etcd" is not one of in-context, nats, redis, vector-store`},
		"blocks": {
			Config{Redis: RedisConfig{URL: "redis://h"}, Embedding: EmbeddingConfig{Model: "m"}},
			"the settings of redis go with backend redis, not with nats\nthe settings of the vector store and of the embedding go with backend vector-store, not with nats",
		},
		"times":      {Config{Timeout: -1}, "a time-out is negative"},
		"prompt":     {Config{PromptBytes: 1 << 20}, "1048576 bytes before the prompt, at most 262144 are allowed"},
		"negative":   {Config{NATS: NATSConfig{TTL: -1, MaxEntries: -1}}, "the ttl -1ns is not one of 0 to 876000h0m0s\nmaxEntries is negative"},
		"no address": {Config{Backend: Redis}, `redis needs an address: set REDIS_URL, such as redis://host:6379/0`},
		"bad address": {
			Config{Backend: Redis, Redis: RedisConfig{URL: "http://:s3cret-value@h"}},
			`the address of redis (REDIS_URL) does not parse: want redis://[user:password@]host[:6379][/database], or rediss:// for TLS`,
		},
		"provider":        {store(VectorConfig{Provider: "chroma"}), `the provider "chroma" of the vector store is not one of qdrant, pgvector`},
		"no model":        {Config{Backend: VectorStore, Vector: VectorConfig{Provider: Qdrant, Endpoint: "h"}}, `a vector store needs the model that makes the vectors: give embedding.model`},
		"qdrant":          {store(VectorConfig{Provider: Qdrant, Endpoint: "ftp://h"}), `the endpoint of qdrant must be an address of its gRPC port such as http://host:6334, or https:// for TLS`},
		"qdrant's port":   {store(VectorConfig{Provider: Qdrant, Endpoint: "h:66000"}), `the port 66000 in the endpoint of qdrant is none`},
		"pgvector":        {store(VectorConfig{Provider: Pgvector, Endpoint: "h:5432/db"}), `the endpoint of pgvector must be an address such as postgres://user@host:5432/database`},
		"pgvector's port": {store(VectorConfig{Provider: Pgvector, Endpoint: "postgres://me:s3cret-value@h:x/db"}), `the endpoint of pgvector does not parse: want postgres://user@host:5432/database, with parameters such as ?sslmode=verify-full`},
		"collection":      {store(VectorConfig{Provider: Qdrant, Endpoint: "h", Collection: strings.Repeat("x", 64)}), `collection: give a name of at most 63 bytes`},
	} {
		_, err := New(t.Context(), c.config, quiet())
		require.EqualError(t, err, "memory: "+c.want, name)
	}
}
