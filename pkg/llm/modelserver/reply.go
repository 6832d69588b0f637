package modelserver

import (
	"bytes"
	"fmt"
	"regexp"
	"time"

	"go.yaml.in/yaml/v3"
)

// Rule is one entry of a script.
type Rule struct {
	When  When  `yaml:"when"`
	Times int   `yaml:"times"` // how often the rule holds; 0 is for ever
	Reply Reply `yaml:"reply"`
}

// When is what a call must be like; the zero When matches every call.
type When struct {
	Call   int    `yaml:"call"` // the n-th call of the server, from 1
	Model  string `yaml:"model"`
	Prompt Regexp `yaml:"prompt"` // found in the last user message
	System Regexp `yaml:"system"` // found in the last system message
	Tool   Regexp `yaml:"tool"`   // found in a tool's result since the last user message
}

// Regexp is a regular expression (RE2). The zero Regexp matches everything.
type Regexp struct{ *regexp.Regexp }

// Match makes a Regexp. It panics on one that does not compile: for expressions that stand in the code.
func Match(expr string) Regexp { return Regexp{regexp.MustCompile(expr)} }

// UnmarshalYAML reads a Regexp from its text.
func (r *Regexp) UnmarshalYAML(n *yaml.Node) error {
	re, err := regexp.Compile(n.Value)
	if err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	r.Regexp = re
	return nil
}

func (r Regexp) found(text string) bool { return r.Regexp == nil || r.MatchString(text) }

func (w When) matches(c Call) bool {
	if (w.Call != 0 && w.Call != c.N) || (w.Model != "" && w.Model != c.Request.Model) {
		return false
	}
	return w.Prompt.found(c.Request.Prompt()) && w.System.found(c.Request.System()) && w.toolFound(c.Request)
}

func (w When) toolFound(r Request) bool {
	if w.Tool.Regexp == nil {
		return true
	}
	for i := len(r.Messages) - 1; i >= 0 && r.Messages[i].Role != "user"; i-- {
		if r.Messages[i].Role == "tool" && w.Tool.MatchString(r.Messages[i].Content) {
			return true
		}
	}
	return false
}

// The faults of a Reply. Those that come with an answer strike after Reply.After bytes of its body.
const (
	FaultReset   = "reset"   // the connection is reset
	FaultHang    = "hang"    // nothing more comes, until the client goes
	FaultCut     = "cut"     // the connection is closed in the middle of the body
	FaultEnd     = "end"     // the body ends as if it were whole
	FaultHeaders = "headers" // headers without an end
	FaultHuge    = "huge"    // chunks without an end, up to Reply.Size bytes
	FaultLine    = "line"    // one line without an end, up to Reply.Size bytes
	FaultBomb    = "bomb"    // gzip that grows to Reply.Size bytes of spaces
)

// Reply is what a call gets. The zero Reply is an empty answer with the finish reason "stop". Finish reasons are those of
// chat completions; a client of the messages API gets what they are there, and others as they are.
type Reply struct {
	Text      string `yaml:"text"`
	Reasoning string `yaml:"reasoning"` // as reasoning_content, or a block of thinking
	Signature string `yaml:"signature"` // of the thinking; messages only
	Tools     []Use  `yaml:"tools"`
	// ToolLoop calls the first tool of the request, always again.
	ToolLoop bool   `yaml:"toolLoop"`
	Finish   string `yaml:"finish"` // "" is what fits; "none" leaves it out
	Usage    *Usage `yaml:"usage"`  // nil is counted, see Tokens
	NoUsage  bool   `yaml:"noUsage"`

	Delay      time.Duration `yaml:"delay"`      // before the headers
	ChunkDelay time.Duration `yaml:"chunkDelay"` // before each chunk but the first
	ChunkSize  int           `yaml:"chunkSize"`  // bytes of text in a chunk; 0 makes up to eight of the text
	Plain      bool          `yaml:"plain"`      // one JSON object, though a stream was asked for

	Status     int    `yaml:"status"` // 0 is 200; an error is told from 400 on
	RetryAfter string `yaml:"retryAfter"`
	Error      string `yaml:"error"` // the message
	Type       string `yaml:"type"`
	Code       string `yaml:"code"`
	Param      string `yaml:"param"`

	// Body is sent as it is instead of an answer, with the content type of a stream unless ContentType is set.
	Body        string `yaml:"body"`
	ContentType string `yaml:"contentType"`
	Location    string `yaml:"location"` // of a redirect

	Fault string `yaml:"fault"`
	After int    `yaml:"after"` // bytes of the body before the fault
	Size  int64  `yaml:"size"`  // of FaultHuge, FaultLine and FaultBomb; 0 is 1 GiB
}

// Use is a call of a tool in an answer. Without an ID one is made up; "none" leaves it out.
type Use struct {
	ID        string `yaml:"id"`
	Name      string `yaml:"name"`
	Arguments string `yaml:"arguments"`
}

// Usage is what an answer says about tokens.
type Usage struct {
	Prompt     int64 `yaml:"prompt"`
	Completion int64 `yaml:"completion"`
	Cached     int64 `yaml:"cached"`
	Reasoning  int64 `yaml:"reasoning"`
	CacheWrite int64 `yaml:"cacheWrite"` // messages only; of the prompt, as Cached is
}

// Tokens is how many tokens a text counts here: a quarter of its bytes, rounded up.
func Tokens(text string) int64 { return (int64(len(text)) + 3) / 4 }

// PromptTokens is what a request counts: its messages, the arguments of their tool calls, and its tools.
func PromptTokens(r Request) int64 {
	var n int64
	for _, m := range r.Messages {
		n += Tokens(m.Content)
		for _, c := range m.ToolCalls {
			n += Tokens(c.Function.Name + c.Function.Arguments)
		}
	}
	for _, t := range r.Tools {
		n += Tokens(t.Function.Name + t.Function.Description + string(t.Function.Parameters))
	}
	return max(n, 1)
}

const echoLimit = 1 << 10

// Echo is the default answer: "echo: " and up to 1 KiB of the last user message.
func Echo(r Request) string {
	p := r.Prompt()
	return "echo: " + p[:min(len(p), echoLimit)]
}

// ParseScript reads rules from YAML: a list of {when, times, reply} with the fields of Rule. Durations are written as
// "100ms". What is not known is an error with its line.
func ParseScript(text []byte) ([]Rule, error) {
	dec := yaml.NewDecoder(bytes.NewReader(text))
	dec.KnownFields(true)
	var rules []Rule
	if err := dec.Decode(&rules); err != nil {
		return nil, fmt.Errorf("script of the model server: %w", err)
	}
	return rules, nil
}
