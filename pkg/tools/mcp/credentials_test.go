package mcp_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/tools/mcp"
)

func write(t *testing.T, name string, content []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(name, content, 0o600))
}

func TestABearerTokenIsReadAnewWhenItChanges(t *testing.T) {
	t.Parallel()
	for name, handler := range map[string]func() http.Handler{
		"streamable HTTP": func() http.Handler { return streamable(newSDKServer(newWorld(), nil), nil) },
		"SSE":             func() http.Handler { return sse(newSDKServer(newWorld(), nil)) },
		"REST":            func() http.Handler { return rest(newWorld()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var valid atomic.Value
			valid.Store("first-token")
			h := newHost(t, func() http.Handler {
				inner := handler()
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Header.Get("Authorization") != "Bearer "+valid.Load().(string) {
						http.Error(w, "not with "+r.Header.Get("Authorization"), http.StatusUnauthorized)
						return
					}
					inner.ServeHTTP(w, r)
				})
			})
			file := filepath.Join(t.TempDir(), "token")
			write(t, file, []byte("first-token\n"))
			c := connect(t, mcp.Config{Name: "s", URL: h.url(), TokenFile: file})
			require.Equal(t, ok("echo 1"), c.call("s__echo", "1"))

			valid.Store("second-token")
			r := c.call("s__echo", "2")
			require.True(t, r.IsError)
			require.Contains(t, r.Text, "refused the credentials (HTTP 401 Unauthorized")
			write(t, file, []byte("second-token\n"))
			require.Equal(t, ok("echo 3"), c.call("s__echo", "3"))

			require.NoError(t, os.Remove(file))
			require.Equal(t, ok("echo 4"), c.call("s__echo", "4"), "the last token stays in use")
			for _, said := range []string{r.Text, c.logs.String(), fmt.Sprint(c.Health())} {
				require.NotContains(t, said, "first-token")
				require.NotContains(t, said, "second-token")
			}
		})
	}
}

func TestATokenThatIsMissingIsAReasonAndHeals(t *testing.T) {
	t.Parallel()
	h := newHost(t, func() http.Handler { return rest(newWorld()) })
	file := filepath.Join(t.TempDir(), "token")
	c := connect(t, mcp.Config{Name: "s", URL: h.url(), TokenFile: file})
	require.Equal(t, "read the bearer token: open "+file+": no such file or directory", c.Health()[0].Message)
	write(t, file, []byte("token"))
	c.until(func() bool { return c.Health()[0].Healthy })
}

func TestSecretsAreNeverTold(t *testing.T) {
	t.Parallel()
	echo := func(code int) *httptest.Server {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/tools/list") && code != http.StatusUnauthorized {
				fmt.Fprint(w, listOf("x"))
				return
			}
			http.Error(w, fmt.Sprint(r.Header, r.URL), code)
		}))
		t.Cleanup(s.Close)
		return s
	}
	secrets := map[string]string{"X-Api-Key": "key-of-the-api", "Authorization": "Basic dXNlcjpwYXNz"}
	secretURL := func(s *httptest.Server) string { return s.URL + "/path-that-is-a-secret?key=query-secret" }
	for _, code := range []int{http.StatusUnauthorized, http.StatusInternalServerError} {
		c := connect(t, mcp.Config{Name: "s", URL: secretURL(echo(code)), Transport: mcp.REST, Headers: secrets})
		said := c.logs.String() + fmt.Sprint(c.Health()) + fmt.Sprint(c.Ready())
		if code != http.StatusUnauthorized {
			r := c.call("s__x", "1")
			require.Contains(t, r.Text, "[redacted]")
			said += r.Text
		}
		dead := connect(t, mcp.Config{Name: "s", URL: "http://user:pass-word@127.0.0.1:1/path-that-is-a-secret?key=query-secret", Headers: secrets})
		said += dead.logs.String() + fmt.Sprint(dead.Health())
		for _, secret := range []string{"key-of-the-api", "dXNlcjpwYXNz", "query-secret", "path-that-is-a-secret", "pass-word"} {
			require.NotContains(t, said, secret)
		}
	}
}

