// Package mock is a model that is none: deterministic, without network and key.
//
// Asked for a step it echoes the prompt, in a bounded form that names the agent; with a schema it answers the smallest
// instance that fits; as a judge it says VALID, as a probe HEALTHY, and as a router it names the capability whose
// words the request shares most. A script, a YAML file, overrides any of it:
//
//	replies:                      # the first one that matches and is not used up answers
//	  - match:                    # all that is given must hold; without match, every call matches
//	      agent: writer           # the agent's name
//	      model: mock-large
//	      purpose: step           # step, judge, route or probe
//	      prompt: "(?i)tides"     # RE2, found in the last user message
//	      system: concise         # RE2, found in the system message
//	      tool: "error"           # RE2, found in a tool's result since the last user message
//	      call: 2                 # the agent's n-th call in this process
//	      turn: 1                 # the n-th call of the conversation: survives a restart
//	    times: 1                  # how often the reply is used; 0 or nothing is for ever
//	    answer: some text         # or a mapping or list: its JSON
//	    chunks: [some, " text"]   # instead of answer: how it streams
//	    reasoning: because
//	    toolCalls:
//	      - name: get_weather
//	        arguments: {city: Lisbon}   # or a text, which need not be JSON
//	    usage: {inputTokens: 10, outputTokens: 5, cachedTokens: 2, reasoningTokens: 1}
//	    finish: length            # stop, length or tool_calls
//	    delay: 100ms              # before anything comes
//	    chunkDelay: 10ms          # between two chunks
//	    error:                    # the call fails, after the chunks if there are any
//	      code: RateLimited       # ProviderAuth, ProviderRefused, ProviderFailed, RateLimited, ContextTooLong,
//	      message: busy           # ContentFiltered or Timeout
//	      retryAfter: 1s
//	      retry: false            # else true for ProviderFailed and RateLimited
//	      unknown: true           # the call counts in full
//	      status: 429
//
// A reply without answer, chunks and toolCalls keeps the default answer and changes only what it names.
//
// A token is four bytes, begun ones count: the input is that of each message's text, of each tool call's name and
// arguments, and of each tool's name, description and schema; the output is that of the text, the reasoning and the
// tool calls, and at least 1. An answer that would pass MaxTokens is cut there, and its finish reason is "length".
package mock

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"arkonis.dev/ark/pkg/chars"
	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/schema"
	"arkonis.dev/ark/pkg/task"
)

// Provider is a mock model. It is safe for concurrent use.
type Provider struct {
	replies []reply

	mu    sync.Mutex
	used  []int
	calls map[string]int // by agent
}

// New makes a Provider that answers from a script first.
func New(s Script) *Provider {
	return &Provider{replies: s.replies, used: make([]int, len(s.replies)), calls: map[string]int{}}
}

// Name is "mock".
func (p *Provider) Name() string { return llm.Mock }

// Chat answers; see llm.Provider. It fails only where the script says so, when ctx ends, and when a schema has no
// instance that can be found.
func (p *Provider) Chat(ctx context.Context, req llm.Request, onChunk func(llm.Chunk)) (*llm.Response, error) {
	if onChunk == nil {
		onChunk = func(llm.Chunk) {}
	}
	r := p.pick(req)
	if err := pause(ctx, r.Delay); err != nil {
		return nil, err
	}
	if r.Error != nil {
		if err := play(ctx, r.Chunks, r.ChunkDelay, onChunk); err != nil {
			return nil, err
		}
		return nil, r.Error.fail()
	}
	res, err := r.response(req)
	if err != nil {
		return nil, err
	}
	if res.Message.Reasoning != "" {
		onChunk(llm.Chunk{Reasoning: res.Message.Reasoning})
	}
	chunks := r.Chunks
	if strings.Join(chunks, "") != res.Message.Text {
		chunks = pieces(res.Message.Text)
	}
	if err := play(ctx, chunks, r.ChunkDelay, onChunk); err != nil {
		return nil, err
	}
	return res, nil
}

