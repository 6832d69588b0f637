package memory

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// The environment variables that say where an agent remembers. The secrets stand in variables or files of their own, which
// the JSON may name.
const (
	EnvBackend     = "MEMORY_BACKEND"      // in-context, nats, redis or vector-store
	EnvNATS        = "MEMORY_NATS"         // {"ttlSeconds":0,"maxEntries":0}
	EnvRedis       = "MEMORY_REDIS"        // {"ttlSeconds":3600,"maxEntries":0,"urlEnv":"REDIS_URL","urlFile":""}
	EnvVectorStore = "MEMORY_VECTOR_STORE" // {"provider":"","endpoint":"","collection":"agent-memories","ttlSeconds":0,"user":"","secretEnv":"","secretFile":""}
	EnvEmbedding   = "MEMORY_EMBEDDING"    // {"model":"","provider":"auto","dimensions":0,"apiKeyEnv":"","apiKeyFile":""}
	EnvPromptBytes = "MEMORY_PROMPT_BYTES" // a number, -1 for nothing before the prompt
)

// Where secrets stand unless the JSON says otherwise.
const (
	EnvRedisURL       = "REDIS_URL"
	EnvQdrantAPIKey   = "QDRANT_API_KEY"
	EnvPostgresSecret = "PGPASSWORD"
	EnvPostgresUser   = "PGUSER"
)

type redisEnv struct {
	TTLSeconds *int64 `json:"ttlSeconds"`
	MaxEntries int    `json:"maxEntries"`
	URLEnv     string `json:"urlEnv"`
	URLFile    string `json:"urlFile"`
}

type natsEnv struct {
	TTLSeconds int64 `json:"ttlSeconds"`
	MaxEntries int   `json:"maxEntries"`
}

type vectorEnv struct {
	Provider   Provider `json:"provider"`
	Endpoint   string   `json:"endpoint"`
	Collection string   `json:"collection"`
	TTLSeconds int64    `json:"ttlSeconds"`
	User       string   `json:"user"`
	SecretEnv  string   `json:"secretEnv"`
	SecretFile string   `json:"secretFile"`
}

type embeddingEnv struct {
	Model      string `json:"model"`
	Provider   string `json:"provider"`
	Dimensions int    `json:"dimensions"`
	APIKeyEnv  string `json:"apiKeyEnv"`
	APIKeyFile string `json:"apiKeyFile"`
}

// FromEnv reads a Config from environment variables. ok is false when none of them is set: the agent has no memory then.
// get returns a variable, or "". The error names the variable, what it holds and what is allowed; it shows no secret.
func FromEnv(get func(name string) string) (c Config, ok bool, err error) {
	for _, name := range []string{EnvBackend, EnvNATS, EnvRedis, EnvVectorStore, EnvEmbedding} {
		ok = ok || get(name) != ""
	}
	if !ok {
		return Config{}, false, nil
	}
	e := env{get: get}
	c = Config{Backend: cmp.Or(Backend(get(EnvBackend)), e.impliedBackend())}
	switch c.Backend {
	case InContext, NATS, Redis, VectorStore:
	default:
		return Config{}, false, fmt.Errorf("%s is %q: it must be one of in-context, nats, redis, vector-store", EnvBackend, c.Backend)
	}
	for name, backend := range map[string]Backend{EnvNATS: NATS, EnvRedis: Redis, EnvVectorStore: VectorStore, EnvEmbedding: VectorStore} {
		if get(name) != "" && c.Backend != backend {
			return Config{}, false, fmt.Errorf("%s is set, but %s is %q: it goes with %q", name, EnvBackend, c.Backend, backend)
		}
	}
	err = errors.Join(e.nats(&c), e.redis(&c), e.vectorStore(&c), e.embedding(&c), e.promptBytes(&c))
	if err == nil {
		err = c.Validate()
	}
	if err != nil {
		return Config{}, false, fmt.Errorf("%s", strings.ReplaceAll(c.secrets().hide(err.Error()), "\n", "; "))
	}
	return c, true, nil
}

// env reads variables and the files that they name.
type env struct{ get func(string) string }

// impliedBackend is the one whose settings are there.
func (e env) impliedBackend() Backend {
	switch {
	case e.get(EnvRedis) != "":
		return Redis
	case e.get(EnvVectorStore) != "":
		return VectorStore
	default:
		return NATS
	}
}

