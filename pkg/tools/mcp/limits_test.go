package mcp_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/tools"
	"arkonis.dev/ark/pkg/tools/mcp"
)

// restWith is a server of the plain form with given answers.
func restWith(t *testing.T, list, call http.HandlerFunc) string {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /tools/list", list)
	if call != nil {
		mux.HandleFunc("POST /tools/call", call)
	}
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s.URL
}

func writes(answer string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }
}

func listOf(toolNames ...string) string {
	defs := []map[string]any{}
	for _, name := range toolNames {
		defs = append(defs, map[string]any{"name": name, "inputSchema": map[string]any{"type": "object"}})
	}
	b, err := json.Marshal(map[string]any{"tools": defs})
	if err != nil {
		panic(err)
	}
	return string(b)
}

func TestListsArePagedAndFollowed(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]func(*sdk.Server) http.Handler{
		"streamable HTTP": func(s *sdk.Server) http.Handler { return streamable(s, nil) },
		"stateless": func(s *sdk.Server) http.Handler {
			return withoutHandshake(streamable(s, &sdk.StreamableHTTPOptions{Stateless: true}))
		},
		"SSE": sse,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSDKServer(newWorld(), &sdk.ServerOptions{PageSize: 2})
			h := newHost(t, func() http.Handler { return handler(s) })
			c := connect(t, mcp.Config{Name: "s", URL: h.url(), Refresh: time.Hour})
			require.Equal(t, []string{"s__big", "s__count", "s__echo", "s__fail", "s__slow"}, c.names())

			add(s, &sdk.Tool{Name: "another"}, func(context.Context, string) (*sdk.CallToolResult, error) { return text("new"), nil })
			c.until(func() bool { return slices.Contains(c.names(), "s__another") })
			require.Equal(t, ok("new"), c.call("s__another", ""))

			s.RemoveTools("another")
			c.until(func() bool { return !slices.Contains(c.names(), "s__another") })
		})
	}
}

func TestAListThatChangesWithoutNoticeIsRefreshed(t *testing.T) {
	t.Parallel()
	lists := make(chan string, 2)
	lists <- listOf("a")
	lists <- listOf("a", "b")
	last := ""
	url := restWith(t, func(w http.ResponseWriter, _ *http.Request) {
		select {
		case last = <-lists:
		default:
		}
		fmt.Fprint(w, last)
	}, nil)
	c := connect(t, mcp.Config{Name: "s", URL: url, Transport: mcp.REST, Refresh: time.Millisecond})
	c.until(func() bool { return slices.Equal(c.names(), []string{"s__a", "s__b"}) })
}

func TestPagesWithoutEndAreCutOff(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]func(n int) string{
		"the same cursor":  func(int) string { return "again" },
		"always a new one": func(n int) string { return fmt.Sprint(n) },
	} {
		n := 0
		url := restWith(t, func(w http.ResponseWriter, _ *http.Request) {
			n++
			fmt.Fprintf(w, `{"tools":[{"name":"t%d"}],"nextCursor":%q}`, n%10, next(n))
		}, nil)
		c := connect(t, mcp.Config{Name: "s", URL: url, Transport: mcp.REST})
		require.True(t, c.Health()[0].Healthy, name)
		require.NotEmpty(t, c.names(), name)
		require.LessOrEqual(t, n, 110, name)
		require.NotEmpty(t, c.Health()[0].Message, name)
	}
}

