package anthropic_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"runtime/debug"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/anthropic"
	"arkonis.dev/ark/pkg/llm/exchange"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/task"
)

// requireFailure compares a whole *llm.Error; SERVER in the message stands for the address. Err is not compared.
func requireFailure(t *testing.T, want llm.Error, url string, res *llm.Response, err error) {
	t.Helper()
	require.Nil(t, res)
	var got *llm.Error
	require.ErrorAs(t, err, &got)
	have := *got
	have.Message = strings.ReplaceAll(have.Message, url, "SERVER")
	require.Empty(t, cmp.Diff(want, have, cmpopts.IgnoreFields(llm.Error{}, "Err")))
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	const tooLong = "; shorten the prompt or the tool results, or use a model with a larger context"
	const noCredit = "; the account has no credit left: raise its limit"
	for name, c := range map[string]struct {
		reply modelserver.Reply
		want  llm.Error
	}{
		"401": {
			modelserver.Reply{Status: 401, Error: "invalid x-api-key sk-ant-test-secret"},
			llm.Error{Code: task.CodeProviderAuth, Message: `model server SERVER answered 401 Unauthorized: "invalid x-api-key [hidden]"; check the API key and what it may use`},
		},
		"403": {
			modelserver.Reply{Status: 403, Error: "Your API key does not have permission"},
			llm.Error{Code: task.CodeProviderAuth, Message: `model server SERVER answered 403 Forbidden: "Your API key does not have permission"; check the API key and what it may use`},
		},
		"400": {
			modelserver.Reply{Status: 400, Error: "temperature: range: 0..1"},
			llm.Error{Code: task.CodeProviderRefused, Message: `model server SERVER answered 400 Bad Request: "temperature: range: 0..1"`},
		},
		"404": {
			modelserver.Reply{Status: 404, Error: "model: m"},
			llm.Error{Code: task.CodeProviderRefused, Message: `model server SERVER answered 404 Not Found: "model: m"; check the model's name "m" and the base URL, which ends before /v1/messages`},
		},
		"prompt too long": {
			modelserver.Reply{Status: 400, Error: "prompt is too long: 205000 tokens > 200000 maximum"},
			llm.Error{Code: task.CodeContextTooLong, Message: `model server SERVER answered 400 Bad Request: "prompt is too long: 205000 tokens > 200000 maximum"` + tooLong},
		},
		"prompt and answer too long": {
			modelserver.Reply{Status: 400, Error: "input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000"},
			llm.Error{Code: task.CodeContextTooLong, Message: "model server SERVER answered 400 Bad Request: \"input length and `max_tokens` exceed context limit: 188240 + 21333 > 200000\"" + tooLong},
		},
		"413": {
			modelserver.Reply{Status: 413, Error: "Request exceeds the maximum size"},
			llm.Error{Code: task.CodeContextTooLong, Message: `model server SERVER answered 413 Request Entity Too Large: "Request exceeds the maximum size"` + tooLong},
		},
		"credit": {
			modelserver.Reply{Status: 400, Error: "Your credit balance is too low to access the Anthropic API."},
			llm.Error{Code: task.CodeRateLimited, Message: `model server SERVER answered 400 Bad Request: "Your credit balance is too low to access the Anthropic API."` + noCredit},
		},
		"spending limit": {
			modelserver.Reply{Status: 400, Error: "You have reached your specified API usage limits."},
			llm.Error{Code: task.CodeRateLimited, Message: `model server SERVER answered 400 Bad Request: "You have reached your specified API usage limits."` + noCredit},
		},
		"402": {
			modelserver.Reply{Status: 402, Error: "pay"},
			llm.Error{Code: task.CodeRateLimited, Message: `model server SERVER answered 402 Payment Required: "pay"` + noCredit},
		},
		"content filter": {
			modelserver.Reply{Status: 400, Error: "Output blocked by content filtering policy"},
			llm.Error{Code: task.CodeContentFiltered, Message: `model server SERVER answered 400 Bad Request: "Output blocked by content filtering policy"; change the prompt`},
		},
		"429": {
			modelserver.Reply{Status: 429, Error: "slow down"},
			llm.Error{Code: task.CodeRateLimited, Retry: true, Message: `model server SERVER answered 429 Too Many Requests: "slow down"; wait, or run fewer tasks at once`},
		},
		"429 with Retry-After": {
			modelserver.Reply{Status: 429, Error: "slow down", RetryAfter: "7"},
			llm.Error{Code: task.CodeRateLimited, Retry: true, RetryAfter: 7 * time.Second, Message: `model server SERVER answered 429 Too Many Requests: "slow down"; wait, or run fewer tasks at once`},
		},
		"429 with a Retry-After of a year": {
			modelserver.Reply{Status: 429, Error: "slow down", RetryAfter: "31536000"},
			llm.Error{Code: task.CodeRateLimited, Retry: true, RetryAfter: exchange.MaxRetryAfter, Message: `model server SERVER answered 429 Too Many Requests: "slow down"; wait, or run fewer tasks at once`},
		},
		"500": {
			modelserver.Reply{Status: 500, Error: "Internal server error"},
			llm.Error{Code: task.CodeProviderFailed, Retry: true, Unknown: true, Message: `model server SERVER answered 500 Internal Server Error: "Internal server error"`},
		},
		"503 from a proxy": {
			modelserver.Reply{Status: 503, Body: "<html>\n<b>busy</b>\x00</html>", ContentType: "text/html", RetryAfter: "2"},
			llm.Error{Code: task.CodeProviderFailed, Retry: true, Unknown: true, RetryAfter: 2 * time.Second, Message: `model server SERVER answered 503 Service Unavailable: "<html> <b>busy</b> </html>"`},
		},
		"504": {
			modelserver.Reply{Status: 504, Error: "timed out"},
			llm.Error{Code: task.CodeProviderFailed, Retry: true, Unknown: true, Message: `model server SERVER answered 504 Gateway Timeout: "timed out"`},
		},
		"529": {
			modelserver.Reply{Status: 529, Error: "Overloaded", RetryAfter: "3"},
			llm.Error{Code: task.CodeProviderFailed, Retry: true, RetryAfter: 3 * time.Second, Message: `model server SERVER answered 529: "Overloaded"; wait, or run fewer tasks at once`},
		},
		"redirect": {
			modelserver.Reply{Status: 308, Location: "https://user:password@elsewhere.example/v1?key=secret"},
			llm.Error{Code: task.CodeProviderRefused, Message: `model server SERVER answered 308: it redirects: "https://elsewhere.example/v1"; put the address that answers into the base URL`},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, p := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: c.reply}}})
			res, err := p.Chat(t.Context(), ask("hello"), nil)
			c.want.Status = c.reply.Status
			requireFailure(t, c.want, address(s), res, err)
			calls, err := s.Wait(t.Context(), 1)
			require.NoError(t, err)
			require.Len(t, calls, 1, "one Chat is one request")
		})
	}
}

