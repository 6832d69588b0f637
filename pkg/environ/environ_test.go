package environ_test

import (
	"encoding/json"
	"errors"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/environ"
)

// least is what every agent needs.
func least() map[string]string {
	return map[string]string{"AGENT_NAME": "writer", "AGENT_NAMESPACE": "default", "MODEL": "m-1", "NATS_URL": "nats://127.0.0.1:4222"}
}

func read(env map[string]string) (*environ.Agent, []string) {
	all := least()
	maps.Copy(all, env)
	return environ.Read(environ.Source{
		Getenv: func(name string) string { return all[name] },
		ReadFile: func(name string) ([]byte, error) {
			content, ok := map[string]string{"/prompt": "You write.\n", "/token": "t-1\n", "/empty": "", "/nats.creds": "x", "/crt": "c", "/key": "k"}[name]
			if !ok {
				return nil, errors.New("open " + name + ": no such file")
			}
			return []byte(content), nil
		},
		Hostname: "host-1",
	})
}

func TestLeast(t *testing.T) {
	t.Parallel()
	a, faults := read(nil)
	require.Empty(t, faults)
	require.Equal(t, &environ.Agent{
		Name: "writer", Namespace: "default", Pod: "host-1", Model: "m-1", Provider: "auto", NATSURL: "nats://127.0.0.1:4222",
	}, a)
}

func TestAll(t *testing.T) {
	t.Parallel()
	zero, half, two := 0.0, 0.5, 2
	a, faults := read(map[string]string{
		"POD_NAME": "writer-0", "PROVIDER": "anthropic", "SYSTEM_PROMPT": "ignored", "SYSTEM_PROMPT_PATH": "/prompt", "OUTPUT_FORMAT": "plain",
		"TEMPERATURE": "0", "TOP_P": " 0.5 ", "MAX_TOKENS_PER_CALL": "100", "MAX_CONCURRENT_TASKS": "7", "TASK_TIMEOUT_SECONDS": "30",
		"MAX_TURNS": "9", "MAX_RETRIES": "2", "ON_BUDGET_EXCEEDED": "Wait", "VALIDATOR_PROMPT": "well?", "PROBE_EXPECT": "YES",
		"PROBE_INTERVAL_SECONDS": "5", "PROBE_TIMEOUT_SECONDS": "6", "PROBE_FAILURE_THRESHOLD": "2", "NATS_CREDS": "/nats.creds", "AGENT_NATS_CA": "/crt",
		"OPENAI_API_KEY": "k1", "OPENAI_BASE_URL": "http://models/v1", "ANTHROPIC_API_KEY": "k2", "ANTHROPIC_BASE_URL": "http://claude",
		"TOOLS_ALLOW_LINK_LOCAL": "true", "TOOLS_DENY_PRIVATE": "false", "SEARCH_KEY": "s-1",
		"MCP_SERVERS": `[{"name":"search","url":"http://search/mcp","transport":"sse","headers":[{"name":"X-Key","env":"SEARCH_KEY"},{"name":"X","value":"v"}],
			"auth":{"type":"bearer","file":"/token"},"guidance":"search first","required":true,"tools":{"allow":["a"],"deny":["b"]},"idempotent":true},
			{"name":"own","command":"npx","args":["-y","own"]},{"name":"tls","url":"https://x","auth":{"type":"mtls","certFile":"/crt","keyFile":"/key"}}]`,
		"WEBHOOK_TOOLS": `[{"name":"look","description":"looks","url":"http://look","method":"GET","headers":[{"name":"T","file":"/token"}],
			"inputSchema":"{\"type\":\"object\"}","timeoutSeconds":4,"idempotent":true},{"name":"b","url":"http://b","inputSchema":{"type":"object"}}]`,
	})
	require.Empty(t, faults)
	require.Equal(t, &environ.Agent{
		Name: "writer", Namespace: "default", Pod: "writer-0", Model: "m-1", Provider: "anthropic", SystemPrompt: "You write.\n", OutputFormat: "plain",
		Temperature: &zero, TopP: &half, AllowLinkLocal: true, MaxTokensPerCall: 100, MaxConcurrentTasks: 7, Timeout: 30 * time.Second, MaxTurns: 9,
		Retries: &two, WaitForBudget: true,
		Probe:   &environ.Probe{Prompt: "well?", Expect: "YES", Interval: 5 * time.Second, Timeout: 6 * time.Second, FailureThreshold: 2},
		NATSURL: "nats://127.0.0.1:4222", NATSCreds: "/nats.creds", NATSCA: "/crt",
		OpenAI: environ.Server{Key: "k1", BaseURL: "http://models/v1"}, Anthropic: environ.Server{Key: "k2", BaseURL: "http://claude"},
		MCPServers: []environ.MCPServer{
			{
				Name: "search", URL: "http://search/mcp", Transport: "sse",
				Headers:  []environ.Header{{Name: "X-Key", Env: "SEARCH_KEY", Value: "s-1"}, {Name: "X", Value: "v"}},
				Auth:     &environ.Auth{Type: "bearer", File: "/token"},
				Guidance: "search first", Required: true, Tools: &environ.Filter{Allow: []string{"a"}, Deny: []string{"b"}}, Idempotent: true,
			},
			{Name: "own", Command: "npx", Args: []string{"-y", "own"}},
			{Name: "tls", URL: "https://x", Auth: &environ.Auth{Type: "mtls", CertFile: "/crt", KeyFile: "/key"}},
		},
		WebhookTools: []environ.WebhookTool{
			{
				Name: "look", Description: "looks", URL: "http://look", Method: "GET", Headers: []environ.Header{{Name: "T", File: "/token", Value: "t-1"}},
				InputSchema: environ.Schema(`{"type":"object"}`), TimeoutSeconds: 4, Idempotent: true,
			},
			{Name: "b", URL: "http://b", InputSchema: environ.Schema(`{"type":"object"}`)},
		},
	}, a)
	require.Subset(t, a.SecretNames(), []string{"OPENAI_API_KEY", "AGENT_ANTHROPIC_API_KEY", "NATS_URL", "SEARCH_KEY"})
}

