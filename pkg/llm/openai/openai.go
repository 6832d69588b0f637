// Package openai speaks OpenAI's chat completions with OpenAI itself and with every server that is compatible: Ollama,
// vLLM, llama.cpp, LiteLLM, OpenRouter and others.
//
// The SDK builds and sends the request; the answer is read here, because the SDK neither reports a stream that ends
// too early nor bounds what it reads. One Chat is one HTTP request: the SDK's retries, the transport's own replay of
// requests and redirects are all off.
//
// How a call ends when the server misbehaves:
//
//	server                                     code             again  unknown outcome
//	cannot be reached, refuses the connection  ProviderFailed   yes    no
//	certificate not trusted, HTTP for HTTPS    ProviderFailed   no     no
//	401, 403                                   ProviderAuth     no     no
//	402, 429 without credit                    RateLimited      no     no
//	429                                        RateLimited      yes    no
//	408, 5xx but 501                           ProviderFailed   yes    yes
//	501                                        ProviderFailed   no     no
//	3xx, other 4xx                             ProviderRefused  no     no
//	the prompt does not fit                    ContextTooLong   no     no
//	a filter withheld prompt or answer         ContentFiltered  no     unless the usage was told
//	reset, silence, cut stream, garbage        ProviderFailed   yes    yes
//	no finish reason                           ProviderFailed   yes    yes
//	more than MaxBody or MaxAnswer             ProviderFailed   no     yes
//	the context ends                           Timeout or Cancelled    unless nothing was sent
//
// A refusal of tools, response_format, stream_options, streaming or the name of the token limit is remembered for the
// model; its *Error has Fallback set, and every later answer carries the note.
package openai

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"

	openaisdk "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"go.opentelemetry.io/otel/propagation"

	"arkonis.dev/ark/pkg/llm"
)

// DefaultBaseURL is OpenAI's own.
const DefaultBaseURL = "https://api.openai.com/v1"

// Bounds of one answer. They stand far above what a model can write, and keep a broken server from exhausting its
// client.
const (
	MaxBody       = 64 << 20 // bytes of a response body, after decompression
	MaxAnswer     = 8 << 20  // bytes of text, reasoning and arguments together; also of one line of a stream
	MaxToolCalls  = 256      // in one answer
	MaxRetryAfter = 5 * time.Minute
)

const (
	defaultIdle  = 5 * time.Minute
	defaultGrace = 5 * time.Second
	headerLimit  = 256 << 10
)

// Config is a model server and how to reach it.
type Config struct {
	// BaseURL ends where /chat/completions begins; "" is DefaultBaseURL. Query parameters are kept.
	BaseURL string
	// APIKey is the bearer token; "" sends none.
	APIKey string
	// Headers are sent with every request. Their values count as secrets.
	Headers map[string]string
	// HTTPClient lends its Transport; nil has one made. Its other fields are not used.
	HTTPClient *http.Client
	// IdleTimeout ends a call whose server is silent: before the headers, and between any two reads. 0 is 5 minutes.
	IdleTimeout time.Duration
	// Grace is how long a server may take to end a stream after the finish reason. 0 is 5 seconds.
	Grace time.Duration
}

func (c Config) validate() (Config, *url.URL, error) {
	if c.BaseURL == "" {
		c.BaseURL = DefaultBaseURL
	}
	u, err := url.Parse(c.BaseURL)
	if err != nil {
		return c, nil, fmt.Errorf("base URL of the model server does not parse: want one such as %s", DefaultBaseURL)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return c, nil, fmt.Errorf("base URL of the model server %q: want http or https and a host, such as %s", u.Redacted(), DefaultBaseURL)
	}
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/chat/completions")
	u.RawPath = ""
	if c.IdleTimeout <= 0 {
		c.IdleTimeout = defaultIdle
	}
	if c.Grace <= 0 {
		c.Grace = defaultGrace
	}
	return c, u, nil
}