const started = `event: message_start
data: {"type":"message_start","message":{"id":"x","model":"m-2","usage":{"input_tokens":9,"output_tokens":1}}}

event: content_block_start
data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":"a"}}

`

func TestBrokenAnswers(t *testing.T) {
	t.Parallel()
	broke := func(said string) llm.Error {
		return llm.Error{Code: task.CodeProviderFailed, Retry: true, Unknown: true, Message: "model server SERVER broke the connection: " + said}
	}
	cut := llm.Error{Code: task.CodeProviderFailed, Retry: true, Unknown: true, Message: "model server SERVER ended its answer before it was whole, without a finish reason"}
	tooMuch := func(of string) llm.Error {
		return llm.Error{Code: task.CodeProviderFailed, Unknown: true, Message: "model server SERVER answered with more than " + of + ", which is the limit; ask for less, or see what answers at this address"}
	}
	garbage := func(said string) llm.Error {
		return llm.Error{Code: task.CodeProviderFailed, Retry: true, Unknown: true, Message: fmt.Sprintf("model server SERVER answered something that is no answer of the messages API: %q; check the base URL", said)}
	}
	told := func(code task.Code, retry bool, said string) llm.Error {
		return llm.Error{Code: code, Retry: retry, Unknown: true, Status: 200, Message: "model server SERVER answered " + said}
	}
	event := func(data string) modelserver.Reply {
		return modelserver.Reply{Body: started + "data: " + data + "\n\n"}
	}
	usage := &task.Usage{InputTokens: 4, OutputTokens: 3}
	for name, c := range map[string]struct {
		reply modelserver.Reply
		want  llm.Error
	}{
		"reset before the headers":      {modelserver.Reply{Fault: modelserver.FaultReset}, broke(`"CONNECTION"`)},
		"closed before the headers":     {modelserver.Reply{Fault: modelserver.FaultCut}, broke(`"EOF"`)},
		"closed in the middle":          {modelserver.Reply{Text: "hello", Fault: modelserver.FaultCut, After: 250}, broke(`"unexpected EOF"`)},
		"reset in the middle":           {modelserver.Reply{Text: "hello", Fault: modelserver.FaultReset, After: 250}, broke(`"CONNECTION"`)},
		"ends in the middle":            {modelserver.Reply{Text: "hello", Fault: modelserver.FaultEnd, After: 250}, cut},
		"empty body":                    {modelserver.Reply{Fault: modelserver.FaultEnd}, cut},
		"no stop reason":                {modelserver.Reply{Text: "hello", Finish: "none", NoUsage: true}, cut},
		"no stop reason, in one JSON":   {modelserver.Reply{Text: "hello", Finish: "none", Plain: true, NoUsage: true}, cut},
		"no stop reason but usage":      {modelserver.Reply{Text: "0123456789", Finish: "none"}, cut}, // more may have followed
		"message_stop alone":            {event(`{"type":"message_stop"}`), cut},
		"JSON ends in the middle":       {modelserver.Reply{Text: "hello", Plain: true, Fault: modelserver.FaultEnd, After: 50}, cut},
		"wrong JSON in one piece":       {modelserver.Reply{Body: `{"content": nonsense}`}, garbage(`{"content": nonsense}`)},
		"wrong JSON in a stream":        {modelserver.Reply{Body: "data: {nonsense}\n\n"}, garbage("data: {nonsense}")},
		"JSON of something else":        {modelserver.Reply{Body: `{"type":"message","content":"none"}`}, garbage(`{"type":"message","content":"none"}`)},
		"JSON without a type":           {modelserver.Reply{Body: `{"choices":[]}`}, garbage(`{"choices":[]}`)},
		"another protocol's stream":     {modelserver.Reply{Body: "data: {\"choices\":[]}\n\n"}, garbage(`data: {"choices":[]}`)},
		"delta without a block":         {modelserver.Reply{Body: `data: {"type":"content_block_delta","index":3,"delta":{"type":"text_delta","text":"a"}}` + "\n\n"}, garbage(`data: {"type":"content_block_delta","index":3,"delta":{"type":"text_delta","text":"a"}}`)},
		"block without content":         {modelserver.Reply{Body: `data: {"type":"content_block_start","index":3}` + "\n\n"}, garbage(`data: {"type":"content_block_start","index":3}`)},
		"a web page":                    {modelserver.Reply{Body: "<!doctype html>\n<p>Welcome</p>", ContentType: "text/html"}, garbage("<!doctype html> <p>Welcome</p>")},
		"unknown encoding":              {modelserver.Reply{Body: "data: x\n\n"}, garbage(`the answer is encoded in a way that was not asked for: "br"`)},
		"error in one JSON":             {modelserver.Reply{Body: `{"type":"error","error":{"type":"api_error","message":"oops"}}`}, told(task.CodeProviderFailed, true, `500 Internal Server Error: "oops"`)},
		"error as text":                 {modelserver.Reply{Body: `{"error":"out of memory"}`}, told(task.CodeProviderFailed, true, `an error: "out of memory"`)},
		"error with the message beside": {modelserver.Reply{Body: `{"type":"error","message":"out of memory"}`}, told(task.CodeProviderFailed, true, `an error: "out of memory"`)},
		"error of a framework":          {modelserver.Reply{Body: `{"detail":"Not ready","message":"x"}`}, told(task.CodeProviderFailed, true, `an error: "Not ready"`)},
		"error without a word":          {modelserver.Reply{Body: `{"type":"error"}`}, told(task.CodeProviderFailed, true, `an error: "an error without a word about it"`)},
		"overloaded in a stream":        {event(`{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`), told(task.CodeProviderFailed, true, `529: "Overloaded"; wait, or run fewer tasks at once`)},
		"rate limit in a stream":        {event(`{"type":"error","error":{"type":"rate_limit_error","message":"too fast"}}`), told(task.CodeRateLimited, true, `429 Too Many Requests: "too fast"; wait, or run fewer tasks at once`)},
		"key expired in a stream":       {event(`{"type":"error","error":{"type":"authentication_error","message":"expired"}}`), told(task.CodeProviderAuth, false, `401 Unauthorized: "expired"; check the API key and what it may use`)},
		"time-out in a stream":          {event(`{"type":"error","error":{"type":"timeout_error","message":"late"}}`), told(task.CodeProviderFailed, true, `504 Gateway Timeout: "late"`)},
		"filter in a stream":            {event(`{"type":"error","error":{"type":"invalid_request_error","message":"Output blocked by content filtering policy"}}`), told(task.CodeContentFiltered, false, `400 Bad Request: "Output blocked by content filtering policy"; change the prompt`)},
		"refusal of a feature in a stream": {event(`{"type":"error","error":{"type":"invalid_request_error","message":"system.0.cache_control: not supported"}}`), llm.Error{
			Code: task.CodeProviderRefused, Retry: true, Unknown: true, Status: 200,
			Message: `model server SERVER answered 400 Bad Request: "system.0.cache_control: not supported"; the next call goes without it`,
		}},
		"refused answer":           {modelserver.Reply{Text: "0123456789", Finish: "content_filter"}, llm.Error{Code: task.CodeContentFiltered, Status: 200, Usage: usage, Message: `model server SERVER withheld the answer: "its safety filter stopped the answer"; change the prompt`}},
		"refused answer, no usage": {modelserver.Reply{Finish: "content_filter", NoUsage: true}, llm.Error{Code: task.CodeContentFiltered, Status: 200, Unknown: true, Message: `model server SERVER withheld the answer: "its safety filter stopped the answer"; change the prompt`}},
		"refused for a reason":     {event(`{"type":"message_delta","delta":{"stop_reason":"refusal","stop_details":{"type":"refusal","category":"bio","explanation":null}},"usage":{"output_tokens":2}}`), llm.Error{Code: task.CodeContentFiltered, Status: 200, Usage: &task.Usage{InputTokens: 9, OutputTokens: 2}, Message: `model server SERVER withheld the answer: "its safety filter stopped the answer: bio"; change the prompt`}},
		"refused with a word":      {event(`{"type":"message_delta","delta":{"stop_reason":"refusal","stop_details":{"category":"bio","explanation":"no germs"}},"usage":{"output_tokens":2}}`), llm.Error{Code: task.CodeContentFiltered, Status: 200, Usage: &task.Usage{InputTokens: 9, OutputTokens: 2}, Message: `model server SERVER withheld the answer: "no germs"; change the prompt`}},
		"context window full":      {modelserver.Reply{Text: "0123456789", Finish: "model_context_window_exceeded"}, llm.Error{Code: task.CodeContextTooLong, Status: 200, Usage: usage, Message: `model server SERVER had no room left for the answer in the model's context window; shorten the prompt or the tool results, or use a model with a larger context`}},
		"paused":                   {modelserver.Reply{Text: "0123456789", Finish: "pause_turn"}, llm.Error{Code: task.CodeProviderFailed, Status: 200, Usage: usage, Message: `model server SERVER paused in the middle of the answer, as it does for tools of its own; take those tools away from the model`}},
		"1 GiB of chunks":          {modelserver.Reply{Fault: modelserver.FaultHuge}, tooMuch("8 MiB, where no long answer is asked for")},
		"1 GiB in a line":          {modelserver.Reply{Fault: modelserver.FaultLine}, tooMuch("8 MiB, where no long answer is asked for")},
		"1 GiB from a gzip bomb":   {modelserver.Reply{Fault: modelserver.FaultBomb}, tooMuch("64 MiB that are no part of an answer")},
		"headers without an end":   {modelserver.Reply{Fault: modelserver.FaultHeaders}, broke(`"net/http: HTTP/1.x transport connection broken: net/http: server response headers exceeded 262144 bytes; aborted"`)},
		"too many tool calls":      {modelserver.Reply{Tools: make([]modelserver.Use, exchange.MaxToolCalls+1)}, tooMuch("256 tool calls")},
		"too many blocks":          {modelserver.Reply{Body: strings.Repeat(`data: {"type":"content_block_start","index":0,"content_block":{"type":"text"}}`+"\n\n", 5000)}, tooMuch("4096 blocks")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := modelserver.New(modelserver.Config{Rules: []modelserver.Rule{{Reply: c.reply}}})
			ts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if name == "unknown encoding" {
					w.Header().Set("Content-Encoding", "br")
				}
				s.ServeHTTP(w, r)
			}))
			t.Cleanup(ts.Close)
			p := provider(t, anthropic.Config{BaseURL: ts.URL})
			res, err := p.Chat(t.Context(), ask("hello"), nil)
			var got *llm.Error
			require.ErrorAs(t, err, &got)
			got.Message = platform(got.Message, c.want.Message)
			requireFailure(t, c.want, ts.URL, res, err)
			require.Len(t, s.Calls(), 1, "one Chat is one request")
		})
	}
}