// pick finds the reply to a request, the empty one if the script has none.
func (p *Provider) pick(req llm.Request) reply {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls[req.Agent]++
	for i, r := range p.replies {
		if (r.Times > 0 && p.used[i] >= r.Times) || !r.Match.fits(req, p.calls[req.Agent]) {
			continue
		}
		p.used[i]++
		return r
	}
	return reply{}
}

func (m match) fits(req llm.Request, call int) bool {
	switch {
	case m.Agent != "" && m.Agent != req.Agent,
		m.Model != "" && m.Model != req.Model,
		m.Purpose != "" && m.Purpose != purposeOf(req),
		m.Call != 0 && m.Call != call,
		m.Turn != 0 && m.Turn != turn(req):
		return false
	}
	return m.Prompt.found(last(req, llm.RoleUser)) && m.System.found(last(req, llm.RoleSystem)) && m.toolFound(req)
}

func (m match) toolFound(req llm.Request) bool {
	if m.Tool.Regexp == nil {
		return true
	}
	for _, msg := range slices.Backward(req.Messages) {
		switch {
		case msg.Role == llm.RoleUser:
			return false
		case msg.Role == llm.RoleTool && m.Tool.MatchString(msg.Text):
			return true
		}
	}
	return false
}

func purposeOf(req llm.Request) string {
	if req.Purpose == "" {
		return "step"
	}
	return req.Purpose
}

// turn is the number of the call in its conversation, from 1.
func turn(req llm.Request) int {
	n := 1
	for _, m := range req.Messages {
		if m.Role == llm.RoleAssistant {
			n++
		}
	}
	return n
}

func last(req llm.Request, role llm.Role) string {
	for _, m := range slices.Backward(req.Messages) {
		if m.Role == role {
			return m.Text
		}
	}
	return ""
}

func (f *failure) fail() *llm.Error {
	e := &llm.Error{Code: f.Code, Status: f.Status, RetryAfter: f.RetryAfter, Unknown: f.Unknown, Retry: failureCodes[f.Code]}
	if f.Retry != nil {
		e.Retry = *f.Retry
	}
	e.Message = "mock model failed as its script says"
	if f.Message != "" {
		e.Message = fmt.Sprintf("mock model answered: %q", f.Message)
	}
	return e
}

func (r reply) response(req llm.Request) (*llm.Response, error) {
	res := &llm.Response{Model: req.Model, Finish: llm.FinishReason(r.Finish)}
	msg := llm.Message{Role: llm.RoleAssistant, Text: r.Answer.value, Reasoning: r.Reasoning, ToolCalls: r.calls(req)}
	switch {
	case len(r.Chunks) > 0:
		msg.Text = strings.Join(r.Chunks, "")
	case !r.Answer.set && len(msg.ToolCalls) == 0:
		text, err := defaultAnswer(req)
		if err != nil {
			return nil, err
		}
		msg.Text = text
	}
	if room := req.MaxTokens*4 - int64(len(msg.Reasoning)); req.MaxTokens > 0 && int64(len(msg.Text)) > room && r.Usage == nil {
		msg.Text, res.Finish = chars.Head(msg.Text, int(max(room, 0))), llm.FinishLength
	}
	if res.Finish == "" {
		res.Finish = llm.FinishStop
		if len(msg.ToolCalls) > 0 {
			res.Finish = llm.FinishToolCalls
		}
	}
	res.Message = msg
	if u := r.Usage; u != nil {
		res.Usage = task.Usage{InputTokens: u.Input, OutputTokens: u.Output, CachedTokens: u.Cached, ReasoningTokens: u.Reasoning}
	} else {
		res.Usage = count(req, msg)
	}
	return res, nil
}