func TestThePrefixWins(t *testing.T) {
	t.Parallel()
	a, faults := read(map[string]string{
		"AGENT_MODEL": "m-2", "AGENT_MAX_TOKENS": "11", "MAX_TOKENS_PER_CALL": "12", "AGENT_TIMEOUT_SECONDS": "13", "TASK_TIMEOUT_SECONDS": "14",
		"AGENT_OPENAI_API_KEY": "mine", "OPENAI_API_KEY": "all", "AGENT_NATS_URL": "", "AGENT_PROBE_TYPE": "semantic",
	})
	require.Empty(t, faults)
	require.Equal(t, "m-2", a.Model)
	require.Equal(t, int64(11), a.MaxTokensPerCall)
	require.Equal(t, 13*time.Second, a.Timeout)
	require.Equal(t, "mine", a.OpenAI.Key)
	require.Equal(t, "nats://127.0.0.1:4222", a.NATSURL, "an empty variable is none")
	require.Equal(t, &environ.Probe{}, a.Probe)

	a, _ = read(map[string]string{"AGENT_MAX_TOKENS": "11", "AGENT_MAX_TOKENS_PER_CALL": "10", "PROBE_TYPE": "ping", "VALIDATOR_PROMPT": "well?"})
	require.Equal(t, int64(10), a.MaxTokensPerCall)
	require.Nil(t, a.Probe)
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, value, want string
	}{
		{"MODEL", " ", `MODEL is not set: it must be the name of a model`},
		{"AGENT_NAME", "", `AGENT_NAME is not set: it must be the name of the agent`},
		{"AGENT_NAMESPACE", "", `AGENT_NAMESPACE is not set: it must be the namespace of the agent`},
		{"PROVIDER", "gpt", `PROVIDER is "gpt": it must be one of auto, openai, anthropic, mock`},
		{"AGENT_PROVIDER", "gpt", `AGENT_PROVIDER is "gpt": it must be one of auto, openai, anthropic, mock`},
		{"MAX_TURNS", "many", `MAX_TURNS is "many": it must be a whole number from 1 to 1000`},
		{"MAX_TURNS", "0", `MAX_TURNS is "0": it must be a whole number from 1 to 1000`},
		{"MAX_TURNS", strings.Repeat("é", 80), `MAX_TURNS is "` + strings.Repeat("é", 50) + `...": it must be a whole number from 1 to 1000`},
		{"AGENT_MAX_TOKENS", "-1", `AGENT_MAX_TOKENS is "-1": it must be a whole number from 1 to 10000000`},
		{"AGENT_TIMEOUT_SECONDS", "1e3", `AGENT_TIMEOUT_SECONDS is "1e3": it must be a whole number from 1 to 86400`},
		{"MAX_CONCURRENT_TASKS", "1001", `MAX_CONCURRENT_TASKS is "1001": it must be a whole number from 1 to 1000`},
		{"MAX_RETRIES", "101", `MAX_RETRIES is "101": it must be a whole number from 0 to 100`},
		{"TEMPERATURE", "2.1", `TEMPERATURE is "2.1": it must be a number from 0 to 2`},
		{"TEMPERATURE", "NaN", `TEMPERATURE is "NaN": it must be a number from 0 to 2`},
		{"TOP_P", "hot", `TOP_P is "hot": it must be a number from 0 to 1`},
		{"ON_BUDGET_EXCEEDED", "wait", `ON_BUDGET_EXCEEDED is "wait": it must be one of Fail, Wait`},
		{"PROBE_TYPE", "http", `PROBE_TYPE is "http": it must be one of semantic, ping`},
		{"PROBE_INTERVAL_SECONDS", "0", `PROBE_INTERVAL_SECONDS is "0": it must be a whole number from 1 to 86400`},
		{"PROBE_TIMEOUT_SECONDS", "9999", `PROBE_TIMEOUT_SECONDS is "9999": it must be a whole number from 1 to 3600`},
		{"PROBE_FAILURE_THRESHOLD", "x", `PROBE_FAILURE_THRESHOLD is "x": it must be a whole number from 1 to 100`},
		{"TOOLS_DENY_PRIVATE", "yes", `TOOLS_DENY_PRIVATE is "yes": it must be one of false, true`},
		{"SYSTEM_PROMPT_PATH", "/none", `SYSTEM_PROMPT_PATH is "/none": it must be a file that can be read: open /none: no such file`},
		{"NATS_CREDS", "/none", `NATS_CREDS is "/none": it must be a file that can be read: open /none: no such file`},
		{"NATS_CA", "/none", `NATS_CA is "/none": it must be a file that can be read: open /none: no such file`},
		{"NATS_URL", "http://me:secret@x", `NATS_URL is "http://***@x": it must be the address of a NATS server, such as nats://ark.ark-system:4222, or several with commas between them`},
		{"NATS_URL", "", `NATS_URL is not set: it must be the address of a NATS server, such as nats://ark.ark-system:4222, or several with commas between them`},
		{"MCP_SERVERS", "{}", `MCP_SERVERS is "{}": it must be a JSON list such as [{"name":"search","url":"http://search/mcp"}]; json: cannot unmarshal object into Go value of type []environ.MCPServer`},
		{"MCP_SERVERS", `[{"name":"a","token":"x"}]`, `MCP_SERVERS is "[{\"name\":\"a\",\"token\":\"x\"}]": it must be a JSON list such as [{"name":"search","url":"http://search/mcp"}]; json: unknown field "token"`},
		{"MCP_SERVERS", `[] []`, `MCP_SERVERS is "[] []": it must be a JSON list such as [{"name":"search","url":"http://search/mcp"}]; something stands behind it`},
		{"MCP_SERVERS", `[{"name":"a","url":"http://u:p@x","nope":1}]`, `MCP_SERVERS is "[{\"name\":\"a\",\"url\":\"http://***@x\",\"nope\":1}]": it must be a JSON list such as [{"name":"search","url":"http://search/mcp"}]; json: unknown field "nope"`},
		{"MCP_SERVERS", `[{"name":"a","url":"http://x","headers":[{"name":"K","env":"NONE"}]}]`, `MCP_SERVERS: server "a": header "K": the variable NONE is not set`},
		{"MCP_SERVERS", `[{"name":"a","url":"http://x","headers":[{"name":"K","value":"v","file":"/token"}]}]`, `MCP_SERVERS: server "a": header "K": it needs exactly one of value, env and file`},
		{"MCP_SERVERS", `[{"name":"a","url":"http://x","headers":[{"name":"K"}]}]`, `MCP_SERVERS: server "a": header "K": it needs exactly one of value, env and file`},
		{"MCP_SERVERS", `[{"name":"a","url":"http://x","headers":[{"value":"v"}]}]`, `MCP_SERVERS: server "a": header "": its name is missing`},
		{"MCP_SERVERS", `[{"name":"a","url":"http://x","auth":{"type":"basic"}}]`, `MCP_SERVERS: server "a": auth: its type is "basic": it must be one of bearer, mtls`},
		{"MCP_SERVERS", `[{"name":"a","url":"http://x","auth":{"type":"bearer"}}]`, `MCP_SERVERS: server "a": auth: it needs exactly one of env and file`},
		{"MCP_SERVERS", `[{"name":"a","url":"http://x","auth":{"type":"bearer","file":"/none"}}]`, `MCP_SERVERS: server "a": auth: the file /none cannot be read: open /none: no such file`},
		{"MCP_SERVERS", `[{"name":"a","url":"http://x","auth":{"type":"mtls","certFile":"/crt"}}]`, `MCP_SERVERS: server "a": auth: it needs certFile and keyFile`},
		{"MCP_SERVERS", `[{"name":"a","url":"http://x","auth":{"type":"bearer","env":"X","keyFile":"/key"}}]`, `MCP_SERVERS: server "a": auth: env and file are for bearer, certFile, keyFile and caFile for mtls`},
		{"WEBHOOK_TOOLS", `[{"name":"t","url":"http://x","headers":[{"name":"K","file":"/empty"}]}]`, `WEBHOOK_TOOLS: tool "t": header "K": the file /empty is empty`},
		{"WEBHOOK_TOOLS", `[{"name":"t","url":"http://x","timeoutSeconds":-1}]`, `WEBHOOK_TOOLS: tool "t": timeoutSeconds is -1: it must be from 1 to 3600`},
		{"WEBHOOK_TOOLS", `[{"name":"t","url":"http://x","inputSchema":"{"}]`, `WEBHOOK_TOOLS is "[{\"name\":\"t\",\"url\":\"http://x\",\"inputSchema\":\"{\"}]": it must be a JSON list such as [{"name":"lookup","url":"http://lookup/","method":"GET"}]; inputSchema is not JSON`},
		{"MEMORY_BACKEND", "etcd", `MEMORY_BACKEND is "etcd": it must be one of in-context, nats, redis, vector-store`},
		{"AGENT_MEMORY_BACKEND", "etcd", `AGENT_MEMORY_BACKEND is "etcd": it must be one of in-context, nats, redis, vector-store`},
		{"MEMORY_NATS", "5", `MEMORY_NATS is "5": it must be a JSON object such as {"ttlSeconds":86400,"maxEntries":100}; json: cannot unmarshal number into Go value of type environ.MemoryNATS`},
		{"MEMORY_NATS", `{"ttl":5}`, `MEMORY_NATS is "{\"ttl\":5}": it must be a JSON object such as {"ttlSeconds":86400,"maxEntries":100}; json: unknown field "ttl"`},
		{"MEMORY_NATS", `{} {}`, `MEMORY_NATS is "{} {}": it must be a JSON object such as {"ttlSeconds":86400,"maxEntries":100}; something stands behind it`},
		{"MEMORY_NATS", `{"ttlSeconds":-5}`, `MEMORY_NATS: ttlSeconds is -5: it must be from 0 to 3153600000`},
		{"MEMORY_NATS", `{"ttlSeconds":9223372036854775807}`, `MEMORY_NATS: ttlSeconds is 9223372036854775807: it must be from 0 to 3153600000`},
		{"MEMORY_NATS", `{"maxEntries":-1}`, `MEMORY_NATS: maxEntries is -1: it must be from 0 to 1000000`},
		{"MEMORY_PROMPT_BYTES", "many", `MEMORY_PROMPT_BYTES is "many": it must be a whole number from -1 to 262144`},
		{"MEMORY_REDIS", `{"urlFile":"/none"}`, `MEMORY_REDIS: the file /none cannot be read: open /none: no such file`},
		{"MEMORY_REDIS", `{"urlEnv":"NONE"}`, `MEMORY_REDIS: the variable NONE is not set`},
		{"MEMORY_REDIS", `{"ttlSeconds":-1}`, `MEMORY_REDIS: ttlSeconds is -1: it must be from 0 to 3153600000`},
		{"MEMORY_VECTOR_STORE", `{"endpoint":"postgres://me:s3cret@h","nope":1}`, `MEMORY_VECTOR_STORE is "{\"endpoint\":\"postgres://***@h\",\"nope\":1}": it must be a JSON object such as {"provider":"pgvector","endpoint":"postgres://host:5432/database"}; json: unknown field "nope"`},
	} {
		_, faults := read(map[string]string{c.name: c.value})
		require.Equal(t, c.want, faults[0])
		if c.name != "MEMORY_VECTOR_STORE" { // it has more than one thing wrong with it
			require.Len(t, faults, 1)
		}
	}
	_, faults := read(map[string]string{"MODEL": "", "MAX_TURNS": "x", "TOP_P": "x", "MCP_SERVERS": "x", "NATS_URL": "x y"})
	require.Len(t, faults, 5, "all at once")
	require.Equal(t, "a\nb", (&environ.Error{Faults: []string{"a", "b"}}).Error())
}

