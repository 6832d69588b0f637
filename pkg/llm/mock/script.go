package mock

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/task"
)

// Script is what a mock answers instead of its echo. The zero Script is empty. It is read with ParseScript, and may be
// shared: what was used up is the Provider's.
type Script struct{ replies []reply }

const scriptLimit = 1 << 20

// reply is one entry of a script.
type reply struct {
	Match      match         `yaml:"match"`
	Times      int           `yaml:"times"`
	Answer     text          `yaml:"answer"`
	Reasoning  string        `yaml:"reasoning"`
	ToolCalls  []toolCall    `yaml:"toolCalls"`
	Usage      *usage        `yaml:"usage"`
	Finish     string        `yaml:"finish"`
	Chunks     []string      `yaml:"chunks"`
	Delay      time.Duration `yaml:"delay"`
	ChunkDelay time.Duration `yaml:"chunkDelay"`
	Error      *failure      `yaml:"error"`
}

type match struct {
	Agent   string     `yaml:"agent"`
	Model   string     `yaml:"model"`
	Purpose string     `yaml:"purpose"`
	Prompt  expression `yaml:"prompt"`
	System  expression `yaml:"system"`
	Tool    expression `yaml:"tool"`
	Call    int        `yaml:"call"`
	Turn    int        `yaml:"turn"`
}

type toolCall struct {
	ID        string `yaml:"id"`
	Name      string `yaml:"name"`
	Arguments text   `yaml:"arguments"`
}

type usage struct {
	Input     int64 `yaml:"inputTokens"`
	Output    int64 `yaml:"outputTokens"`
	Cached    int64 `yaml:"cachedTokens"`
	Reasoning int64 `yaml:"reasoningTokens"`
}

type failure struct {
	Code       task.Code     `yaml:"code"`
	Message    string        `yaml:"message"`
	Status     int           `yaml:"status"`
	Retry      *bool         `yaml:"retry"`
	RetryAfter time.Duration `yaml:"retryAfter"`
	Unknown    bool          `yaml:"unknown"`
}

// text is a scalar as it is written, or a mapping or list as JSON.
type text struct {
	set   bool
	value string
}

// UnmarshalYAML takes any node.
func (t *text) UnmarshalYAML(n *yaml.Node) error {
	t.set = true
	if n.Kind == yaml.ScalarNode {
		t.value = n.Value
		return nil
	}
	var v any
	if err := n.Decode(&v); err != nil {
		return err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: cannot be written as JSON: %v", n.Line, err)}}
	}
	t.value = string(b)
	return nil
}

// expression is a regular expression; nil matches everything.
type expression struct{ *regexp.Regexp }

// UnmarshalYAML compiles the expression.
func (e *expression) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind != yaml.ScalarNode {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: want a regular expression", n.Line)}}
	}
	re, err := regexp.Compile(n.Value)
	if err != nil {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %v", n.Line, err)}}
	}
	e.Regexp = re
	return nil
}

func (e expression) found(s string) bool { return e.Regexp == nil || e.MatchString(s) }

// ScriptError is a script that cannot be used. Each problem begins with "<file>:<line>: ".
type ScriptError struct {
	File     string
	Problems []string
}

func (e *ScriptError) Error() string { return strings.Join(e.Problems, "\n") }

func (e *ScriptError) add(line int, format string, args ...any) {
	e.Problems = append(e.Problems, fmt.Sprintf("%s:%d: ", e.File, max(line, 1))+fmt.Sprintf(format, args...))
}

// ParseScript reads a script; file is its name in errors, which are *ScriptError and list everything that is wrong.
func ParseScript(file string, src []byte) (Script, error) {
	problems := &ScriptError{File: file}
	if len(src) > scriptLimit {
		problems.add(1, "the script is larger than 1 MiB")
		return Script{}, problems
	}
	var doc struct {
		Replies []reply `yaml:"replies"`
	}
	dec := yaml.NewDecoder(bytes.NewReader(src))
	dec.KnownFields(true)
	switch err := dec.Decode(&doc); {
	case errors.Is(err, io.EOF):
		problems.add(1, "the script is empty: want replies: and a list")
	case err != nil:
		problems.fromYAML(err)
	case dec.Decode(new(yaml.Node)) == nil:
		problems.add(1, "the script holds more than one document: put all replies into one list")
	case len(doc.Replies) == 0:
		problems.add(1, "the script holds no replies: want replies: and a list")
	}
	if len(problems.Problems) == 0 {
		lines := replyLines(src)
		for i := range doc.Replies {
			doc.Replies[i].check(func(format string, args ...any) { problems.add(lines[i], format, args...) })
		}
	}
	if len(problems.Problems) > 0 {
		return Script{}, problems
	}
	return Script{replies: doc.Replies}, nil
}