// authority makes certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return &authority{t: t, cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

func (a *authority) issue(name string) (cert, key []byte) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a.t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	require.NoError(a.t, err)
	keyDER, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(a.t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
}

func TestClientCertificatesAreReadAnewWhenTheyChange(t *testing.T) {
	t.Parallel()
	ca := newAuthority(t, "authority")
	serverCert, serverKey := ca.issue("server")
	pair, err := tls.X509KeyPair(serverCert, serverKey)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(ca.pem))
	clients := make(chan string, 100)
	inner := streamable(newSDKServer(newWorld(), nil), nil)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			clients <- r.TLS.PeerCertificates[0].Subject.CommonName
		}
		inner.ServeHTTP(w, r)
	}))
	s.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool, MinVersion: tls.VersionTLS12}
	s.EnableHTTP2 = true
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)

	dir := t.TempDir()
	config := mcp.Config{
		Name: "s", URL: s.URL, Transport: mcp.StreamableHTTP,
		CertFile: filepath.Join(dir, "tls.crt"), KeyFile: filepath.Join(dir, "tls.key"), CAFile: filepath.Join(dir, "ca.crt"),
	}
	identity := func(name string) {
		cert, key := ca.issue(name)
		write(t, config.CertFile, cert)
		write(t, config.KeyFile, key)
	}
	last := func() (name string) {
		for len(clients) > 0 {
			name = <-clients
		}
		return name
	}
	identity("first")
	write(t, config.CAFile, ca.pem)
	c := connect(t, config)
	require.Equal(t, ok("echo 1"), c.call("s__echo", "1"))
	require.Equal(t, "first", last())

	identity("second")
	require.Equal(t, ok("echo 2"), c.call("s__echo", "2"))
	require.Equal(t, "second", last())

	write(t, config.KeyFile, []byte("half a file"))
	require.Equal(t, ok("echo 3"), c.call("s__echo", "3"), "the last good certificate stays in use")
	require.Equal(t, "second", last())

	stranger := config
	stranger.CertFile, stranger.KeyFile, stranger.CAFile = "", "", config.CAFile
	require.False(t, connect(t, stranger).Health()[0].Healthy, "a connection without a certificate")
	untrusting := config
	identity("third")
	write(t, filepath.Join(dir, "other.crt"), newAuthority(t, "other").pem)
	untrusting.CAFile = filepath.Join(dir, "other.crt")
	require.Contains(t, connect(t, untrusting).Health()[0].Message, "certificate signed by unknown authority")
	broken := config
	broken.CAFile = config.KeyFile
	require.Contains(t, connect(t, broken).Health()[0].Message, "holds no certificate of an authority")
}

// A header whose value stands in a file is read for every request, and its values are told to nobody.
func TestAHeaderIsReadAnewWhenItsFileChanges(t *testing.T) {
	t.Parallel()
	var valid atomic.Value
	valid.Store("first-value")
	h := newHost(t, func() http.Handler {
		inner := streamable(newSDKServer(newWorld(), nil), nil)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("X-Key") != valid.Load().(string) {
				http.Error(w, "not with "+r.Header.Get("X-Key"), http.StatusUnauthorized)
				return
			}
			inner.ServeHTTP(w, r)
		})
	})
	file := filepath.Join(t.TempDir(), "key")
	write(t, file, []byte("first-value\n"))
	c := connect(t, mcp.Config{Name: "s", URL: h.url(), HeaderFiles: map[string]string{"X-Key": file}})
	require.Equal(t, ok("echo 1"), c.call("s__echo", "1"))
	valid.Store("second-value")
	r := c.call("s__echo", "2")
	require.True(t, r.IsError)
	require.NotContains(t, r.Text+c.logs.String()+fmt.Sprint(c.Health()), "first-value")
	write(t, file, []byte("second-value\n"))
	require.Equal(t, ok("echo 3"), c.call("s__echo", "3"))
}
