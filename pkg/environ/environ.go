// Package environ is the environment of an agent: the variables that tell `ark runtime` what it is. An operator writes
// them, the runtime reads them. The package is pure: variables and files are read through functions.
//
// Each variable also answers to its name with the prefix AGENT_, which wins; an empty one counts as not set. Secrets
// never stand in MCP_SERVERS and WEBHOOK_TOOLS: those name the variable or the file that holds them.
//
// What is wrong is told all at once, a line for each variable: its name, what it holds and what is allowed.
package environ

import (
	"strings"
	"time"
)

// Names of the variables. OTEL_* stand in package telemetry.
const (
	Name      = "AGENT_NAME"
	Namespace = "AGENT_NAMESPACE"
	Pod       = "POD_NAME"

	Model            = "MODEL"
	Provider         = "PROVIDER"           // auto, openai, anthropic or mock
	SystemPrompt     = "SYSTEM_PROMPT"      // composed
	SystemPromptPath = "SYSTEM_PROMPT_PATH" // a file with it, which wins
	OutputFormat     = "OUTPUT_FORMAT"      // structured-json, markdown, plain, or free text
	Temperature      = "TEMPERATURE"
	TopP             = "TOP_P"

	MCPServers   = "MCP_SERVERS"   // JSON: a list of MCPServer
	WebhookTools = "WEBHOOK_TOOLS" // JSON: a list of WebhookTool
	MCPPolicies  = "MCP_POLICIES"  // JSON: a list of MCPPolicy; a server that one of them refuses ends the process at start
	// ToolsAllowLinkLocal lets tools connect to link-local and metadata addresses, ToolsDenyPrivate forbids them private
	// and loopback ones.
	ToolsAllowLinkLocal = "TOOLS_ALLOW_LINK_LOCAL"
	ToolsDenyPrivate    = "TOOLS_DENY_PRIVATE"

	// What the agent remembers between tasks; without any of them nothing. The settings are JSON objects: see MemoryNATS,
	// MemoryRedis, MemoryVectorStore and MemoryEmbedding.
	MemoryBackend             = "MEMORY_BACKEND" // in-context, nats, redis or vector-store
	MemoryNATSSettings        = "MEMORY_NATS"
	MemoryRedisSettings       = "MEMORY_REDIS"
	MemoryVectorStoreSettings = "MEMORY_VECTOR_STORE"
	MemoryEmbeddingSettings   = "MEMORY_EMBEDDING"
	MemoryPromptBytes         = "MEMORY_PROMPT_BYTES" // a number, -1 for nothing before the prompt

	MaxTokensPerCall   = "MAX_TOKENS_PER_CALL" // also AGENT_MAX_TOKENS
	MaxConcurrentTasks = "MAX_CONCURRENT_TASKS"
	TaskTimeout        = "TASK_TIMEOUT_SECONDS" // also AGENT_TIMEOUT_SECONDS
	MaxTurns           = "MAX_TURNS"
	MaxRetries         = "MAX_RETRIES"
	OnBudgetExceeded   = "ON_BUDGET_EXCEEDED" // Fail or Wait

	ProbeType             = "PROBE_TYPE" // semantic or ping; without it semantic, when ValidatorPrompt is set
	ValidatorPrompt       = "VALIDATOR_PROMPT"
	ProbeExpect           = "PROBE_EXPECT"
	ProbeInterval         = "PROBE_INTERVAL_SECONDS"
	ProbeTimeout          = "PROBE_TIMEOUT_SECONDS"
	ProbeFailureThreshold = "PROBE_FAILURE_THRESHOLD"

	NATSURL   = "NATS_URL"
	NATSCreds = "NATS_CREDS" // a file with a user's JWT and seed, read anew whenever a connection is made
	NATSCA    = "NATS_CA"    // a file with the authorities of the server's certificate; TLS is a must then

	OpenAIKey        = "OPENAI_API_KEY"
	OpenAIBaseURL    = "OPENAI_BASE_URL"
	AnthropicKey     = "ANTHROPIC_API_KEY"
	AnthropicBaseURL = "ANTHROPIC_BASE_URL"
)

// prefix is what the name of every variable may begin with.
const prefix = "AGENT_"