// platform replaces what differs between systems.
func platform(got, want string) string {
	_, said, _ := strings.Cut(got, ": \"")
	if strings.Contains(want, "CONNECTION") && strings.Contains(said, "reset") {
		return strings.Replace(got, strings.TrimSuffix(said, `"`), "CONNECTION", 1)
	}
	return got
}

// A huge answer must not cost what it claims to be, where long answers are asked for and where they are not.
func TestHugeAnswerStaysSmall(t *testing.T) {
	for fault, of := range map[string]string{
		modelserver.FaultHuge: "64 MiB of text", modelserver.FaultLine: "128 MiB in one piece",
		modelserver.FaultBomb: "64 MiB that are no part of an answer",
	} {
		_, p := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{Fault: fault}}}})
		short, long := ask("hello"), ask("hello")
		long.Room = func(context.Context) error { return nil }
		require.Less(t, grown(t, p, short, "is the limit"), int64(8*llm.SmallAnswer), fault)
		require.Less(t, grown(t, p, long, of), int64(4*exchange.MaxAnswer), fault)
	}
}

// grown is how much memory a call takes that fails.
func grown(t *testing.T, p llm.Provider, r llm.Request, says string) int64 {
	t.Helper()
	var before, after runtime.MemStats
	debug.FreeOSMemory()
	runtime.ReadMemStats(&before)
	_, err := p.Chat(t.Context(), r, nil)
	runtime.ReadMemStats(&after)
	require.ErrorContains(t, err, says)
	grown := int64(after.HeapSys-after.HeapReleased) - int64(before.HeapSys-before.HeapReleased)
	t.Logf("%d MiB until %v", grown>>20, err)
	return grown
}

