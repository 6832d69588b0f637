package queue

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
)

// Certificate is what a server shows to its clients. It may be replaced while the server runs: connections that are made
// afterwards get the new one. It is safe for concurrent use.
type Certificate struct {
	pair atomic.Pointer[tls.Certificate]
}

// NewCertificate reads a certificate, with those that signed it behind, and its private key from PEM.
func NewCertificate(chain, key []byte) (*Certificate, error) {
	c := &Certificate{}
	if err := c.Replace(chain, key); err != nil {
		return nil, err
	}
	return c, nil
}

// Replace has another certificate shown from now on. After an error the old one stays.
func (c *Certificate) Replace(chain, key []byte) error {
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return fmt.Errorf("certificate of the queue server: %w", err)
	}
	c.pair.Store(&pair)
	return nil
}

// config is for the server's port.
func (c *Certificate) config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.pair.Load(), nil },
	}
}
