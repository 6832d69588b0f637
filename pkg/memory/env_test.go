package memory

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func fromEnv(env map[string]string) (Config, bool, error) {
	return FromEnv(func(name string) string { return env[name] })
}

func TestFromEnv(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(file, []byte(" from-a-file\n"), 0o600))
	for name, c := range map[string]struct {
		env  map[string]string
		want Config
	}{
		"nats":          {map[string]string{EnvBackend: "nats"}, Config{Backend: NATS}},
		"nats, limits":  {map[string]string{EnvNATS: `{"ttlSeconds":60,"maxEntries":5}`}, Config{Backend: NATS, NATS: NATSConfig{TTL: time.Minute, MaxEntries: 5}}},
		"in-context":    {map[string]string{EnvBackend: "in-context", EnvPromptBytes: "-1"}, Config{Backend: InContext, PromptBytes: -1}},
		"redis":         {map[string]string{EnvBackend: "redis", "REDIS_URL": "redis://h"}, Config{Backend: Redis, Redis: RedisConfig{URL: "redis://h", TTL: time.Hour}}},
		"redis, no ttl": {map[string]string{EnvRedis: `{"ttlSeconds":0,"urlEnv":"CACHE"}`, "CACHE": "rediss://h"}, Config{Backend: Redis, Redis: RedisConfig{URL: "rediss://h"}}},
		"qdrant": {
			map[string]string{
				EnvVectorStore: `{"provider":"qdrant","endpoint":"https://q:6334","collection":"c","ttlSeconds":9}`,
				EnvEmbedding:   `{"model":"text-embedding-3-small","provider":"openai","dimensions":256,"apiKeyEnv":"EMBED_KEY"}`,
				EnvPromptBytes: "100", "QDRANT_API_KEY": "q-key", "EMBED_KEY": "e-key",
			},
			Config{
				Backend: VectorStore, PromptBytes: 100,
				Vector:    VectorConfig{Provider: Qdrant, Endpoint: "https://q:6334", Collection: "c", TTL: 9 * time.Second, Secret: "q-key"},
				Embedding: EmbeddingConfig{Model: "text-embedding-3-small", Provider: "openai", Dimensions: 256, APIKey: "e-key"},
			},
		},
		"pgvector": {
			map[string]string{
				EnvBackend:     "vector-store",
				EnvVectorStore: `{"provider":"pgvector","endpoint":"postgres://h/db","secretFile":"` + file + `"}`,
				EnvEmbedding:   `{"model":"m","apiKeyFile":"` + file + `"}`, "PGUSER": "me", "PGPASSWORD": "other",
			},
			Config{
				Backend:   VectorStore,
				Vector:    VectorConfig{Provider: Pgvector, Endpoint: "postgres://h/db", User: "me", Secret: "from-a-file"},
				Embedding: EmbeddingConfig{Model: "m", APIKey: "from-a-file"},
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok, err := fromEnv(c.env)
			require.NoError(t, err)
			require.True(t, ok)
			require.Equal(t, c.want, got)
		})
	}
	got, ok, err := fromEnv(map[string]string{"REDIS_URL": "redis://h", "PGUSER": "me"})
	require.NoError(t, err)
	require.False(t, ok, "no memory")
	require.Equal(t, Config{}, got)
}

func TestFromEnvSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	const embedding = `{"model":"m"}`
	for name, c := range map[string]struct {
		env  map[string]string
		want string
	}{
		"backend":       {map[string]string{EnvBackend: "etcd"}, `MEMORY_BACKEND is "etcd": it must be one of in-context, nats, redis, vector-store`},
		"other block":   {map[string]string{EnvBackend: "redis", EnvNATS: "{}"}, `MEMORY_NATS is set, but MEMORY_BACKEND is "redis": it goes with "nats"`},
		"no JSON":       {map[string]string{EnvNATS: "5"}, `MEMORY_NATS is "5": it must be one JSON object: json: cannot unmarshal number into Go value of type memory.natsEnv`},
		"unknown field": {map[string]string{EnvNATS: `{"ttl":5}`}, `MEMORY_NATS is "{\"ttl\":5}": it must be one JSON object: json: unknown field "ttl"`},
		"two objects":   {map[string]string{EnvNATS: `{} {}`}, `MEMORY_NATS is "{} {}": it must be one JSON object: something follows the object`},
		"negative":      {map[string]string{EnvNATS: `{"ttlSeconds":-5,"maxEntries":-1}`}, `the ttl -1s is not one of 0 to 876000h0m0s; maxEntries is negative`},
		"too long":      {map[string]string{EnvNATS: `{"ttlSeconds":9223372036854775807}`}, `the ttl 876000h0m1s is not one of 0 to 876000h0m0s`},
		"prompt bytes":  {map[string]string{EnvNATS: "{}", EnvPromptBytes: "many"}, `MEMORY_PROMPT_BYTES is "many": it must be a number of bytes up to 262144, or -1 for none`},
		"no address":    {map[string]string{EnvBackend: "redis"}, `redis needs an address: set REDIS_URL, such as redis://host:6379/0`},
		"bad address": {
			map[string]string{EnvBackend: "redis", "REDIS_URL": "http://:s3cret-value@h"},
			`the address of redis (REDIS_URL) does not parse: want redis://[user:password@]host[:6379][/database], or rediss:// for TLS`,
		},
		"no file": {map[string]string{EnvRedis: `{"urlFile":"/does/not/exist"}`}, `read the secret of the memory: open /does/not/exist: no such file or directory`},
		"no provider": {
			map[string]string{EnvVectorStore: `{"endpoint":"postgres://me:s3cret-value@h"}`, EnvEmbedding: embedding},
			`MEMORY_VECTOR_STORE is "{\"endpoint\":\"postgres://[hidden]@h\"}": it must be such as {"provider":"pgvector","endpoint":"postgres://host:5432/database"}`,
		},
		"provider": {map[string]string{EnvVectorStore: `{"provider":"chroma"}`, EnvEmbedding: embedding}, `the provider "chroma" of the vector store is not one of qdrant, pgvector`},
		"no model": {map[string]string{EnvVectorStore: `{"provider":"qdrant","endpoint":"h"}`}, `a vector store needs the model that makes the vectors: give embedding.model`},
		"qdrant": {
			map[string]string{EnvVectorStore: `{"provider":"qdrant","endpoint":"ftp://h"}`, EnvEmbedding: embedding},
			`the endpoint of qdrant must be an address of its gRPC port such as http://host:6334, or https:// for TLS`,
		},
		"qdrant's port": {map[string]string{EnvVectorStore: `{"provider":"qdrant","endpoint":"h:66000"}`, EnvEmbedding: embedding}, `the port 66000 in the endpoint of qdrant is none`},
		"pgvector": {
			map[string]string{EnvVectorStore: `{"provider":"pgvector","endpoint":"h:5432/db"}`, EnvEmbedding: embedding},
			`the endpoint of pgvector must be an address such as postgres://user@host:5432/database`,
		},
		"pgvector's port": {
			map[string]string{EnvVectorStore: `{"provider":"pgvector","endpoint":"postgres://me:s3cret-value@h:x/db"}`, EnvEmbedding: embedding},
			`the endpoint of pgvector does not parse: want postgres://user@host:5432/database, with parameters such as ?sslmode=verify-full`,
		},
		"collection": {
			map[string]string{EnvVectorStore: `{"provider":"qdrant","endpoint":"h","collection":"` + strings.Repeat("x", 64) + `"}`, EnvEmbedding: embedding},
			`collection: give a name of at most 63 bytes`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, ok, err := fromEnv(c.env)
			require.EqualError(t, err, c.want)
			require.False(t, ok)
			require.Equal(t, Config{}, got)
			require.NotContains(t, err.Error(), "s3cret-value")
			require.NotContains(t, err.Error(), "\n", "one line")
		})
	}
}

func TestNewSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		config Config
		want   string
	}{
		"backend": {Config{Backend: "etcd"}, `memory: backend "etcd" is not one of in-context, nats, redis, vector-store`},
		"blocks": {
			Config{Redis: RedisConfig{URL: "redis://h"}, Embedding: EmbeddingConfig{Model: "m"}},
			"memory: the settings of redis go with backend redis, not with nats\nthe settings of the vector store and of the embedding go with backend vector-store, not with nats",
		},
		"times":  {Config{Timeout: -1}, "memory: a time-out is negative"},
		"prompt": {Config{PromptBytes: 1 << 20}, "memory: 1048576 bytes before the prompt, at most 262144 are allowed"},
	} {
		_, err := New(t.Context(), c.config, quiet())
		require.EqualError(t, err, c.want, name)
	}
}