func (e env) nats(c *Config) error {
	var in natsEnv
	if err := e.decode(EnvNATS, &in); err != nil || c.Backend != NATS {
		return err
	}
	c.NATS = NATSConfig{TTL: seconds(in.TTLSeconds), MaxEntries: in.MaxEntries}
	return nil
}

func (e env) redis(c *Config) error {
	var in redisEnv
	if err := e.decode(EnvRedis, &in); err != nil || c.Backend != Redis {
		return err
	}
	c.Redis = RedisConfig{TTL: DefaultRedisTTL, MaxEntries: in.MaxEntries}
	if in.TTLSeconds != nil {
		c.Redis.TTL = seconds(*in.TTLSeconds)
	}
	url, err := e.secret(cmp.Or(in.URLEnv, EnvRedisURL), in.URLFile)
	c.Redis.URL = url
	return err
}

func (e env) vectorStore(c *Config) error {
	var in vectorEnv
	if err := e.decode(EnvVectorStore, &in); err != nil || c.Backend != VectorStore {
		return err
	}
	if in.Provider == "" {
		return fmt.Errorf(`%s is %q: it must be such as {"provider":"pgvector","endpoint":"postgres://host:5432/database"}`, EnvVectorStore, e.shown(EnvVectorStore))
	}
	c.Vector = VectorConfig{
		Provider: in.Provider, Endpoint: in.Endpoint, Collection: in.Collection, TTL: seconds(in.TTLSeconds), User: in.User,
	}
	usual := EnvQdrantAPIKey
	if in.Provider == Pgvector {
		usual = EnvPostgresSecret
		c.Vector.User = cmp.Or(in.User, e.get(EnvPostgresUser))
	}
	secret, err := e.secret(cmp.Or(in.SecretEnv, usual), in.SecretFile)
	c.Vector.Secret = secret
	return err
}

func (e env) embedding(c *Config) error {
	var in embeddingEnv
	if err := e.decode(EnvEmbedding, &in); err != nil || c.Backend != VectorStore {
		return err
	}
	c.Embedding = EmbeddingConfig{Model: in.Model, Provider: in.Provider, Dimensions: in.Dimensions}
	if in.APIKeyEnv == "" && in.APIKeyFile == "" {
		return nil
	}
	key, err := e.secret(in.APIKeyEnv, in.APIKeyFile)
	c.Embedding.APIKey = key
	return err
}

func (e env) promptBytes(c *Config) error {
	text := strings.TrimSpace(e.get(EnvPromptBytes))
	if text == "" {
		return nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < -1 || n > maxPromptBytes {
		return fmt.Errorf("%s is %q: it must be a number of bytes up to %d, or -1 for none", EnvPromptBytes, text, maxPromptBytes)
	}
	c.PromptBytes = n
	return nil
}

// decode reads a variable with JSON.
func (e env) decode(name string, to any) error {
	text := e.get(name)
	if text == "" {
		return nil
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	err := d.Decode(to)
	if err == nil && d.More() {
		err = errors.New("something follows the object")
	}
	if err != nil {
		return fmt.Errorf("%s is %q: it must be one JSON object: %w", name, e.shown(name), err)
	}
	return nil
}

// userinfo finds who to be, and with which password, in an address.
const userinfo = `://[^/\s"]*@`

// shown is a variable as an error shows it.
func (e env) shown(name string) string {
	return cut(regexp.MustCompile(userinfo).ReplaceAllString(e.get(name), "://"+hidden+"@"), 200)
}

// maxSecret bounds the file of a secret, in bytes.
const maxSecret = 64 << 10

// secret is what a file holds, or a variable; "" when there is neither.
func (e env) secret(name, file string) (string, error) {
	if file == "" {
		return strings.TrimSpace(e.get(name)), nil
	}
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("read the secret of the memory: %w", err)
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, maxSecret))
	if err != nil {
		return "", fmt.Errorf("read the secret of the memory: %w", err)
	}
	return string(bytes.TrimSpace(content)), nil
}

// seconds is a duration; one that is too long for the type stays too long.
func seconds(n int64) time.Duration {
	if most := int64(maxTTL/time.Second) + 1; n > most {
		n = most
	}
	return time.Duration(max(n, -1)) * time.Second
}