func TestToolsThatAreNotFitToOfferAreLeftOutAlone(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat(`{"properties":{"a":`, 70) + `{}` + strings.Repeat(`}}`, 70)
	url := restWith(t, writes(`{"tools":[
		{"name":"good","description":"works","inputSchema":{"type":"object","properties":{"a":{"type":"string"}},"anyOf":[{"required":["a"]}]}},
		{"name":"bare"},
		{"name":"null","inputSchema":null},
		{"name":"untyped","inputSchema":{"properties":{"b":{}}}},
		{"name":"list","inputSchema":{"type":"array"}},
		{"name":"text","inputSchema":"object"},
		{"name":"remote","inputSchema":{"type":"object","properties":{"a":{"$ref":"http://example.com/x"}}}},
		{"name":"pattern","inputSchema":{"type":"object","properties":{"a":{"pattern":"(?=x)"}}}},
		{"name":"huge","inputSchema":{"type":"object","description":"`+strings.Repeat("x", mcp.MaxSchema)+`"}},
		{"name":"deep","inputSchema":`+deep+`},
		{"name":"good","description":"twice"},
		{"name":""},
		{"name":17},
		"nonsense",
		{"name":"talks","description":"`+strings.Repeat("ä", mcp.MaxDescription)+`"}
	]}`), nil)
	c := connect(t, mcp.Config{Name: "s", URL: url, Transport: mcp.REST})
	require.Equal(t, []string{"s__bare", "s__good", "s__null", "s__talks", "s__untyped"}, c.names())
	specs := c.set().Specs()
	require.JSONEq(t, `{"type":"object","properties":{}}`, string(specs[0].Schema))
	require.Equal(t, `{"type":"object","properties":{"a":{"type":"string"}},"anyOf":[{"required":["a"]}]}`, string(specs[1].Schema), "a word of the schema was lost")
	require.JSONEq(t, `{"type":"object","properties":{"b":{}}}`, string(specs[4].Schema))
	require.LessOrEqual(t, len(specs[3].Description), mcp.MaxDescription)
	require.True(t, strings.HasSuffix(specs[3].Description, "ä..."))
	h := c.Health()[0]
	require.True(t, h.Healthy)
	require.Contains(t, h.Message, `list was left out: its input schema describes "array", not an object`)
	require.Contains(t, h.Message, "remote was left out: ")
	require.Contains(t, h.Message, "and 5 more like these")
}

func TestSchemasKeepTheirWordsOverTheLibrary(t *testing.T) {
	t.Parallel()
	s := newSDKServer(newWorld(), nil)
	input := json.RawMessage(`{"$schema":"https://json-schema.org/draft/2020-12/schema","type":"object","properties":{"a":{"const":1}},"dependentRequired":{"a":["b"]},"required":["a"]}`)
	add(s, &sdk.Tool{Name: "odd", InputSchema: input}, func(context.Context, string) (*sdk.CallToolResult, error) { return text(""), nil })
	h := newHost(t, func() http.Handler { return streamable(s, nil) })
	c := connect(t, mcp.Config{Name: "s", URL: h.url(), Allow: []string{"odd"}})
	require.JSONEq(t, string(input), string(c.Tools()[0].Spec().Schema))
	r := c.call("s__odd", "x")
	require.True(t, r.IsError)
	require.Contains(t, r.Text, "do not fit its schema", "arguments are checked before a call")
}

func TestTooManyToolsAreCutOff(t *testing.T) {
	t.Parallel()
	many := []string{}
	for n := range 1000 {
		many = append(many, fmt.Sprintf("t%03d", n))
	}
	url := restWith(t, writes(listOf(many...)), nil)
	c := connect(t, mcp.Config{Name: "s", URL: url, Transport: mcp.REST})
	require.Len(t, c.Tools(), mcp.MaxTools)
	require.Contains(t, c.Health()[0].Message, "more than 128 tools: choose with allow")

	chosen := connect(t, mcp.Config{Name: "s", URL: url, Transport: mcp.REST, Allow: []string{"t999", "t998", "t000", "gone"}, Deny: []string{"t000"}})
	require.Equal(t, []string{"s__t998", "s__t999"}, chosen.names())
	require.Equal(t, "gone was left out: it is allowed, but the server does not offer it", chosen.Health()[0].Message)
}

