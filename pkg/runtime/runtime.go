// Package runtime is the agent process: it pulls an agent's tasks, runs the model's tool loop, and publishes results.
// It knows nothing of Kubernetes; the same code runs in a pod and as a goroutine below `ark run`.
//
// Every step of a task is in the task's journal before it is used, so a runtime may be killed at any moment: whoever
// takes the task over replays the journal and goes on from there. No model call is made without a reservation, and
// none whose answer is in the journal is made again.
//
// Order inside one task:
//
//	pull -> take over, replay -> {reserve + intent -> model call -> answer + settle + tool starts -> tools -> tool ends}
//	-> publish the result (the first one wins) -> acknowledge
//
// A Runtime owns its goroutines: when Run returns, all of them have ended.
package runtime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/memory"
	"arkonis.dev/ark/pkg/prompt"
	"arkonis.dev/ark/pkg/queue"
	"arkonis.dev/ark/pkg/telemetry"
	"arkonis.dev/ark/pkg/tools"
	"arkonis.dev/ark/pkg/tools/mcp"
	"arkonis.dev/ark/pkg/work"
)

// Limits bound what one agent does. Zero values take the defaults of the ArkAgent API.
type Limits struct {
	MaxTokensPerCall   int64         // output cap of one model call; 8000
	MaxConcurrentTasks int           // running at once; a task that waits for a delegate does not count; 5
	Timeout            time.Duration // of a task's work, from its first take-over, where the task names none; 120 s
	MaxTurns           int           // model answers in one task; 25
	// WaitForBudget hands a task back until its budget frees, instead of failing it.
	WaitForBudget bool
}

// Config is what an agent is made of. Required are Namespace, Agent, Pod, Model, Provider, Queue and Work.
type Config struct {
	Namespace, Agent, Pod string
	Model                 string
	SystemPrompt          string // composed, see package prompt; the note on step outputs is added if it is missing
	Provider              llm.Provider
	Tools                 *tools.Set   // nil: none
	Servers               *mcp.Servers // their tools come and go; nil: none. They stay the caller's to close
	// Memory is what the agent remembers between tasks; nil: nothing. It stays the caller's to close. Embedder makes the
	// vectors that a memory.VectorStore needs, and is nil for other ones.
	Memory            *memory.Memory
	Embedder          llm.Embedder
	Limits            Limits
	Temperature, TopP *float64
	Backoff           Backoff // between attempts at a model call; 500 ms doubling up to 30 s

	Probe *Probe // asks the model whether its answers make sense; nil: the agent is ready when it is connected

	Queue *queue.Queue
	Work  *work.Client

	// AckWait is how long the queue waits for a sign of life before it gives a task to another pod; 12 s. Heartbeat
	// is how often there is one; 4 s.
	AckWait, Heartbeat time.Duration
	// Grace is how long running tasks may go on after Run's context ended; then they are handed back. 0: at once.
	Grace time.Duration

	// NoProgress and NoChunks say that nobody looks on, and that nobody reads answers while they are written: these hints,
	// on which nothing depends, are not sent then.
	NoProgress, NoChunks bool

	Logger    *slog.Logger         // nil: slog.Default()
	Telemetry *telemetry.Telemetry // nil: off
}

// Defaults of a Config.
const (
	DefaultMaxTokensPerCall   = 8000
	DefaultMaxConcurrentTasks = 5
	DefaultTimeout            = 120 * time.Second
	DefaultMaxTurns           = 25
	DefaultHeartbeat          = 4 * time.Second
	defaultBackoffBase        = 500 * time.Millisecond
	defaultBackoffMax         = 30 * time.Second
)

func (c *Config) setDefaults() error {
	setDefault(&c.Limits.MaxTokensPerCall, DefaultMaxTokensPerCall)
	setDefault(&c.Limits.MaxConcurrentTasks, DefaultMaxConcurrentTasks)
	setDefault(&c.Limits.Timeout, DefaultTimeout)
	setDefault(&c.Limits.MaxTurns, DefaultMaxTurns)
	setDefault(&c.AckWait, queue.DefaultAckWait)
	setDefault(&c.Heartbeat, DefaultHeartbeat)
	setDefault(&c.Backoff.Base, defaultBackoffBase)
	setDefault(&c.Backoff.Max, defaultBackoffMax)
	if c.Tools == nil {
		none, err := tools.NewSet()
		if err != nil {
			return err
		}
		c.Tools = none
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Probe != nil {
		c.Probe = c.Probe.withDefaults()
	}
	c.SystemPrompt = prompt.WithNote(c.SystemPrompt)
	return nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c *Config) validate() error {
	for name, missing := range map[string]bool{
		"Namespace": c.Namespace == "", "Agent": c.Agent == "", "Pod": c.Pod == "", "Model": c.Model == "",
		"Provider": c.Provider == nil, "Queue": c.Queue == nil, "Work": c.Work == nil,
	} {
		if missing {
			return fmt.Errorf("runtime: %s is missing", name)
		}
	}
	for name, value := range map[string]int64{
		"Limits.MaxTokensPerCall": c.Limits.MaxTokensPerCall, "Limits.MaxConcurrentTasks": int64(c.Limits.MaxConcurrentTasks),
		"Limits.Timeout": int64(c.Limits.Timeout), "Limits.MaxTurns": int64(c.Limits.MaxTurns),
		"Heartbeat": int64(c.Heartbeat), "Backoff.Base": int64(c.Backoff.Base), "Backoff.Max": int64(c.Backoff.Max),
		"Grace": int64(c.Grace) + 1,
	} {
		if value <= 0 {
			return fmt.Errorf("runtime: %s must be above 0", name)
		}
	}
	if c.Probe != nil {
		if err := c.Probe.validate(); err != nil {
			return err
		}
	}
	if c.Memory != nil {
		if err := memory.CheckTools(c.Tools); err != nil {
			return fmt.Errorf("runtime: %w", err)
		}
		if c.Memory.Config().Backend == memory.VectorStore && c.Embedder == nil {
			return errors.New("runtime: Embedder is missing, which the memory needs")
		}
	}
	if c.Heartbeat >= c.AckWait {
		return fmt.Errorf("runtime: Heartbeat (%s) must be below AckWait (%s)", c.Heartbeat, c.AckWait)
	}
	return nil
}

// Runtime runs the tasks of one agent. Make it with New, and run it; after an error Run may be called again.
type Runtime struct {
	config Config
	slots  *slots
	room   room
	health *health
	log    *slog.Logger

	mu      sync.Mutex
	running map[string]context.CancelCauseFunc // by task id
}

// New makes a runtime. The error names the field that is missing or wrong.
func New(c Config) (*Runtime, error) {
	if err := c.setDefaults(); err != nil {
		return nil, err
	}
	if err := c.validate(); err != nil {
		return nil, err
	}
	return &Runtime{
		config:  c,
		slots:   newSlots(c.Limits.MaxConcurrentTasks),
		room:    newRoom(),
		health:  newHealth(),
		log:     c.Logger.With("agent", c.Agent, "namespace", c.Namespace),
		running: map[string]context.CancelCauseFunc{},
	}, nil
}

// errHandBack ends the tasks that did not finish in the grace period.
var errHandBack = errors.New("the agent is shutting down")

// errRemoved ends all tasks of an agent that is gone: what becomes of them is not its own to say.
var errRemoved = errors.New("the agent was removed")

// errGiveWay ends a task that waits for tokens in a place that others need more.
var errGiveWay = errors.New("other calls have reserved the tokens that are left, and all tasks of this pod wait for them")