// calls gives tool calls ids that are the same for the same call.
func (r reply) calls(req llm.Request) []llm.ToolCall {
	var out []llm.ToolCall
	for i, c := range r.ToolCalls {
		id := c.ID
		if id == "" {
			h := sha256.Sum256([]byte(req.Key + "\x00" + strconv.Itoa(len(req.Messages)) + "\x00" + strconv.Itoa(i)))
			id = "call_" + hex.EncodeToString(h[:6])
		}
		args := c.Arguments.value
		if !c.Arguments.set {
			args = "{}"
		}
		out = append(out, llm.ToolCall{ID: id, Name: c.Name, Arguments: args})
	}
	return out
}

func defaultAnswer(req llm.Request) (string, error) {
	switch {
	case req.Purpose == "judge":
		return "VALID", nil
	case req.Purpose == "probe":
		return "HEALTHY", nil
	case req.Purpose == "route" && len(req.Capabilities) > 0:
		return route(last(req, llm.RoleUser), req.Capabilities), nil
	case len(req.Schema) > 0:
		return minimal(req.Schema)
	default:
		return echo(req), nil
	}
}

func minimal(src []byte) (string, error) {
	s, err := schema.Compile(src)
	if err == nil {
		var b []byte
		if b, err = s.Minimal(); err == nil {
			return string(b), nil
		}
	}
	return "", &llm.Error{
		Code: task.CodeProviderRefused, Err: err,
		Message: "mock model cannot find an answer that fits the schema: " + err.Error() + "; script its answer",
	}
}

const echoLimit = 512

func echo(req llm.Request) string {
	from := "echo"
	if req.Agent != "" {
		from = "echo from " + req.Agent
	}
	prompt := last(req, llm.RoleUser)
	if len(prompt) > echoLimit {
		prompt = chars.Head(prompt, echoLimit) + "..."
	}
	return from + ": " + prompt
}

func tokens(parts ...string) int64 {
	n := 0
	for _, p := range parts {
		n += len(p)
	}
	return (int64(n) + 3) / 4
}

func count(req llm.Request, answer llm.Message) task.Usage {
	var u task.Usage
	for _, m := range req.Messages {
		u.InputTokens += tokens(m.Text)
		for _, c := range m.ToolCalls {
			u.InputTokens += tokens(c.Name, c.Arguments)
		}
	}
	for _, t := range req.Tools {
		u.InputTokens += tokens(t.Name, t.Description, string(t.Schema))
	}
	u.OutputTokens = tokens(answer.Text, answer.Reasoning)
	for _, c := range answer.ToolCalls {
		u.OutputTokens += tokens(c.Name, c.Arguments)
	}
	u.OutputTokens = max(u.OutputTokens, 1)
	if req.MaxTokens > 0 {
		u.OutputTokens = min(u.OutputTokens, req.MaxTokens)
	}
	u.ReasoningTokens = min(tokens(answer.Reasoning), u.OutputTokens)
	return u
}

// pieces cuts a text into chunks of about 16 bytes, at most 64 of them.
func pieces(s string) []string {
	n := max(len(s)/64+1, 16)
	var out []string
	for s != "" {
		end := min(n, len(s))
		for end < len(s) && !utf8.RuneStart(s[end]) {
			end++
		}
		out = append(out, s[:end])
		s = s[end:]
	}
	return out
}

func play(ctx context.Context, chunks []string, delay time.Duration, onChunk func(llm.Chunk)) error {
	for i, c := range chunks {
		if i > 0 {
			if err := pause(ctx, delay); err != nil {
				return err
			}
		}
		onChunk(llm.Chunk{Text: c})
	}
	return nil
}

// pause waits, or ends as a call whose context ended: nothing was paid.
func pause(ctx context.Context, d time.Duration) error {
	if d > 0 && ctx.Err() == nil {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
		}
	}
	switch err := ctx.Err(); {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return &llm.Error{Code: task.CodeTimeout, Message: "mock model had not answered when the call's time was up", Err: err}
	default:
		return &llm.Error{Code: task.CodeCancelled, Message: "mock model had not answered when the call was cancelled", Err: err}
	}
}