// aliases are names that existing images and Secrets use.
func aliases(name string) []string {
	switch name {
	case MaxTokensPerCall:
		return []string{prefix + name, prefix + "MAX_TOKENS", name}
	case TaskTimeout:
		return []string{prefix + name, prefix + "TIMEOUT_SECONDS", name}
	default:
		return []string{prefix + name, name}
	}
}

// Get returns a variable by any of its names, and the name that it stands under; both are empty when it is not set.
func Get(getenv func(string) string, name string) (value, under string) {
	for _, n := range aliases(name) {
		if v := getenv(n); v != "" {
			return v, n
		}
	}
	return "", ""
}

// Agent is what an environment says. Durations and numbers that are not set are 0: the runtime has the defaults.
type Agent struct {
	Name, Namespace, Pod string

	Model             string
	Provider          string // auto, openai, anthropic or mock
	SystemPrompt      string
	OutputFormat      string
	Temperature, TopP *float64

	MCPServers     []MCPServer
	MCPPolicies    []MCPPolicy
	WebhookTools   []WebhookTool
	AllowLinkLocal bool
	DenyPrivate    bool

	MaxTokensPerCall   int64
	MaxConcurrentTasks int
	Timeout            time.Duration
	MaxTurns           int
	Retries            *int
	WaitForBudget      bool

	Probe *Probe // nil: ping

	Memory *Memory // nil: none

	NATSURL, NATSCreds, NATSCA string

	OpenAI, Anthropic Server
}

// Server is a model server.
type Server struct{ Key, BaseURL string }

// Probe is the semantic readiness probe.
type Probe struct {
	Prompt, Expect    string
	Interval, Timeout time.Duration
	FailureThreshold  int
}

// Source is where the environment is read from.
type Source struct {
	Getenv   func(name string) string
	ReadFile func(name string) ([]byte, error)
	// Hostname is the pod's name where none is set.
	Hostname string
}

// Error is everything that is wrong with an environment, a line each.
type Error struct{ Faults []string }

func (e *Error) Error() string { return strings.Join(e.Faults, "\n") }

// Bounds of the numbers, as the ArkAgent API has them.
const (
	maxTokensPerCall = 10_000_000
	maxConcurrent    = 1000
	maxSeconds       = 86400
	maxTurns         = 1000
	maxRetries       = 100
	maxProbeTimeout  = 3600
	maxThreshold     = 100
)

// Read reads an agent. faults are its wrong variables; the agent is then good for finding more faults only.
func Read(s Source) (a *Agent, faults []string) {
	r := &reader{source: s}
	a = &Agent{
		Name: r.required(Name, "the name of the agent"), Namespace: r.required(Namespace, "the namespace of the agent"),
		Pod:   r.required(Pod, "a name for this process", s.Hostname),
		Model: r.required(Model, "the name of a model"), Provider: r.choice(Provider, "auto", "openai", "anthropic", "mock"),
		SystemPrompt: r.systemPrompt(), OutputFormat: r.text(OutputFormat),
		Temperature: r.float(Temperature, 2), TopP: r.float(TopP, 1),
		AllowLinkLocal: r.boolean(ToolsAllowLinkLocal), DenyPrivate: r.boolean(ToolsDenyPrivate),
		MaxTokensPerCall:   r.number(MaxTokensPerCall, 1, maxTokensPerCall),
		MaxConcurrentTasks: int(r.number(MaxConcurrentTasks, 1, maxConcurrent)),
		Timeout:            r.seconds(TaskTimeout, maxSeconds),
		MaxTurns:           int(r.number(MaxTurns, 1, maxTurns)),
		Retries:            r.count(MaxRetries, maxRetries),
		WaitForBudget:      r.choice(OnBudgetExceeded, "Fail", "Wait") == "Wait",
		Probe:              r.probe(),
		NATSURL:            r.natsURL(), NATSCreds: r.file(NATSCreds), NATSCA: r.file(NATSCA),
		OpenAI:    Server{Key: r.text(OpenAIKey), BaseURL: r.text(OpenAIBaseURL)},
		Anthropic: Server{Key: r.text(AnthropicKey), BaseURL: r.text(AnthropicBaseURL)},
	}
	a.MCPServers = r.mcpServers()
	r.json(MCPPolicies, `it must be a JSON list such as [{"from":"ArkSettings strict","allowlist":["https://tools.example.com/"],"requireAuth":true}]`, &a.MCPPolicies)
	a.WebhookTools = r.webhookTools()
	a.Memory = r.memory()
	return a, r.faults
}