func TestNamesAreUniqueAndFitForProviders(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100)
	url := restWith(t, writes(listOf("read.file", "read_file", "lesen/ä", long+"1", long+"2", "plain")), nil)
	other := restWith(t, writes(listOf("b__c")), nil)
	third := restWith(t, writes(listOf("c")), nil)
	configs := []mcp.Config{
		{Name: "s.v", URL: url, Transport: mcp.REST},
		{Name: "s_v", URL: url, Transport: mcp.REST},
		{Name: "a", URL: other, Transport: mcp.REST},
		{Name: "a__b", URL: third, Transport: mcp.REST},
	}
	c := connect(t, configs...)
	names := c.names()
	require.Len(t, names, 14)
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(names))), 14)
	for _, name := range names {
		require.Regexp(t, `^[a-zA-Z0-9_-]{1,64}$`, name)
	}
	require.Contains(t, names, "s_v__read_file", "the tool that is called so keeps its name")
	require.Contains(t, names, "s_v__plain")
	slices.Reverse(configs)
	require.ElementsMatch(t, names, connect(t, configs...).names(), "names depend on the order of servers")
}

func TestNamesThatTheAgentHasAlreadyStayWithTheirTools(t *testing.T) {
	t.Parallel()
	url := restWith(t, writes(listOf("x", "y")), nil)
	c := connect(t, mcp.Config{Name: "s", URL: url, Transport: mcp.REST})
	mine, err := tools.NewWebhook(tools.WebhookConfig{Name: "s__x", URL: "http://localhost"}, tools.NewNetwork(tools.Guard{}, nil))
	require.NoError(t, err)
	set, err := tools.NewSet(mine)
	require.NoError(t, err)
	set, err = c.Offer(t.Context(), set)
	require.NoError(t, err)
	require.Len(t, set.Specs(), 2)
	require.Contains(t, c.logs.String(), "tool left out: its name is taken")
}

func TestAnAnswerThatIsTooLargeIsNotRead(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]func(*sdk.Server) http.Handler{
		"streamable HTTP": func(s *sdk.Server) http.Handler { return streamable(s, nil) },
		"JSON": func(s *sdk.Server) http.Handler {
			return streamable(s, &sdk.StreamableHTTPOptions{JSONResponse: true})
		},
		"SSE": sse,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSDKServer(newWorld(), nil)
			h := newHost(t, func() http.Handler { return handler(s) })
			c := connect(t, mcp.Config{Name: "s", URL: h.url(), ResponseLimit: 100_000})
			r := c.call("s__big", "")
			require.True(t, r.IsError)
			require.Contains(t, r.Text, "the answer is larger than 100000 bytes")
			require.Equal(t, ok("echo 1"), c.call("s__echo", "1"), "the server is of use no more")
		})
	}
}

func TestAnAnswerWithoutEndIsNotRead(t *testing.T) {
	t.Parallel()
	endless := func(contentType, piece string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", contentType)
			for r.Context().Err() == nil {
				if _, err := fmt.Fprint(w, piece); err != nil {
					return
				}
			}
		}
	}
	config := mcp.Config{Name: "s", ResponseLimit: 1 << 20}
	for name, answer := range map[string]http.HandlerFunc{
		"of JSON":       endless("application/json", strings.Repeat(" ", 1000)),
		"of one event":  endless("text/event-stream", "data: "+strings.Repeat("x", 1000)),
		"of many lines": endless("text/event-stream", "data: x\n"),
	} {
		for _, transport := range []mcp.Transport{mcp.StreamableHTTP, mcp.SSE, mcp.REST} {
			t.Run(fmt.Sprintf("%s over %s", name, transport), func(t *testing.T) {
				t.Parallel()
				s := httptest.NewServer(answer)
				t.Cleanup(s.Close)
				mine := config
				mine.URL, mine.Transport = s.URL, transport
				c := connect(t, mine)
				require.False(t, c.Health()[0].Healthy)
				require.Empty(t, c.Tools())
			})
		}
	}
	t.Run("over stdio", func(t *testing.T) {
		t.Parallel()
		mine := stdioConfig(t, "endless")
		mine.ResponseLimit = 1 << 20
		c := connect(t, mine)
		require.Contains(t, c.Health()[0].Message, "larger than 1048576 bytes")
	})
}
