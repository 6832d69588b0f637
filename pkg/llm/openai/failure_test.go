package openai_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
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
	"arkonis.dev/ark/pkg/llm/exchange"
	"arkonis.dev/ark/pkg/llm/modelserver"
	"arkonis.dev/ark/pkg/llm/openai"
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
	have.Note = strings.ReplaceAll(have.Note, url, "SERVER")
	require.Empty(t, cmp.Diff(want, have, cmpopts.IgnoreFields(llm.Error{}, "Err")))
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		reply modelserver.Reply
		want  llm.Error
	}{
		"401": {
			modelserver.Reply{Status: 401, Error: "Incorrect API key provided: sk-test-secret."},
			llm.Error{Code: task.CodeProviderAuth, Message: `model server SERVER answered 401 Unauthorized: "Incorrect API key provided: [hidden]."; check the API key and what it may use`},
		},
		"403": {
			modelserver.Reply{Status: 403, Error: "Country not supported"},
			llm.Error{Code: task.CodeProviderAuth, Message: `model server SERVER answered 403 Forbidden: "Country not supported"; check the API key and what it may use`},
		},
		"400": {
			modelserver.Reply{Status: 400, Error: "Invalid 'temperature'", Param: "temperature"},
			llm.Error{Code: task.CodeProviderRefused, Message: `model server SERVER answered 400 Bad Request: "Invalid 'temperature'"`},
		},
		"404": {
			modelserver.Reply{Status: 404, Error: "The model `m` does not exist", Code: "model_not_found"},
			llm.Error{Code: task.CodeProviderRefused, Message: "model server SERVER answered 404 Not Found: \"The model `m` does not exist\"; check the model's name \"m\" and the base URL, which mostly ends in /v1"},
		},
		"422 with details": {
			modelserver.Reply{Status: 422, Body: `{"detail":[{"loc":["body","messages",0,"role"],"msg":"value is wrong","type":"enum"}]}`},
			llm.Error{Code: task.CodeProviderRefused, Message: `model server SERVER answered 422 Unprocessable Entity: "messages.[].role: value is wrong"`},
		},
		"408": {
			modelserver.Reply{Status: 408, Error: "upstream timed out"},
			llm.Error{Code: task.CodeProviderFailed, Retry: true, Unknown: true, Message: `model server SERVER answered 408 Request Timeout: "upstream timed out"`},
		},
		"413": {
			modelserver.Reply{Status: 413, Error: "too big"},
			llm.Error{Code: task.CodeContextTooLong, Message: `model server SERVER answered 413 Request Entity Too Large: "too big"; shorten the prompt or the tool results, or use a model with a larger context`},
		},
		"context": {
			modelserver.Reply{Status: 400, Error: "This model's maximum context length is 10 tokens.", Code: "context_length_exceeded"},
			llm.Error{Code: task.CodeContextTooLong, Message: `model server SERVER answered 400 Bad Request: "This model's maximum context length is 10 tokens."; shorten the prompt or the tool results, or use a model with a larger context`},
		},
		"context named beside max_tokens": {
			modelserver.Reply{Status: 400, Error: "'max_tokens' is too large: 100. This model's maximum context length is 50 tokens, which does not support it."},
			llm.Error{Code: task.CodeContextTooLong, Message: `model server SERVER answered 400 Bad Request: "'max_tokens' is too large: 100. This model's maximum context length is 50 tokens, which does not support it."; shorten the prompt or the tool results, or use a model with a larger context`},
		},
		"max_tokens too large": {
			modelserver.Reply{Status: 400, Error: "max_tokens is too large: 100. This model supports at most 50 completion tokens", Param: "max_tokens"},
			llm.Error{Code: task.CodeProviderRefused, Message: `model server SERVER answered 400 Bad Request: "max_tokens is too large: 100. This model supports at most 50 completion tokens"`},
		},
		"content filter": {
			modelserver.Reply{Status: 400, Error: "The response was filtered", Code: "content_filter"},
			llm.Error{Code: task.CodeContentFiltered, Message: `model server SERVER answered 400 Bad Request: "The response was filtered"; change the prompt`},
		},
		"402": {
			modelserver.Reply{Status: 402, Error: "Insufficient Balance"},
			llm.Error{Code: task.CodeRateLimited, Message: `model server SERVER answered 402 Payment Required: "Insufficient Balance"; the account has no credit left: raise its limit`},
		},
		"429": {
			modelserver.Reply{Status: 429, Error: "slow down"},
			llm.Error{Code: task.CodeRateLimited, Retry: true, Message: `model server SERVER answered 429 Too Many Requests: "slow down"; wait, or run fewer tasks at once`},
		},
		"429 with Retry-After": {
			modelserver.Reply{Status: 429, Error: "slow down", RetryAfter: "1.5"},
			llm.Error{Code: task.CodeRateLimited, Retry: true, RetryAfter: 1500 * time.Millisecond, Message: `model server SERVER answered 429 Too Many Requests: "slow down"; wait, or run fewer tasks at once`},
		},
		"429 with a Retry-After of a year": {
			modelserver.Reply{Status: 429, Error: "slow down", RetryAfter: "31536000"},
			llm.Error{Code: task.CodeRateLimited, Retry: true, RetryAfter: exchange.MaxRetryAfter, Message: `model server SERVER answered 429 Too Many Requests: "slow down"; wait, or run fewer tasks at once`},
		},
		"429 with a Retry-After date far away": {
			modelserver.Reply{Status: 429, Error: "slow down", RetryAfter: "Fri, 01 Jan 2100 00:00:00 GMT"},
			llm.Error{Code: task.CodeRateLimited, Retry: true, RetryAfter: exchange.MaxRetryAfter, Message: `model server SERVER answered 429 Too Many Requests: "slow down"; wait, or run fewer tasks at once`},
		},
		"429 with a Retry-After of nonsense": {
			modelserver.Reply{Status: 429, Error: "slow down", RetryAfter: "NaN"},
			llm.Error{Code: task.CodeRateLimited, Retry: true, Message: `model server SERVER answered 429 Too Many Requests: "slow down"; wait, or run fewer tasks at once`},
		},
		"429 with an overflow": {
			modelserver.Reply{Status: 429, Error: "slow down", RetryAfter: "1e999"},
			llm.Error{Code: task.CodeRateLimited, Retry: true, RetryAfter: exchange.MaxRetryAfter, Message: `model server SERVER answered 429 Too Many Requests: "slow down"; wait, or run fewer tasks at once`},
		},
		"429 without credit": {
			modelserver.Reply{Status: 429, Error: "You exceeded your current quota", Code: "insufficient_quota", RetryAfter: "3"},
			llm.Error{Code: task.CodeRateLimited, Message: `model server SERVER answered 429 Too Many Requests: "You exceeded your current quota"; the account has no credit left: raise its limit`},
		},
		"429 too large for any minute": {
			modelserver.Reply{Status: 429, Error: "Request too large for m on tokens per min"},
			llm.Error{Code: task.CodeRateLimited, Message: `model server SERVER answered 429 Too Many Requests: "Request too large for m on tokens per min"; shorten the prompt, or lower the token limit of a call`},
		},
		"500": {
			modelserver.Reply{Status: 500, Error: "oops"},
			llm.Error{Code: task.CodeProviderFailed, Retry: true, Unknown: true, Message: `model server SERVER answered 500 Internal Server Error: "oops"`},
		},
		"503 with Retry-After": {
			modelserver.Reply{Status: 503, Body: "<html>\n<b>busy</b>\x00</html>", ContentType: "text/html", RetryAfter: "2"},
			llm.Error{Code: task.CodeProviderFailed, Retry: true, Unknown: true, RetryAfter: 2 * time.Second, Message: `model server SERVER answered 503 Service Unavailable: "<html> <b>busy</b> </html>"`},
		},
		"501": {
			modelserver.Reply{Status: 501, Error: "not here"},
			llm.Error{Code: task.CodeProviderFailed, Message: `model server SERVER answered 501 Not Implemented: "not here"; check the base URL`},
		},
		"a long explanation": {
			modelserver.Reply{Status: 400, Error: strings.Repeat("é", 200)},
			llm.Error{Code: task.CodeProviderRefused, Message: `model server SERVER answered 400 Bad Request: "` + strings.Repeat("é", 150) + `..."`},
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
			requireFailure(t, c.want, s.URL(), res, err)
			calls, err := s.Wait(t.Context(), 1)
			require.NoError(t, err)
			require.Len(t, calls, 1, "one Chat is one request")
		})
	}
}

