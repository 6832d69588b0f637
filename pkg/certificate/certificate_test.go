package certificate_test

import (
	"crypto/tls"
	"crypto/x509"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"arkonis.dev/ark/pkg/certificate"
)

var hosts = []string{"ark-nats.ark-system.svc", "localhost", "127.0.0.1"}

func born() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }

func next(t *testing.T, c *certificate.Chain, at time.Time) (*certificate.Chain, time.Time) {
	t.Helper()
	n, again, err := c.Next("ark", hosts, at)
	require.NoError(t, err)
	require.True(t, again.After(at), "%s is not after %s", again, at)
	return n, again
}

// trusted says whether a client that has a bundle accepts the server of a chain.
func trusted(t *testing.T, bundle []byte, c *certificate.Chain, at time.Time) error {
	t.Helper()
	pair, err := tls.X509KeyPair(c.Server.Certificate, c.Server.Key)
	require.NoError(t, err)
	pool := x509.NewCertPool()
	require.True(t, pool.AppendCertsFromPEM(bundle))
	for _, h := range hosts {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{DNSName: h, Roots: pool, CurrentTime: at}); err != nil {
			return err
		}
	}
	return nil
}

func TestTheFirstChain(t *testing.T) {
	t.Parallel()
	c, again := next(t, nil, born())
	require.NoError(t, trusted(t, c.Bundle(), c, born()))
	require.NoError(t, trusted(t, c.Bundle(), c, born().Add(-time.Minute)), "a client whose clock is behind")
	same, _ := next(t, c, again.Add(-time.Second))
	require.Same(t, c, same, "nothing is due")

	data, err := c.Bytes()
	require.NoError(t, err)
	read, err := certificate.Parse(data)
	require.NoError(t, err)
	require.Equal(t, c, read)
}

// Over twenty years, whoever has read the bundle within the last day trusts the server, whenever that is renewed.
func TestRenewalBreaksNoConnection(t *testing.T) {
	t.Parallel()
	now := born()
	c, again := next(t, nil, now)
	renewed, authorities := 0, map[string]bool{}
	for now.Before(born().AddDate(20, 0, 0)) {
		before := c
		now = again
		c, again = next(t, c, now)
		require.NotSame(t, before, c)
		require.NoError(t, trusted(t, before.Bundle(), c, now), "a client that has not heard of the renewal")
		require.NoError(t, trusted(t, c.Bundle(), before, now), "a server that has not heard of the renewal")
		require.LessOrEqual(t, len(c.Authorities), 3)
		renewed++
		authorities[string(c.Authorities[0].Certificate)] = true
	}
	require.Greater(t, renewed, 100)
	require.Greater(t, len(authorities), 4)
}

func TestOtherNamesNeedAnotherCertificate(t *testing.T) {
	t.Parallel()
	c, _ := next(t, nil, born())
	more, _, err := c.Next("ark", append(hosts, "nats.example"), born())
	require.NoError(t, err)
	require.NotSame(t, c, more)
	require.Equal(t, c.Bundle(), more.Bundle(), "by the same authority")
}

func TestWhatIsNoChain(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "{}", `{"authorities": [{"certificate": "eA=="}]}`, "nonsense"} {
		_, err := certificate.Parse([]byte(text))
		require.Error(t, err, text)
	}
}