// Provider is a client of one model server. It is safe for concurrent use.
type Provider struct {
	chat    openaisdk.ChatCompletionService
	server  string // for people: the base URL without its secrets
	secrets secrets
	refused memory
	idle    time.Duration
	grace   time.Duration
	newName bool // max_completion_tokens is what the server calls the limit
}

// New makes a Provider. It connects to nothing.
func New(c Config) (*Provider, error) {
	c, u, err := c.validate()
	if err != nil {
		return nil, err
	}
	p := &Provider{
		server:  publicURL(u),
		secrets: newSecrets(c, u),
		idle:    c.IdleTimeout,
		grace:   c.Grace,
		newName: namesCompletionTokens(u.Hostname()),
	}
	p.chat = openaisdk.NewChatCompletionService(clientOptions(c, u)...)
	return p, nil
}

// Name is "openai".
func (p *Provider) Name() string { return llm.OpenAI }

func clientOptions(c Config, u *url.URL) []option.RequestOption {
	var transport http.RoundTripper
	if c.HTTPClient != nil {
		transport = c.HTTPClient.Transport
	}
	if transport == nil {
		transport = newTransport()
	}
	base := *u
	base.RawQuery, base.Fragment = "", ""
	opts := []option.RequestOption{
		option.WithBaseURL(base.String()),
		option.WithMaxRetries(0),
		option.WithHTTPClient(&http.Client{Transport: transport, CheckRedirect: noRedirect}),
		option.WithMiddleware(sendOnce, sendTrace),
		option.WithHeader("Accept", "text/event-stream, application/json"),
		// A compressed stream arrives late and can be a bomb.
		option.WithHeader("Accept-Encoding", "identity"),
		option.WithHeader("User-Agent", "ark"),
	}
	if c.APIKey != "" {
		opts = append(opts, option.WithAPIKey(c.APIKey))
	}
	for k, vs := range u.Query() {
		for _, v := range vs {
			opts = append(opts, option.WithQueryAdd(k, v))
		}
	}
	for k, v := range c.Headers {
		opts = append(opts, option.WithHeader(k, v))
	}
	return opts
}

// newTransport keeps enough connections for parallel branches and bounds what headers may cost.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		ForceAttemptHTTP2:      true,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		MaxIdleConns:           256,
		MaxIdleConnsPerHost:    128,
		IdleConnTimeout:        90 * time.Second,
		TLSHandshakeTimeout:    10 * time.Second,
		MaxResponseHeaderBytes: headerLimit,
		DisableCompression:     true,
	}
}

func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

// sendOnce takes the body's replay away. With it, net/http sends a POST that carries an Idempotency-Key a second time
// when a kept connection breaks.
func sendOnce(req *http.Request, next option.MiddlewareNext) (*http.Response, error) {
	req.GetBody = nil
	return next(req)
}

// sendTrace lets the server's trace go on from the call's span.
func sendTrace(req *http.Request, next option.MiddlewareNext) (*http.Response, error) {
	propagation.TraceContext{}.Inject(req.Context(), propagation.HeaderCarrier(req.Header))
	return next(req)
}

// namesCompletionTokens tells the hosts that have replaced max_tokens. Others mostly know max_tokens, and some ignore
// what they do not know: a limit that is ignored is a budget that is passed.
func namesCompletionTokens(host string) bool {
	host = strings.ToLower(host)
	return host == "api.openai.com" || strings.HasSuffix(host, ".openai.com") || strings.HasSuffix(host, ".openai.azure.com")
}

// Chat makes one call; see llm.Provider.
func (p *Provider) Chat(ctx context.Context, req llm.Request, onChunk func(llm.Chunk)) (*llm.Response, error) {
	if onChunk == nil {
		onChunk = func(llm.Chunk) {}
	}
	c := &call{p: p, req: req, without: p.refused.get(req.Model), onChunk: onChunk}
	res, err := c.do(ctx)
	if err != nil {
		return nil, err
	}
	return res, nil
}
