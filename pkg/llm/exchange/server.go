package exchange

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	defaultIdle  = 5 * time.Minute
	defaultGrace = 5 * time.Second
	headerLimit  = 256 << 10
)

// Config is a model server and how to reach it.
type Config struct {
	// BaseURL ends where the protocol's endpoint begins; "" is the protocol's default. Query parameters are kept.
	BaseURL string
	// APIKey is a secret, which the provider sends; "" is none.
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

// Protocol is what a server speaks, in the words that its errors need.
type Protocol struct {
	Name       string   // "chat completions"
	DefaultURL string   // the vendor's own server
	Endpoints  []string // paths that a base URL may end with and that are cut, the longest first
	URLHint    string   // what a base URL mostly looks like
}

// Server is one model server. It is safe for concurrent use.
type Server struct {
	base     url.URL
	protocol Protocol
	name     string // for people: the base URL without its secrets
	secrets  secrets
	client   *http.Client
	idle     time.Duration
	grace    time.Duration
}

// New checks a Config. It connects to nothing.
func New(c Config, p Protocol) (*Server, error) {
	if c.BaseURL == "" {
		c.BaseURL = p.DefaultURL
	}
	u, err := url.Parse(c.BaseURL)
	if err != nil {
		return nil, fmt.Errorf("base URL of the model server does not parse: want one such as %s", p.DefaultURL)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" {
		return nil, fmt.Errorf("base URL of the model server %q: want http or https and a host, such as %s", u.Redacted(), p.DefaultURL)
	}
	u.Path = strings.TrimSuffix(u.Path, "/")
	for _, e := range p.Endpoints {
		u.Path = strings.TrimSuffix(u.Path, e)
	}
	u.RawPath, u.Fragment = "", ""
	s := &Server{base: *u, protocol: p, name: publicURL(u), secrets: newSecrets(c, u), idle: c.IdleTimeout, grace: c.Grace}
	if s.idle <= 0 {
		s.idle = defaultIdle
	}
	if s.grace <= 0 {
		s.grace = defaultGrace
	}
	s.client = newClient(c.HTTPClient)
	return s, nil
}

// String is the server's address as people may see it.
func (s *Server) String() string { return s.name }

// BaseURL is the address for the SDK, without the query.
func (s *Server) BaseURL() string {
	u := s.base
	u.RawQuery = ""
	return u.String()
}

// Host is the name or address of the server, without the port.
func (s *Server) Host() string { return s.base.Hostname() }

// Query holds the parameters that every request carries.
func (s *Server) Query() url.Values { return s.base.Query() }

// HTTPClient is what every request goes through. It follows no redirect: that would turn the call into another one,
// at another server, with the key.
func (s *Server) HTTPClient() *http.Client { return s.client }

// Headers are those that every request to a model server carries.
func Headers() map[string]string {
	return map[string]string{
		"Accept": "text/event-stream, application/json",
		// A compressed stream arrives late and can be a bomb.
		"Accept-Encoding": "identity",
		"User-Agent":      "ark",
	}
}

func newClient(lent *http.Client) *http.Client {
	c := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	if lent != nil {
		c.Transport = lent.Transport
	}
	if c.Transport == nil {
		c.Transport = newTransport()
	}
	return c
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