// An explanation without an end is read only so far.
func TestHugeRefusalStaysSmall(t *testing.T) {
	var before, after runtime.MemStats
	_, p := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{Status: 400, Fault: modelserver.FaultHuge}}}})
	runtime.ReadMemStats(&before)
	_, err := p.Chat(t.Context(), ask("hello"), nil)
	runtime.ReadMemStats(&after)
	var e *llm.Error
	require.ErrorAs(t, err, &e)
	require.Equal(t, task.CodeProviderRefused, e.Code)
	require.Equal(t, 400, e.Status)
	require.Less(t, int64(after.TotalAlloc)-int64(before.TotalAlloc), int64(128<<20))
}

func TestSilence(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]modelserver.Reply{
		"before the headers": {Fault: modelserver.FaultHang},
		"in the middle":      {Text: "hello", Fault: modelserver.FaultHang, After: 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: reply}}})
			p := provider(t, anthropic.Config{BaseURL: s.URL(), IdleTimeout: 50 * time.Millisecond})
			res, err := p.Chat(t.Context(), ask("hello"), nil)
			requireFailure(t, llm.Error{
				Code: task.CodeProviderFailed, Retry: true, Unknown: true,
				Message: "model server SERVER was silent for 50ms; see whether it is overloaded",
			}, address(s), res, err)
		})
	}
}