// What is written is what is read.
func TestToolsAreWrittenAsTheyAreRead(t *testing.T) {
	t.Parallel()
	servers := []environ.MCPServer{{Name: "a", URL: "http://x", Headers: []environ.Header{{Name: "K", Value: "v"}}, Auth: &environ.Auth{Type: "bearer", File: "/token"}}}
	tools := []environ.WebhookTool{{Name: "t", URL: "http://x", InputSchema: environ.Schema(`{"type":"object"}`)}, {Name: "u", URL: "http://x"}}
	one, err := json.Marshal(servers)
	require.NoError(t, err)
	two, err := json.Marshal(tools)
	require.NoError(t, err)
	a, faults := read(map[string]string{"MCP_SERVERS": string(one), "WEBHOOK_TOOLS": string(two)})
	require.Empty(t, faults)
	require.Equal(t, servers, a.MCPServers)
	require.Equal(t, tools, a.WebhookTools)
}

func TestMemory(t *testing.T) {
	t.Parallel()
	zero := int64(0)
	for name, c := range map[string]struct {
		env    map[string]string
		want   *environ.Memory
		secret []string
	}{
		"none":         {map[string]string{"REDIS_URL": "redis://h", "PGUSER": "me", "MEMORY_PROMPT_BYTES": "5"}, nil, nil},
		"nats":         {map[string]string{"AGENT_MEMORY_BACKEND": "nats"}, &environ.Memory{Backend: "nats"}, nil},
		"nats, limits": {map[string]string{"MEMORY_NATS": `{"ttlSeconds":60,"maxEntries":5}`}, &environ.Memory{Backend: "nats", NATS: environ.MemoryNATS{TTLSeconds: 60, MaxEntries: 5}}, nil},
		"in-context":   {map[string]string{"MEMORY_BACKEND": "in-context", "MEMORY_PROMPT_BYTES": "-1"}, &environ.Memory{Backend: "in-context", PromptBytes: -1}, nil},
		"redis":        {map[string]string{"MEMORY_BACKEND": "redis", "AGENT_REDIS_URL": "redis://h"}, &environ.Memory{Backend: "redis", Redis: environ.MemoryRedis{URL: "redis://h"}}, []string{"AGENT_REDIS_URL", "REDIS_URL"}},
		"redis, named": {
			map[string]string{"MEMORY_REDIS": `{"ttlSeconds":0,"urlEnv":"CACHE"}`, "CACHE": "rediss://h"},
			&environ.Memory{Backend: "redis", Redis: environ.MemoryRedis{TTLSeconds: &zero, URLEnv: "CACHE", URL: "rediss://h"}},
			[]string{"CACHE"},
		},
		"qdrant": {
			map[string]string{
				"MEMORY_VECTOR_STORE": `{"provider":"qdrant","endpoint":"q:6334","collection":"c","ttlSeconds":9}`, "QDRANT_API_KEY": "q-key",
				"MEMORY_EMBEDDING": `{"model":"m","provider":"openai","dimensions":256,"apiKeyEnv":"EMBED_KEY"}`, "EMBED_KEY": "e-key", "MEMORY_PROMPT_BYTES": "100",
			},
			&environ.Memory{
				Backend: "vector-store", PromptBytes: 100,
				VectorStore: environ.MemoryVectorStore{Provider: "qdrant", Endpoint: "q:6334", Collection: "c", TTLSeconds: 9, Secret: "q-key"},
				Embedding:   environ.MemoryEmbedding{Model: "m", Provider: "openai", Dimensions: 256, APIKeyEnv: "EMBED_KEY", APIKey: "e-key"},
			},
			[]string{"QDRANT_API_KEY", "EMBED_KEY"},
		},
		"pgvector": {
			map[string]string{
				"MEMORY_VECTOR_STORE": `{"provider":"pgvector","endpoint":"postgres://h/db","secretFile":"/token"}`,
				"MEMORY_EMBEDDING":    `{"model":"m","apiKeyFile":"/token"}`, "PGUSER": "me", "PGPASSWORD": "other",
			},
			&environ.Memory{
				Backend:     "vector-store",
				VectorStore: environ.MemoryVectorStore{Provider: "pgvector", Endpoint: "postgres://h/db", User: "me", SecretFile: "/token", Secret: "t-1"},
				Embedding:   environ.MemoryEmbedding{Model: "m", APIKeyFile: "/token", APIKey: "t-1"},
			},
			[]string{"PGPASSWORD"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, faults := read(c.env)
			require.Empty(t, faults)
			require.Equal(t, c.want, a.Memory)
			require.Subset(t, a.SecretNames(), c.secret)
		})
	}
	for want, env := range map[string]map[string]string{
		`MEMORY_NATS is set, but MEMORY_BACKEND is "redis": it goes with "nats"`: {"MEMORY_BACKEND": "redis", "MEMORY_NATS": "{}"},
		`MEMORY_VECTOR_STORE: provider is "chroma": it must be one of qdrant, pgvector, such as {"provider":"pgvector","endpoint":"postgres://host:5432/database"}`: {
			"MEMORY_VECTOR_STORE": `{"provider":"chroma"}`, "MEMORY_EMBEDDING": `{"model":"m"}`,
		},
		`MEMORY_EMBEDDING names no model: a vector store needs one that makes the vectors, such as {"model":"text-embedding-3-small"}`: {
			"MEMORY_VECTOR_STORE": `{"provider":"qdrant","endpoint":"q"}`,
		},
	} {
		_, faults := read(env)
		require.Equal(t, []string{want}, faults)
	}
}

func FuzzRead(f *testing.F) {
	f.Add(`[{"name":"a","url":"http://x","headers":[{"name":"K","env":"NONE"}],"auth":{"type":"mtls"}}]`, "nats://a@b", "1")
	f.Add(`[{"name":"t","inputSchema":"{}"}]`, "a,b,:", "-")
	f.Fuzz(func(t *testing.T, list, url, number string) {
		_, faults := read(map[string]string{"MCP_SERVERS": list, "WEBHOOK_TOOLS": list, "NATS_URL": url, "MAX_TURNS": number, "TEMPERATURE": number, "MEMORY_VECTOR_STORE": list, "MEMORY_EMBEDDING": list})
		for _, fault := range faults {
			require.NotContains(t, fault, "\n")
		}
	})
}
