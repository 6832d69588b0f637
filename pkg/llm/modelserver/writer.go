package modelserver

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// writer writes the reply to one call and notes how far it came.
type writer struct {
	w      http.ResponseWriter
	r      *http.Request
	status int
	fault  string
	whole  bool
}

type apiError struct {
	Message string `json:"message"`
	Type    string `json:"type"`
	Param   any    `json:"param"`
	Code    any    `json:"code"`
}

func (o *writer) reply(req Request, r Reply) {
	o.fault = r.Fault
	o.pause(r.Delay)
	if r.RetryAfter != "" {
		o.w.Header().Set("Retry-After", r.RetryAfter)
	}
	switch {
	case r.Fault == FaultHeaders:
		o.endlessHeaders()
	case r.Fault == FaultHuge, r.Fault == FaultLine:
		o.endlessBody(r)
	case r.Fault == FaultBomb:
		o.bomb(r)
	case r.Status/100 == 3:
		o.w.Header().Set("Location", r.Location)
		o.head(r.Status, "text/plain")
		o.whole = true
	case r.Body != "":
		o.send([]string{r.Body}, r, or(r.ContentType, "text/event-stream"))
	case r.Status >= 400:
		o.send([]string{errorBody(r)}, r, or(r.ContentType, "application/json"))
	case req.Stream && !r.Plain:
		o.send(streamed(req, r), r, "text/event-stream")
	default:
		o.send([]string{plain(req, r)}, r, "application/json")
	}
}

func or(s, other string) string {
	if s == "" {
		return other
	}
	return s
}

// fail answers an error.
func (o *writer) fail(status int, e apiError) {
	o.send([]string{marshal(map[string]any{"error": e})}, Reply{Status: status}, "application/json")
}

func errorBody(r Reply) string {
	e := apiError{Message: or(r.Error, http.StatusText(r.Status)), Type: or(r.Type, "invalid_request_error")}
	if r.Code != "" {
		e.Code = r.Code
	}
	if r.Param != "" {
		e.Param = r.Param
	}
	return marshal(map[string]any{"error": e})
}

// pause waits. When the client goes or the server ends first, the call breaks: a handler that merely returned would
// end the answer as if it were whole.
func (o *writer) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-o.r.Context().Done():
		panic(http.ErrAbortHandler)
	}
}

func (o *writer) head(status int, contentType string) {
	if status == 0 {
		status = http.StatusOK
	}
	o.w.Header().Set("Content-Type", contentType)
	o.w.WriteHeader(status)
	o.status = status
}

// send writes the parts of a body, up to the fault if there is one.
func (o *writer) send(parts []string, r Reply, contentType string) {
	strikes := r.Fault == FaultReset || r.Fault == FaultHang || r.Fault == FaultCut || r.Fault == FaultEnd
	if strikes && r.After == 0 && r.Fault != FaultEnd {
		o.strike(r.Fault)
		return
	}
	o.head(r.Status, contentType)
	left := r.After
	for i, p := range parts {
		if i > 0 {
			o.pause(r.ChunkDelay)
		}
		if strikes && len(p) >= left {
			_, _ = io.WriteString(o.w, p[:left])
			o.flush()
			o.strike(r.Fault)
			return
		}
		left -= len(p)
		if _, err := io.WriteString(o.w, p); err != nil {
			return
		}
		if r.ChunkDelay > 0 {
			o.flush()
		}
	}
	o.whole = o.flush() && o.r.Context().Err() == nil
}

func (o *writer) flush() bool { return http.NewResponseController(o.w).Flush() == nil }

func (o *writer) strike(fault string) {
	switch fault {
	case FaultHang:
		<-o.r.Context().Done()
		panic(http.ErrAbortHandler)
	case FaultReset:
		if conn := o.hijack(); conn != nil {
			if tcp, ok := conn.(*net.TCPConn); ok {
				_ = tcp.SetLinger(0) // close sends a reset
			}
			_ = conn.Close()
		}
	case FaultCut:
		panic(http.ErrAbortHandler)
	}
}

func (o *writer) hijack() net.Conn {
	conn, _, err := http.NewResponseController(o.w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // no reset, but a broken connection
	}
	return conn
}

func (o *writer) endlessHeaders() {
	conn := o.hijack()
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"); err != nil {
		return
	}
	line := strings.Repeat("x", 1000)
	for i := 0; o.r.Context().Err() == nil; i++ {
		if _, err := fmt.Fprintf(conn, "X-%d: %s\r\n", i, line); err != nil {
			return
		}
	}
}

const gibibyte = 1 << 30

func size(r Reply) int64 {
	if r.Size > 0 {
		return r.Size
	}
	return gibibyte
}

func (o *writer) endlessBody(r Reply) {
	o.head(r.Status, "text/event-stream")
	chunk := event(map[string]any{"choices": []any{delta(map[string]any{"content": strings.Repeat("x", 4000)}, nil)}})
	if r.Fault == FaultLine {
		_, _ = io.WriteString(o.w, `data: {"choices":[{"index":0,"delta":{"content":"`)
		chunk = strings.Repeat("x", 32<<10)
	}
	for left := size(r); left > 0; left -= int64(len(chunk)) {
		if _, err := io.WriteString(o.w, chunk); err != nil {
			return
		}
	}
}

func (o *writer) bomb(r Reply) {
	o.w.Header().Set("Content-Encoding", "gzip")
	o.head(r.Status, "text/event-stream")
	z := gzip.NewWriter(o.w)
	spaces := make([]byte, 64<<10)
	for i := range spaces {
		spaces[i] = '\n'
	}
	for left := size(r); left > 0; left -= int64(len(spaces)) {
		if _, err := z.Write(spaces); err != nil {
			return
		}
	}
	_ = z.Close()
}