func TestBrokenAnswers(t *testing.T) {
	t.Parallel()
	const again = true
	cut := llm.Error{Code: task.CodeProviderFailed, Retry: again, Unknown: true, Message: "model server SERVER ended its answer before it was whole, without a finish reason"}
	tooMuch := func(of string) llm.Error {
		return llm.Error{Code: task.CodeProviderFailed, Unknown: true, Message: "model server SERVER answered with more than " + of + ", which is the limit; ask for less, or see what answers at this address"}
	}
	garbage := func(said string) llm.Error {
		return llm.Error{Code: task.CodeProviderFailed, Retry: again, Unknown: true, Message: fmt.Sprintf("model server SERVER answered something that is no answer of chat completions: %q; check the base URL", said)}
	}
	told := func(code task.Code, retry bool, said, todo string) llm.Error {
		return llm.Error{Code: code, Retry: retry, Unknown: true, Status: 200, Message: fmt.Sprintf("model server SERVER answered an error: %q", said) + todo}
	}
	usage := &task.Usage{InputTokens: 4, OutputTokens: 3}
	for name, c := range map[string]struct {
		reply modelserver.Reply
		want  llm.Error
	}{
		"reset before the headers":      {modelserver.Reply{Fault: modelserver.FaultReset}, llm.Error{Code: task.CodeProviderFailed, Retry: again, Unknown: true, Message: `model server SERVER broke the connection: "CONNECTION"`}},
		"closed before the headers":     {modelserver.Reply{Fault: modelserver.FaultCut}, llm.Error{Code: task.CodeProviderFailed, Retry: again, Unknown: true, Message: `model server SERVER broke the connection: "EOF"`}},
		"closed in the middle":          {modelserver.Reply{Text: "hello", Fault: modelserver.FaultCut, After: 250}, llm.Error{Code: task.CodeProviderFailed, Retry: again, Unknown: true, Message: `model server SERVER broke the connection: "unexpected EOF"`}},
		"reset in the middle":           {modelserver.Reply{Text: "hello", Fault: modelserver.FaultReset, After: 250}, llm.Error{Code: task.CodeProviderFailed, Retry: again, Unknown: true, Message: `model server SERVER broke the connection: "CONNECTION"`}},
		"ends in the middle":            {modelserver.Reply{Text: "hello", Fault: modelserver.FaultEnd, After: 250}, cut},
		"empty body":                    {modelserver.Reply{Fault: modelserver.FaultEnd}, cut},
		"no finish reason":              {modelserver.Reply{Text: "hello", Finish: "none", NoUsage: true}, cut},
		"no finish reason, in one JSON": {modelserver.Reply{Text: "hello", Finish: "none", Plain: true, NoUsage: true}, cut},
		"no finish reason but usage":    {modelserver.Reply{Text: "0123456789", Finish: "none"}, llm.Error{Code: task.CodeProviderFailed, Retry: again, Unknown: true, Usage: usage, Message: cut.Message}},
		"JSON ends in the middle":       {modelserver.Reply{Text: "hello", Plain: true, Fault: modelserver.FaultEnd, After: 50}, cut},
		"wrong JSON in one piece":       {modelserver.Reply{Body: `{"choices": nonsense}`}, garbage(`{"choices": nonsense}`)},
		"wrong JSON in a stream":        {modelserver.Reply{Body: "data: {nonsense}\n\n"}, garbage("data: {nonsense}")},
		"JSON of something else":        {modelserver.Reply{Body: `{"choices": "none"}`}, garbage(`{"choices": "none"}`)},
		"a web page":                    {modelserver.Reply{Body: "<!doctype html>\n<p>Welcome</p>", ContentType: "text/html"}, garbage("<!doctype html> <p>Welcome</p>")},
		"unknown encoding":              {modelserver.Reply{Body: "data: x\n\n"}, garbage(`the answer is encoded in a way that was not asked for: "br"`)},
		"error in one JSON":             {modelserver.Reply{Body: `{"error":{"message":"overloaded","type":"server_error"}}`}, told(task.CodeProviderFailed, again, "overloaded", "")},
		"error as text":                 {modelserver.Reply{Body: `{"error":"out of memory"}`}, told(task.CodeProviderFailed, again, "out of memory", "")},
		"error in vLLM's form":          {modelserver.Reply{Body: `{"object":"error","message":"bad","code":400}`}, llm.Error{Code: task.CodeProviderRefused, Unknown: true, Status: 200, Message: `model server SERVER answered 400 Bad Request: "bad"`}},
		"error in a stream":             {modelserver.Reply{Body: "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"error\":{\"message\":\"Rate limit reached\"}}\n\n"}, told(task.CodeRateLimited, again, "Rate limit reached", "; wait, or run fewer tasks at once")},
		"refusal after a text": {modelserver.Reply{Body: "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: {\"error\":{\"message\":\"stream_options is not supported\"}}\n\n"}, llm.Error{
			Code: task.CodeProviderRefused, Retry: again, Unknown: true, Status: 200,
			Message: `model server SERVER answered an error: "stream_options is not supported"; the next call goes without it`,
		}},
		"finish reason error":       {modelserver.Reply{Body: "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"error\"}]}\n\n"}, told(task.CodeProviderFailed, again, "an error without a word about it", "")},
		"filtered answer":           {modelserver.Reply{Text: "0123456789", Finish: "content_filter"}, llm.Error{Code: task.CodeContentFiltered, Status: 200, Usage: usage, Message: `model server SERVER withheld the answer: "its content filter stopped the answer"; change the prompt`}},
		"filtered answer, no usage": {modelserver.Reply{Finish: "content_filter", NoUsage: true}, llm.Error{Code: task.CodeContentFiltered, Status: 200, Unknown: true, Message: `model server SERVER withheld the answer: "its content filter stopped the answer"; change the prompt`}},
		"refusal in words":          {modelserver.Reply{Body: "data: {\"choices\":[{\"delta\":{\"refusal\":\"I will not\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"}, llm.Error{Code: task.CodeContentFiltered, Status: 200, Unknown: true, Message: `model server SERVER withheld the answer: "I will not"; change the prompt`}},
		"1 GiB of chunks":           {modelserver.Reply{Fault: modelserver.FaultHuge}, tooMuch("8 MiB, where no long answer is asked for")},
		"1 GiB in a line":           {modelserver.Reply{Fault: modelserver.FaultLine}, tooMuch("8 MiB, where no long answer is asked for")},
		"1 GiB from a gzip bomb":    {modelserver.Reply{Fault: modelserver.FaultBomb}, tooMuch("64 MiB that are no part of an answer")},
		"headers without an end":    {modelserver.Reply{Fault: modelserver.FaultHeaders}, llm.Error{Code: task.CodeProviderFailed, Retry: again, Unknown: true, Message: `model server SERVER broke the connection: "net/http: HTTP/1.x transport connection broken: net/http: server response headers exceeded 262144 bytes; aborted"`}},
		"too many tool calls":       {modelserver.Reply{Tools: make([]modelserver.Use, exchange.MaxToolCalls+1)}, tooMuch("256 tool calls")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var h http.Handler
			s := modelserver.New(modelserver.Config{Rules: []modelserver.Rule{{Reply: c.reply}}})
			h = s
			if name == "unknown encoding" {
				h = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Encoding", "br")
					s.ServeHTTP(w, r)
				})
			}
			ts := httptest.NewServer(h)
			t.Cleanup(ts.Close)
			p := provider(t, openai.Config{BaseURL: ts.URL, APIKey: "sk-test-secret"})
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

func TestSilence(t *testing.T) {
	t.Parallel()
	for name, reply := range map[string]modelserver.Reply{
		"before the headers": {Fault: modelserver.FaultHang},
		"in the middle":      {Text: "hello", Fault: modelserver.FaultHang, After: 200},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: reply}}})
			p := provider(t, openai.Config{BaseURL: s.URL(), IdleTimeout: 50 * time.Millisecond})
			res, err := p.Chat(t.Context(), ask("hello"), nil)
			requireFailure(t, llm.Error{
				Code: task.CodeProviderFailed, Retry: true, Unknown: true,
				Message: "model server SERVER was silent for 50ms; see whether it is overloaded",
			}, s.URL(), res, err)
		})
	}
}

