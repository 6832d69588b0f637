// Package certificate makes the certificates of ark's own servers: a private authority that clients are told of, and a
// server certificate that it signs. It is pure but for the randomness of keys: whoever uses it stores a Chain, asks for
// the next one from time to time, and stores that when it has changed.
//
// Certificates are renewed after two thirds of their life. A new authority is known to clients for a while before it
// signs anything, and the one before stays known as long as what it signed is valid, so that a renewal breaks no
// connection.
package certificate

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"slices"
	"time"
)

// Lives of certificates.
const (
	AuthorityLife = 5 * 365 * 24 * time.Hour
	ServerLife    = 90 * 24 * time.Hour
	// announce is how long clients have to learn of a new authority before it signs.
	announce = 24 * time.Hour
	// skew is how far the clock of a client may be behind.
	skew = 5 * time.Minute
)

// Pair is a certificate and its key, both PEM.
type Pair struct {
	Certificate []byte `json:"certificate"`
	Key         []byte `json:"key"`
}

// Chain is the authorities of a server, newest first, and its certificate. It holds private keys.
type Chain struct {
	Authorities []Pair `json:"authorities"`
	Server      Pair   `json:"server"`
}

// Parse reads what Bytes wrote.
func Parse(data []byte) (*Chain, error) {
	var c Chain
	if err := json.Unmarshal(data, &c); err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	for _, p := range append(slices.Clone(c.Authorities), c.Server) {
		if _, err := p.parse(); err != nil {
			return nil, fmt.Errorf("certificates: %w", err)
		}
	}
	if len(c.Authorities) == 0 {
		return nil, errors.New("certificates: there is no authority")
	}
	return &c, nil
}

// Bytes is how a Chain is stored: a secret.
func (c *Chain) Bytes() ([]byte, error) {
	data, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("certificates: %w", err)
	}
	return data, nil
}

// Bundle is what clients trust: the certificates of all authorities, PEM.
func (c *Chain) Bundle() []byte {
	var b bytes.Buffer
	for _, a := range c.Authorities {
		b.Write(a.Certificate)
	}
	return b.Bytes()
}

// Next is the chain that holds now for a server with these names and addresses, and when to ask again. It is c itself
// when nothing has to change; c may be nil, for the first one.
func (c *Chain) Next(name string, hosts []string, now time.Time) (next *Chain, again time.Time, err error) {
	if c == nil {
		c = &Chain{}
	}
	authorities, changed, err := c.nextAuthorities(name, now)
	if err != nil {
		return nil, time.Time{}, err
	}
	signer, err := signing(authorities, now)
	if err != nil {
		return nil, time.Time{}, err
	}
	server := c.Server
	old, err := server.parse()
	if err != nil || due(old, now) || !covers(old, hosts) || !signedByAny(old, authorities) {
		if server, err = issue(signer, hosts, now); err != nil {
			return nil, time.Time{}, err
		}
		if old, err = server.parse(); err != nil {
			return nil, time.Time{}, err
		}
		changed = true
	}
	newest, err := authorities[0].parse()
	if err != nil {
		return nil, time.Time{}, err
	}
	again = earlier(renewal(old), renewal(newest))
	if changed {
		return &Chain{Authorities: authorities, Server: server}, again, nil
	}
	return c, again, nil
}

// nextAuthorities adds a new one when the newest is due and drops those that have expired.
func (c *Chain) nextAuthorities(name string, now time.Time) (all []Pair, changed bool, err error) {
	for _, p := range c.Authorities {
		if cert, err := p.parse(); err == nil && now.Before(cert.NotAfter) {
			all = append(all, p)
			continue
		}
		changed = true
	}
	if len(all) > 0 {
		newest, err := all[0].parse()
		if err != nil {
			return nil, false, err
		}
		if !due(newest, now) {
			return all, changed, nil
		}
	}
	fresh, err := newAuthority(name, now)
	if err != nil {
		return nil, false, err
	}
	return append([]Pair{fresh}, all...), true, nil
}

// signing is the newest authority that clients have had time to learn of; the oldest when there is none.
func signing(all []Pair, now time.Time) (Pair, error) {
	for _, p := range all {
		cert, err := p.parse()
		if err != nil {
			return Pair{}, err
		}
		if now.Sub(cert.NotBefore) >= announce+skew {
			return p, nil
		}
	}
	return all[len(all)-1], nil
}

func newAuthority(name string, now time.Time) (Pair, error) {
	key, serial, err := keyAndSerial()
	if err != nil {
		return Pair{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name + " authority", SerialNumber: serial.Text(16)},
		NotBefore: now.Add(-skew), NotAfter: now.Add(AuthorityLife),
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	return sign(template, template, key, key)
}

func issue(authority Pair, hosts []string, now time.Time) (Pair, error) {
	parent, err := authority.parse()
	if err != nil {
		return Pair{}, err
	}
	parentKey, err := authority.key()
	if err != nil {
		return Pair{}, err
	}
	key, serial, err := keyAndSerial()
	if err != nil {
		return Pair{}, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: hosts[0]},
		NotBefore: now.Add(-skew), NotAfter: earlier(now.Add(ServerLife), parent.NotAfter),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true,
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	return sign(template, parent, key, parentKey)
}

func keyAndSerial() (*ecdsa.PrivateKey, *big.Int, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, nil, fmt.Errorf("make a serial number: %w", err)
	}
	return key, serial, nil
}

func sign(template, parent *x509.Certificate, key, parentKey *ecdsa.PrivateKey) (Pair, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		return Pair{}, fmt.Errorf("sign a certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return Pair{}, fmt.Errorf("encode a key: %w", err)
	}
	return Pair{
		Certificate: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		Key:         pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	}, nil
}

func (p Pair) parse() (*x509.Certificate, error) {
	block, _ := pem.Decode(p.Certificate)
	if block == nil {
		return nil, errors.New("a certificate is not PEM")
	}
	return x509.ParseCertificate(block.Bytes)
}

func (p Pair) key() (*ecdsa.PrivateKey, error) {
	block, _ := pem.Decode(p.Key)
	if block == nil {
		return nil, errors.New("a key is not PEM")
	}
	k, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, err
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("a key is %T, not ECDSA", k)
	}
	return key, nil
}

// renewal is when a certificate is due: after two thirds of its life.
func renewal(c *x509.Certificate) time.Time {
	return c.NotBefore.Add(c.NotAfter.Sub(c.NotBefore) / 3 * 2)
}

func due(c *x509.Certificate, now time.Time) bool { return !now.Before(renewal(c)) }

func covers(c *x509.Certificate, hosts []string) bool {
	for _, h := range hosts {
		if c.VerifyHostname(h) != nil {
			return false
		}
	}
	return true
}

// signedByAny says whether one of the authorities that are known signed a certificate.
func signedByAny(c *x509.Certificate, all []Pair) bool {
	return slices.ContainsFunc(all, func(p Pair) bool {
		parent, err := p.parse()
		return err == nil && c.CheckSignatureFrom(parent) == nil
	})
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