// replyLines are the lines on which the replies of a script begin, which is known to be well formed.
func replyLines(src []byte) []int {
	var doc struct {
		Replies []yaml.Node `yaml:"replies"`
	}
	if yaml.Unmarshal(src, &doc) != nil {
		return nil
	}
	lines := make([]int, 0, len(doc.Replies))
	for _, n := range doc.Replies {
		lines = append(lines, n.Line)
	}
	return lines
}

var (
	yamlLine     = regexp.MustCompile(`^(?:yaml: )?(?:unmarshal errors:\s*)?line (\d+): (?s)(.*)$`)
	unknownField = regexp.MustCompile(`^field (.+) not found in type .*$`)
	wrongType    = regexp.MustCompile("^cannot unmarshal !!(\\w+)(?: `(.*)`)? into (.+)$")
)

// fromYAML puts the YAML library's errors into the words of the file.
func (e *ScriptError) fromYAML(err error) {
	lines := []string{err.Error()}
	if te, ok := errors.AsType[*yaml.TypeError](err); ok {
		lines = te.Errors
	}
	for _, s := range lines {
		line, what := 1, strings.TrimPrefix(s, "yaml: ")
		if m := yamlLine.FindStringSubmatch(s); m != nil {
			line, _ = strconv.Atoi(m[1])
			what = m[2]
		}
		if m := unknownField.FindStringSubmatch(what); m != nil {
			what = fmt.Sprintf("unknown field %q", m[1])
		} else if m := wrongType.FindStringSubmatch(what); m != nil {
			what = fmt.Sprintf("%q is a %s where %s is wanted", m[2], yamlKind(m[1]), wanted(m[3]))
		}
		e.add(line, "%s", what)
	}
}

func yamlKind(tag string) string {
	switch tag {
	case "str":
		return "text"
	case "int", "float":
		return "number"
	case "seq":
		return "list"
	case "map":
		return "mapping"
	case "bool":
		return "truth value"
	default:
		return tag
	}
}

func wanted(goType string) string {
	switch {
	case strings.HasPrefix(goType, "[]"):
		return "a list"
	case goType == "int" || goType == "int64":
		return "a whole number"
	case goType == "time.Duration":
		return "a duration such as 100ms"
	case goType == "bool":
		return "true or false"
	case goType == "string" || goType == "task.Code":
		return "a text"
	default:
		return "a mapping"
	}
}

var purposes = []string{"step", "judge", "route", "probe"}

// failureCodes are what a provider can fail with, and whether another attempt may then succeed.
var failureCodes = map[task.Code]bool{
	task.CodeProviderAuth: false, task.CodeProviderRefused: false, task.CodeProviderFailed: true, task.CodeRateLimited: true,
	task.CodeContextTooLong: false, task.CodeContentFiltered: false, task.CodeTimeout: false,
}

// check reports what no type can express.
func (r *reply) check(report func(format string, args ...any)) {
	if p := r.Match.Purpose; p != "" && !slices.Contains(purposes, p) {
		report("match.purpose %q: want one of %s", p, strings.Join(purposes, ", "))
	}
	for _, n := range []struct {
		name  string
		value int
	}{{"times", r.Times}, {"match.call", r.Match.Call}, {"match.turn", r.Match.Turn}} {
		if n.value < 0 {
			report("%s is %d: want 1 or more", n.name, n.value)
		}
	}
	if r.Delay < 0 || r.ChunkDelay < 0 {
		report("a delay cannot be negative")
	}
	for i, c := range r.ToolCalls {
		if c.Name == "" {
			report("toolCalls[%d] has no name", i)
		}
	}
	if u := r.Usage; u != nil && (u.Input < 0 || u.Output < 0 || u.Cached < 0 || u.Reasoning < 0) {
		report("usage cannot be negative")
	}
	switch llm.FinishReason(r.Finish) {
	case "", llm.FinishStop, llm.FinishLength, llm.FinishToolCalls:
	default:
		report("finish %q: want one of stop, length, tool_calls", r.Finish)
	}
	if r.Answer.set && len(r.Chunks) > 0 {
		report("answer and chunks: give one; the chunks together are the answer")
	}
	r.checkError(report)
}

func (r *reply) checkError(report func(format string, args ...any)) {
	if r.Error == nil {
		if !r.Answer.set && len(r.ToolCalls) == 0 && len(r.Chunks) == 0 && r.Delay == 0 && r.Usage == nil && r.Reasoning == "" {
			report("the reply does nothing: give an answer, chunks, toolCalls, an error, a delay or a usage")
		}
		return
	}
	if _, ok := failureCodes[r.Error.Code]; !ok {
		known := make([]string, 0, len(failureCodes))
		for c := range failureCodes {
			known = append(known, string(c))
		}
		slices.Sort(known)
		report("error.code %q: want one of %s", r.Error.Code, strings.Join(known, ", "))
	}
	if r.Error.RetryAfter < 0 {
		report("error.retryAfter cannot be negative")
	}
	if r.Answer.set || len(r.ToolCalls) > 0 {
		report("error with an answer or tool calls: a call that fails answers nothing; chunks may come before it")
	}
}