// A slow server is no silent one: the time starts anew with every byte.
func TestSlowAnswerIsWhole(t *testing.T) {
	t.Parallel()
	s, _ := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{
		Text: strings.Repeat("x", 100), ChunkSize: 10, ChunkDelay: 330 * time.Millisecond,
	}}}})
	p := provider(t, openai.Config{BaseURL: s.URL(), IdleTimeout: 3 * time.Second})
	res, err := p.Chat(t.Context(), ask("hello"), nil)
	require.NoError(t, err)
	require.Equal(t, strings.Repeat("x", 100), res.Message.Text)
}

// A server that leaves the connection open after the finish reason costs the usage, not the answer.
func TestOpenEndAfterTheAnswer(t *testing.T) {
	t.Parallel()
	body := "data: {\"choices\":[{\"delta\":{\"content\":\"hi\"},\"finish_reason\":\"stop\"}]}\n\n"
	s, _ := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{
		Body: body + strings.Repeat(" ", 100), Fault: modelserver.FaultHang, After: len(body),
	}}}})
	p := provider(t, openai.Config{BaseURL: s.URL(), Grace: time.Second})
	req := ask("hello")
	res, err := p.Chat(t.Context(), req, nil)
	require.NoError(t, err)
	require.Equal(t, &llm.Response{
		Message:      llm.Message{Role: llm.RoleAssistant, Text: "hi"},
		Finish:       llm.FinishStop,
		Usage:        task.Usage{InputTokens: llm.InputBound(req), OutputTokens: 100},
		UsageMissing: true,
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
			Code: task.CodeTimeout, Unknown: true,
			Message: "model server SERVER had not answered when the call's time was up",
		}, s.URL(), res, err)
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
			Code: task.CodeCancelled, Unknown: true,
			Message: "model server SERVER had not answered when the call was cancelled",
		}, s.URL(), res, err)
		require.ErrorIs(t, err, context.Canceled)
	})
	t.Run("before", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		res, err := p.Chat(ctx, ask("hello"), nil)
		requireFailure(t, llm.Error{
			Code:    task.CodeCancelled,
			Message: "model server SERVER had not answered when the call was cancelled",
		}, s.URL(), res, err)
		require.Len(t, s.Calls(), 2)
	})
}