// A slow server is no silent one: the time starts anew with every byte, and a long answer has no limit of its own.
func TestSlowAnswerIsWhole(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{
		Text: strings.Repeat("x", 100), ChunkSize: 10, ChunkDelay: 330 * time.Millisecond,
	}}}})
	p := provider(t, anthropic.Config{BaseURL: s.URL(), IdleTimeout: 3 * time.Second})
	req := ask("hello")
	req.MaxTokens = 1 << 20 // for which an SDK demands a stream
	res, err := p.Chat(t.Context(), req, nil)
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("x", 100), res.Message.Text)
}

// A server that leaves the connection open after the stop reason costs nothing but the connection.
func TestOpenEndAfterTheAnswer(t *testing.T) {
	t.Parallel()
	body := started + `data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":2}}` + "\n\n"
	s, _ := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{
		Body: body + strings.Repeat(" ", 100), Fault: modelserver.FaultHang, After: len(body),
	}}}})
	p := provider(t, anthropic.Config{BaseURL: s.URL(), Grace: time.Second})
	res, err := p.Chat(t.Context(), ask("hello"), nil)
	require.NoError(t, err)
	require.Equal(t, &llm.Response{
		Message: llm.Message{Role: llm.RoleAssistant, Text: "a"}, Finish: llm.FinishStop, Model: "m-2", ID: "x",
		Usage: task.Usage{InputTokens: 9, OutputTokens: 2},
	}, res)
}

