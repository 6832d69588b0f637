// Package anthropic speaks Anthropic's messages API with Anthropic itself and with servers that are compatible.
//
// How a call goes and how it ends when the server misbehaves is written at package exchange. What an answer's
// stop_reason comes to:
//
//	end_turn, stop_sequence         FinishStop
//	tool_use                        FinishToolCalls
//	max_tokens                      FinishLength, FinishToolCalls if the calls are whole
//	refusal                         ContentFiltered
//	model_context_window_exceeded   ContextTooLong
//	pause_turn                      ProviderFailed: only tools of the server's own pause
//	none                            ProviderFailed, unknown outcome
//
// The prefix of a conversation that stays the same is marked for the server's cache: the tools, the system prompt, and,
// as long as tools are offered, the conversation up to its end, which the next turn begins with. Input tokens are all
// that the server read, cached or not; cached tokens are those that it found in its cache.
//
// Reasoning is neither asked for nor refused. Where a model thinks on its own, its thoughts go back to it with the tool
// results, signed and in their order, as the API wants them (llm.Message.Signed).
//
// A refusal of tools, output_config, cache_control or of the thoughts that went back is remembered for the model; its
// *Error has Fallback set, and every later answer carries the note.
package anthropic

import (
	"context"
	"net/http"
	"time"

	sdk "github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"

	"arkonis.dev/ark/pkg/llm"
	"arkonis.dev/ark/pkg/llm/exchange"
)

// DefaultBaseURL is Anthropic's own.
const DefaultBaseURL = "https://api.anthropic.com"

// Config is a model server and how to reach it.
type Config struct {
	// BaseURL ends where /v1/messages begins, which may stand there as well; "" is DefaultBaseURL. Query parameters are
	// kept.
	BaseURL string
	// APIKey is sent as X-Api-Key; "" sends none. A gateway that wants a bearer token gets it through Headers.
	APIKey string
	// Headers are sent with every request. Their values count as secrets.
	Headers map[string]string
	// HTTPClient lends its Transport; nil has one made. Its other fields are not used.
	HTTPClient *http.Client
	// IdleTimeout ends a call whose server is silent: before the headers, and between any two reads. 0 is 5 minutes.
	IdleTimeout time.Duration
	// Grace is how long a server may take to end a stream after the stop reason. 0 is 5 seconds.
	Grace time.Duration
}

// protocol is what the server speaks.
var protocol = exchange.Protocol{
	Name: "the messages API", DefaultURL: DefaultBaseURL, Endpoints: []string{"/messages", "/v1"},
	URLHint: "which ends before /v1/messages",
}

// Provider is a client of one model server. It is safe for concurrent use.
type Provider struct {
	client  sdk.Client
	server  *exchange.Server
	refused exchange.Refusals
}

// New makes a Provider. It connects to nothing, and reads nothing from the environment.
func New(c Config) (*Provider, error) {
	server, err := exchange.New(exchange.Config(c), protocol)
	if err != nil {
		return nil, err
	}
	return &Provider{client: sdk.Client{Options: clientOptions(c, server)}, server: server}, nil
}

// Name is "anthropic".
func (p *Provider) Name() string { return llm.Anthropic }

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

// Chat makes one call; see llm.Provider.
func (p *Provider) Chat(ctx context.Context, req llm.Request, onChunk func(llm.Chunk)) (*llm.Response, error) {
	if onChunk == nil {
		onChunk = func(llm.Chunk) {}
	}
	c := &call{p: p, req: req, without: p.refused.Of(req.Model)}
	c.answer = answer{byIndex: map[int]*block{}, onChunk: onChunk}
	res, err := c.do(ctx)
	if err != nil {
		return nil, err
	}
	return res, nil
}