func TestUnreachable(t *testing.T) {
	t.Parallel()
	const closed = "http://127.0.0.1:1" // a port that the system gives to nobody
	secure := httptest.NewUnstartedServer(modelserver.New(modelserver.Config{}))
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	secure.StartTLS()
	t.Cleanup(secure.Close)
	open := httptest.NewServer(modelserver.New(modelserver.Config{}))
	t.Cleanup(open.Close)
	for name, c := range map[string]struct {
		url   string
		retry bool
		part  string
	}{
		"refused":         {closed, true, "cannot be reached: "},
		"no such host":    {"http://nowhere.invalid", true, "cannot be found: "},
		"not trusted":     {secure.URL, false, "shows a certificate that is not trusted: "},
		"no TLS spoken":   {"https" + strings.TrimPrefix(open.URL, "http"), false, "does not speak TLS: "},
		"secret user":     {strings.Replace(closed, "http://", "http://user:password1@", 1), true, "cannot be reached: "},
		"secret in query": {closed + "?key=password1", true, "cannot be reached: "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := provider(t, openai.Config{BaseURL: c.url})
			_, err := p.Chat(t.Context(), ask("hello"), nil)
			var e *llm.Error
			require.ErrorAs(t, err, &e)
			require.Equal(t, task.CodeProviderFailed, e.Code)
			require.Equal(t, c.retry, e.Retry)
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
		_, p := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: modelserver.Reply{Status: status, Location: elsewhere.URL() + "/models"}}}})
		_, err := p.Chat(t.Context(), ask("hello"), nil)
		var e *llm.Error
		require.ErrorAs(t, err, &e)
		require.Equal(t, task.CodeProviderRefused, e.Code)
		require.Contains(t, e.Message, elsewhere.URL())
	}
	require.Empty(t, elsewhere.Calls())
}