func TestContextEnds(t *testing.T) {
	t.Parallel()
	s, p := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{Fault: modelserver.FaultHang}}}})
	t.Run("deadline", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		res, err := p.Chat(ctx, ask("hello"), nil)
		requireFailure(t, llm.Error{
			Code: task.CodeTimeout, Unknown: true, Message: "model server SERVER had not answered when the call's time was up",
		}, address(s), res, err)
		require.ErrorIs(t, err, context.DeadlineExceeded)
	})
	t.Run("cancel", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			if _, err := s.WaitIn(ctx, 2); err == nil {
				cancel()
			}
		}()
		res, err := p.Chat(ctx, ask("hello"), nil)
		requireFailure(t, llm.Error{
			Code: task.CodeCancelled, Unknown: true, Message: "model server SERVER had not answered when the call was cancelled",
		}, address(s), res, err)
	})
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		res, err := p.Chat(ctx, ask("hello"), nil)
		requireFailure(t, llm.Error{
			Code: task.CodeCancelled, Message: "model server SERVER had not answered when the call was cancelled",
		}, address(s), res, err)
		require.Len(t, s.Calls(), 2)
	})
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	const closed = "http://127.0.0.1:1" // a port that the system gives to nobody
	for name, c := range map[string]struct{ url, part string }{
		"refused":         {closed, "cannot be reached: "},
		"no such host":    {"http://nowhere.invalid", "cannot be found: "},
		"secret user":     {strings.Replace(closed, "http://", "http://user:password1@", 1), "cannot be reached: "},
		"secret in query": {closed + "?key=password1", "cannot be reached: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := provider(t, anthropic.Config{BaseURL: c.url})
			_, err := p.Chat(t.Context(), ask("hello"), nil)
			var e *llm.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, task.CodeProviderFailed, e.Code)
			require.True(t, e.Retry)
			require.False(t, e.Unknown, "nothing was sent")
			require.Contains(t, e.Message, c.part)
			for err := error(e); err != nil; err = errors.Unwrap(err) {
				require.NotContains(t, err.Error(), "password1")
			}
		})
	}
}

