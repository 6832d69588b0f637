// Package openai speaks OpenAI's chat completions with OpenAI itself and with every server that is compatible: Ollama,
// vLLM, llama.cpp, LiteLLM, OpenRouter and others.
//
// How a call goes and how it ends when the server misbehaves is written at package exchange.
//
// A refusal of tools, response_format, stream_options, streaming or the name of the token limit is remembered for the
// model; its *Error has Fallback set, and every later answer carries the note.
package openai

import (
	"context"
	"net/http"
	"strings"
	"time"

	openaisdk "github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/exchange"
)

// DefaultBaseURL is OpenAI's own.
const DefaultBaseURL = "https://api.openai.com/v1"

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

// protocol is what the server speaks.
var protocol = exchange.Protocol{
	Name: "chat completions", DefaultURL: DefaultBaseURL, Endpoints: []string{"/chat/completions"},
	URLHint: "which mostly ends in /v1",
}

// Provider is a client of one model server. It is safe for concurrent use.
type Provider struct {
	chat    openaisdk.ChatCompletionService
	options []option.RequestOption // of every request
	server  *exchange.Server
	refused exchange.Refusals
	newName bool // max_completion_tokens is what the server calls the limit
}

// New makes a Provider. It connects to nothing.
func New(c Config) (*Provider, error) {
	server, err := exchange.New(exchange.Config(c), protocol)
	if err != nil {
		return nil, err
	}
	options := clientOptions(c, server)
	return &Provider{
		chat:    openaisdk.NewChatCompletionService(options...),
		options: options,
		server:  server,
		newName: namesCompletionTokens(server.Host()),
	}, nil
}

// Name is "openai".
func (p *Provider) Name() string { return llm.OpenAI }

func clientOptions(c Config, server *exchange.Server) []option.RequestOption {
	opts := []option.RequestOption{
		option.WithBaseURL(server.BaseURL()),
		option.WithMaxRetries(0),
		option.WithHTTPClient(server.HTTPClient()),
	}
	if c.APIKey != "" {
		opts = append(opts, option.WithAPIKey(c.APIKey))
	}
	for k, vs := range server.Query() {
		for _, v := range vs {
			opts = append(opts, option.WithQueryAdd(k, v))
		}
	}
	for _, headers := range []map[string]string{exchange.Headers(), c.Headers} {
		for k, v := range headers {
			opts = append(opts, option.WithHeader(k, v))
		}
	}
	return opts
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
	c := &call{p: p, req: req, without: p.refused.Of(req.Model)}
	c.answer = answer{byIndex: map[int]*partCall{}, onChunk: onChunk}
	res, err := c.do(ctx)
	if err != nil {
		return nil, err
	}
	return res, nil
}