func TestErrorsHideSecrets(t *testing.T) {
	t.Parallel()
	said := "key plain-secret-1, header header-secret-2, partly sk-abc***********wxyz, " + strings.Repeat("x", 200) + " and plain-secret-1 at the cut"
	for name, reply := range map[string]modelserver.Reply{
		"refusal": {Status: 400, Error: said},
		"garbage": {Body: said},
		"stream":  {Body: `data: {"error":{"message":"` + said + `"}}` + "\n\n"},
	} {
		s, _ := serve(t, modelserver.Config{Rules: []modelserver.Rule{{Reply: reply}}})
		p := provider(t, openai.Config{BaseURL: s.URL(), APIKey: "plain-secret-1", Headers: map[string]string{"X-Key": "Bearer header-secret-2"}})
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
	first, err := p.Chat(t.Context(), ask("hello"), nil)
	require.NoError(t, err)
	require.Equal(t, "one", first.Message.Text)
	_, err = p.Chat(t.Context(), ask("hello"), nil)
	var e *llm.Error
	require.ErrorAs(t, err, &e)
	require.True(t, e.Unknown)
	calls, err := s.Wait(t.Context(), 2)
	require.NoError(t, err)
	require.Len(t, calls, 2)
}

func TestConfigIsChecked(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"ftp://user:password1@x": `base URL of the model server "ftp://user:xxxxx@x": want http or https and a host, such as https://api.openai.com/v1`,
		"localhost:11434":        `base URL of the model server "localhost:11434": want http or https and a host, such as https://api.openai.com/v1`,
		"http://[::1":            `base URL of the model server does not parse: want one such as https://api.openai.com/v1`,
	} {
		_, err := openai.New(openai.Config{BaseURL: in})
		require.EqualError(t, err, want)
	}
	_, err := openai.New(openai.Config{})
	require.NoError(t, err)
}