// A redirect would turn the call into another one, at another server, with the key.
func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	elsewhere, _ := serve(t, modelserver.Config{})
	for _, status := range []int{301, 302, 303, 307, 308} {
		_, p := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{Status: status, Location: elsewhere.URL() + "/messages"}}}})
		_, err := p.Chat(t.Context(), ask("hello"), nil)
		var e *llm.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, task.CodeProviderRefused, e.Code)
	}
	require.Empty(t, elsewhere.Calls())
}

func TestErrorsHideSecrets(t *testing.T) {
	t.Parallel()
	said := "key plain-secret-1, header header-secret-2, partly sk-ant-abc***********wxyz, " + strings.Repeat("x", 200) + " and plain-secret-1 at the cut"
	for name, reply := range map[string]modelserver.Reply{
		"refusal": {Status: 400, Error: said},
		"garbage": {Body: said},
		"stream":  {Body: `data: {"type":"error","error":{"message":"` + said + `"}}` + "\n\n"},
		"filter":  {Body: started + `data: {"type":"message_delta","delta":{"stop_reason":"refusal","stop_details":{"explanation":"` + said + `"}}}` + "\n\n"},
	} {
		s, _ := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: reply}}})
		p := provider(t, anthropic.Config{BaseURL: s.URL(), APIKey: "plain-secret-1", Headers: map[string]string{"X-Key": "Bearer header-secret-2"}})
		_, err := p.Chat(t.Context(), ask("hello"), nil)
		require.Error(t, err)
		for err := err; err != nil; err = errors.Unwrap(err) {
			require.NotRegexp(t, "secret|abc|wxyz", err.Error(), name)
		}
		require.Contains(t, err.Error(), "key [hidden], header [hidden], partly [hidden]", name)
	}
}

// A kept connection that breaks must not make the transport send a request with an Idempotency-Key again.
func TestBrokenConnectionIsNotSentAgain(t *testing.T) {
	t.Parallel()
	s, p := serve(t, modelserver.Config{Rules: []modelserver.Rule{
		{When: modelserver.When{Call: 1}, Reply: modelserver.Reply{Text: "one"}},
		{Reply: modelserver.Reply{Fault: modelserver.FaultReset}},
	}})
	_, err := p.Chat(t.Context(), ask("hello"), nil)
	require.NoError(t, err)
	_, err = p.Chat(t.Context(), ask("hello"), nil)
	var e *llm.Error
	require.ErrorAs(t, err, &e)
	require.True(t, e.Unknown)
	calls, err := s.Wait(t.Context(), 2)
	require.NoError(t, err)
	require.Len(t, calls, 2)
}