// answer is a Reply with what it leaves open filled in.
type answer struct {
	calls  []ToolCall
	finish any
	usage  map[string]any
}

func fill(req Request, r Reply) answer {
	var a answer
	uses := r.Tools
	if r.ToolLoop && len(req.Tools) > 0 {
		uses = []Use{{Name: req.Tools[0].Function.Name, Arguments: "{}"}}
	}
	completion := Tokens(r.Text) + Tokens(r.Reasoning)
	for i, u := range uses {
		c := ToolCall{ID: u.ID, Type: "function", Function: Function{Name: u.Name, Arguments: u.Arguments}}
		switch u.ID {
		case "":
			c.ID = "call_" + strconv.Itoa(len(req.Messages)) + "_" + strconv.Itoa(i)
		case "none":
			c.ID = ""
		}
		completion += Tokens(u.Name + u.Arguments)
		a.calls = append(a.calls, c)
	}
	switch {
	case r.Finish == "none":
	case r.Finish != "":
		a.finish = r.Finish
	case len(a.calls) > 0:
		a.finish = "tool_calls"
	default:
		a.finish = "stop"
	}
	if !r.NoUsage {
		u := r.Usage
		if u == nil {
			u = &Usage{Prompt: PromptTokens(req), Completion: max(completion, 1), Reasoning: Tokens(r.Reasoning)}
		}
		a.usage = map[string]any{
			"prompt_tokens": u.Prompt, "completion_tokens": u.Completion, "total_tokens": u.Prompt + u.Completion,
			"prompt_tokens_details":     map[string]any{"cached_tokens": u.Cached},
			"completion_tokens_details": map[string]any{"reasoning_tokens": u.Reasoning},
		}
	}
	return a
}

func plain(req Request, r Reply) string {
	a := fill(req, r)
	msg := map[string]any{"role": "assistant", "content": r.Text}
	if r.Reasoning != "" {
		msg["reasoning_content"] = r.Reasoning
	}
	if len(a.calls) > 0 {
		msg["tool_calls"] = a.calls
	}
	out := frame(req, "chat.completion", map[string]any{"index": 0, "message": msg, "finish_reason": a.finish})
	if a.usage != nil {
		out["usage"] = a.usage
	}
	return marshal(out)
}

// streamed is an answer as server-sent events, one part each.
func streamed(req Request, r Reply) []string {
	a := fill(req, r)
	chunk := func(d map[string]any, finish any) string {
		return event(frame(req, "chat.completion.chunk", delta(d, finish)))
	}
	parts := []string{chunk(map[string]any{"role": "assistant", "content": ""}, nil)}
	for _, s := range split(r.Reasoning, r.ChunkSize) {
		parts = append(parts, chunk(map[string]any{"reasoning_content": s}, nil))
	}
	for _, s := range split(r.Text, r.ChunkSize) {
		parts = append(parts, chunk(map[string]any{"content": s}, nil))
	}
	for i, c := range a.calls {
		parts = append(parts, callChunks(chunk, i, c)...)
	}
	parts = append(parts, chunk(map[string]any{}, a.finish))
	if a.usage != nil && req.StreamOptions != nil && req.StreamOptions.IncludeUsage {
		last := frame(req, "chat.completion.chunk", nil)
		last["choices"], last["usage"] = []any{}, a.usage
		parts = append(parts, event(last))
	}
	return append(parts, "data: [DONE]\n\n")
}

// callChunks streams a tool call: the id and the name first, then the arguments in two halves.
func callChunks(chunk func(map[string]any, any) string, i int, c ToolCall) []string {
	fragment := func(f map[string]any) string {
		return chunk(map[string]any{"tool_calls": []any{f}}, nil)
	}
	first := map[string]any{"index": i, "type": "function", "function": map[string]any{"name": c.Function.Name, "arguments": ""}}
	if c.ID != "" {
		first["id"] = c.ID
	}
	parts := []string{fragment(first)}
	half := len(c.Function.Arguments) / 2
	for half > 0 && !utf8.RuneStart(c.Function.Arguments[half]) {
		half--
	}
	for _, s := range []string{c.Function.Arguments[:half], c.Function.Arguments[half:]} {
		if s != "" {
			parts = append(parts, fragment(map[string]any{"index": i, "function": map[string]any{"arguments": s}}))
		}
	}
	return parts
}

func delta(d map[string]any, finish any) map[string]any {
	return map[string]any{"index": 0, "delta": d, "finish_reason": finish}
}

func frame(req Request, object string, choice map[string]any) map[string]any {
	return map[string]any{
		"id": "chatcmpl-" + strconv.Itoa(len(req.Messages)), "object": object, "created": 0, "model": req.Model,
		"choices": []any{choice},
	}
}

// split cuts a text into pieces of n bytes, never inside a character; n 0 makes up to eight pieces.
func split(s string, n int) []string {
	if n <= 0 {
		n = max(len(s)/8+1, 16)
	}
	var out []string
	for s != "" {
		cut := min(n, len(s))
		for cut < len(s) && !utf8.RuneStart(s[cut]) {
			cut++
		}
		out = append(out, s[:cut])
		s = s[cut:]
	}
	return out
}

func event(v any) string { return "data: " + marshal(v) + "\n\n" }

// marshal is for values made here, which always marshal.
func marshal(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return "{}"
	}
	return string(b)
}
