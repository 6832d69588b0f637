// Package mcp offers the tools of MCP servers to models: over streamable HTTP, SSE, the stdin and stdout of a child
// process, and the plain REST form (POST <url>/tools/list, POST <url>/tools/call).
//
// Each server is looked after by a goroutine of its own that connects, keeps the list of tools fresh and reconnects
// with growing delays. A server that is down keeps its last known tools; calls of them wait a moment for it to come
// back and then fail with a sentence that the model can act on. Nothing that a server does - hanging, dying, answering
// without end, listing nonsense - reaches beyond its own tools.
//
// A call is repeated by itself only if it surely was not carried out, or if the tool is safe to repeat. When a
// connection breaks during any other call, the model is told that the outcome is unknown.
package mcp

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"time"
)

// Transport is a way to talk to a server.
type Transport string

const (
	// Auto finds out which one a URL speaks: streamable HTTP, SSE, REST, in this order. A command is Stdio.
	Auto           Transport = "auto"
	StreamableHTTP Transport = "streamable-http"
	SSE            Transport = "sse"
	Stdio          Transport = "stdio"
	REST           Transport = "rest"
)

// Defaults of a server.
const (
	DefaultConnectTimeout      = 15 * time.Second
	DefaultStdioConnectTimeout = 60 * time.Second // commands such as npx fetch their package first
	DefaultCallTimeout         = 60 * time.Second
	DefaultPatience            = 10 * time.Second
	DefaultRefresh             = 30 * time.Second
	// DefaultResponseLimit is the size of the largest answer that is read, in bytes.
	DefaultResponseLimit = 8 << 20
)

// Config describes one server. It has either a URL or a Command.
type Config struct {
	Name string // unique; tools are named <name>__<tool>

	URL string // http or https

	Command string   // program of a server that is spoken to over stdin and stdout
	Args    []string // of the command
	// Env is the whole environment of the command, as "NAME=value". It may hold secrets; the secrets of ark itself
	// should not be among them.
	Env []string
	Dir string // working directory of the command; empty: that of this process

	Transport Transport // empty: Auto

	// Headers are sent with every request. Their values are taken for secrets: they are never logged or told.
	Headers map[string]string
	// HeaderFiles are files with the values of more headers, read for every request.
	HeaderFiles map[string]string
	// Token, or the content of TokenFile, is sent as "Authorization: Bearer". The file is read for every request, so
	// that a new token in it is used at once; while it cannot be read, the last one stays in use.
	Token     string
	TokenFile string
	// CertFile and KeyFile are the client certificate (PEM), CAFile holds authorities to trust besides the system's.
	// New contents are used from the next request on; while they do not load, the last ones stay in use.
	CertFile string
	KeyFile  string
	CAFile   string

	Guidance string // for the system prompt
	Required bool   // without this server the agent is not ready

	Allow []string // the server's names of the only tools to offer; empty: all
	Deny  []string // of tools not to offer; wins over Allow
	// Idempotent says that every tool may be called again with the same arguments.
	Idempotent bool

	ConnectTimeout time.Duration // of one attempt, listing the tools included; 0: a default
	CallTimeout    time.Duration // of one call with its repetitions; 0: DefaultCallTimeout
	// Patience is how long after its loss a call waits for a server to come back; 0: DefaultPatience.
	Patience time.Duration
	// Refresh is how often the tools are listed anew, which also shows that the server is there; 0: DefaultRefresh.
	// Commands are not asked: they say when their list changes.
	Refresh       time.Duration
	ResponseLimit int64 // bytes of one answer; 0: DefaultResponseLimit
}

func (c Config) withDefaults() Config {
	if c.Transport == "" {
		c.Transport = Auto
	}
	if c.Transport == Auto && c.Command != "" {
		c.Transport = Stdio
	}
	if c.ConnectTimeout == 0 && c.Transport == Stdio {
		c.ConnectTimeout = DefaultStdioConnectTimeout
	}
	c.ConnectTimeout = cmp.Or(c.ConnectTimeout, DefaultConnectTimeout)
	c.CallTimeout = cmp.Or(c.CallTimeout, DefaultCallTimeout)
	c.Patience = cmp.Or(c.Patience, DefaultPatience)
	c.Refresh = cmp.Or(c.Refresh, DefaultRefresh)
	c.ResponseLimit = cmp.Or(c.ResponseLimit, DefaultResponseLimit)
	return c
}

var validName = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?$`)

// Validate says what is wrong with the configuration, all at once and without its secrets. It reads no files.
func (c Config) Validate() error {
	c = c.withDefaults()
	var faults []error
	must := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf("mcp server %q: %s", c.Name, fmt.Sprintf(format, args...)))
		}
	}
	must(len(c.Name) <= 63 && validName.MatchString(c.Name),
		"name: use 1 to 63 letters, digits, hyphens, underscores and dots, with a letter or digit at both ends")
	must((c.URL != "") != (c.Command != ""), "give exactly one of url and command")
	must(slices.Contains([]Transport{Auto, StreamableHTTP, SSE, Stdio, REST}, c.Transport),
		"transport %q is not one of auto, streamable-http, sse, stdio, rest", c.Transport)
	must((c.Transport == Stdio) == (c.Command != ""), "transport stdio goes with command, the others with url")
	if c.URL != "" {
		must(validURL(c.URL), "url must be an http:// or https:// address with a host")
	}
	must(c.Command == "" || !c.hasCredentials(), "headers, token and certificates need url")
	must(c.Command != "" || len(c.Args)+len(c.Env) == 0 && c.Dir == "", "args, env and dir need command")
	must(c.Token == "" || c.TokenFile == "", "give one of token and token file")
	must((c.CertFile == "") == (c.KeyFile == ""), "cert file and key file go together")
	for _, name := range slices.Concat(slices.Sorted(maps.Keys(c.Headers)), slices.Sorted(maps.Keys(c.HeaderFiles))) {
		must(!slices.Contains(protocolHeaders, http.CanonicalHeaderKey(name)), "header %s is set by the protocol", name)
		must(http.CanonicalHeaderKey(name) != "Authorization" || c.Token+c.TokenFile == "",
			"header Authorization and a bearer token exclude each other")
	}
	must(c.ConnectTimeout > 0, "connect timeout is negative")
	must(c.CallTimeout > 0, "call timeout is negative")
	must(c.Patience > 0, "patience is negative")
	must(c.Refresh > 0, "refresh is negative")
	must(c.ResponseLimit > 0, "response limit is negative")
	return errors.Join(faults...)
}

// protocolHeaders cannot be configured.
var protocolHeaders = []string{
	"Mcp-Session-Id", "Mcp-Protocol-Version", "Last-Event-Id", "Content-Length", "Transfer-Encoding", "Connection",
}

func (c Config) hasCredentials() bool {
	return len(c.Headers)+len(c.HeaderFiles) > 0 || c.Token+c.TokenFile+c.CertFile+c.KeyFile+c.CAFile != ""
}

func validURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != ""
}

// offers says whether a tool of the server passes the lists.
func (c Config) offers(tool string) bool {
	return !slices.Contains(c.Deny, tool) && (len(c.Allow) == 0 || slices.Contains(c.Allow, tool))
}

// place is where the server is. Paths and queries may hold secrets and are left out.
func (c Config) place() string {
	if c.Command != "" {
		return "command " + c.Command
	}
	u, err := url.Parse(c.URL)
	if err != nil {
		return "its url"
	}
	return u.Scheme + "://" + u.Host
}
