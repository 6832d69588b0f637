package mcp

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"

	"arkonis.dev/ark/pkg/tools"
)

// maxCredential bounds the files of tokens and certificates, in bytes.
const maxCredential = 256 << 10

// credentials are how the agent shows a server who it is. They are safe for concurrent use.
type credentials struct {
	config Config
	plain  *tools.Network // not ours to close
	files  *tools.FileHeaders

	mu     sync.Mutex
	token  string // the last good one
	tokens []string
	pem    [3][]byte // certificate, key and authorities that secure was made of
	secure *tools.Network
}

// keptTokens is how many earlier tokens are still recognised as secrets.
const keptTokens = 8

func newCredentials(config Config, network *tools.Network) *credentials {
	c := &credentials{config: config, plain: network, files: tools.NewFileHeaders(config.HeaderFiles)}
	c.learn(config.Token)
	return c
}

// bearer is the token to send now, empty without one.
func (c *credentials) bearer() (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.config.TokenFile == "" {
		return c.token, nil
	}
	content, err := readCredential(c.config.TokenFile)
	text := string(bytes.TrimSpace(content))
	if err == nil && text == "" {
		err = fmt.Errorf("the file %s is empty", c.config.TokenFile)
	}
	if err == nil {
		c.learn(text)
	}
	if c.token != "" {
		return c.token, nil
	}
	return "", fmt.Errorf("read the bearer token: %w", err)
}

func (c *credentials) learn(token string) {
	token = strings.TrimSpace(token)
	if token == "" || token == c.token {
		return
	}
	c.token = token
	c.tokens = append(c.tokens, token)
	if len(c.tokens) > keptTokens {
		c.tokens = c.tokens[1:]
	}
}

// network is what to connect with now: the plain one, or one with the certificates that the files hold.
func (c *credentials) network() (*tools.Network, error) {
	if c.config.CertFile+c.config.CAFile == "" {
		return c.plain, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.renew()
	if c.secure != nil {
		return c.secure, nil
	}
	return nil, err
}

func (c *credentials) renew() error {
	var files [3][]byte
	for i, name := range []string{c.config.CertFile, c.config.KeyFile, c.config.CAFile} {
		if name == "" {
			continue
		}
		content, err := readCredential(name)
		if err != nil {
			return fmt.Errorf("read the certificates: %w", err)
		}
		files[i] = content
	}
	if c.secure != nil && slices.EqualFunc(files[:], c.pem[:], bytes.Equal) {
		return nil
	}
	config, err := c.tlsConfig(files)
	if err != nil {
		return err
	}
	if c.secure != nil {
		c.secure.Close()
	}
	c.secure, c.pem = c.plain.WithTLS(config), files
	return nil
}

func (c *credentials) tlsConfig(files [3][]byte) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(files[0]) > 0 {
		pair, err := tls.X509KeyPair(files[0], files[1])
		if err != nil {
			return nil, fmt.Errorf("load the client certificate %s and its key: %w", c.config.CertFile, err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	if len(files[2]) > 0 {
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(files[2]) {
			return nil, fmt.Errorf("the file %s holds no certificate of an authority", c.config.CAFile)
		}
		config.RootCAs = pool
	}
	return config, nil
}

// close closes idle connections that are the server's own.
func (c *credentials) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.secure != nil {
		c.secure.Close()
	}
}

func readCredential(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	content, err := io.ReadAll(io.LimitReader(f, maxCredential+1))
	if err == nil && len(content) > maxCredential {
		err = fmt.Errorf("the file %s is larger than %d bytes", name, maxCredential)
	}
	return content, err
}

const (
	redacted = "[redacted]"
	// shortestSecret is the length from which values are taken for secrets: shorter ones stand everywhere.
	shortestSecret = 5
	// shortestSecretPath is the same for the parts of a URL's path.
	shortestSecretPath = 16
)

// redact takes the secrets of the configuration out of a text that came from elsewhere.
func (c *credentials) redact(text string) string {
	secrets := c.secrets()
	// Longer ones first, as one may hold another.
	slices.SortFunc(secrets, func(a, b string) int { return len(b) - len(a) })
	for _, secret := range secrets {
		if len(secret) >= shortestSecret {
			text = strings.ReplaceAll(text, secret, redacted)
		}
	}
	return text
}

func (c *credentials) secrets() []string {
	c.mu.Lock()
	secrets := slices.Clone(c.tokens)
	c.mu.Unlock()
	for _, value := range slices.AppendSeq(c.files.Known(), maps.Values(c.config.Headers)) {
		secrets = append(secrets, strings.TrimSpace(value))
		if _, after, ok := strings.Cut(strings.TrimSpace(value), " "); ok {
			secrets = append(secrets, strings.TrimSpace(after)) // what follows a scheme such as Bearer
		}
	}
	for _, variable := range c.config.Env {
		if name, value, _ := strings.Cut(variable, "="); secretName(name) {
			secrets = append(secrets, value)
		}
	}
	if u, err := url.Parse(c.config.URL); err == nil {
		password, _ := u.User.Password()
		secrets = append(secrets, u.RawQuery, u.User.String(), password)
		for _, values := range maps.All(u.Query()) {
			secrets = append(secrets, values...)
		}
		for part := range strings.SplitSeq(u.EscapedPath(), "/") {
			if len(part) >= shortestSecretPath {
				secrets = append(secrets, part)
			}
		}
	}
	return secrets
}

// secretName says whether a variable's name speaks of a secret.
func secretName(name string) bool {
	name = strings.ToUpper(name)
	for _, part := range []string{"KEY", "TOKEN", "SECRET", "PASS", "CREDENTIAL", "AUTH"} {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// wording is an error as one sentence without secrets. Addresses that errors of net/http quote are left out.
func (c *credentials) wording(err error) string {
	if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	return c.sentence(err.Error())
}

// sentence is a text from elsewhere on one line, of bounded length and without secrets.
func (c *credentials) sentence(text string) string { return excerpt(c.redact(text), maxMessage) }

// maxMessage bounds what a server's words may take up in a message, in bytes.
const maxMessage = 1 << 10

// excerpt is a text on one line, at most n bytes of it.
func excerpt(text string, n int) string {
	text = strings.Join(strings.Fields(strings.ToValidUTF8(text, "?")), " ")
	if len(text) <= n {
		return text
	}
	return strings.ToValidUTF8(text[:n], "") + "..."
}
