package queue

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"arkonis.dev/ark/pkg/task"
)

// Names of the streams.
const (
	StreamTasks    = "ARK_TASKS"
	StreamResults  = "ARK_RESULTS"
	StreamLedger   = "ARK_LEDGER"
	StreamPayloads = "ARK_PAYLOADS"
	StreamDead     = "ARK_DEAD"
)

// maxSubject bounds a subject in bytes; the server's control line holds twice as much.
const maxSubject = 2048

// Key names a task wherever it is met: the parts of its subjects.
type Key struct {
	Namespace string
	Agent     string
	RunUID    string
	TaskID    string
}

// KeyOf returns the key of t.
func KeyOf(t *task.Task) Key {
	return Key{Namespace: t.Namespace, Agent: t.Agent, RunUID: t.Run.UID, TaskID: t.ID}
}

func (k Key) String() string {
	return fmt.Sprintf("task %s of run %s (agent %s/%s)", k.TaskID, k.RunUID, k.Namespace, k.Agent)
}

// Token encodes any name into one subject token: letters, digits and '-' stay, every other byte becomes '_' and two
// hex digits, the empty name becomes "_". Different names have different tokens.
func Token(name string) string {
	if name == "" {
		return "_"
	}
	plain := true
	for i := 0; i < len(name) && plain; i++ {
		plain = isPlain(name[i])
	}
	if plain {
		return name
	}
	var b strings.Builder
	for i := range len(name) {
		if isPlain(name[i]) {
			b.WriteByte(name[i])
			continue
		}
		b.WriteByte('_')
		b.WriteString(hex.EncodeToString([]byte{name[i]}))
	}
	return b.String()
}

var errToken = errors.New("not an encoded name")

// Untoken is the reverse of Token. It fails on everything that Token does not make.
func Untoken(token string) (string, error) {
	if token == "_" {
		return "", nil
	}
	b := make([]byte, 0, len(token))
	for i := 0; i < len(token); i++ {
		if isPlain(token[i]) {
			b = append(b, token[i])
			continue
		}
		if token[i] != '_' || i+2 >= len(token) {
			return "", fmt.Errorf("subject token %q: %w", token, errToken)
		}
		c, err := hex.DecodeString(token[i+1 : i+3])
		if err != nil {
			return "", fmt.Errorf("subject token %q: %w", token, errToken)
		}
		b = append(b, c...)
		i += 2
	}
	if Token(string(b)) != token {
		return "", fmt.Errorf("subject token %q: %w", token, errToken)
	}
	return string(b), nil
}

func isPlain(c byte) bool {
	return c == '-' || '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// ProbeRun stands for the uid of a run in the journals of probes, which belong to their agent. It is the uid of no run.
const ProbeRun = "ark-probe"

// CallSubject is the subject of the ledger that holds the journal of a task.
func CallSubject(k Key) string { return k.subject("call") }

// BudgetSubject is the subject of the ledger that holds the state of a budget scope. The scopes "run.<uid>" and
// "step.<uid>.<step>", with no dot in the uid, are removed with their run.
func BudgetSubject(namespace, scope string) string {
	parts := strings.Split(scope, ".")
	for i, p := range parts {
		parts[i] = Token(p)
	}
	return "ark.budget." + Token(namespace) + "." + strings.Join(parts, ".")
}

// WorkSubject is where the work service of an agent listens for a verb (core NATS).
func WorkSubject(namespace, agent, verb string) string {
	return "ark.work." + Token(namespace) + "." + Token(agent) + "." + Token(verb)
}

func taskSubject(namespace, agent, id string) string {
	return "ark.task." + Token(namespace) + "." + Token(agent) + "." + Token(id)
}

func resultSubject(k Key) string    { return k.subject("result") }
func delegatedSubject(k Key) string { return k.subject("delegated") }
func begunSubject(k Key) string     { return k.subject("begun") }

// subject is ark.<kind>.<ns>.<agent>.<run uid>.<task id>.
func (k Key) subject(kind string) string {
	return "ark." + kind + "." + Token(k.Namespace) + "." + Token(k.Agent) + "." + Token(k.RunUID) + "." + Token(k.TaskID)
}

// parseKey reads the kind and the key from a subject that Key.subject made.
func parseKey(subject string) (kind string, k Key, err error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) != 6 || tokens[0] != "ark" {
		return "", Key{}, fmt.Errorf("subject %q: not one of a task", subject)
	}
	for i, to := range []*string{&k.Namespace, &k.Agent, &k.RunUID, &k.TaskID} {
		if *to, err = Untoken(tokens[i+2]); err != nil {
			return "", Key{}, fmt.Errorf("subject %q: %w", subject, err)
		}
	}
	return tokens[1], k, nil
}

// of is a pattern of subjects of one kind for one run, or of all runs when runUID is empty.
func of(kind, runUID string) string {
	if runUID == "" {
		return "ark." + kind + ".*.*.*.*"
	}
	return "ark." + kind + ".*.*." + Token(runUID) + ".*"
}
